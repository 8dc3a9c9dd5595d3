//! Checkpoints that are whole or absent.
//!
//! A checkpoint is a model folder (config, weights, tokenizer) with the optimizer's state, `state.json` and a
//! `manifest.json` that lists every file with its size and BLAKE3 hash. It is written under a temporary name, flushed,
//! renamed, and only then may older ones go. One that has no manifest, or whose sizes differ from it, does not count.

mod manifest;

use std::path::{Path, PathBuf};

use manifest::seal;
pub use manifest::{RunState, read_state, verify};

use crate::atomic::{self, PendingFolder};
use crate::disk;
use crate::error::{Failure, io_failure};
use crate::runtime::say;

/// Complete checkpoints that are never removed: should the newest be damaged, there is one before it.
const LEAST_KEPT: usize = 2;

/// The checkpoints of a run.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    keep: usize,
}

impl Store {
    /// The checkpoints in `folder`, of which the newest `keep` (at least two) stay.
    pub fn new(folder: PathBuf, keep: usize) -> Self {
        Self { folder, keep: keep.max(LEAST_KEPT) }
    }

    /// Writes checkpoint `step-N`: `fill` puts the files of model and optimizer into the folder that it is given.
    ///
    /// # Errors
    ///
    /// When there is too little room (`bytes` is what will be written; exit code 2), or writing fails; older ones stay.
    pub fn save(
        &self,
        state: &RunState,
        bytes: u64,
        fill: impl FnOnce(&Path) -> Result<(), Failure>,
    ) -> Result<PathBuf, Failure> {
        std::fs::create_dir_all(&self.folder).map_err(|error| io_failure("make", &self.folder, &error))?;
        let target = self.folder.join(format!("step-{}", state.step));
        if verify(&target, true).is_ok() {
            // Saved already: those of other runs were set aside when this one began.
            return Ok(target);
        }
        self.remove_stale();
        self.retire();
        self.check_room(bytes)?;
        match self.write(&target, state, fill) {
            Err(failure) if failure.is_disk_full() => Err(self.no_room(state.step, bytes, &failure)),
            written => written.map(|()| target),
        }
    }

    fn write(
        &self,
        target: &Path,
        state: &RunState,
        fill: impl FnOnce(&Path) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if target.exists() {
            // It is damaged.
            disk::remove_folder(target).map_err(|error| io_failure("remove", target, &error))?;
        }
        let pending = PendingFolder::create(target).map_err(|error| io_failure("make", target, &error))?;
        fill(pending.path())?;
        seal(pending.path(), state)?;
        pending.commit().map_err(|error| io_failure("finish", target, &error))?;
        let latest = self.folder.join("latest");
        atomic::write_bytes(&latest, format!("step-{}\n", state.step).as_bytes())
            .map_err(|error| io_failure("write", &latest, &error))?;
        self.retire();
        Ok(())
    }

    /// The newest complete checkpoint, by the sizes of its files.
    pub fn newest(&self) -> Option<PathBuf> {
        self.complete().pop().map(|(_, path)| path)
    }

    /// The newest checkpoint whose every file has its hash, and its state. Each damaged one that is newer is told of in
    /// a sentence.
    ///
    /// # Errors
    ///
    /// When a newer Bowline wrote one.
    pub fn newest_sound(&self) -> Result<Option<(PathBuf, RunState)>, Failure> {
        for (_, path) in self.all().into_iter().rev() {
            match read_state(&path) {
                Ok(state) => return Ok(Some((path, state))),
                Err(failure) if failure.exit_code() == 2 => return Err(failure),
                Err(failure) => say!("warning: {} is passed over as damaged: {failure}", path.display()),
            }
        }
        Ok(None)
    }

    /// Whether `checkpoint` is one of these.
    pub fn holds(&self, checkpoint: &Path) -> bool {
        let real = |path: &Path| path.canonicalize().ok();
        checkpoint.parent().and_then(real).is_some_and(|parent| Some(parent) == real(&self.folder))
    }

