//! The rotation of queries and keys in one pass over their numbers, where they lie; its backward is the inverse rotation.
//!
//! A pair `(a, b)` at angle `t` becomes `(a cos t - b sin t, b cos t + a sin t)` (Su et al. 2021, equation 34), each product
//! and sum rounded to float32, which is what libtorch's operations on whole tensors give, bit for bit, with one pass
//! instead of seven. The inverse has `-sin t`; nothing but the two tables is kept for it.
//!
//! On CUDA a kernel of our own does the same with sums that are rounded once, in every type, where it has passed its cases on
//! the device or the backend `cuda` was asked for by name.

use attention::cuda::{rotate as rotate_by_kernel, rotation_params, rotation_verified};
use attention::tiled::for_each;
use attention::{AttnError, Backend, DType, dtype_of};
use tch::{Device, Kind, Tensor};
use torch_ext::autograd::{AutogradError, Backward, Recorded, custom};
use torch_ext::cuda::Arch;
use torch_ext::host::{HostError, contiguous_mut, span};

use crate::error::Failure;

/// Fewest numbers that are worth a second thread.
const PARALLEL: usize = 1 << 16;

/// Positions that a thread takes at once.
const POSITIONS: usize = 64;

/// Why a rotation in place failed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The numbers are not where they should be.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The CUDA kernel declined or failed.
    #[error(transparent)]
    Kernel(#[from] AttnError),
    /// The graph could not take it.
    #[error(transparent)]
    Autograd(#[from] AutogradError),
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
}

impl From<RotationError> for Failure {
    fn from(error: RotationError) -> Self {
        Self::data(error.to_string())
    }
}

/// Cos and sin of each position, `[length, half]` or, where sequences have positions of their own, `[batch * length, half]`;
/// contiguous float32 on the CPU.
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    /// Cosines, attention factor included.
    pub cos: &'a Tensor,
    /// Sines, likewise.
    pub sin: &'a Tensor,
}

/// Whether [`rotated_in_place`] takes a tensor `[batch, heads, length, head_dim]`: float32 on the CPU, with heads inside
/// positions as a projection leaves them.
pub fn fits(x: &Tensor) -> bool {
    x.device() == Device::Cpu && x.kind() == Kind::Float && is_projected(x)
}

/// Whether a tensor goes to [`rotated_by_kernel`]: on CUDA, as a projection leaves it, such that the kernel takes it, and by a
/// kernel that is verified there or asked for. `angles` are those of its positions.
pub fn goes_to_kernel(x: &Tensor, angles: &Tensor, backend: Backend) -> bool {
    let Device::Cuda(ordinal) = x.device() else { return false };
    let (Some(dtype), Ok(device)) = (dtype_of(x.kind()), torch_ext::cuda::Device::get(ordinal)) else { return false };
    is_chosen(backend, dtype, device.arch(), rotation_verified)
        && is_projected(x)
        && rotation_params(x, angles, false).is_ok()
}

/// Whether the kernel of a type may run on an architecture: asked for by the backend's name, or verified there.
fn is_chosen(backend: Backend, dtype: DType, arch: Arch, verified: impl Fn(DType, Arch) -> bool) -> bool {
    matches!(backend.name(), "cuda" | "hopper" | "hopper-unordered") || verified(dtype, arch)
}

/// Whether heads lie inside positions, in one piece.
fn is_projected(x: &Tensor) -> bool {
    x.dim() == 4 && x.transpose(1, 2).is_contiguous()
}

/// `x` `[batch, heads, length, head_dim]` rotated, written over `x` itself: for a tensor that nothing else reads, such as
/// the output of a projection, whose own backward does not look at it.
///
/// # Errors
///
/// When `x` does not fit (see [`fits`]) or the angles are not its positions'.
pub fn rotated_in_place(x: &Tensor, angles: Angles<'_>) -> Result<Tensor, RotationError> {
    let saved = vec![angles.cos.shallow_clone(), angles.sin.shallow_clone()];
    recorded(x, saved, |rows, angles, way| {
        rotate(rows, Angles { cos: &angles[0], sin: &angles[1] }, if way == Way::Back { -1.0 } else { 1.0 })
    })
}

/// The same by the CUDA kernel, for `angles` `[length, half, 2]` of cosines and sines.
///
/// # Errors
///
/// When the kernel does not take `x` (see [`goes_to_kernel`]) or fails.
pub fn rotated_by_kernel(x: &Tensor, angles: &Tensor) -> Result<Tensor, RotationError> {
    recorded(x, vec![angles.shallow_clone()], |rows, angles, way| {
        Ok(rotate_by_kernel(&mut rows.f_transpose(1, 2)?, &angles[0], way == Way::Back)?)
    })
}

