//! Where a libtorch may already lie: the user's own folder, or a Python's PyTorch.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{VERSION, links};
use crate::python::Python;
use crate::stop::stop;
use crate::workspace::say;

/// How a libtorch came to be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The user's LIBTORCH.
    Env,
    /// A Python in which PyTorch is installed.
    Python,
    /// Wheels fetched by set-up.
    Pypi,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Env, Self::Python, Self::Pypi];

    /// As `source.json` spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::Python => "python",
            Self::Pypi => "pypi",
        }
    }

    /// The kind that is spelt `name`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Env => "LIBTORCH",
            Self::Python => "a Python with PyTorch",
            Self::Pypi => "wheels from PyPI",
        })
    }
}

/// A libtorch of the right version with all its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Install {
    /// How it was found.
    pub(crate) kind: Kind,
    /// The folder that holds `include` and `lib`.
    pub(crate) folder: PathBuf,
    /// In full, such as `2.11.0+cu130`.
    pub(crate) version: String,
}

/// The libtorch that the user's LIBTORCH names; nothing else will do, since it was asked for.
pub(crate) fn wished(folder: &Path) -> Result<Install> {
    match examine(folder) {
        Ok(version) => Ok(Install { kind: Kind::Env, folder: folder.to_path_buf(), version }),
        Err(fault) => stop!("LIBTORCH={}: {fault}; point it at libtorch {VERSION} or unset it", folder.display()),
    }
}

/// The first PyTorch among `pythons` that serves. Those that do not are named: the reader may wonder.
pub(crate) fn in_pythons(pythons: &[Python]) -> Option<Install> {
    let mut passed_over = Vec::new();
    for python in pythons {
        let Some(found) = python.torch().filter(|it| !passed_over.contains(&it.folder)) else { continue };
        match examine(&found.folder) {
            Ok(version) => return Some(Install { kind: Kind::Python, folder: found.folder, version }),
            Err(fault) => say(format!("passing over the PyTorch {} of {}: {fault}", found.version, python.name())),
        }
        passed_over.push(found.folder);
    }
    None
}

/// The version of the libtorch in `folder` if it is whole and the right one, else what is wrong with it.
pub(crate) fn examine(folder: &Path) -> Result<String, String> {
    if !folder.is_dir() {
        return Err("there is no such folder".into());
    }
    for part in [links::MAIN_HEADER, "lib/libtorch_cpu.so", "lib/libc10.so"] {
        if !folder.join(part).exists() {
            return Err(format!("it has no {part}"));
        }
    }
    let version = version_of(folder).ok_or("it does not tell its version")?;
    if base(&version) != VERSION {
        return Err(format!("it is version {version}, not {VERSION}"));
    }
    links::needed(folder).map_err(|error| error.to_string())?;
    Ok(version)
}

/// The version of the libtorch in `folder`, from the first of the places where one is written.
fn version_of(folder: &Path) -> Option<String> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    read("build-version")
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .or_else(|| read("version.py").and_then(|text| python_version(&text)))
        .or_else(|| read("include/torch/headeronly/version.h").and_then(|text| header_version(&text)))
}

/// `2.11.0` of `2.11.0+cu130`.
pub(crate) fn base(version: &str) -> &str {
    version.split('+').next().unwrap_or(version).trim()
}

