//! What a checkpoint consists of: every file with its size and BLAKE3 hash, and where the run stood.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::super::agreement::Keys;
use crate::atomic;
use crate::error::{Failure, io_failure};

/// Version of the layout. 2: the state holds the recipe, and bfloat16 runs store float32 weights beside the moments.
const SCHEMA: u32 = 2;
const MANIFEST: &str = "manifest.json";
const STATE: &str = "state.json";

/// Where a run stands, beside weights and moments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Steps done.
    pub step: u64,
    /// Times that the optimizer moved the weights: fewer than steps when some were passed over.
    pub updates: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Norm of the last gradients, where the next ones are clipped by it: with `memory.gradients = "in-backward"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm_before: Option<f64>,
    /// Every key of the recipe with its value.
    pub recipe: Keys,
    /// Hashes of what else decides the rest of the run: text and tokenizer.
    pub inputs: BTreeMap<String, String>,
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

/// Writes the state and, last of all, the manifest of every file in `folder`.
///
/// # Errors
///
/// When a file cannot be read or written.
pub fn seal(folder: &Path, state: &RunState) -> Result<(), Failure> {
    write_json(&folder.join(STATE), state)?;
    let manifest = Manifest { schema: SCHEMA, step: state.step, files: listed(folder)? };
    write_json(&folder.join(MANIFEST), &manifest)
}

/// Reads `state.json` of a complete checkpoint.
///
/// # Errors
///
/// When the checkpoint is not whole; every file's hash is checked. When a newer Bowline wrote it (exit code 2).
pub fn read_state(checkpoint: &Path) -> Result<RunState, Failure> {
    match verified(checkpoint, true)?.schema {
        SCHEMA => read_json(&checkpoint.join(STATE)),
        schema => Err(Failure::data(format!(
            "{}: an older bowline wrote it (schema {schema}, now {SCHEMA}); its weights can be exported, its run cannot \
             go on",
            checkpoint.display()
        ))),
    }
}

/// That every file of the manifest is there with its size, and with its hash when `hashes`.
///
/// # Errors
///
/// The first difference.
pub fn verify(checkpoint: &Path, hashes: bool) -> Result<(), Failure> {
    verified(checkpoint, hashes).map(drop)
}

fn verified(checkpoint: &Path, hashes: bool) -> Result<Manifest, Failure> {
    if !checkpoint.join(MANIFEST).is_file() {
        return Err(Failure::data(format!(
            "{} is no complete checkpoint: it holds no {MANIFEST}; a checkpoint is a folder such as \
             RUN/checkpoints/step-100",
            checkpoint.display()
        )));
    }
    let manifest: Manifest = read_json(&checkpoint.join(MANIFEST))?;
    if manifest.schema > SCHEMA {
        return Err(Failure::config(format!(
            "{}: a newer bowline wrote it (schema {}, this one reads up to {SCHEMA})",
            checkpoint.display(),
            manifest.schema
        )));
    }
    manifest.files.iter().try_for_each(|entry| entry.check(checkpoint, hashes))?;
    Ok(manifest)
}

impl Entry {
    fn check(&self, checkpoint: &Path, hashes: bool) -> Result<(), Failure> {
        let inside = Path::new(&self.name).components().all(|part| matches!(part, Component::Normal(_)));
        let path = checkpoint.join(&self.name);
        let refuse = |what: String| Err(Failure::data(format!("{}: {what}", path.display())));
        if !inside {
            return refuse(format!("the manifest names a file outside of the checkpoint, {:?}", self.name));
        }
        let bytes = std::fs::metadata(&path).map_err(|error| io_failure("read", &path, &error))?.len();
        if bytes != self.bytes {
            return refuse(format!("is {bytes} bytes, the manifest says {}", self.bytes));
        }
        if hashes && hash_of(&path)? != self.blake3 {
            return refuse("its content differs from the manifest's hash".to_owned());
        }
        Ok(())
    }
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
