//! TERM, INT, USR1 (the usual notice of a scheduler) and HUP (the terminal was closed) ask for an orderly stop.
//!
//! Launchers deliver one signal twice: a terminal to the whole process group while a parent passes it on, too. What
//! comes within [`GRACE`] of the first is therefore its echo. One that comes later ends the process at once, except
//! while a checkpoint is written: that is never cut.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::say;
use crate::error::{Failure, FailureKind};

/// Signals this soon after the first one are echoes of it.
pub const GRACE: Duration = Duration::from_secs(1);

/// Whether a stop was asked for.
#[derive(Debug, Clone, Default)]
pub struct StopFlag {
    raised: Arc<AtomicBool>,
    saving: Arc<Mutex<()>>,
}

impl StopFlag {
    /// A flag that the signals of this module raise, heard by a thread of their own. HUP stays ignored where it was,
    /// as under `nohup`.
    ///
    /// # Errors
    ///
    /// When the handlers cannot be set.
    pub fn on_signals() -> Result<Self, Failure> {
        let flag = Self::default();
        let mut handled = vec![SIGTERM, SIGINT, SIGUSR1];
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        if !is_ignored(&status, SIGHUP) {
            handled.push(SIGHUP);
        }
        let problem =
            |error| Failure::new(FailureKind::Config, format!("could not set a handler for signals: {error}"));
        let mut signals = Signals::new(handled).map_err(problem)?;
        let heard = flag.clone();
        let listen = move || {
            let mut first = None;
            signals.forever().for_each(|signal| heard.hear(signal, &mut first));
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(listen).map_err(problem)?;
        Ok(flag)
    }

    /// Whether a stop was asked for.
    pub fn raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    /// Asks for a stop, as a signal would.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Relaxed);
    }

    /// The flag as an atomic, for code that knows no signals.
    pub fn atomic(&self) -> &AtomicBool {
        &self.raised
    }

    /// While the guard lives, no signal ends the process.
    pub fn saving(&self) -> MutexGuard<'_, ()> {
        self.saving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, signal: i32, first: &mut Option<Instant>) {
        let name = name(signal);
        match asked(*first, Instant::now()) {
            Request::Stop => {
                *first = Some(Instant::now());
                self.raise();
                say!(
                    "bowline: {name}: stopping after the step in hand, with a checkpoint when training; another signal, \
                     a second from now or later, stops at once"
                );
            }
            Request::Echo => {}
            Request::GiveUp => match self.saving.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    say!("bowline: {name}: a checkpoint is being written and then it ends")
                }
                // Held to the end: nothing begins to be saved any more.
                Ok(_held) => give_up(signal, name),
                Err(TryLockError::Poisoned(_held)) => give_up(signal, name),
            },
        }
    }
}

fn give_up(signal: i32, name: &str) -> ! {
    say!("bowline: {name} again: stopped at once, nothing saved; checkpoints saved before are whole");
    signal_hook::low_level::exit(128 + signal)
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    /// To save and exit.
    Stop,
    /// Nothing: it is the first one again.
    Echo,
    /// To exit.
    GiveUp,
}

/// What a signal at `now` asks for when the first came at `first`.
fn asked(first: Option<Instant>, now: Instant) -> Request {
    match first {
        None => Request::Stop,
        Some(first) if now.saturating_duration_since(first) < GRACE => Request::Echo,
        Some(_) => Request::GiveUp,
    }
}

fn name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        SIGUSR1 => "SIGUSR1",
        SIGHUP => "SIGHUP",
        _ => "a signal",
    }
}

/// Whether a process with this `/proc/PID/status` ignores a signal.
fn is_ignored(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_signal_counts_only_after_a_second() {
        let first = Instant::now();
        assert_eq!(asked(None, first), Request::Stop);
        for (millis, expected) in
            [(0, Request::Echo), (3, Request::Echo), (999, Request::Echo), (1000, Request::GiveUp)]
        {
            assert_eq!(asked(Some(first), first + Duration::from_millis(millis)), expected, "{millis} ms");
        }
    }

    #[test]
    fn a_late_signal_while_a_checkpoint_is_written_ends_nothing() {
        let flag = StopFlag::default();
        let _guard = flag.saving();
        let mut first = Some(Instant::now() - 2 * GRACE);
        // Were it taken for more, this process would be gone.
        flag.clone().hear(SIGTERM, &mut first);
        assert!(!flag.raised());
    }

    #[test]
    fn what_the_parent_ignored_is_read_from_the_mask() {
        let status = "Name:\tbowline\nSigIgn:\t0000000000001001\nSigCgt:\tffffffffffffffff\n";
        assert!(is_ignored(status, SIGHUP) && !is_ignored(status, SIGINT) && !is_ignored(status, SIGTERM));
        assert!(!is_ignored("", SIGHUP));
    }
}
