//! `.libtorch/source.json`: where libtorch came from, written last, hence the sign that set-up is whole.
//!
//! `bowline doctor` reads `kind`, `path` and `version` of it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::source::{Install, Kind, base};
use super::{VERSION, links};

const FILE: &str = "source.json";
/// Raised when the layout of the folder changes: an older one is made anew.
const LAYOUT: u64 = 1;

/// What set-up did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// How libtorch was found.
    pub(crate) kind: Kind,
    /// The folder that it lies in.
    pub(crate) path: PathBuf,
    /// Its full version.
    pub(crate) version: String,
    /// Every file of `lib`.
    libraries: Vec<String>,
}

impl Stamp {
    /// The stamp of `install`, whose libraries are linked under the names `libraries`.
    pub(crate) fn new(install: &Install, libraries: Vec<String>) -> Self {
        Self { kind: install.kind, path: install.folder.clone(), version: install.version.clone(), libraries }
    }

    /// The stamp in `home`, unless there is none or it is of another layout.
    pub(crate) fn read(home: &Path) -> Option<Self> {
        Self::from_json(&serde_json::from_str(&fs::read_to_string(home.join(FILE)).ok()?).ok()?)
    }

    fn from_json(value: &Value) -> Option<Self> {
        if value["layout"].as_u64()? != LAYOUT {
            return None;
        }
        let libraries = value["libraries"].as_array()?;
        Some(Self {
            kind: Kind::from_name(value["kind"].as_str()?)?,
            path: value["path"].as_str()?.into(),
            version: value["version"].as_str()?.to_owned(),
            libraries: libraries.iter().map(|it| it.as_str().map(str::to_owned)).collect::<Option<_>>()?,
        })
    }

    fn to_json(&self) -> Value {
        json!({
            "layout": LAYOUT,
            "kind": self.kind.name(),
            "path": self.path.to_string_lossy(),
            "version": self.version,
            "libraries": self.libraries,
        })
    }

    /// Whether `home` is still what the stamp says, for a user who asked for `wished` (nothing: anything will do).
    pub(crate) fn holds(&self, home: &Path, wished: Option<&Path>) -> bool {
        base(&self.version) == VERSION
            && wished.is_none_or(|folder| folder == self.path)
            && self.path.is_dir()
            && home.join(links::MAIN_HEADER).exists()
            && home.join("build-version").exists()
            && !self.libraries.is_empty()
            && self.libraries.iter().all(|name| home.join("lib").join(name).exists())
    }

    /// Writes it whole or not at all.
    pub(crate) fn write(&self, home: &Path) -> Result<()> {
        let (unfinished, path) = (home.join("source.json.part"), home.join(FILE));
        fs::write(&unfinished, format!("{:#}\n", self.to_json()))
            .and_then(|()| fs::rename(&unfinished, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Takes it away, before anything that it vouches for is changed.
    pub(crate) fn remove(home: &Path) -> Result<()> {
        match fs::remove_file(home.join(FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    fn stamp() -> Stamp {
        let install = Install { kind: Kind::Pypi, folder: "/a b/torch".into(), version: "2.11.0+cu130".into() };
        Stamp::new(&install, vec!["libc10.so".into()])
    }

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let folder = Folder::new("stamp");
        stamp().write(&folder.0).unwrap();
        assert_eq!(Stamp::read(&folder.0), Some(stamp()));
        Stamp::remove(&folder.0).unwrap();
        Stamp::remove(&folder.0).unwrap();
        assert_eq!(Stamp::read(&folder.0), None);
    }

    #[test]
    fn another_layout_or_a_torn_file_is_no_stamp() {
        let folder = Folder::new("torn stamp");
        let mut value = stamp().to_json();
        value["layout"] = 0.into();
        assert_eq!(Stamp::from_json(&value), None);
        let whole = stamp().to_json().to_string();
        fs::write(folder.0.join(FILE), &whole[..whole.len() / 2]).unwrap();
        assert_eq!(Stamp::read(&folder.0), None);
    }
}
