//! What a run held of its device at most, to be set beside its plan.

use std::sync::atomic::{AtomicU64, Ordering};

use tch::Device;
use torch_ext::memory::{MemoryError, reset_peak, usage};

/// Meters started so far, and those of them that are at work.
static STARTED: AtomicU64 = AtomicU64::new(0);
static AT_WORK: AtomicU64 = AtomicU64::new(0);

/// Watches the tensors of a device from its making on. A device is counted as a whole: of runs side by side none is told.
#[derive(Debug)]
pub struct PeakMeter {
    device: Device,
    /// Bytes that were there already and are part of what is watched.
    before: i64,
    /// Number of this meter, where it was alone at its start.
    alone: Option<u64>,
}

impl PeakMeter {
    /// Begins to watch; none where libtorch does not tell. `before` bytes of the run are there already.
    pub fn start(device: Device, before: u64) -> Option<Self> {
        let started = |device| -> Result<i64, MemoryError> {
            reset_peak(device)?;
            // On the host those may have come before the counting did.
            let counted = if device == Device::Cpu { usage(device)?.now } else { 0 };
            Ok(if device == Device::Cpu { before as i64 - counted } else { 0 })
        };
        let before = started(device).ok()?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed) + 1;
        let alone = (AT_WORK.fetch_add(1, Ordering::Relaxed) == 0).then_some(number);
        Some(Self { device, before, alone })
    }

    /// Most bytes of tensors since then.
    pub fn tensors(&self) -> Option<u64> {
        self.told(|usage| usage.peak)
    }

    /// Most bytes that the allocator held for them; what counts towards a GPU's limit.
    pub fn reserved(&self) -> Option<u64> {
        self.told(|usage| usage.peak_reserved)
    }

    fn told(&self, part: fn(torch_ext::memory::Usage) -> i64) -> Option<u64> {
        let undisturbed = self.alone == Some(STARTED.load(Ordering::Relaxed));
        let most = undisturbed.then(|| usage(self.device).ok())?.map(part)?;
        u64::try_from(most + self.before).ok()
    }
}

impl Drop for PeakMeter {
    fn drop(&mut self) {
        AT_WORK.fetch_sub(1, Ordering::Relaxed);
    }
}
