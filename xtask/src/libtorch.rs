//! Set-up: one folder of the checkout, `.libtorch`, that looks the same wherever libtorch came from.
//!
//! It holds `include`, `lib` and `build-version`, as the bindings expect them, and `lib` is the run path of everything
//! that is built here. Its libraries are links to the CPU part of libtorch and to what that part needs; the CUDA part
//! is never linked, since the application opens it at run time where there is a GPU. Beside it lies CUDA's run-time
//! compiler, unless libtorch came with one: with it the kernels of this project compile on any machine.

pub(crate) mod links;
mod nvrtc;
mod pypi;
mod source;
mod stamp;
#[cfg(test)]
pub(crate) mod testing;

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::python::Python;
use crate::stop::{Stop, stop};
use crate::workspace::{Workspace, say};
use source::Install;
use stamp::Stamp;

/// The release that the bindings (tch 0.24) are made for, and no other.
pub(crate) const VERSION: &str = "2.11.0";

/// Makes `.libtorch` whole, doing nothing if it is whole already.
///
/// # Errors
///
/// A [`Stop`] with exit code 2 and one sentence for whatever the machine lacks.
pub(crate) fn set_up(workspace: &Workspace) -> Result<()> {
    let home = workspace.libtorch();
    let outcome = need_compiler().and_then(|()| set_up_in(&home, workspace.root()));
    // Whatever goes wrong here concerns the machine, not the project's code.
    outcome.map_err(|error| if error.is::<Stop>() { error } else { Stop::new(format!("set-up: {error:#}")).into() })?;
    nvrtc::set_up(&home, workspace.root());
    clear_leftovers(&home)
}

/// [`set_up`] for the folder `home` of the checkout at `root`.
fn set_up_in(home: &Path, root: &Path) -> Result<()> {
    let wished = wished_folder(std::env::var_os("LIBTORCH").as_deref(), home);
    if let Some(stamp) = Stamp::read(home).filter(|it| it.holds(home, wished.as_deref())) {
        say(format!("libtorch {} is set up ({})", stamp.version, stamp.kind));
        return Ok(());
    }
    fs::create_dir_all(home).with_context(|| format!("cannot make {}", home.display()))?;
    let _lock = lock(home)?;
    // Another set-up may have finished while this one waited.
    if Stamp::read(home).is_some_and(|it| it.holds(home, wished.as_deref())) {
        return Ok(());
    }
    let install = choose(home, root, wished.as_deref())?;
    link(home, &install)?;
    say(format!("libtorch {} is set up from {} ({})", install.version, install.folder.display(), install.kind));
    Ok(())
}

/// The libtorch that the user's own LIBTORCH asks for. Cargo sets the same variable to `home` for every program that it
/// runs, which is no wish.
fn wished_folder(variable: Option<&OsStr>, home: &Path) -> Option<PathBuf> {
    let folder = Path::new(variable.filter(|it| !it.is_empty())?);
    let same = |a: &Path, b: &Path| a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
    (!same(folder, home)).then(|| std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf()))
}

/// The first source that serves: the user's wish, a Python with PyTorch, the wheels of PyPI.
fn choose(home: &Path, root: &Path, wished: Option<&Path>) -> Result<Install> {
    if let Some(folder) = wished {
        return source::wished(folder);
    }
    let pythons = Python::all(root);
    match source::in_pythons(&pythons) {
        Some(install) => Ok(install),
        None => pypi::install(home, &pythons),
    }
}

/// Points `home` at `install`; the stamp is taken away first and comes back last.
fn link(home: &Path, install: &Install) -> Result<()> {
    let libraries = links::needed(&install.folder)?;
    Stamp::remove(home)?;
    links::make(home, &install.folder, &libraries)?;
    fs::write(home.join("build-version"), format!("{VERSION}\n"))?;
    Stamp::new(install, libraries.into_keys().collect()).write(home)
}

/// Holds the right to change `home` until the returned file is dropped, which the system does for a killed process.
fn lock(home: &Path) -> Result<File> {
    let file = File::create(home.join("lock"))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            say("another set-up is at work in this checkout; waiting for it");
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
        Ok(()) => {}
    }
    Ok(file)
}

/// Removes what a whole set-up no longer needs: downloaded wheels, half-written folders.
fn clear_leftovers(home: &Path) -> Result<()> {
    for name in [pypi::WHEELS, pypi::SCRATCH] {
        remove_folder(&home.join(name))?;
    }
    Ok(())
}

