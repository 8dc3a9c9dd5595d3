//! Files and folders that are either whole or absent.
//!
//! A file is written under a temporary name in the folder it belongs to, flushed to the disk, and only then renamed;
//! the folder is flushed after that, or a power cut could leave a name without its content. A file that somebody has
//! mapped is therefore never truncated: the old content lives on under the mapping.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::{self, Output};

/// Writes a file whole or not at all; `fill` gives the content.
///
/// # Errors
///
/// The first failure of creating, filling, flushing or renaming. The target is then what it was before, and the
/// temporary file is gone.
pub fn write_with(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let pending = Pending::create(path)?;
    let mut out = BufWriter::with_capacity(1 << 20, &pending.out);
    fill(&mut out)?;
    out.flush()?;
    drop(out);
    pending.commit(path)
}

/// Writes these bytes as a file, whole or not at all.
///
/// # Errors
///
/// As [`write_with`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, |out| out.write_all(bytes))
}

/// Flushes a folder's entries to the disk, so that a rename in it survives a power cut.
///
/// # Errors
///
/// When the folder cannot be opened or flushed.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    disk::sync(folder)
}

/// A folder being filled under a temporary name beside its final one.
///
/// Dropped without [`commit`](Self::commit), it disappears.
#[derive(Debug)]
pub struct PendingFolder {
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl PendingFolder {
    /// Makes `.tmp-NAME-PID-COUNT` beside `target`, and the folders above it.
    ///
    /// # Errors
    ///
    /// When `target` exists, has no name, or the folder cannot be made.
    pub fn create(target: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(target).is_ok() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists already"));
        }
        let parent = parent_of(target);
        fs::create_dir_all(parent)?;
        let temporary = parent.join(temporary_name(target)?);
        disk::make_folder(&temporary)?;
        Ok(Self { temporary, target: target.to_path_buf(), committed: false })
    }

    /// Where to write meanwhile.
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Flushes every file in it, then gives the folder its final name.
    ///
    /// # Errors
    ///
    /// When flushing or renaming fails; the temporary folder is then removed.
    pub fn commit(mut self) -> io::Result<()> {
        sync_tree(&self.temporary)?;
        disk::rename(&self.temporary, &self.target)?;
        self.committed = true;
        sync_folder(parent_of(&self.target))
    }
}

impl Drop for PendingFolder {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing can be done about a failure here; the name says that it is temporary.
            let _ = disk::remove_folder(&self.temporary);
        }
    }
}

/// A file under its temporary name; removed when dropped before its commit.
struct Pending {
    out: Output,
    committed: bool,
}

impl Pending {
    fn create(target: &Path) -> io::Result<Self> {
        let temporary = parent_of(target).join(temporary_name(target)?);
        // create_new and not a library's temporary file: that one is readable by its owner alone, after the rename too.
        Ok(Self { out: disk::create_new(&temporary)?, committed: false })
    }

    fn commit(mut self, target: &Path) -> io::Result<()> {
        self.out.sync()?;
        disk::rename(self.out.path(), target)?;
        self.committed = true;
        sync_folder(parent_of(target))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.committed {
            let _ = disk::remove_file(self.out.path());
        }
    }
}

/// The folder a path lies in; `.` for a bare name.
fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name that no other writer of this or another process uses.
fn temporary_name(target: &Path) -> io::Result<std::ffi::OsString> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = target.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "it has no file name"))?;
    let mut temporary = std::ffi::OsString::from(".tmp-");
    temporary.push(name);
    temporary.push(format!("-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    Ok(temporary)
}

/// Flushes every regular file and folder below `folder`, and itself.
fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            disk::sync(&entry.path())?;
        }
    }
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        write_bytes(&path, b"old").unwrap();
        let failed = write_with(&path, |out| {
            out.write_all(b"half of the ne")?;
            Err(io::Error::other("disk full"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "disk full");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["report.json"]);
    }

    #[test]
    fn a_write_replaces_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_bytes(&path, b"old").unwrap();
        write_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn an_open_reader_keeps_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_bytes(&path, b"old").unwrap();
        let mut reader = File::open(&path).unwrap();
        write_bytes(&path, b"new content").unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, "old");
    }

    #[test]
    fn a_pending_folder_appears_on_commit_alone() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("checkpoints/step-1");
        let pending = PendingFolder::create(&target).unwrap();
        fs::create_dir(pending.path().join("inner")).unwrap();
        fs::write(pending.path().join("inner/weights"), b"w").unwrap();
        assert!(!target.exists());
        pending.commit().unwrap();
        assert_eq!(fs::read(target.join("inner/weights")).unwrap(), b"w");
        assert_eq!(names(target.parent().unwrap()), ["step-1"]);
        assert_eq!(PendingFolder::create(&target).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn an_abandoned_folder_disappears() {
        let folder = tempfile::tempdir().unwrap();
        drop(PendingFolder::create(&folder.path().join("step-2")).unwrap());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_path_without_a_name_is_an_error() {
        assert!(write_bytes(Path::new("/"), b"").is_err());
        assert!(write_bytes(Path::new(".."), b"").is_err());
    }
}