/// The value of `__version__` in PyTorch's `version.py`.
fn python_version(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("__version__"))?.trim_start().strip_prefix('=')?;
    let value = value.trim().trim_matches(['\'', '"']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// The version that the macros of libtorch's `version.h` spell.
fn header_version(text: &str) -> Option<String> {
    let part = |name: &str| {
        let after = |line: &str| {
            line.strip_prefix("#define TORCH_VERSION_")?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned)
        };
        text.lines().find_map(after)?.trim().parse::<u32>().ok()
    };
    Some(format!("{}.{}.{}", part("MAJOR")?, part("MINOR")?, part("PATCH")?))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, fake_libtorch, script};
    use super::*;

    fn python_with(folder: &Folder, name: &str, torch: &Path) -> Python {
        let answer = format!(r#"echo '{{"version": "0", "folder": "{}"}}'"#, torch.display());
        Python::named(script(&folder.0, name, &answer))
    }

    #[test]
    fn versions_are_read_in_every_spelling() {
        assert_eq!(base("2.11.0+cu130"), "2.11.0");
        assert_eq!(base("2.11.0\n"), "2.11.0");
        assert_ne!(base("2.11.0a0+git123"), VERSION, "a preview is another version");
        let module =
            "from typing import Optional\n__all__ = ['__version__']\n__version__ = '2.11.0+cpu'\ndebug = False\n";
        assert_eq!(python_version(module).as_deref(), Some("2.11.0+cpu"));
        assert_eq!(python_version("debug = False\n"), None);
        let header = "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 11\n#define TORCH_VERSION_PATCH 0\n";
        assert_eq!(header_version(header).as_deref(), Some("2.11.0"));
        assert_eq!(header_version("#define TORCH_VERSION_MAJOR 2\n"), None);
    }

    #[test]
    fn a_right_folder_is_taken_with_its_full_version() {
        let folder = Folder::new("right folder");
        let torch = fake_libtorch(&folder.0.join("lt"), VERSION);
        let expected = Install { kind: Kind::Env, folder: torch.clone(), version: "2.11.0+cpu".into() };
        assert_eq!(wished(&torch).unwrap(), expected);
    }

    #[test]
    fn every_place_of_the_version_is_read() {
        let folder = Folder::new("version places");
        let torch = fake_libtorch(&folder.0.join("lt"), VERSION);
        fs::remove_file(torch.join("build-version")).unwrap();
        assert_eq!(examine(&torch), Err("it does not tell its version".into()));
        fs::create_dir_all(torch.join("include/torch/headeronly")).unwrap();
        let header = "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 10\n#define TORCH_VERSION_PATCH 1\n";
        fs::write(torch.join("include/torch/headeronly/version.h"), header).unwrap();
        assert_eq!(examine(&torch), Err("it is version 2.10.1, not 2.11.0".into()));
        fs::write(torch.join("version.py"), "__version__ = '2.11.0+cu130'\n").unwrap();
        assert_eq!(examine(&torch), Ok("2.11.0+cu130".into()));
    }

    #[test]
    fn a_wrong_wish_is_refused_with_folder_and_version() {
        let folder = Folder::new("wrong wish");
        let torch = fake_libtorch(&folder.0.join("lt"), "2.6.0");
        let message = wished(&torch).unwrap_err().to_string();
        assert!(message.contains("2.6.0+cpu, not 2.11.0") && message.contains("wrong wish"), "{message}");
        let message = wished(Path::new("/no/such/folder")).unwrap_err().to_string();
        assert!(message.contains("no such folder"), "{message}");
    }

    #[test]
    fn a_folder_without_a_part_is_refused_by_the_part() {
        for part in [links::MAIN_HEADER, "lib/libtorch_cpu.so", "lib/libc10.so"] {
            let folder = Folder::new("partless");
            let torch = fake_libtorch(&folder.0.join("lt"), VERSION);
            fs::remove_file(torch.join(part)).unwrap();
            assert_eq!(examine(&torch), Err(format!("it has no {part}")));
        }
    }

    #[test]
    fn the_first_python_that_serves_is_taken() {
        let folder = Folder::new("pythons");
        let old = python_with(&folder, "old", &fake_libtorch(&folder.0.join("a"), "2.6.0"));
        let right = fake_libtorch(&folder.0.join("b"), VERSION);
        let (good, bare) =
            (python_with(&folder, "good", &right), Python::named(script(&folder.0, "bare", "echo '{}'")));
        let found = in_pythons(&[bare.clone(), old.clone(), good]).unwrap();
        assert_eq!((found.kind, found.folder), (Kind::Python, right));
        assert_eq!(in_pythons(&[bare, old]), None);
    }

    #[test]
    fn kinds_are_spelt_and_read_alike() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(Kind::from_name("conda"), None);
    }
}
