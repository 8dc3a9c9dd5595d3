//! TERM and INT ask for an orderly stop; a second one ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use crate::error::{Failure, FailureKind};

/// Whether a stop was asked for.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// A flag that SIGTERM, SIGINT and SIGUSR1 (the usual notice of a scheduler) raise.
    ///
    /// # Errors
    ///
    /// When the handlers cannot be set.
    pub fn on_signals() -> Result<Self, Failure> {
        let flag = Self::default();
        for signal in [SIGTERM, SIGINT, SIGUSR1] {
            let set = signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&flag.0))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag.0)));
            set.map_err(|error| {
                Failure::new(FailureKind::Config, format!("could not set a handler for signal {signal}: {error}"))
            })?;
        }
        Ok(flag)
    }

    /// Whether a stop was asked for.
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks for a stop, as a signal would.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The flag as an atomic, for code that knows no signals.
    pub fn atomic(&self) -> &AtomicBool {
        &self.0
    }
}
