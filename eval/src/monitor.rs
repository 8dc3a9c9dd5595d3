//! Progress out, interruption in.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::EvalError;

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// Samples or windows finished.
    pub done: usize,
    /// Samples or windows in the run.
    pub total: usize,
    /// What is being measured, such as `P2 length 1024`.
    pub label: &'a str,
}

type Callback<'a> = Box<dyn FnMut(Progress<'_>) + 'a>;

/// Hears of every finished sample or window, and may stop the run before the next.
#[derive(Default)]
pub struct Monitor<'a> {
    callback: Option<Callback<'a>>,
    interrupt: Option<&'a AtomicBool>,
}

impl<'a> Monitor<'a> {
    /// Neither tells nor stops.
    #[must_use]
    pub fn silent() -> Self {
        Self::default()
    }

    /// Tells `callback` after every sample or window.
    #[must_use]
    pub fn with_progress(mut self, callback: impl FnMut(Progress<'_>) + 'a) -> Self {
        self.callback = Some(Box::new(callback));
        self
    }

    /// Stops with [`EvalError::Interrupted`] before the next sample or window once `flag` is true.
    #[must_use]
    pub fn with_interrupt(mut self, flag: &'a AtomicBool) -> Self {
        self.interrupt = Some(flag);
        self
    }

    pub(crate) fn tell(&mut self, progress: Progress<'_>) {
        if let Some(callback) = &mut self.callback {
            callback(progress);
        }
    }

    pub(crate) fn check(&self, progress: Progress<'_>) -> Result<(), EvalError> {
        let Progress { done, total, label } = progress;
        if self.interrupt.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Err(EvalError::Interrupted { done, total, label: label.to_owned() });
        }
        Ok(())
    }
}

impl fmt::Debug for Monitor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("interrupt", &self.interrupt).finish_non_exhaustive()
    }
}

/// Counts the steps of one run.
pub(crate) struct Steps<'m, 'a> {
    monitor: &'m mut Monitor<'a>,
    done: usize,
    total: usize,
}

impl<'m, 'a> Steps<'m, 'a> {
    pub(crate) fn new(monitor: &'m mut Monitor<'a>, total: usize) -> Self {
        Self { monitor, done: 0, total }
    }

    /// Runs one step, unless the run was interrupted.
    pub(crate) fn step<T>(&mut self, label: &str, work: impl FnOnce() -> Result<T, EvalError>) -> Result<T, EvalError> {
        self.steps(label, 1, work)
    }

    /// Runs `count` steps at once, unless the run was interrupted.
    pub(crate) fn steps<T>(
        &mut self,
        label: &str,
        count: usize,
        work: impl FnOnce() -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        self.monitor.check(Progress { done: self.done, total: self.total, label })?;
        let result = work()?;
        self.done += count;
        self.monitor.tell(Progress { done: self.done, total: self.total, label });
        Ok(result)
    }
}