    /// Moves every checkpoint after `step` (none: every one) to a new folder `checkpoints-before-N`: a run that does not
    /// go on from them must not take them for its own, and they are somebody's work.
    ///
    /// # Errors
    ///
    /// When one cannot be moved.
    pub fn set_aside(&self, step: Option<u64>) -> Result<(), Failure> {
        let later = |number: u64| step.is_none_or(|step| number > step);
        let moved: Vec<PathBuf> =
            self.all().into_iter().filter(|(number, _)| later(*number)).map(|(_, path)| path).collect();
        if moved.is_empty() {
            return Ok(());
        }
        let name = name_of(&self.folder);
        let place = |number: u32| self.folder.with_file_name(format!("{name}-before-{number}"));
        let aside = place((1..).find(|&number| !place(number).exists()).unwrap_or(u32::MAX));
        disk::make_folder(&aside).map_err(|error| io_failure("make", &aside, &error))?;
        for path in &moved {
            disk::rename(path, &aside.join(name_of(path))).map_err(|error| io_failure("rename", path, &error))?;
        }
        let latest = self.folder.join("latest");
        match self.newest() {
            Some(path) => atomic::write_bytes(&latest, format!("{}\n", name_of(&path)).as_bytes()),
            None => disk::remove_file(&latest).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }),
        }
        .map_err(|error| io_failure("change", &latest, &error))?;
        let names: Vec<String> = moved.iter().map(|path| name_of(path)).collect();
        say!("{} moved to {}: this run does not go on from there", names.join(", "), aside.display());
        Ok(())
    }

    /// That there is room for a checkpoint of `bytes`, and for the one kept beside it if none is there yet.
    ///
    /// # Errors
    ///
    /// With both numbers; exit code 2.
    pub fn check_start(&self, bytes: u64) -> Result<(), Failure> {
        self.check_room(if self.newest().is_none() { bytes.saturating_mul(2) } else { bytes })
    }

    /// Folders named `step-N`, complete or not, oldest first.
    fn all(&self) -> Vec<(u64, PathBuf)> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let number = |entry: &std::fs::DirEntry| entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok();
        let mut found: Vec<(u64, PathBuf)> =
            entries.filter_map(|entry| Some((number(&entry)?, entry.path()))).collect();
        found.sort();
        found
    }

    /// Complete checkpoints by step, oldest first.
    fn complete(&self) -> Vec<(u64, PathBuf)> {
        self.all().into_iter().filter(|(_, path)| verify(path, false).is_ok()).collect()
    }

    /// Removes what is older than the newest complete ones, whole or not. A failure costs room, not the run.
    fn retire(&self) {
        let complete = self.complete();
        let Some((oldest_kept, _)) = complete.len().checked_sub(self.keep).and_then(|at| complete.get(at)) else {
            return;
        };
        for (_, path) in self.all().iter().filter(|(step, _)| step < oldest_kept) {
            if let Err(error) = disk::remove_folder(path) {
                say!("warning: could not remove the old checkpoint {}: {error}", path.display());
            }
        }
    }

    /// Removes what a killed process left under temporary names.
    fn remove_stale(&self) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(".tmp-") {
                let path = entry.path();
                let _ = if path.is_dir() { disk::remove_folder(&path) } else { disk::remove_file(&path) };
            }
        }
    }

    fn check_room(&self, bytes: u64) -> Result<(), Failure> {
        let needed = bytes.saturating_add(bytes / 10);
        match self.free() {
            Some(free) if free < needed => Err(Failure::config(format!(
                "{} has {} MB free, checkpoints need {} MB; free some room, or give another folder with --out",
                self.folder.display(),
                free >> 20,
                needed >> 20
            ))),
            _ => Ok(()),
        }
    }

    /// Bytes that may still be written; none when the system does not say.
    fn free(&self) -> Option<u64> {
        let there = self.folder.ancestors().find(|folder| folder.exists())?;
        rustix::fs::statvfs(there).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn no_room(&self, step: u64, bytes: u64, failure: &Failure) -> Failure {
        let kept = match self.newest() {
            Some(path) => format!("{} is whole", path.display()),
            None => "there is no earlier one".to_owned(),
        };
        Failure::config(format!(
            "the disk is full: checkpoint step-{step} needs {} MB ({failure}); {kept}. Free some room and give the same \
             command again",
            (bytes >> 20).max(1)
        ))
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
