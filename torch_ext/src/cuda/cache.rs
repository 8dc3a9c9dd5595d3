//! Machine code kept on disk: one file an entry, named by a hash of everything that it depends on.
//!
//! An entry is `bowline kernel 1`, the hash of the rest, the length of the log, then the log and the code. It is written
//! under another name and renamed when it is whole, so that programs side by side never see half of one; one that does
//! not match its hash is no entry. The folder may be deleted at any time.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that names the folder of the cache; `off` keeps nothing.
pub const CACHE_VARIABLE: &str = "BOWLINE_KERNEL_CACHE";

/// The first line of an entry; another layout gets another number.
const MAGIC: &str = "bowline kernel 1\n";

/// A folder of compiled kernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    folder: PathBuf,
}

/// The name of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl Key {
    /// A hash of the parts and of where one ends and the next begins.
    pub(super) fn of(parts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Self(hasher.finalize().to_hex().to_string())
    }
}

impl Cache {
    /// A cache in a folder, which is made when the first entry is written.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The user's: where [`CACHE_VARIABLE`] points, or `bowline/kernels` in `XDG_CACHE_HOME` or `~/.cache`. None when it
    /// is switched off or there is no home.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        Self::named(|name| env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn named(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        if let Some(folder) = variable(CACHE_VARIABLE) {
            return (folder != "off").then(|| Self::in_folder(folder));
        }
        // The XDG specification asks for a relative path to be ignored.
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
        Some(Self::in_folder(caches.join("bowline/kernels")))
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Log and code of an entry; none when it is absent, torn or altered.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<(String, Vec<u8>)> {
        let bytes = fs::read(self.file(key)).ok()?;
        let (hash, rest) = bytes.strip_prefix(MAGIC.as_bytes())?.split_at_checked(blake3::OUT_LEN)?;
        if blake3::hash(rest).as_bytes().as_slice() != hash {
            return None;
        }
        let (length, rest) = rest.split_first_chunk::<8>()?;
        let (log, code) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        Some((String::from_utf8(log.to_vec()).ok()?, code.to_vec()))
    }

    /// Keeps an entry if the disk lets it: without one the kernel is compiled again, which costs a second and no more.
    pub fn put(&self, key: &Key, log: &str, code: &[u8]) {
        static TURN: AtomicU64 = AtomicU64::new(0);
        let mut rest = (log.len() as u64).to_le_bytes().to_vec();
        rest.extend_from_slice(log.as_bytes());
        rest.extend_from_slice(code);
        let mut bytes = MAGIC.as_bytes().to_vec();
        bytes.extend_from_slice(blake3::hash(&rest).as_bytes());
        bytes.extend_from_slice(&rest);
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.folder.join(format!("{}.{}-{turn}.part", key.0, process::id()));
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| fs::write(&unfinished, &bytes))
            .and_then(|()| fs::rename(&unfinished, self.file(key)));
        if written.is_err() {
            _ = fs::remove_file(&unfinished);
        }
    }

    fn file(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}.kernel", key.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> (tempfile::TempDir, Cache, Key) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::in_folder(folder.path().join("made/on demand"));
        let key = Key::of(&["compiler", "source"]);
        cache.put(&key, "said", b"code");
        (folder, cache, key)
    }

    #[test]
    fn what_was_kept_comes_back_and_nothing_else_does() {
        let (_folder, cache, key) = kept();
        assert_eq!(cache.get(&key), Some(("said".to_owned(), b"code".to_vec())));
        assert_eq!(cache.get(&Key::of(&["compilers", "ource"])), None);
        let names = fs::read_dir(cache.folder()).unwrap().count();
        assert_eq!(names, 1, "no part is left behind");
    }

    #[test]
    fn an_entry_with_any_byte_changed_or_missing_is_none() {
        let (_folder, cache, key) = kept();
        let whole = fs::read(cache.file(&key)).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            fs::write(cache.file(&key), &damaged).unwrap();
            assert_eq!(cache.get(&key), None, "byte {at}");
            fs::write(cache.file(&key), &whole[..at]).unwrap();
            assert_eq!(cache.get(&key), None, "cut at {at}");
        }
        cache.put(&key, "said", b"code");
        assert!(cache.get(&key).is_some());
    }

    #[test]
    fn the_folder_is_named_by_the_variable_or_by_the_users_caches() {
        let named = |pairs: &[(&str, &str)]| {
            let pairs: Vec<(String, OsString)> = pairs.iter().map(|(k, v)| (k.to_string(), v.into())).collect();
            Cache::named(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.clone()))
        };
        let folder = |pairs: &[(&str, &str)]| named(pairs).map(|cache| cache.folder().display().to_string());
        let home = ("HOME", "/home/u");
        assert_eq!(folder(&[home]).as_deref(), Some("/home/u/.cache/bowline/kernels"));
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "/x")]).as_deref(), Some("/x/bowline/kernels"));
        assert_eq!(folder(&[home, ("XDG_CACHE_HOME", "x")]).as_deref(), Some("/home/u/.cache/bowline/kernels"));
        assert_eq!(folder(&[home, (CACHE_VARIABLE, "/k")]).as_deref(), Some("/k"));
        assert_eq!(named(&[home, (CACHE_VARIABLE, "off")]), None);
        assert_eq!(named(&[]), None);
    }

    #[test]
    fn a_folder_that_cannot_be_written_keeps_nothing_and_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let in_the_way = folder.path().join("file");
        fs::write(&in_the_way, "").unwrap();
        let (cache, key) = (Cache::in_folder(in_the_way), Key::of(&["a"]));
        cache.put(&key, "said", b"code");
        assert_eq!(cache.get(&key), None);
    }
}
