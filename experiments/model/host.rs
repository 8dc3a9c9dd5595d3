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

/// A tensor of the shape and kind of another, in one piece, its numbers not set.
pub(super) fn unset_like(x: &Tensor) -> Tensor {
    Tensor::empty(x.size(), (x.kind(), x.device()))
}
