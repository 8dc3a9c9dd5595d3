//! The numbers of a tensor in main memory as slices, without a copy.

use std::slice;

use tch::{Device, Kind, Tensor};

/// A number type of Rust that is one of libtorch's.
///
/// # Safety
///
/// `KIND` has the size, alignment and meaning of the type, and every pattern of bits is a value.
pub unsafe trait Element: Copy + 'static {
    /// libtorch's name for it.
    const KIND: Kind;
}

// SAFETY: IEEE double, here and there.
unsafe impl Element for f64 {
    const KIND: Kind = Kind::Double;
}
// SAFETY: IEEE single, here and there.
unsafe impl Element for f32 {
    const KIND: Kind = Kind::Float;
}
// SAFETY: 16 bits of bfloat16, here and there.
unsafe impl Element for half::bf16 {
    const KIND: Kind = Kind::BFloat16;
}
// SAFETY: IEEE half, here and there.
unsafe impl Element for half::f16 {
    const KIND: Kind = Kind::Half;
}

// SAFETY: an unsigned byte, here and there.
unsafe impl Element for u8 {
    const KIND: Kind = Kind::Uint8;
}

/// Why there is no slice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Another element type.
    #[error("a tensor of {found:?} was to be read as {expected:?}")]
    Kind {
        /// What was asked for.
        expected: Kind,
        /// What the tensor holds.
        found: Kind,
    },
    /// Not in main memory.
    #[error("a tensor on {0:?} has no numbers in main memory")]
    Device(Device),
    /// To be written to, but not in one piece.
    #[error("a tensor of shape {shape:?} and strides {strides:?} is not in one piece")]
    Scattered {
        /// Its sizes.
        shape: Vec<i64>,
        /// Its strides, in elements.
        strides: Vec<i64>,
    },
}

/// Everything between the first and the last element of a tensor, gaps included: element `(i, j, ..)` is at
/// `i * stride[0] + j * stride[1] + ..`, with the strides of [`Tensor::stride`].
///
/// A tensor is a handle, and others may lead to the same memory: while the slice is in use nothing may write there.
///
/// # Errors
///
/// [`HostError`] for another element type or device.
pub fn span<T: Element>(tensor: &Tensor) -> Result<&[T], HostError> {
    let (pointer, count) = place::<T>(tensor)?;
    if count == 0 {
        return Ok(&[]);
    }
    // SAFETY: live memory of `count` elements of the type, kept by the tensor; nobody writes, by the caller's word above.
    Ok(unsafe { slice::from_raw_parts(pointer, count) })
}

/// The elements of a tensor that is in one piece, in order, to be written.
///
/// While the slice is in use nothing else may touch the memory through another handle.
///
/// # Errors
///
/// [`HostError`] for another element type or device, or a tensor that is not contiguous.
pub fn contiguous_mut<T: Element>(tensor: &mut Tensor) -> Result<&mut [T], HostError> {
    if !tensor.is_contiguous() {
        return Err(HostError::Scattered { shape: tensor.size(), strides: tensor.stride() });
    }
    span_mut(tensor)
}

/// As [`span`], to be written; with overlapping strides (zero, for one) several elements are one number.
///
/// # Errors
///
/// As [`span`].
pub fn span_mut<T: Element>(tensor: &mut Tensor) -> Result<&mut [T], HostError> {
    let (pointer, count) = place::<T>(tensor)?;
    if count == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `span`; the handle is borrowed alone, and no other is used, by the caller's word above.
    Ok(unsafe { slice::from_raw_parts_mut(pointer, count) })
}

/// First element, and elements from there to the last.
fn place<T: Element>(tensor: &Tensor) -> Result<(*mut T, usize), HostError> {
    if tensor.device() != Device::Cpu {
        return Err(HostError::Device(tensor.device()));
    }
    if tensor.kind() != T::KIND {
        return Err(HostError::Kind { expected: T::KIND, found: tensor.kind() });
    }
    let shape = tensor.size();
    if shape.contains(&0) {
        return Ok((std::ptr::null_mut(), 0));
    }
    // libtorch has no negative strides.
    let last: i64 = shape.iter().zip(tensor.stride()).map(|(size, stride)| (size - 1) * stride).sum();
    Ok((tensor.data_ptr().cast(), usize::try_from(last + 1).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn a_strided_tensor_is_read_where_it_lies() {
        let base = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([2, 3, 4]);
        let part = base.transpose(0, 1).narrow(0, 1, 2).narrow(2, 1, 2); // [2, 2, 2], strides 4, 12, 1
        let (numbers, strides) = (span::<f32>(&part).unwrap(), part.stride());
        assert_eq!((strides.as_slice(), numbers.len()), ([4, 12, 1].as_slice(), 18));
        for (i, j, k) in [(0, 0, 0), (1, 0, 1), (1, 1, 1)] {
            let at = usize::try_from(4 * i + 12 * j + k).unwrap();
            assert_eq!(f64::from(numbers[at]), part.double_value(&[i, j, k]));
        }
        assert_eq!(span::<f32>(&Tensor::from(7_f32).expand([5], false)).unwrap(), [7.0]);
        assert_eq!(span::<f32>(&base.narrow(0, 0, 0)).unwrap(), [0.0; 0]);
    }

    #[test]
    fn what_is_written_is_the_tensors() {
        let mut tensor = Tensor::zeros([2, 2], (Kind::BFloat16, Device::Cpu));
        contiguous_mut::<bf16>(&mut tensor).unwrap()[3] = bf16::from_f32(1.5);
        assert_eq!(tensor.double_value(&[1, 1]), 1.5);
    }

    #[test]
    fn other_types_and_scattered_tensors_are_refused() {
        let tensor = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        assert_eq!(span::<f64>(&tensor), Err(HostError::Kind { expected: Kind::Double, found: Kind::Float }));
        let mut turned = tensor.transpose(0, 1);
        let refused = contiguous_mut::<f32>(&mut turned);
        assert_eq!(refused, Err(HostError::Scattered { shape: vec![3, 2], strides: vec![1, 3] }));
    }
}
