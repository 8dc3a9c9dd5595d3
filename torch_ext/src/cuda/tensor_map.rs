//! Descriptors by which Hopper's copy engine (TMA) knows tensors: 128 bytes that only the driver writes.

use std::ffi::c_void;

use cudarc::driver::sys;

use super::device::{Device, driver};
use super::error::CudaError;

/// A tensor of four dimensions and the boxes that are copied of it to shared memory, whose rows lie there with the copy
/// engine's exchange of 16-byte pieces over 128 bytes. Beyond the tensor a box has zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TiledTensor {
    /// Device address, a multiple of 16.
    pub address: u64,
    /// What its elements are.
    pub element: MapElement,
    /// Entries of each dimension, the innermost first.
    pub dims: [u64; 4],
    /// Bytes from one entry to the next of the second, third and fourth, multiples of 16 below 2^40.
    pub strides: [u64; 3],
    /// Entries of a box in the two innermost dimensions; it has one of the others. The first are 128 bytes at most, the
    /// second 256 at most.
    pub box_dims: [u32; 2],
}

/// Types of elements that boxes may have here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapElement {
    /// bfloat16.
    Bf16,
    /// float16.
    F16,
    /// float32.
    F32,
}

impl TiledTensor {
    /// The descriptor, for a kernel's parameter that is aligned to 128 bytes, on a device.
    ///
    /// # Errors
    ///
    /// [`CudaError::Driver`] when the driver does not take the numbers.
    pub fn encoded(&self, device: &Device) -> Result<[u64; 16], CudaError> {
        // The driver may refuse a thread that has no context, as one that has not computed on a device yet.
        let _entered = device.context().enter()?;
        let mut map = sys::CUtensorMap { opaque: [0; 16] };
        let [columns, rows] = self.box_dims;
        let (boxes, steps) = ([columns, rows, 1, 1], [1_u32; 4]);
        let element = match self.element {
            MapElement::Bf16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            MapElement::F16 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            MapElement::F32 => sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        };
        // SAFETY: the place for one descriptor, and lists of as many numbers as four dimensions have; the call reads no memory
        // of the device and keeps no pointer to the host's.
        let answer = unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map,
                element,
                4,
                self.address as *mut c_void,
                self.dims.as_ptr(),
                self.strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        driver(&format!("describe {self:?} to the copy engine"), answer)?;
        Ok(map.opaque)
    }
}
