//! `cargo xtask golden`: the makers of the golden data, which are Python and run on a contributor's machine alone.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::python::Python;
use crate::stop::stop;
use crate::workspace::{Workspace, run_through, say};

const MAKERS: &str = "tests/golden/make";
const REQUIREMENTS: &str = "tests/golden/requirements.txt";

/// Runs every maker with `arguments` passed on, by the first Python that has what they import.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let root = workspace.root();
    let list =
        std::fs::read_to_string(root.join(REQUIREMENTS)).with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    let python = chosen(&Python::all(root), &required(&list), &root.join(".venv"))?;
    for maker in makers(&root.join(MAKERS))? {
        let title = maker.file_name().unwrap_or_default().to_string_lossy().into_owned();
        say(format!("{title} by {}", python.name()));
        run_through(&title, python.command().arg(&maker).args(arguments).current_dir(root))?;
    }
    Ok(())
}

/// The scripts of `folder` in order of name. What the makers share is there, too, and is no script: it has no main part.
fn makers(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let is_maker = |path: &PathBuf| {
        let python = path.extension().is_some_and(|it| it == "py");
        python && std::fs::read_to_string(path).is_ok_and(|text| text.contains("__name__ == \"__main__\""))
    };
    let mut makers: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_maker).collect();
    makers.sort();
    Ok(makers)
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
        "{} lacks {}: `python3 -m venv '{venv}' && '{venv}/bin/pip' install -r {REQUIREMENTS}` makes a Python that has it",
        nearest.name(),
        lacking(nearest).join(", "),
        venv = venv.display(),
    )
}

/// The distributions that a requirements file names.
fn required(list: &str) -> Vec<&str> {
    let part_of_a_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name = |line: &'_ str| line.find(|c| !part_of_a_name(c)).unwrap_or(line.len());
    list.lines().map(|line| &line[..name(line)]).filter(|it| !it.is_empty() && !it.starts_with('-')).collect()
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
    fn makers_are_the_scripts_and_not_what_they_share() {
        let folder = Folder::new("makers");
        let main = "if __name__ == \"__main__\":\n    main()\n";
        for (name, text) in [("b.py", main), ("a.py", main), ("shared.py", "X = 1\n"), ("notes.txt", main)] {
            std::fs::write(folder.0.join(name), text).unwrap();
        }
        assert_eq!(makers(&folder.0).unwrap(), [folder.0.join("a.py"), folder.0.join("b.py")]);
        assert!(makers(&folder.0.join("absent")).is_err());
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
        assert!(message.contains("half lacks torch: ") && message.contains("pip' install -r"), "{message}");
        assert!(chosen(&[], &packages, Path::new("/v")).is_err());
    }
}
