//! Fake folders and programs for the tests of set-up.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A folder of its own for one test, removed with the value. Its name holds a space, as a user's may.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("xtask {} {name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A shell script that answers `body`, made to run.
pub(crate) fn script(folder: &Path, name: &str, body: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A folder that looks like libtorch of `version`. Its libraries are this program, which can be examined as they can.
pub(crate) fn fake_libtorch(folder: &Path, version: &str) -> PathBuf {
    fs::create_dir_all(folder.join("lib")).unwrap();
    fs::create_dir_all(folder.join("include/torch/csrc/api/include/torch")).unwrap();
    fs::write(folder.join("include/torch/csrc/api/include/torch/torch.h"), "").unwrap();
    fs::write(folder.join("build-version"), format!("{version}+cpu\n")).unwrap();
    let real = std::env::current_exe().unwrap();
    for name in ["libtorch_cpu.so", "libc10.so"] {
        let _ = fs::remove_file(folder.join("lib").join(name));
        fs::copy(&real, folder.join("lib").join(name)).unwrap();
    }
    folder.to_path_buf()
}
