//! The Pythons of this machine: as a place where libtorch may be found, and as the tool that fetches it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const FIND_TORCH: &str = include_str!("python/find_torch.py");
const MISSING_PACKAGES: &str = include_str!("python/missing_packages.py");

/// A Python that runs.
#[derive(Debug, Clone)]
pub(crate) struct Python {
    program: OsString,
}

/// A PyTorch that a Python would import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundTorch {
    /// As the package names it, such as `2.11.0+cu130`.
    pub(crate) version: String,
    /// The package's folder, which holds `include` and `lib`.
    pub(crate) folder: PathBuf,
}

impl Python {
    /// Every Python to ask, the most specific first: the active environments, then the search path. One that does not
    /// run is left out.
    pub(crate) fn all(checkout: &Path) -> Vec<Self> {
        let active = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
        let environments = active.chain([checkout.join(".venv")]);
        let mut programs: Vec<OsString> =
            environments.map(|it| it.join("bin/python")).filter(|it| it.exists()).map(Into::into).collect();
        programs.extend(["python3".into(), "python".into()]);
        let runs = |it: &Self| it.ask(&["-c", "import sys; sys.exit(sys.version_info < (3, 8))"]).is_some();
        programs.into_iter().map(|program| Self { program }).filter(runs).collect()
    }

    /// How the reader would call it.
    pub(crate) fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    /// A call of it, not yet run.
    pub(crate) fn command(&self) -> Command {
        Command::new(&self.program)
    }

    /// The PyTorch that it would import. Nothing is imported: that would take seconds.
    pub(crate) fn torch(&self) -> Option<FoundTorch> {
        let answer: Value = serde_json::from_slice(&self.ask(&["-c", FIND_TORCH])?.stdout).ok()?;
        let text = |key: &str| answer[key].as_str().map(str::to_owned);
        Some(FoundTorch { version: text("version")?, folder: text("folder")?.into() })
    }

    /// Whether it has pip.
    pub(crate) fn has_pip(&self) -> bool {
        self.ask(&["-m", "pip", "--version"]).is_some()
    }

    /// Those of `names` (distributions) that it lacks.
    pub(crate) fn missing<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        let arguments: Vec<&str> = ["-c", MISSING_PACKAGES].into_iter().chain(names.iter().copied()).collect();
        let Some(output) = self.ask(&arguments) else { return names.to_vec() };
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        names.iter().copied().filter(|name| answer.lines().any(|line| line == *name)).collect()
    }

    /// Its output for `arguments`, or nothing when it does not run or fails. Called from the root folder, lest a file of
    /// the user's folder named like a module be imported instead.
    fn ask(&self, arguments: &[&str]) -> Option<Output> {
        let output = self.command().args(arguments).current_dir("/").stdin(Stdio::null()).output().ok()?;
        output.status.success().then_some(output)
    }

    /// A stand-in for tests: any program at all.
    #[cfg(test)]
    pub(crate) fn named(program: impl Into<OsString>) -> Self {
        Self { program: program.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::testing::{Folder, script};

    #[test]
    fn a_python_tells_version_and_folder_of_its_torch() {
        let folder = Folder::new("python-torch");
        let answer = r#"echo '{"version": "2.11.0+cpu", "folder": "/site packages/torch"}'"#;
        let python = Python::named(script(&folder.0, "python3", answer));
        let expected = FoundTorch { version: "2.11.0+cpu".into(), folder: "/site packages/torch".into() };
        assert_eq!(python.torch(), Some(expected));
    }

    #[test]
    fn a_python_without_torch_or_without_sense_has_none() {
        let folder = Folder::new("python-none");
        for (name, answer) in [("empty", "echo '{}'"), ("noise", "echo Welcome"), ("fails", "exit 1")] {
            assert_eq!(Python::named(script(&folder.0, name, answer)).torch(), None, "{name}");
        }
        assert_eq!(Python::named("/no/such/python").torch(), None);
    }

    #[test]
    fn missing_packages_are_named_in_the_order_asked() {
        let folder = Folder::new("python-missing");
        let python = Python::named(script(&folder.0, "python3", "printf 'numpy\\ntorch\\n'"));
        assert_eq!(python.missing(&["torch", "safetensors", "numpy"]), ["torch", "numpy"]);
        assert_eq!(Python::named("/no/such/python").missing(&["torch"]), ["torch"]);
    }
}
