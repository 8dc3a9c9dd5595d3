//! What a run held of its device at most, to be set beside its plan.

use tch::Device;
use torch_ext::memory::{MemoryError, reset_peak, usage};

/// Watches the tensors of a device from its making on.
#[derive(Debug)]
pub struct PeakMeter {
    device: Device,
    /// Bytes that were there already and are part of what is watched.
    before: i64,
}

impl PeakMeter {
    /// Begins to watch; none where libtorch does not tell. `before` bytes of the run are there already and, on the host, not
    /// among those counted.
    pub fn start(device: Device, before: u64) -> Option<Self> {
        let started = |device| -> Result<Self, MemoryError> {
            reset_peak(device)?;
            let counted = if device == Device::Cpu { usage(device)?.now } else { 0 };
            let before = if device == Device::Cpu { before as i64 } else { 0 };
            Ok(Self { device, before: before - counted })
        };
        started(device).ok()
    }

    /// Most bytes of tensors since then.
    pub fn tensors(&self) -> Option<u64> {
        let most = usage(self.device).ok()?.peak + self.before;
        u64::try_from(most).ok()
    }

    /// Most bytes that the allocator held for them; what counts towards a GPU's limit.
    pub fn reserved(&self) -> Option<u64> {
        let most = usage(self.device).ok()?.peak_reserved + self.before;
        u64::try_from(most).ok()
    }
}
