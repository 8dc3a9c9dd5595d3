//! Which files a source consists of, in an order that depends on their names alone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::error::DataError;
use super::spec::{Format, SourceSpec};

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packed {
    Plain,
    Zstd,
    Gzip,
}

/// What a file holds, once decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Text,
    Jsonl,
    Parquet,
}

/// A file of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was last changed, in nanoseconds since 1970 (0 where the system does not say).
    pub modified_ns: u128,
    pub(super) holds: Holds,
    pub(super) packed: Packed,
}

/// The files of a source: paths in the order given, folders searched in the order of names. A folder is entered once,
/// however many links lead to it; hidden files and files of unknown kinds in folders are passed over.
///
/// # Errors
///
/// When a path does not exist or cannot be read, a file named outright is of an unknown kind, something that is no
/// regular file is in the way, or there is no file at all.
pub fn source_files(spec: &SourceSpec) -> Result<Vec<SourceFile>, DataError> {
    spec.checked()?;
    let mut walk = Walk { format: spec.format, entered: BTreeSet::new(), files: Vec::new() };
    for path in &spec.paths {
        walk.named(path)?;
    }
    if walk.files.is_empty() {
        return Err(DataError::NoFiles { name: spec.name.clone(), paths: spec.paths.clone() });
    }
    Ok(walk.files)
}

struct Walk {
    format: Format,
    entered: BTreeSet<PathBuf>,
    files: Vec<SourceFile>,
}

impl Walk {
    /// A path that the user wrote.
    fn named(&mut self, path: &Path) -> Result<(), DataError> {
        let about = metadata(path)?;
        if about.is_dir() {
            return self.folder(path);
        }
        let (holds, packed) =
            kind(path, self.format).ok_or_else(|| DataError::UnknownKind { path: path.to_path_buf() })?;
        self.file(path, &about, holds, packed)
    }

    fn folder(&mut self, folder: &Path) -> Result<(), DataError> {
        let real = folder.canonicalize().map_err(DataError::io("open", folder))?;
        if !self.entered.insert(real) {
            return Ok(());
        }
        let entries = fs::read_dir(folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut paths: Vec<PathBuf> =
            entries.map_err(DataError::io("read", folder))?.into_iter().map(|entry| entry.path()).collect();
        paths.sort();
        paths.retain(|path| !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")));
        paths.iter().try_for_each(|path| self.found(path))
    }

    /// A path found in a folder.
    fn found(&mut self, path: &Path) -> Result<(), DataError> {
        let kind = kind(path, self.format);
        let about = match (metadata(path), kind) {
            (Ok(about), _) => about,
            // A link to nowhere, or around in a circle, is of no concern unless it claims to be a document.
            (Err(_), None) => return Ok(()),
            (Err(error), Some(_)) => return Err(error),
        };
        match kind {
            _ if about.is_dir() => self.folder(path),
            Some((holds, packed)) => self.file(path, &about, holds, packed),
            None => Ok(()),
        }
    }

    fn file(&mut self, path: &Path, about: &Metadata, holds: Holds, packed: Packed) -> Result<(), DataError> {
        if !about.is_file() {
            return Err(DataError::NotRegular { path: path.to_path_buf() });
        }
        let modified = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        self.files.push(SourceFile {
            path: path.to_path_buf(),
            bytes: about.len(),
            modified_ns: modified.map_or(0, |since| since.as_nanos()),
            holds,
            packed,
        });
        Ok(())
    }
}

fn metadata(path: &Path) -> Result<Metadata, DataError> {
    fs::metadata(path).map_err(DataError::io("open", path))
}

/// What a file of this name holds, `format` permitting; none when the name says nothing.
fn kind(path: &Path, format: Format) -> Option<(Holds, Packed)> {
    let (name, packed) = match extension(path) {
        Some("zst" | "zstd") => (path.file_stem().map(Path::new), Packed::Zstd),
        Some("gz") => (path.file_stem().map(Path::new), Packed::Gzip),
        _ => (Some(path), Packed::Plain),
    };
    let holds = match format {
        Format::Text => Holds::Text,
        Format::Jsonl => Holds::Jsonl,
        Format::Parquet => return Some((Holds::Parquet, Packed::Plain)),
        Format::Auto => match extension(name?)? {
            "txt" => Holds::Text,
            "jsonl" | "ndjson" => Holds::Jsonl,
            "parquet" if packed == Packed::Plain => Holds::Parquet,
            _ => return None,
        },
    };
    Some((holds, packed))
}

fn extension(path: &Path) -> Option<&str> {
    path.extension().and_then(OsStr::to_str)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(spec: &SourceSpec, root: &Path) -> Vec<String> {
        let files = source_files(spec).unwrap();
        files.iter().map(|file| file.path.strip_prefix(root).unwrap().to_string_lossy().into_owned()).collect()
    }

    fn folder_with(paths: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        root
    }

    #[test]
    fn folders_are_searched_in_the_order_of_names() {
        let root = folder_with(&["b.txt", "a/z.jsonl.zst", "a/b.parquet", "c.txt.gz", "notes.md", ".hidden.txt"]);
        let spec = SourceSpec::new("s", &[root.path()], "text");
        assert_eq!(names(&spec, root.path()), ["a/b.parquet", "a/z.jsonl.zst", "b.txt", "c.txt.gz"]);
    }

    #[test]
    fn a_circle_of_links_is_entered_once() {
        let root = folder_with(&["a/b.txt"]);
        std::os::unix::fs::symlink(root.path(), root.path().join("a/again")).unwrap();
        std::os::unix::fs::symlink("self", root.path().join("self")).unwrap();
        let spec = SourceSpec::new("s", &[root.path()], "text");
        assert_eq!(names(&spec, root.path()), ["a/b.txt"]);
    }

    #[test]
    fn a_broken_link_that_claims_to_be_a_document_is_an_error() {
        let root = folder_with(&["a.txt"]);
        std::os::unix::fs::symlink("nowhere", root.path().join("b.txt")).unwrap();
        let error = source_files(&SourceSpec::new("s", &[root.path()], "text")).unwrap_err().to_string();
        assert!(error.contains("b.txt") && error.contains("could not open"), "{error}");
    }

    #[test]
    fn a_device_is_refused() {
        let spec = SourceSpec { format: Format::Text, ..SourceSpec::new("s", &["/dev/null"], "text") };
        let error = source_files(&spec).unwrap_err().to_string();
        assert!(error.contains("/dev/null") && error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn a_path_that_is_not_utf8_is_read_like_any_other() {
        use std::os::unix::ffi::OsStrExt;
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(OsStr::from_bytes(b"na\xefve.txt"));
        fs::write(&path, "x").unwrap();
        assert_eq!(source_files(&SourceSpec::new("s", &[root.path()], "text")).unwrap()[0].path, path);
    }

    #[test]
    fn missing_unknown_and_empty_are_told_apart() {
        let root = folder_with(&["a.pdf", "empty/b.doc"]);
        let told = |path: &str| {
            let spec = SourceSpec::new("s", &[root.path().join(path)], "text");
            source_files(&spec).unwrap_err().to_string()
        };
        assert!(told("none").contains("No such file"), "{}", told("none"));
        assert!(told("a.pdf").contains("does not say what it is"), "{}", told("a.pdf"));
        assert!(told("empty").contains("no documents are in") && told("empty").contains(".jsonl"), "{}", told("empty"));
    }
}
