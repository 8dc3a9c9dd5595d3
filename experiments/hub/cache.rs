//! The Hub cache on disk, in the layout that Python's huggingface_hub uses.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use hf_hub::{Repo, RepoType};

use super::names::{check_revision, is_plain};
use super::{HubEnv, HubError, ModelFiles, ModelSource};
use crate::atomic;
use crate::json;
use crate::model::weights::{INDEX_NAME, MAX_INDEX_BYTES, SINGLE_NAME, parse_index};

/// One repository's folder in the cache.
#[derive(Debug, Clone)]
pub(super) struct RepoFolder {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoFolder {
    /// The folder of an id that has been checked.
    pub(super) fn of(env: &HubEnv, id: &str) -> Self {
        let name = Repo::new(id.to_owned(), RepoType::Model).folder_name();
        Self { root: env.cache.join(&name), locks: env.cache.join(".locks").join(name) }
    }

    /// Path of a blob; the ETag must have been checked to be plain.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Path of the lock that a download of this blob holds, as Python's.
    pub(super) fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    /// Folder of one commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit that a branch or tag stood at when it was last fetched, or the commit itself.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        let stored = fs::read_to_string(self.root.join("refs").join(revision)).ok();
        let commit = stored.map(|text| text.trim().to_owned()).unwrap_or_else(|| revision.to_owned());
        // The reference is a file that anybody may have written, and becomes a path.
        (is_plain(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    /// Makes `revision` point at `commit`; a commit needs no reference.
    pub(super) fn point(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        let parent = path.parent().unwrap_or(&self.root);
        let written = fs::create_dir_all(parent).and_then(|()| atomic::write_bytes(&path, commit.as_bytes()));
        written.map_err(|source| HubError::Io { doing: "write", path, source })
    }

    /// Makes `snapshots/COMMIT/FILE` a link to its blob; `file` is one plain component.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let snapshot = self.snapshot(commit);
        let path = snapshot.join(file);
        let temporary = snapshot.join(format!(".tmp-{file}-{}", std::process::id()));
        let made = fs::create_dir_all(&snapshot)
            .and_then(|()| remove_if_there(&temporary))
            .and_then(|()| symlink(Path::new("../../blobs").join(etag), &temporary))
            .and_then(|()| fs::rename(&temporary, &path))
            .and_then(|()| atomic::sync_folder(&snapshot));
        made.map_err(|source| HubError::Io { doing: "write", path, source })
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The snapshot of a revision, when the cache has it; `None` when it has nothing of it.
///
/// # Errors
///
/// [`HubError::Incomplete`] when files of it are missing.
pub(super) fn complete_snapshot(env: &HubEnv, id: &str, revision: &str) -> Result<Option<ModelFiles>, HubError> {
    check_revision(revision)?;
    let folder = RepoFolder::of(env, id);
    let Some(commit) = folder.commit_of(revision) else { return Ok(None) };
    let dir = folder.snapshot(&commit);
    let missing = missing_files(&dir)?;
    if !missing.is_empty() {
        return Err(HubError::Incomplete { id: id.to_owned(), missing });
    }
    Ok(Some(ModelFiles { dir, id: id.to_owned(), source: ModelSource::Cache { commit } }))
}

/// Files without which the snapshot is no checkpoint. What is there was complete when it got its name.
pub(super) fn missing_files(dir: &Path) -> Result<Vec<String>, HubError> {
    let there = |name: &str| dir.join(name).is_file();
    let mut missing = Vec::new();
    if !there("config.json") {
        missing.push("config.json".to_owned());
    }
    if there(SINGLE_NAME) {
        return Ok(missing);
    }
    if !there(INDEX_NAME) {
        missing.push(SINGLE_NAME.to_owned());
        return Ok(missing);
    }
    missing.extend(shard_names(&dir.join(INDEX_NAME))?.into_iter().filter(|name| !there(name)));
    Ok(missing)
}

/// The shards that an index names, all checked to be plain file names.
pub(super) fn shard_names(index: &Path) -> Result<Vec<String>, HubError> {
    let value = json::read_json(index, MAX_INDEX_BYTES)?;
    let distrust =
        |value: String| HubError::Distrusted { id: index.display().to_string(), what: "the index".into(), value };
    let parsed = parse_index(&value)
        .map_err(|problems| distrust(problems.into_iter().take(4).collect::<Vec<_>>().join("; ")))?;
    match parsed.shards().into_iter().find(|name| !is_plain(name)) {
        Some(odd) => Err(distrust(odd.to_owned())),
        None => Ok(parsed.shards().into_iter().map(str::to_owned).collect()),
    }
}
