//! The one way in which a task ends early: a sentence for the reader and an exit code for the shell.

use std::fmt;

/// The exit code of anything that the reader can put right: usage, or something that this machine lacks.
pub(crate) const USAGE: u8 = 2;

/// Why a task stopped, and the exit code that says so.
#[derive(Debug)]
pub(crate) struct Stop {
    /// What the process ends with.
    pub(crate) code: u8,
    message: String,
}

impl Stop {
    /// A stop that the reader can put right; `message` is one sentence that says how.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into() }
    }

    /// A stop because a command failed: its own exit code is handed on.
    pub(crate) fn with_code(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Stop {}

/// Returns early with a [`Stop`] made from a format string.
macro_rules! stop {
    ($($argument:tt)*) => {
        return Err($crate::stop::Stop::new(format!($($argument)*)).into())
    };
}
pub(crate) use stop;
