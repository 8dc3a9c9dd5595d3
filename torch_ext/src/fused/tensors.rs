//! Tensors as kernels take them.

use tch::{Kind, TchError, Tensor};

use super::FusedError;
use super::kernel::Element;

/// Kernels read and write pieces of as many bytes.
const PIECE_BYTES: u64 = 16;

/// Where a tensor's elements begin on its device.
pub(super) fn address(tensor: &Tensor) -> u64 {
    tensor.data_ptr() as u64
}

/// The same, null for none.
pub(super) fn address_of(tensor: Option<&Tensor>) -> u64 {
    tensor.map_or(0, address)
}

/// Whether a tensor begins where a piece may.
pub(super) fn is_aligned(tensor: &Tensor) -> bool {
    address(tensor).is_multiple_of(PIECE_BYTES) && !tensor.is_neg()
}

/// A tensor in one piece that begins where a piece may: itself, or a copy.
pub(super) fn dense(tensor: &Tensor) -> Result<Tensor, TchError> {
    let plain = tensor.detach();
    if plain.is_contiguous() && is_aligned(&plain) {
        return Ok(plain);
    }
    // libtorch's `contiguous` would hand back one that begins askew.
    let mut copy = Tensor::f_empty(plain.size(), (plain.kind(), plain.device()))?;
    copy.f_copy_(&plain)?;
    Ok(copy)
}

/// A tensor beside another, of its own shape, uninitialised.
pub(super) fn empty(shape: &[i64], kind: Kind, like: &Tensor) -> Result<Tensor, TchError> {
    Tensor::f_empty(shape, (kind, like.device()))
}

/// Refuses an operation.
pub(super) fn unfit<T>(operation: &'static str, reason: impl Into<String>) -> Result<T, FusedError> {
    Err(FusedError::Unfit { operation, reason: reason.into() })
}

/// The element type that an operation works on.
pub(super) fn element(operation: &'static str, x: &Tensor) -> Result<Element, FusedError> {
    match Element::of(x.kind()) {
        Some(element) => Ok(element),
        None => unfit(operation, format!("takes bfloat16, float16 and float32, not {:?}", x.kind())),
    }
}

/// That a tensor has a shape, and type and device of another.
pub(super) fn check(
    operation: &'static str,
    (name, tensor): (&str, &Tensor),
    shape: &[i64],
    like: &Tensor,
) -> Result<(), FusedError> {
    if tensor.size() == shape && tensor.kind() == like.kind() && tensor.device() == like.device() {
        return Ok(());
    }
    let (found, kind, device) = (tensor.size(), tensor.kind(), tensor.device());
    let (expected, like_kind, like_device) = (shape, like.kind(), like.device());
    unfit(
        operation,
        format!(
            "was given {name} {kind:?}{found:?} on {device:?}, where {like_kind:?}{expected:?} on {like_device:?} belongs"
        ),
    )
}

/// Blocks along x: at most 2^31 - 1.
pub(super) fn blocks(operation: &'static str, count: i64) -> Result<u32, FusedError> {
    match u32::try_from(count) {
        Ok(count) if count <= i32::MAX as u32 => Ok(count),
        _ => unfit(operation, format!("does not take as much as {count} blocks")),
    }
}
