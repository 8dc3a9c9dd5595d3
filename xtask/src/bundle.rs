//! `cargo xtask gpu-bundle`: a folder for a machine with a GPU, PyTorch 2.11 and no Rust.
//!
//! It holds the application, the tests of the attention kernels and those of the fused ones as a program each, the bundled model,
//! a script that measures PyTorch, whatever shared library these need beyond PyTorch's and the system's, and one script that runs
//! it all. Time on such a machine is short:
//! nothing is built there.

mod elf;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::libtorch::{self, links};
use crate::stop::stop;
use crate::workspace::{Workspace, say};

/// Where the bundle goes unless a folder is named, below the target folder.
const FOLDER: &str = "gpu-bundle";
/// The run path of the programs in the bundle; the script makes this a link to PyTorch's libraries.
const RUN_PATH: &str = "$ORIGIN/../torch";
const SCRIPT: &str = include_str!("bundle/run.sh");
const README: &str = include_str!("bundle/README.txt");
/// Everything that a bundle holds; results and whatever else lies in its folder stay.
const PARTS: [&str; 7] = ["bin", "lib", "assets", "scripts", "run.sh", "README.txt", "commit.txt"];
/// Programs of the repository that go along.
const SCRIPTS: [&str; 1] = ["bench_gpu_peers.py"];
/// The compiler's own libraries: PyTorch relies on the system's, which may be older than this machine's.
const COMPILERS: [&str; 2] = ["libstdc++.so.6", "libgcc_s.so.1"];

/// Sets up, builds, and fills the folder.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    libtorch::set_up(workspace)?;
    let program = workspace.build()?;
    let tests = |package, name| workspace.build_with(&["test", "--package", package, "--test", name, "--no-run"], name);
    let programs = [
        (program.clone(), "bowline"),
        (tests("attention", "contract")?, "contract"),
        (tests("torch_ext", "fused")?, "fused"),
    ];
    let folder = match arguments {
        [] => target_folder(&program)?.join(FOLDER),
        [folder] => std::path::absolute(folder)?,
        [_, extra, ..] => stop!("`cargo xtask gpu-bundle` takes one folder, got `{extra}` as well"),
    };
    empty(&folder)?;
    for (path, name) in &programs {
        put_program(path, &folder.join("bin").join(name))?;
    }
    put_libraries(workspace, programs.iter().map(|(path, _)| path), &folder)?;
    put_folder(&workspace.root().join("experiments/assets"), &folder.join("assets"))?;
    fs::create_dir_all(folder.join("scripts"))?;
    for name in SCRIPTS {
        fs::copy(workspace.root().join("scripts").join(name), folder.join("scripts").join(name))?;
    }
    put_script(&folder.join("run.sh"), SCRIPT)?;
    fs::write(folder.join("README.txt"), README)?;
    fs::write(folder.join("commit.txt"), commit(workspace))?;
    say(format!("{} is ready: copy it to the machine with the GPU and run `run.sh` there", folder.display()));
    Ok(())
}

/// The target folder of a program that cargo built.
fn target_folder(program: &Path) -> Result<PathBuf> {
    let target = program.parent().and_then(Path::parent);
    Ok(target.with_context(|| format!("{} lies in no target folder", program.display()))?.to_path_buf())
}

/// Takes away what an earlier bundle put there; refuses a folder that holds something else.
fn empty(folder: &Path) -> Result<()> {
    let is_ours = folder.join("run.sh").exists() && folder.join("commit.txt").exists();
    let holds_something = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if holds_something && !is_ours {
        stop!("{} holds something that is no bundle: name another folder or empty it", folder.display());
    }
    for part in PARTS {
        let path = folder.join(part);
        if path.is_dir() { libtorch::remove_folder(&path)? } else { _ = fs::remove_file(&path) }
    }
    fs::create_dir_all(folder.join("bin")).with_context(|| format!("cannot make {}", folder.display()))
}

/// A copy of a program that looks for libtorch in the bundle. Symbols stay here where the machine can take them off: they are half
/// of the bytes, and what leads to the device may be narrow.
fn put_program(from: &Path, to: &Path) -> Result<()> {
    let stripped = Command::new("strip").arg("--strip-all").arg("-o").arg(to).arg(from).stderr(Stdio::null()).status();
    let whole = if stripped.is_ok_and(|status| status.success()) { to } else { from };
    let mut program = fs::read(whole).with_context(|| format!("cannot read {}", whole.display()))?;
    let before = elf::run_path(&program).with_context(|| format!("cannot read {}", from.display()))?;
    elf::set_run_path(&mut program, RUN_PATH)
        .with_context(|| format!("cannot move {} (run path {before:?})", from.display()))?;
    fs::write(to, program)?;
    Ok(fs::set_permissions(to, Permissions::from_mode(0o755))?)
}

