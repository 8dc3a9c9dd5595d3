//! `cargo xtask golden`: the makers of the golden data, which are Python and run on a contributor's machine alone.

use std::path::Path;

use anyhow::{Context, Result};

use crate::python::Python;
use crate::stop::stop;
use crate::workspace::{Workspace, run_through, say};

const MAKER: &str = "tests/golden/make/all.py";
const REQUIREMENTS: &str = "tests/golden/make/requirements.txt";

/// Runs every maker with `arguments` passed on, by the first Python that has what they import.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let list = workspace.root().join(REQUIREMENTS);
    let list = std::fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let python = chosen(&Python::all(workspace.root()), &required(&list), &workspace.root().join(".venv"))?;
    say(format!("golden data by {}", python.name()));
    let mut maker = python.command();
    maker.arg(MAKER).args(arguments).current_dir(workspace.root());
    run_through("the makers of the golden data", &mut maker)
}

/// The first of `pythons` that lacks none of `packages`.
fn chosen(pythons: &[Python], packages: &[&str], venv: &Path) -> Result<Python> {
    let lacking = |python: &Python| python.missing(packages);
    if let Some(python) = pythons.iter().find(|python| lacking(python).is_empty()) {
        return Ok(python.clone());
    }
    let Some(nearest) = pythons.iter().min_by_key(|python| lacking(python).len()) else {
        stop!("the makers of the golden data are Python, and no Python 3.8 or newer runs here");
    };
    stop!(
        "{} lacks {}: `python3 -m venv {venv} && {venv}/bin/pip install -r {REQUIREMENTS}` makes a Python that has them",
        nearest.name(),
        lacking(nearest).join(", "),
        venv = venv.display(),
    )
}

/// The distributions that a requirements file names.
fn required(list: &str) -> Vec<&str> {
    let name =
        |line: &'_ str| line.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).unwrap_or(line.len());
    list.lines().map(|line| line[..name(line)].trim()).filter(|it| !it.is_empty() && !it.starts_with('-')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::testing::{Folder, script};

    #[test]
    fn requirements_are_read_without_versions_options_and_comments() {
        let list =
            "# makers\n--extra-index-url https://x\ntorch==2.11.0\n\nsafetensors>=0.5  # weights\nnumpy[x] ; python\n";
        assert_eq!(required(list), ["torch", "safetensors", "numpy"]);
    }

    #[test]
    fn the_python_that_has_everything_is_chosen_else_the_gap_is_named() {
        let folder = Folder::new("golden");
        let bare = Python::named(script(&folder.0, "bare", "printf 'torch\\nnumpy\\n'"));
        let half = Python::named(script(&folder.0, "half", "echo torch"));
        let full = Python::named(script(&folder.0, "full", ":"));
        let packages = ["torch", "numpy"];
        let python = chosen(&[bare.clone(), full.clone()], &packages, Path::new("/v")).unwrap();
        assert_eq!(python.name(), full.name());
        let message = chosen(&[bare, half], &packages, Path::new("/v")).unwrap_err().to_string();
        assert!(message.contains("half lacks torch: ") && message.contains("/v/bin/pip install -r"), "{message}");
        assert!(chosen(&[], &packages, Path::new("/v")).is_err());
    }
}
