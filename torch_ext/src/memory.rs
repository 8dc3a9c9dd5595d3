//! How many bytes tensors hold: on the host by a count of our own, on a CUDA device by its caching allocator's.
//!
//! ```
//! use tch::{Device, Kind, Tensor};
//! use torch_ext::memory::{reset_peak, usage};
//!
//! reset_peak(Device::Cpu)?;
//! let before = usage(Device::Cpu)?;
//! drop(Tensor::zeros([1 << 20], (Kind::Float, Device::Cpu)));
//! assert!(usage(Device::Cpu)?.peak - before.now >= 4 << 20);
//! # Ok::<(), torch_ext::memory::MemoryError>(())
//! ```

use std::ffi::{c_char, c_int};

use tch::Device;

use crate::message;

/// Why nothing is known of a device's memory, in libtorch's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MemoryError(String);

/// Bytes of tensors on one device, of all threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Now. On the host, of tensors made since the first call to this module.
    pub now: i64,
    /// At most, since the last [`reset_peak`].
    pub peak: i64,
    /// At most held by the allocator for them; what counts towards a device's limit. On the host the same as `peak`.
    pub peak_reserved: i64,
}

// Defined in `shim/memory.cpp`.
unsafe extern "C" {
    fn bowline_count_host_memory() -> *mut c_char;
    fn bowline_host_memory(now: *mut i64, peak: *mut i64);
    fn bowline_reset_host_peak();
    fn bowline_cuda_memory(device: c_int, now: *mut i64, peak: *mut i64, peak_reserved: *mut i64) -> *mut c_char;
    fn bowline_cuda_capacity(device: c_int, bytes: *mut usize) -> *mut c_char;
    fn bowline_reset_cuda_peak(device: c_int) -> *mut c_char;
}

/// What tensors on `device` hold and held.
///
/// # Errors
///
/// When libtorch has no such device.
pub fn usage(device: Device) -> Result<Usage, MemoryError> {
    let (mut now, mut peak, mut peak_reserved) = (0, 0, 0);
    match device {
        Device::Cuda(_) => {
            let number = number(device)?;
            // SAFETY: three numbers to write to.
            taken(unsafe { bowline_cuda_memory(number, &raw mut now, &raw mut peak, &raw mut peak_reserved) })?;
        }
        _ => {
            count_host()?;
            // SAFETY: two numbers to write to.
            unsafe { bowline_host_memory(&raw mut now, &raw mut peak) };
            peak_reserved = peak;
        }
    }
    Ok(Usage { now, peak, peak_reserved })
}

/// Forgets what was held before.
///
/// # Errors
///
/// When libtorch has no such device.
pub fn reset_peak(device: Device) -> Result<(), MemoryError> {
    if let Device::Cuda(_) = device {
        let number = number(device)?;
        // SAFETY: takes a number.
        return taken(unsafe { bowline_reset_cuda_peak(number) });
    }
    count_host()?;
    // SAFETY: takes nothing.
    unsafe { bowline_reset_host_peak() };
    Ok(())
}

/// Bytes that a CUDA device has for programs, taken or not.
///
/// # Errors
///
/// When libtorch has no such device, or it is none of CUDA's.
pub fn capacity(device: Device) -> Result<u64, MemoryError> {
    let (number, mut bytes) = (number(device)?, 0);
    // SAFETY: a number to write to.
    taken(unsafe { bowline_cuda_capacity(number, &raw mut bytes) })?;
    Ok(bytes as u64)
}

fn count_host() -> Result<(), MemoryError> {
    // SAFETY: takes nothing; the allocator that it puts in place lives as long as the process.
    taken(unsafe { bowline_count_host_memory() })
}

fn number(device: Device) -> Result<c_int, MemoryError> {
    match device {
        Device::Cuda(index) if index < crate::cuda::state().devices() => Ok(index as c_int),
        _ => Err(MemoryError(format!("there is no {device:?}: {}", crate::cuda::state()))),
    }
}

/// The shim's answer.
fn taken(answer: *mut c_char) -> Result<(), MemoryError> {
    message::taken(answer).map_or(Ok(()), |text| Err(MemoryError(text)))
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    /// Far more than the other tests of this binary hold together.
    const NUMBERS: i64 = 1 << 24;
    const BYTES: i64 = 4 * NUMBERS;

    #[test]
    fn what_tensors_hold_is_counted_and_the_peak_outlives_them() {
        reset_peak(Device::Cpu).unwrap();
        let before = usage(Device::Cpu).unwrap().now;
        let slack = 8 << 20;
        let is = |bytes: i64, expected: i64| (bytes - before - expected).abs() < slack;
        let first = Tensor::zeros([NUMBERS], (Kind::Float, Device::Cpu));
        let view = first.view([2, -1]);
        let second = &first + 1;
        assert!(is(usage(Device::Cpu).unwrap().now, 2 * BYTES));
        drop((first, second));
        assert!(is(usage(Device::Cpu).unwrap().now, BYTES), "the view keeps what it looks at");
        drop(view);
        let after = usage(Device::Cpu).unwrap();
        assert!(is(after.now, 0) && is(after.peak, 2 * BYTES), "{after:?}");
        reset_peak(Device::Cpu).unwrap();
        assert!(is(usage(Device::Cpu).unwrap().peak, 0));
    }

    #[test]
    fn counted_tensors_behave_as_any_other() {
        usage(Device::Cpu).unwrap();
        let mut tensor = Tensor::arange(6, (Kind::Float, Device::Cpu));
        let _ = tensor.resize_([12]);
        assert_eq!(tensor.size(), [12]);
        assert_eq!(tensor.narrow(0, 0, 6).copy().double_value(&[5]), 5.0);
        assert_eq!(Tensor::zeros([0, 3], (Kind::Float, Device::Cpu)).copy().size(), [0, 3]);
        assert!(usage(Device::Cuda(512)).is_err());
    }

    #[test]
    fn onednn_which_allocates_and_frees_by_addresses_takes_the_counted_allocator() {
        usage(Device::Cpu).unwrap();
        let ones = |shape: [i64; 2]| Tensor::ones(shape, (Kind::BFloat16, Device::Cpu));
        for width in [96, 200, 512] {
            let product = ones([width, width]).linear(&ones([64, width]), None::<&Tensor>);
            assert_eq!(product.double_value(&[3, 5]), width as f64);
        }
    }
}
