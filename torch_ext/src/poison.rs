//! Fresh memory full of NaN, so that a result that nobody wrote is seen.

use std::ffi::c_char;

use crate::autograd::{AutogradError, refused};

// Defined in `shim/context.cpp`.
unsafe extern "C" {
    fn bowline_poison_fresh_memory(enabled: bool, before: *mut bool) -> *mut c_char;
}

/// While it lives, tensors that libtorch makes without values (`Tensor::empty`) are filled with NaN, on every thread.
///
/// For tests of kernels: whoever takes one at a time sees it end when it is dropped.
#[derive(Debug)]
pub struct PoisonedMemory {
    before: bool,
}

impl PoisonedMemory {
    /// Begins.
    ///
    /// # Errors
    ///
    /// When libtorch refuses.
    pub fn new() -> Result<Self, AutogradError> {
        set(true).map(|before| Self { before })
    }
}

impl Drop for PoisonedMemory {
    fn drop(&mut self) {
        // What was accepted before is accepted again.
        let _ = set(self.before);
    }
}

fn set(enabled: bool) -> Result<bool, AutogradError> {
    let mut before = false;
    // SAFETY: a flag to write to.
    refused(unsafe { bowline_poison_fresh_memory(enabled, &raw mut before) })?;
    Ok(before)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn fresh_tensors_hold_nan_while_it_lives() {
        let poisoned = PoisonedMemory::new().unwrap();
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Half] {
            let fresh = Tensor::empty([3, 1000], (kind, Device::Cpu));
            assert_eq!(fresh.isnan().sum(Kind::Int64).int64_value(&[]), 3000, "{kind:?}");
        }
        drop(poisoned);
        assert!(!set(false).unwrap());
    }
}
