//! The folder of a run, locked while it is written to.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use serde::Serialize;

use super::say;
use crate::atomic;
use crate::error::{Failure, io_failure};

/// A run folder that this process alone writes to.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lock: File,
    log_failed: AtomicBool,
}

impl RunDir {
    /// Makes the folder if it is not there, and locks it.
    ///
    /// # Errors
    ///
    /// When another process holds it, or it cannot be written to.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(path).map_err(|error| io_failure("make", path, &error))?;
        let lock_path = path.join(".lock");
        let lock = File::create(&lock_path).map_err(|error| io_failure("write", &lock_path, &error))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), lock, log_failed: AtomicBool::new(false) }),
            Err(Errno::WOULDBLOCK) => Err(Failure::config(format!(
                "{} is in use by another bowline process; wait for it, or give another folder with --out",
                path.display()
            ))),
            Err(error) => Err(io_failure("lock", &lock_path, &error.into())),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a value as TOML, whole or not at all.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write_toml(&self, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        let text = toml::to_string_pretty(value)
            .map_err(|error| Failure::config(format!("{name} cannot be written as TOML: {error}")))?;
        self.write(name, text.as_bytes())
    }

    /// Writes a value as JSON, whole or not at all.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::config(format!("{name} cannot be written as JSON: {error}")))?;
        self.write(name, format!("{text}\n").as_bytes())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = self.join(name);
        atomic::write_bytes(&path, bytes).map_err(|error| io_failure("write", &path, &error))
    }

    /// Appends a line to a log; a full disk is said once and the run goes on.
    pub fn log(&self, line: &str) {
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(self.join("log.txt"));
        if let Err(error) = opened.and_then(|mut file| writeln!(file, "{line}"))
            && !self.log_failed.swap(true, Ordering::Relaxed)
        {
            say!("warning: could not write to {}: {error}; the run goes on", self.join("log.txt").display());
        }
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // Said, and not left to closing the file: a child that another thread is just starting holds a copy of it.
        let _ = rustix::fs::flock(&self.lock, rustix::fs::FlockOperation::Unlock);
    }
}
