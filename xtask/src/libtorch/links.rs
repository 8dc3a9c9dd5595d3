//! The links in `.libtorch`, and how to know which are needed.
//!
//! A library opened through a link looks for its companions beside the link, not beside itself, so each companion needs
//! a link as well. Which they are depends on how libtorch was packaged; the dynamic linker is asked, by `ldd`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::remove_folder;
use crate::stop::stop;

/// The header that the bindings include.
pub(crate) const MAIN_HEADER: &str = "include/torch/csrc/api/include/torch/torch.h";

/// The name under which the linker looks for the whole of libtorch.
const UMBRELLA: &str = "libtorch.so";

/// Folders whose libraries every program finds by itself.
const SYSTEM: [&str; 6] = ["/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/", "/lib32/", "/usr/lib32/"];

/// The libraries to link for the libtorch in `folder`: name of the link, file that it leads to.
///
/// # Errors
///
/// A stop that names the library that libtorch needs and this machine does not have.
pub(crate) fn needed(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut libraries = BTreeMap::new();
    for name in ["libtorch_cpu.so", "libc10.so"] {
        let file = folder.join("lib").join(name).canonicalize();
        let file = file.with_context(|| format!("{} has no lib/{name}", folder.display()))?;
        for dependency in dependencies(&file)? {
            match dependency {
                (absent, None) => stop!("{name} needs {absent}, which was not found"),
                (companion, Some(path)) if !is_system(&path) => libraries.insert(companion, tidied(&path)),
                _ => None,
            };
        }
        libraries.insert(name.to_owned(), file);
    }
    Ok(libraries)
}

/// What the dynamic linker finds for `library`: name, and file unless there is none.
pub(crate) fn dependencies(library: &Path) -> Result<Vec<(String, Option<PathBuf>)>> {
    let output = Command::new("ldd").arg(library).env("LC_ALL", "C").output();
    let output = output.context("`ldd`, a part of the C library, does not run")?;
    if !output.status.success() {
        let fault = String::from_utf8_lossy(&output.stderr);
        stop!(
            "{} is no library of this machine ({})",
            library.display(),
            fault.lines().last().unwrap_or("ldd failed").trim()
        );
    }
    Ok(parsed(&String::from_utf8_lossy(&output.stdout)))
}

/// The `name => file (address)` lines of ldd's output; the kernel's own and the linker itself have no arrow.
fn parsed(output: &str) -> Vec<(String, Option<PathBuf>)> {
    let line = |line: &str| {
        let (name, found) = line.trim().split_once(" => ")?;
        let path = found.rsplit_once(" (0x").map(|(path, _)| PathBuf::from(path)).filter(|it| it.is_absolute());
        Some((name.to_owned(), path))
    };
    output.lines().filter_map(line).collect()
}

pub(crate) fn is_system(path: &Path) -> bool {
    SYSTEM.iter().any(|folder| path.starts_with(folder))
}

/// `path` without the steps up and down that a run path leaves in it.
fn tidied(path: &Path) -> PathBuf {
    let folder = path.parent().and_then(|it| it.canonicalize().ok());
    folder.zip(path.file_name()).map_or_else(|| path.to_path_buf(), |(folder, name)| folder.join(name))
}

/// Makes `include` and `lib` of `home` anew.
pub(crate) fn make(home: &Path, folder: &Path, libraries: &BTreeMap<String, PathBuf>) -> Result<()> {
    let (include, lib) = (home.join("include"), home.join("lib"));
    if include.symlink_metadata().is_ok_and(|it| !it.is_dir()) {
        fs::remove_file(&include)?;
    }
    remove_folder(&include)?;
    remove_folder(&lib)?;
    fs::create_dir_all(&lib)?;
    symlink(from(home, &folder.join("include"), ""), &include)?;
    for (name, file) in libraries {
        symlink(from(home, file, "../"), lib.join(name))?;
    }
    // The packaged libtorch.so asks for the CUDA part; this one does not.
    symlink("libtorch_cpu.so", lib.join(UMBRELLA))?;
    if let Some(name) = renamed_openmp(libraries) {
        symlink(name, lib.join("libgomp.so"))?;
    }
    Ok(())
}