/// Which way to turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Forth,
    Back,
}

/// Records `turn`, which rotates `[batch, length, heads, head_dim]` in one piece where it lies by the tables `saved`, as a step
/// whose backward is the same `turn` back.
fn recorded<F>(x: &Tensor, saved: Vec<Tensor>, turn: F) -> Result<Tensor, RotationError>
where
    F: Fn(&mut Tensor, &[Tensor], Way) -> Result<(), RotationError> + Copy + Send + 'static,
{
    let forward = || {
        let mut rows = x.f_transpose(1, 2)?; // [batch, length, heads, head_dim], contiguous
        turn(&mut rows, &saved, Way::Forth)?;
        Ok::<_, RotationError>(Recorded { outputs: vec![x.shallow_clone()], saved })
    };
    let backward = move |call: Backward| -> Result<_, RotationError> {
        let Some(grad) = &call.gradients[0] else { return Ok(vec![None]) };
        let mut turned = Turned::copy_of(&grad.f_transpose(1, 2)?)?;
        turn(&mut turned.0, &call.saved, Way::Back)?;
        Ok(vec![Some(turned.heads())])
    };
    Ok(custom("rotation", &[x], forward, backward)?.swap_remove(0))
}

/// A gradient to be rotated back, `[batch, length, heads, head_dim]` in one piece, that nothing else reads. Heads inside
/// positions: the projection before needs no copy of its own then.
#[derive(Debug)]
pub struct Turned(Tensor);

impl Turned {
    /// A copy of a gradient `[batch, length, heads, head_dim]`.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub fn copy_of(grad: &Tensor) -> Result<Self, RotationError> {
        Ok(Self(copied(grad)?))
    }

    /// Heads first, `[batch, heads, length, head_dim]`, in the same memory.
    pub fn heads(&self) -> Tensor {
        self.0.transpose(1, 2)
    }

    /// Rotated by the opposites of the angles.
    ///
    /// # Errors
    ///
    /// When it does not fit (see [`fits`]) or the angles are not its positions'.
    pub fn back(mut self, angles: Angles<'_>) -> Result<Tensor, RotationError> {
        rotate(&mut self.0, angles, -1.0)?;
        Ok(self.0)
    }

    /// The same by the CUDA kernel, for angles as [`rotated_by_kernel`] takes them.
    ///
    /// # Errors
    ///
    /// When the kernel does not take it or fails.
    pub fn back_by_kernel(self, angles: &Tensor) -> Result<Tensor, RotationError> {
        rotate_by_kernel(&mut self.heads(), angles, true)?;
        Ok(self.0)
    }
}

/// A copy in one piece, even of a tensor that is.
fn copied(x: &Tensor) -> Result<Tensor, tch::TchError> {
    let mut copy = Tensor::f_empty(x.size(), (x.kind(), x.device()))?;
    copy.f_copy_(x)?;
    Ok(copy)
}

/// Rotates `[batch, length, heads, head_dim]` by the angles, or by their opposites where `direction` is -1. The angles are of
/// `length` positions, or of every position of every sequence.
fn rotate(x: &mut Tensor, Angles { cos, sin }: Angles<'_>, direction: f32) -> Result<(), RotationError> {
    let (_, _, heads, head_dim) = x.size4()?;
    let (angles, half) = cos.size2()?;
    let [heads, head_dim, half, angles] = [heads, head_dim, half, angles].map(|n| usize::try_from(n).unwrap_or(0));
    let (cos, sin) = (span::<f32>(cos)?, span::<f32>(sin)?);
    let numbers = contiguous_mut::<f32>(x)?;
    if numbers.is_empty() || half == 0 || angles == 0 {
        return Ok(());
    }
    let one_position = |(row, numbers): (usize, &mut [f32])| {
        let at = row % angles * half;
        let (cos, sin) = (&cos[at..at + half], &sin[at..at + half]);
        numbers.chunks_exact_mut(head_dim).for_each(|head| rotate_head(head, cos, sin, direction));
    };
    let width = heads * head_dim;
    let several = |(piece, numbers): (usize, &mut [f32])| {
        let rows = numbers.chunks_mut(width).enumerate();
        rows.for_each(|(row, numbers)| one_position((piece * POSITIONS + row, numbers)));
    };
    let large = numbers.len() >= PARALLEL;
    let pieces = numbers.chunks_mut(POSITIONS * width).enumerate();
    match large {
        true => for_each(pieces, several),
        false => pieces.for_each(several),
    }
    Ok(())
}

/// One head at one position; what lies behind the rotated part stays.
fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
    let (first, rest) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
        let sin = direction * sin;
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
