//! Checkpoints that are whole or absent.
//!
//! A checkpoint is a model folder (config, weights, tokenizer) with the optimizer's moments, `state.json` and a
//! `manifest.json` that lists every file with its size and BLAKE3 hash. It is written under a temporary name, flushed,
//! renamed, and only then may older ones go. One that has no manifest, or whose sizes differ from it, does not count.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic::{self, PendingFolder};
use crate::error::{Failure, io_failure};

/// Version of the layout.
const SCHEMA: u32 = 1;
const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";

/// Where a run stands, beside weights and moments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Optimizer steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Hash of everything that decides the rest of the run: recipe, sources, tokenizer.
    pub identity: BTreeMap<String, String>,
    /// Device and threads; other ones may change the last bits.
    pub machine: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    schema: u32,
    step: u64,
    files: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    bytes: u64,
    blake3: String,
}

/// The checkpoints of a run.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    keep: usize,
}

impl Store {
    /// The checkpoints in `folder`, of which the newest `keep` (at least 1) stay.
    pub fn new(folder: PathBuf, keep: usize) -> Self {
        Self { folder, keep: keep.max(1) }
    }

    /// Writes checkpoint `step-N`: `fill` puts the files of model and optimizer into the folder that it is given.
    ///
    /// # Errors
    ///
    /// When there is too little room (`bytes` is what will be written), or writing fails; older ones stay.
    pub fn save(
        &self,
        state: &RunState,
        bytes: u64,
        fill: impl FnOnce(&Path) -> Result<(), Failure>,
    ) -> Result<PathBuf, Failure> {
        std::fs::create_dir_all(&self.folder).map_err(|error| io_failure("make", &self.folder, &error))?;
        self.remove_stale();
        self.check_room(bytes)?;
        let target = self.folder.join(format!("step-{}", state.step));
        if self.complete_at(&target) {
            return Ok(target);
        }
        if target.exists() {
            std::fs::remove_dir_all(&target).map_err(|error| io_failure("remove", &target, &error))?;
        }
        let pending = PendingFolder::create(&target).map_err(|error| io_failure("make", &target, &error))?;
        fill(pending.path())?;
        write_json(&pending.path().join(STATE), state)?;
        let manifest = Manifest { schema: SCHEMA, step: state.step, files: listed(pending.path())? };
        write_json(&pending.path().join(MANIFEST), &manifest)?;
        pending.commit().map_err(|error| io_failure("finish", &target, &error))?;
        let latest = self.folder.join("latest");
        atomic::write_bytes(&latest, format!("step-{}\n", state.step).as_bytes())
            .map_err(|error| io_failure("write", &latest, &error))?;
        self.retire();
        Ok(target)
    }

    /// The newest complete checkpoint.
    pub fn newest(&self) -> Option<PathBuf> {
        self.complete().pop().map(|(_, path)| path)
    }

    /// Whether `checkpoint` is one of these.
    pub fn holds(&self, checkpoint: &Path) -> bool {
        let real = |path: &Path| path.canonicalize().ok();
        checkpoint.parent().and_then(real).is_some_and(|parent| Some(parent) == real(&self.folder))
    }

    /// Renames the folder of checkpoints, if there is one, to `checkpoints-before-N`: they are another run's, and
    /// somebody's work.
    ///
    /// # Errors
    ///
    /// When it cannot be renamed.
    pub fn set_aside(&self) -> Result<(), Failure> {
        if !self.folder.exists() {
            return Ok(());
        }
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy();
        let free = |number: &u32| !self.folder.with_file_name(format!("{name}-before-{number}")).exists();
        let number = (1..).find(free).unwrap_or(u32::MAX);
        let aside = self.folder.with_file_name(format!("{name}-before-{number}"));
        std::fs::rename(&self.folder, &aside).map_err(|error| io_failure("rename", &self.folder, &error))?;
        eprintln!("checkpoints of an earlier run are now in {}", aside.display());
        Ok(())
    }