/// Removes a folder with all that is in it; an absent one is fine.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Refuses to go on without the C++ compiler that the bindings are built with.
fn need_compiler() -> Result<()> {
    let named = std::env::var("CXX").ok().filter(|it| !it.trim().is_empty());
    let compiler = named.as_deref().unwrap_or("c++");
    let program = compiler.split_whitespace().next().unwrap_or(compiler);
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|it| it.success()) {
        let origin = if named.is_some() { "CXX names" } else { "looked for" };
        stop!("no C++ compiler ({origin} `{program}`): install one (on Debian `apt install g++`) or set CXX");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::testing::{Folder, fake_libtorch};
    use super::*;

    /// A checkout whose set-up came from `origin`.
    fn set_up_from(folder: &Folder, origin: &str) -> (PathBuf, Install) {
        let home = folder.0.join("checkout/.libtorch");
        fs::create_dir_all(&home).unwrap();
        let install = source::wished(&fake_libtorch(&folder.0.join(origin), VERSION)).unwrap();
        link(&home, &install).unwrap();
        (home, install)
    }

    #[test]
    fn a_whole_set_up_holds_and_leads_to_the_libraries() {
        let folder = Folder::new("whole set-up");
        let (home, install) = set_up_from(&folder, "torch");
        let stamp = Stamp::read(&home).unwrap();
        assert!(stamp.holds(&home, None));
        assert!(stamp.holds(&home, Some(&install.folder)));
        assert_eq!(fs::read_to_string(home.join("build-version")).unwrap().trim(), VERSION);
        let linked = home.join("lib/libtorch_cpu.so").canonicalize().unwrap();
        assert_eq!(linked, install.folder.join("lib/libtorch_cpu.so").canonicalize().unwrap());
        assert_eq!(home.join("lib/libtorch.so").canonicalize().unwrap(), linked, "the CUDA part is not linked");
    }

    #[test]
    fn a_half_made_set_up_does_not_hold_and_is_made_again() {
        let folder = Folder::new("half set-up");
        for broken in ["lib/libc10.so", "include", "build-version", "source.json"] {
            let (home, install) = set_up_from(&folder, "torch");
            fs::remove_file(home.join(broken)).unwrap();
            assert!(!Stamp::read(&home).is_some_and(|it| it.holds(&home, None)), "{broken}");
            link(&home, &install).unwrap();
            assert!(Stamp::read(&home).unwrap().holds(&home, None), "{broken}");
        }
    }

    #[test]
    fn a_vanished_source_does_not_hold() {
        let folder = Folder::new("vanished");
        let (home, install) = set_up_from(&folder, "torch");
        fs::rename(&install.folder, folder.0.join("elsewhere")).unwrap();
        assert!(!Stamp::read(&home).unwrap().holds(&home, None));
    }

    #[test]
    fn another_wish_does_not_hold() {
        let folder = Folder::new("other wish");
        let (home, _) = set_up_from(&folder, "torch");
        assert!(!Stamp::read(&home).unwrap().holds(&home, Some(Path::new("/opt/libtorch"))));
    }

    #[test]
    fn relinking_replaces_what_an_earlier_source_left() {
        let folder = Folder::new("relink");
        let (home, _) = set_up_from(&folder, "first");
        fs::write(home.join("lib/libstale.so"), "").unwrap();
        let (home, second) = set_up_from(&folder, "second");
        assert!(!home.join("lib/libstale.so").exists());
        assert!(home.join("lib/libc10.so").canonicalize().unwrap().starts_with(second.folder.canonicalize().unwrap()));
    }

    #[test]
    fn cargos_own_libtorch_is_no_wish() {
        let folder = Folder::new("no wish");
        let home = folder.0.join(".libtorch");
        fs::create_dir_all(&home).unwrap();
        let dotted = folder.0.join("./.libtorch");
        for variable in [None, Some(OsStr::new("")), Some(home.as_os_str()), Some(dotted.as_os_str())] {
            assert_eq!(wished_folder(variable, &home), None, "{variable:?}");
        }
        assert_eq!(wished_folder(Some(OsStr::new("/opt/lt")), &home), Some(PathBuf::from("/opt/lt")));
        assert!(wished_folder(Some(OsStr::new("lt")), &home).unwrap().is_absolute());
    }

    #[test]
    fn a_second_set_up_waits_for_the_lock() {
        let folder = Folder::new("lock");
        let held = lock(&folder.0).unwrap();
        let other = File::create(folder.0.join("lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
        drop(held);
        other.try_lock().unwrap();
    }

    #[test]
    fn leftovers_are_cleared_and_their_absence_is_fine() {
        let folder = Folder::new("leftovers");
        fs::create_dir_all(folder.0.join(pypi::WHEELS)).unwrap();
        fs::write(folder.0.join(pypi::WHEELS).join("torch.whl"), "").unwrap();
        clear_leftovers(&folder.0).unwrap();
        clear_leftovers(&folder.0).unwrap();
        assert!(!folder.0.join(pypi::WHEELS).exists());
    }
}
