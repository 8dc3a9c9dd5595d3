//! What every command shares: device, run folder, memory, progress, signals, provenance.

pub mod device;
pub mod memory;
pub mod progress;
pub mod provenance;
pub mod run_dir;
pub mod signals;
pub mod tensors;

/// A line on standard error. Where that is gone, as after a terminal was closed, the line is lost and the work goes on:
/// `eprintln!` would panic.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($argument)*);
    }};
}
pub(crate) use say;