    /// Complete checkpoints by step, oldest first.
    fn complete(&self) -> Vec<(u64, PathBuf)> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut found: Vec<(u64, PathBuf)> = entries
            .filter_map(|entry| {
                let step = entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
                self.complete_at(&entry.path()).then(|| (step, entry.path()))
            })
            .collect();
        found.sort();
        found
    }

    fn complete_at(&self, path: &Path) -> bool {
        verify(path, false).is_ok()
    }

    /// Removes all but the newest complete ones. A failure costs room, not the run.
    fn retire(&self) {
        let complete = self.complete();
        let surplus = complete.len().saturating_sub(self.keep);
        for (_, path) in &complete[..surplus] {
            if let Err(error) = std::fs::remove_dir_all(path) {
                eprintln!("warning: could not remove the old checkpoint {}: {error}", path.display());
            }
        }
    }

    /// Removes what a killed process left under temporary names.
    fn remove_stale(&self) {
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(".tmp-") {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    fn check_room(&self, bytes: u64) -> Result<(), Failure> {
        let Ok(stat) = rustix::fs::statvfs(&self.folder) else { return Ok(()) };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        let needed = bytes + bytes / 10;
        match free >= needed {
            true => Ok(()),
            false => Err(Failure::config(format!(
                "{} has {} MB free, a checkpoint needs {} MB; free some room or set checkpoint.keep lower",
                self.folder.display(),
                free >> 20,
                needed >> 20
            ))),
        }
    }
}

/// Reads `state.json` of a complete checkpoint.
///
/// # Errors
///
/// When the checkpoint is not whole; every file's hash is checked.
pub fn read_state(checkpoint: &Path) -> Result<RunState, Failure> {
    verify(checkpoint, true)?;
    read_json(&checkpoint.join(STATE))
}

/// That every file of the manifest is there with its size, and with its hash when `hashes`.
///
/// # Errors
///
/// The first difference.
pub fn verify(checkpoint: &Path, hashes: bool) -> Result<(), Failure> {
    let manifest: Manifest = read_json(&checkpoint.join(MANIFEST))?;
    if manifest.schema > SCHEMA {
        let message = format!("{}: written by a newer bowline (schema {})", checkpoint.display(), manifest.schema);
        return Err(Failure::data(message));
    }
    for entry in &manifest.files {
        let path = checkpoint.join(&entry.name);
        let bytes = std::fs::metadata(&path).map_err(|error| io_failure("read", &path, &error))?.len();
        if bytes != entry.bytes {
            let message = format!("{}: is {bytes} bytes, the manifest says {}", path.display(), entry.bytes);
            return Err(Failure::data(message));
        }
        if hashes && hash_of(&path)? != entry.blake3 {
            return Err(Failure::data(format!("{}: its content differs from the manifest's hash", path.display())));
        }
    }
    Ok(())
}

/// Every file below `folder` by its path from there, sorted.
fn listed(folder: &Path) -> Result<Vec<Entry>, Failure> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(place) = folders.pop() {
        let entries = std::fs::read_dir(&place).map_err(|error| io_failure("read", &place, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| io_failure("read", &place, &error))?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::metadata(&path).map_err(|error| io_failure("read", &path, &error))?.len();
            let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            files.push(Entry { name, bytes, blake3: hash_of(&path)? });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn hash_of(path: &Path) -> Result<String, Failure> {
    let mut hasher = blake3::Hasher::new();
    let file = std::fs::File::open(path).map_err(|error| io_failure("read", path, &error))?;
    hasher.update_reader(file).map_err(|error| io_failure("read", path, &error))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::data(e.to_string()))?;
    atomic::write_bytes(path, text.as_bytes()).map_err(|error| io_failure("write", path, &error))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text = std::fs::read(path).map_err(|error| io_failure("read", path, &error))?;
    serde_json::from_slice(&text).map_err(|error| Failure::data(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(step: u64) -> RunState {
        RunState { step, tokens: step * 10, identity: BTreeMap::new(), machine: "cpu".into() }
    }

    fn fill(text: &'static str) -> impl FnOnce(&Path) -> Result<(), Failure> {
        move |folder| std::fs::write(folder.join("model.safetensors"), text).map_err(|e| Failure::data(e.to_string()))
    }

    #[test]
    fn the_newest_complete_checkpoint_is_found_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned(), 2);
        for step in [5, 10, 100] {
            store.save(&state(step), 10, fill("weights")).unwrap();
        }
        assert_eq!(store.newest().unwrap(), folder.path().join("step-100"));
        assert!(!folder.path().join("step-5").exists());
        assert_eq!(read_state(&folder.path().join("step-10")).unwrap(), state(10));
    }

    #[test]
    fn a_checkpoint_without_manifest_or_with_a_short_file_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned(), 3);
        for step in [1, 2, 3] {
            store.save(&state(step), 10, fill("weights")).unwrap();
        }
        std::fs::remove_file(folder.path().join("step-3/manifest.json")).unwrap();
        std::fs::write(folder.path().join("step-2/model.safetensors"), "weig").unwrap();
        assert_eq!(store.newest().unwrap(), folder.path().join("step-1"));
    }

    #[test]
    fn changed_bytes_of_the_same_length_are_found_by_the_hash() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned(), 1);
        let path = store.save(&state(1), 10, fill("weights")).unwrap();
        std::fs::write(path.join("model.safetensors"), "WEIGHTS").unwrap();
        assert!(read_state(&path).unwrap_err().to_string().contains("hash"));
    }

    #[test]
    fn a_save_that_fails_leaves_the_last_one_and_nothing_half_written() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned(), 2);
        store.save(&state(1), 10, fill("weights")).unwrap();
        let failed = store.save(&state(2), 10, |_| Err(Failure::data("the disk is full")));
        assert!(failed.is_err());
        assert_eq!(store.newest().unwrap(), folder.path().join("step-1"));
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(names.iter().all(|n| !n.to_string_lossy().contains("step-2")), "{names:?}");
    }

    #[test]
    fn a_checkpoint_larger_than_the_disk_is_refused_before_writing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().to_owned(), 2);
        let error = store.save(&state(1), u64::MAX / 4, fill("weights")).unwrap_err();
        assert!(error.to_string().contains("MB free"), "{error}");
    }
}
