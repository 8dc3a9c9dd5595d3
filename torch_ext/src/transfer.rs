//! Copies between a device and host memory that go on beside the arithmetic.
//!
//! On CUDA they run on a stream of their own, behind whatever was asked of the device before, and to or from pinned memory;
//! [`Transfer::finished`] lets the device wait for the copy, not the program. On the CPU they are plain copies.

use std::ffi::{c_char, c_int, c_void};

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use crate::message;

/// Why a copy was not begun or not awaited, in libtorch's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TransferError(pub String);

// Defined in `shim/transfer.cpp`. Tensors are pointers to libtorch's own handles, which is what tch holds.
unsafe extern "C" {
    fn bowline_to_host(source: *const C_tensor, target: *mut *mut C_tensor, done: *mut *mut c_void) -> *mut c_char;
    fn bowline_to_device(
        source: *const C_tensor,
        device: c_int,
        target: *mut *mut C_tensor,
        done: *mut *mut c_void,
    ) -> *mut c_char;
    fn bowline_await(done: *mut c_void, device: c_int) -> *mut c_char;
    fn bowline_forget_event(done: *mut c_void);
}

/// An event of libtorch's, freed once; null for a copy that was done at once.
#[derive(Debug)]
struct Event(*mut c_void);

// SAFETY: an event is used by one thread at a time, which is all that libtorch asks.
unsafe impl Send for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by the shim, freed here alone: whoever takes it leaves null.
            unsafe { bowline_forget_event(self.0) };
        }
    }
}

/// A copy under way.
#[derive(Debug)]
pub struct Transfer {
    target: Tensor,
    /// The device at its other or this end.
    device: Device,
    event: Event,
}

/// Begins a copy of `x` to host memory, pinned where `x` is on a device. `x` may be let go at once.
///
/// # Errors
///
/// When memory cannot be had.
pub fn to_host(x: &Tensor) -> Result<Transfer, TransferError> {
    let device = x.device();
    begun(device, |target, done| {
        // SAFETY: a live tensor and two places to write to.
        unsafe { bowline_to_host(x.as_ptr(), target, done) }
    })
}

/// Begins the copy back of what [`to_host`] copied, to the device it came from.
///
/// # Errors
///
/// When memory cannot be had, or the device is none that there are such copies for.
pub fn to_device(mut away: Transfer) -> Result<Transfer, TransferError> {
    let (device, number) = (away.device, number(away.device)?);
    // The way back runs on the stream of the way there, behind it: nobody need wait for the first event.
    let forgotten = std::mem::replace(&mut away.event, Event(std::ptr::null_mut()));
    drop(forgotten);
    begun(device, |target, done| {
        // SAFETY: as above.
        unsafe { bowline_to_device(away.target.as_ptr(), number, target, done) }
    })
}

fn begun(
    device: Device,
    copy: impl FnOnce(*mut *mut C_tensor, *mut *mut c_void) -> *mut c_char,
) -> Result<Transfer, TransferError> {
    let (mut target, mut done) = (std::ptr::null_mut(), std::ptr::null_mut());
    match message::taken(copy(&mut target, &mut done)) {
        Some(reason) => Err(TransferError(reason)),
        // SAFETY: without a message the handle is a new one, and ours.
        None => Ok(Transfer { target: unsafe { Tensor::from_ptr(target) }, device, event: Event(done) }),
    }
}

impl Transfer {
    /// The copy; what is asked of the device from now on comes behind it.
    ///
    /// # Errors
    ///
    /// When libtorch cannot wait.
    pub fn finished(mut self) -> Result<Tensor, TransferError> {
        let event = std::mem::replace(&mut self.event.0, std::ptr::null_mut());
        if !event.is_null() {
            // SAFETY: an event of the shim's, which frees it.
            let answer = unsafe { bowline_await(event, number(self.device)?) };
            message::taken(answer).map_or(Ok(()), |reason| Err(TransferError(reason)))?;
        }
        Ok(self.target)
    }
}

/// As the shim numbers devices.
fn number(device: Device) -> Result<c_int, TransferError> {
    match device {
        Device::Cpu => Ok(-1),
        Device::Cuda(ordinal) => {
            c_int::try_from(ordinal).map_err(|_| TransferError(format!("there is no CUDA device {ordinal}")))
        }
        other => Err(TransferError(format!("copies beside the arithmetic are not made for {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn a_copy_that_went_away_comes_back_as_it_was() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let x = Tensor::arange(60, (Kind::Float, Device::Cpu)).view([3, 20]).to_kind(kind).transpose(0, 1);
            let away = to_host(&x).unwrap();
            let back = to_device(away).unwrap().finished().unwrap();
            assert!(back.equal(&x) && back.data_ptr() != x.data_ptr(), "{kind:?}");
        }
    }

    #[test]
    fn a_copy_nobody_comes_for_and_a_device_that_has_none_do_no_harm() {
        drop(to_host(&Tensor::from_slice(&[1.0_f32])).unwrap());
        let mut away = to_host(&Tensor::from_slice(&[1.0_f32])).unwrap();
        away.device = Device::Mps;
        let refused = to_device(away).unwrap_err().to_string();
        assert!(refused.contains("Mps"), "{refused}");
    }
}
