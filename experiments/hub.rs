//! A model's name to what holds it: a folder, a GGUF file, `bundled`, or a Hub id in the local cache.
//!
//! Offline first: [`resolve`] never goes to the network; [`fetch()`] does, and leaves what it brings in the cache that
//! Python's huggingface_hub uses too, in the same layout:
//! `models--ORG--NAME/{blobs/ETAG, refs/REVISION, snapshots/COMMIT/FILE -> ../../blobs/ETAG}`.
//!
//! The hf-hub crate (0.5.0) gives the listing, the URLs and the cache's names. Files are brought by our own code,
//! since hf-hub joins the server's ETag and commit to paths unchecked, sends the token along to the host that it is
//! redirected to, appends a whole body to a resumed part, accepts a body that ends early if the server gave no length,
//! and marks the snapshot as current before it is complete.

mod cache;
mod download;
mod env;
mod error;
mod fetch;
mod names;

pub use env::HubEnv;
pub use error::HubError;
pub use fetch::{FetchProgress, fetch, fetch_with};

use std::path::{Path, PathBuf};

/// The name by which the model that comes with Bowline is asked for.
pub const BUNDLED: &str = "bundled";

/// Where a model's files came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSource {
    /// A folder that the user named.
    Folder,
    /// A GGUF file that the user named, or the only one in a folder without `config.json`.
    Gguf,
    /// The model that comes with Bowline.
    Bundled,
    /// The Hub cache, at this commit.
    Cache {
        /// The commit of the snapshot.
        commit: String,
    },
}

/// A folder with `config.json`, the tokenizer and the weights, or one file with all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// The folder, or the GGUF file.
    pub dir: PathBuf,
    /// A name for reports: the Hub id, `bundled`, or the name of folder or file.
    pub id: String,
    /// Where it came from.
    pub source: ModelSource,
}

impl ModelFiles {
    /// Path of `config.json`.
    pub fn config(&self) -> PathBuf {
        self.dir.join("config.json")
    }

    /// Path of `tokenizer.json`.
    pub fn tokenizer(&self) -> PathBuf {
        self.dir.join("tokenizer.json")
    }
}

/// Finds a model by the process environment; see [`resolve_with`].
///
/// # Errors
///
/// As [`resolve_with`].
pub fn resolve(model: &str) -> Result<ModelFiles, HubError> {
    resolve_with(&HubEnv::from_env()?, model)
}

/// Finds the folder or file of `model` without going to the network.
///
/// `bundled`, then an existing folder or GGUF file, then `ORG/NAME` or `ORG/NAME@REVISION` in the cache. A folder named `bundled`
/// is reached as `./bundled`.
///
/// # Errors
///
/// [`HubError`]: nothing of that name, a folder without `config.json`, or a snapshot that is not complete.
pub fn resolve_with(env: &HubEnv, model: &str) -> Result<ModelFiles, HubError> {
    if model == BUNDLED {
        return folder(&env.bundled, BUNDLED.to_owned(), ModelSource::Bundled);
    }
    let path = Path::new(model);
    if path.is_dir() {
        let name = path.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
        return folder(path, name.unwrap_or_else(|| model.to_owned()), ModelSource::Folder);
    }
    if path.exists() {
        return gguf(path);
    }
    let (id, revision) = model.split_once('@').unwrap_or((model, names::MAIN));
    if names::check_id(id).is_err() || path.is_absolute() {
        return Err(HubError::NoSuchModel { model: model.to_owned() });
    }
    cache::complete_snapshot(env, id, revision)?
        .ok_or_else(|| HubError::NotCached { model: model.to_owned(), cache: env.cache.clone() })
}

fn folder(dir: &Path, id: String, source: ModelSource) -> Result<ModelFiles, HubError> {
    if dir.join("config.json").is_file() {
        return Ok(ModelFiles { dir: dir.to_path_buf(), id, source });
    }
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let files: Vec<PathBuf> = entries.filter(|path| is_named_gguf(path) && path.is_file()).collect();
    match files.as_slice() {
        [] => Err(HubError::NoConfig { dir: dir.to_path_buf() }),
        [only] => gguf(only),
        _ => Err(HubError::SeveralGguf { dir: dir.to_path_buf(), count: files.len() }),
    }
}

fn is_named_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// A file that says it is GGUF, by its name or by its first bytes; whether it is one, its reader sees.
fn gguf(path: &Path) -> Result<ModelFiles, HubError> {
    use std::io::Read;
    let begins_so = || {
        let mut first = [0; 4];
        let opened = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut first));
        opened.is_ok() && first == crate::model::gguf::MAGIC
    };
    match path.is_file() && (is_named_gguf(path) || begins_so()) {
        true => {
            let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Ok(ModelFiles { dir: path.to_path_buf(), id, source: ModelSource::Gguf })
        }
        false => Err(HubError::IsAFile { path: path.to_path_buf() }),
    }
}

#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;