/// OpenMP's runtime where a package carries it under a name of its own: without a link that the linker knows, a program
/// would load the system's beside it and start twice the threads.
fn renamed_openmp(libraries: &BTreeMap<String, PathBuf>) -> Option<&str> {
    let openmp = libraries.keys().find(|name| name.starts_with("libgomp"))?;
    (openmp != "libgomp.so.1").then_some(openmp)
}

/// What a link should say to reach `file`: relative (`up` climbs to `home`) for a file inside `home`, so that the checkout
/// may be moved, else absolute.
fn from(home: &Path, file: &Path, up: &str) -> PathBuf {
    let inside = home.canonicalize().ok().and_then(|home| file.strip_prefix(home).ok().map(Path::to_path_buf));
    let inside = inside.or_else(|| file.strip_prefix(home).ok().map(Path::to_path_buf));
    inside.map_or_else(|| file.to_path_buf(), |inside| Path::new(up).join(inside))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    const LDD: &str = "\tlinux-vdso.so.1 (0x00007fa959990000)
\tlibc10.so => /opt/a b/torch/lib/libc10.so (0x00007fa9440d5000)
\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007fa943ff5000)
\tlibcudart.so.13 => not found
\t/lib64/ld-linux-x86-64.so.2 (0x00007fa959992000)
";

    #[test]
    fn the_linkers_answer_is_read_with_spaces_and_gaps() {
        let expected = [
            ("libc10.so".to_owned(), Some(PathBuf::from("/opt/a b/torch/lib/libc10.so"))),
            ("libm.so.6".to_owned(), Some(PathBuf::from("/lib/x86_64-linux-gnu/libm.so.6"))),
            ("libcudart.so.13".to_owned(), None),
        ];
        assert_eq!(parsed(LDD), expected);
    }

    #[test]
    fn only_the_systems_own_libraries_go_without_a_link() {
        assert!(is_system(Path::new("/lib/x86_64-linux-gnu/libm.so.6")));
        assert!(is_system(Path::new("/usr/lib64/libstdc++.so.6")));
        for linked in ["/opt/torch/lib/libgomp.so.1", "/usr/local/cuda/lib64/libcudart.so.13", "/library/libc10.so"] {
            assert!(!is_system(Path::new(linked)), "{linked}");
        }
    }

    #[test]
    fn a_file_that_is_no_library_is_refused() {
        let folder = Folder::new("no library");
        fs::create_dir_all(folder.0.join("lib")).unwrap();
        for name in ["libtorch_cpu.so", "libc10.so"] {
            fs::write(folder.0.join("lib").join(name), "text").unwrap();
        }
        let message = needed(&folder.0).unwrap_err().to_string();
        assert!(message.contains("libtorch_cpu.so is no library"), "{message}");
    }

    #[test]
    fn links_inside_the_checkout_survive_its_move() {
        let folder = Folder::new("moved");
        let home = folder.0.join("old/.libtorch");
        let torch = home.join("pypi/torch");
        fs::create_dir_all(torch.join("lib")).unwrap();
        fs::create_dir_all(torch.join("include")).unwrap();
        fs::write(torch.join("lib/libtorch_cpu.so"), "").unwrap();
        let libraries = [("libtorch_cpu.so".to_owned(), torch.join("lib/libtorch_cpu.so"))].into();
        make(&home, &torch, &libraries).unwrap();
        fs::rename(folder.0.join("old"), folder.0.join("new")).unwrap();
        let home = folder.0.join("new/.libtorch");
        assert!(home.join("include").exists() && home.join("lib/libtorch.so").exists());
    }

    #[test]
    fn an_openmp_of_another_name_becomes_the_one_to_link() {
        let libraries = |name: &str| BTreeMap::from([(name.to_owned(), PathBuf::new())]);
        assert_eq!(renamed_openmp(&libraries("libgomp-24e2ab19.so.1")), Some("libgomp-24e2ab19.so.1"));
        assert_eq!(renamed_openmp(&libraries("libgomp.so.1")), None);
    }
}
