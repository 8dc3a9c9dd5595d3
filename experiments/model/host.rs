//! Numbers of tensors in main memory, for passes of our own over them.

use tch::{Device, Kind, Tensor};
use torch_ext::host::{contiguous_mut, span};

/// The numbers of a tensor that is float32, in main memory and in one piece; none of any other.
pub(super) fn singles(x: &Tensor) -> Option<&[f32]> {
    let fits = x.device() == Device::Cpu && x.kind() == Kind::Float && x.is_contiguous();
    fits.then(|| span(x).ok()).flatten()
}

/// The same, to be written; nothing else may use the memory meanwhile.
pub(super) fn singles_mut(x: &mut Tensor) -> Option<&mut [f32]> {
    contiguous_mut(x).ok()
}

/// Numbers that operations of several passes take at once: few enough that what comes between them stays in a cache.
pub(super) const AT_ONCE: i64 = 1 << 18;

/// The same on a GPU: seven float32 copies of so many take 0.94 GB, and a kernel has enough to do.
const AT_ONCE_ON_GPU: i64 = 1 << 25;

/// First rows and counts of the pieces in which rows `[rows, width]` go through operations that make float32 copies of them.
pub(super) fn pieces(rows: &Tensor) -> Vec<(i64, i64)> {
    let (count, width) = rows.size2().unwrap_or((0, 1));
    let numbers = if rows.device() == Device::Cpu { AT_ONCE } else { AT_ONCE_ON_GPU };
    let size = (numbers / width.max(1)).max(1);
    (0..count).step_by(size as usize).map(|start| (start, size.min(count - start))).collect()
}

/// `[.., width]` as `[rows, width]`.
pub(super) fn in_rows(x: &Tensor) -> Tensor {
    let width = x.size().last().copied().unwrap_or(0);
    x.reshape([-1, width])
}

/// A tensor of the shape and kind of another, in one piece, its numbers not set.
pub(super) fn unset_like(x: &Tensor) -> Tensor {
    Tensor::empty(x.size(), (x.kind(), x.device()))
}

/// Normal numbers by a name, for tests.
#[cfg(test)]
pub(super) fn drawn(seed: u64, name: &str, shape: &[i64]) -> Tensor {
    let rng = crate::data::rng::CounterRng::new(seed).stream(name);
    let values: Vec<f32> = (0..shape.iter().product::<i64>() as u64).map(|n| rng.normal(n) as f32).collect();
    Tensor::from_slice(&values).view(shape)
}