/// Shared libraries that are neither the system's nor PyTorch's go to `lib`, the compiler's own to `lib/compiler`, where the
/// script finds them if the system's are too old.
fn put_libraries<'a>(workspace: &Workspace, programs: impl Iterator<Item = &'a PathBuf>, folder: &Path) -> Result<()> {
    let compilers = folder.join("lib/compiler");
    fs::create_dir_all(&compilers)?;
    let torch = workspace.libtorch();
    for program in programs {
        for (name, path) in links::dependencies(program)? {
            let Some(path) = path else { stop!("{} needs {name}, which was not found", program.display()) };
            if COMPILERS.contains(&name.as_str()) {
                fs::copy(&path, compilers.join(&name))?;
            } else if !links::is_system(&path) && !path.starts_with(&torch) && !is_below(&path, &torch) {
                fs::copy(&path, folder.join("lib").join(&name))?;
                say(format!("{name} goes along: neither PyTorch nor the system has it"));
            }
        }
    }
    Ok(())
}

/// Whether a library lies beside those that `.libtorch` leads to: PyTorch brings it.
fn is_below(path: &Path, torch: &Path) -> bool {
    let Ok(real) = path.canonicalize() else { return false };
    let linked = fs::read_dir(torch.join("lib")).into_iter().flatten().flatten();
    linked.filter_map(|entry| entry.path().canonicalize().ok()).any(|file| file == real)
}

/// Copies a folder with all that is in it.
fn put_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() { put_folder(&entry.path(), &target)? } else { _ = fs::copy(entry.path(), &target)? }
    }
    Ok(())
}

fn put_script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}

/// What was built, for the results to say.
fn commit(workspace: &Workspace) -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=40"]).current_dir(workspace.root()).stderr(Stdio::null());
    let answer = git.output().ok().filter(|output| output.status.success());
    answer.map_or_else(|| "unknown\n".to_owned(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch::testing::Folder;

    #[test]
    fn an_old_bundle_makes_room_and_its_results_stay() {
        let folder = Folder::new("old bundle");
        for part in ["bin/bowline", "assets/base/model", "results/day/summary.txt"] {
            let path = folder.0.join(part);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let message = empty(&folder.0).unwrap_err().to_string();
        assert!(message.contains("no bundle"), "{message}");
        assert!(folder.0.join("bin/bowline").exists());
        fs::write(folder.0.join("run.sh"), "").unwrap();
        fs::write(folder.0.join("commit.txt"), "").unwrap();
        empty(&folder.0).unwrap();
        assert!(folder.0.join("results/day/summary.txt").exists());
        assert!(!folder.0.join("bin/bowline").exists() && !folder.0.join("assets").exists());
        empty(&folder.0.join("new/folder")).unwrap();
        assert!(folder.0.join("new/folder/bin").is_dir());
    }

    #[test]
    fn a_folder_is_copied_with_what_is_below_it() {
        let folder = Folder::new("copied folder");
        fs::create_dir_all(folder.0.join("from/below")).unwrap();
        fs::write(folder.0.join("from/below/file"), "text").unwrap();
        put_folder(&folder.0.join("from"), &folder.0.join("to")).unwrap();
        assert_eq!(fs::read_to_string(folder.0.join("to/below/file")).unwrap(), "text");
    }

    #[test]
    fn every_step_is_a_function_and_told_in_the_readme() {
        let words = |name: &str| -> Vec<&str> {
            let start = format!("{name}=\"");
            let line = SCRIPT.lines().find_map(|line| line.strip_prefix(&start)).unwrap();
            line.trim_end_matches('"').split_whitespace().collect()
        };
        let all = words("all_steps");
        assert!(words("first_steps").iter().all(|step| all.contains(step)));
        for step in all {
            assert!(SCRIPT.contains(&format!("\n{step}() {{")), "{step}");
            assert!(README.contains(&format!(" {step}")), "{step}");
        }
    }

    #[test]
    fn the_script_is_one_that_the_shell_understands() {
        let folder = Folder::new("script");
        put_script(&folder.0.join("run.sh"), SCRIPT).unwrap();
        assert!(Command::new("bash").arg("-n").arg(folder.0.join("run.sh")).status().unwrap().success());
    }
}
