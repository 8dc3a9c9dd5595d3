//! State of libtorch's random generators, which tch can seed but not read.

use std::ffi::{c_char, c_int};

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use crate::autograd::{AutogradError, refused};

// Defined in `shim/context.cpp`.
unsafe extern "C" {
    fn bowline_generator_state(device: c_int, state: *mut *mut C_tensor) -> *mut c_char;
    fn bowline_set_generator_state(device: c_int, state: *const C_tensor) -> *mut c_char;
    fn bowline_fill_bernoulli(tensor: *mut C_tensor, probability: f64, seed: u64) -> *mut c_char;
}

/// State of the default generator of a device: bytes that mean something to [`set_generator_state`] alone.
///
/// # Errors
///
/// When libtorch has no generator for the device.
pub fn generator_state(device: Device) -> Result<Tensor, AutogradError> {
    let mut state = std::ptr::null_mut();
    let number = number(device)?;
    // SAFETY: a pointer to write a handle to.
    refused(unsafe { bowline_generator_state(number, &raw mut state) })?;
    // SAFETY: without a refusal a handle was written, and it is ours.
    Ok(unsafe { Tensor::from_ptr(state) })
}

/// Makes the default generator of a device go on from a state that [`generator_state`] gave for a device of its kind.
///
/// # Errors
///
/// When libtorch has no generator for the device, or the bytes are no state of it; the generator is then as before.
pub fn set_generator_state(device: Device, state: &Tensor) -> Result<(), AutogradError> {
    if !state.defined() {
        return Err(AutogradError("the state of a generator is undefined".to_owned()));
    }
    let number = number(device)?;
    // SAFETY: a live tensor.
    refused(unsafe { bowline_set_generator_state(number, state.as_ptr()) })
}

/// Fills a tensor with ones, each with this probability, and zeros: a function of seed, shape, type and device. Generators
/// that others draw from are neither asked nor moved.
///
/// # Errors
///
/// When the probability is not from 0 to 1, or libtorch cannot draw for the tensor.
pub fn fill_bernoulli(tensor: &mut Tensor, probability: f64, seed: u64) -> Result<(), AutogradError> {
    // SAFETY: a live tensor that is borrowed alone.
    refused(unsafe { bowline_fill_bernoulli(tensor.as_mut_ptr(), probability, seed) })
}

/// As the shim numbers devices.
fn number(device: Device) -> Result<c_int, AutogradError> {
    let unknown = || AutogradError(format!("there is no random generator to ask for on {device:?}"));
    match device {
        Device::Cpu => Ok(-1),
        Device::Cuda(index) => c_int::try_from(index).map_err(|_| unknown()),
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::test_lock;

    #[test]
    fn a_generator_set_back_draws_the_same_again() {
        let _alone = test_lock();
        let drawn = || Vec::<f32>::try_from(Tensor::randn([7], (Kind::Float, Device::Cpu))).unwrap();
        let state = generator_state(Device::Cpu).unwrap();
        let (first, second) = (drawn(), drawn());
        assert_ne!(first, second);
        set_generator_state(Device::Cpu, &state).unwrap();
        assert_eq!((drawn(), drawn()), (first, second));
    }

    #[test]
    fn a_filling_is_a_function_of_its_seed_and_moves_no_generator() {
        let _alone = test_lock();
        let before = generator_state(Device::Cpu).unwrap();
        let filled = |kind: Kind, seed: u64| {
            let mut tensor = Tensor::zeros([40_000], (kind, Device::Cpu));
            fill_bernoulli(&mut tensor, 0.9, seed).unwrap();
            tensor
        };
        let (one, other) = (filled(Kind::Float, 1), filled(Kind::Float, 2));
        assert!(one.equal(&filled(Kind::Float, 1)) && !one.equal(&other));
        for kind in [Kind::Float, Kind::BFloat16, Kind::Half] {
            let share = filled(kind, 3).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
            assert!((share - 0.9).abs() < 0.01, "{kind:?}: {share}");
        }
        assert!(generator_state(Device::Cpu).unwrap().equal(&before));
        assert!(fill_bernoulli(&mut Tensor::zeros([2], (Kind::Float, Device::Cpu)), 1.5, 0).is_err());
    }

    #[test]
    fn bytes_that_are_no_state_are_refused() {
        let _alone = test_lock();
        let before = generator_state(Device::Cpu).unwrap();
        assert!(set_generator_state(Device::Cpu, &before.narrow(0, 0, 8)).is_err());
        assert!(set_generator_state(Device::Cpu, &Tensor::new()).is_err());
        assert!(generator_state(Device::Cpu).unwrap().equal(&before));
        assert!(generator_state(Device::Mps).is_err());
    }
}
