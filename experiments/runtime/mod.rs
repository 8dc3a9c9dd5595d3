//! What every command shares: device, run folder, progress, signals, provenance.

pub mod device;
pub mod progress;
pub mod provenance;
pub mod run_dir;
pub mod signals;
