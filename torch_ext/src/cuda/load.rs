//! Opening libtorch's CUDA part in a program that was linked against the CPU part.
//!
//! Its constructors register the CUDA backend with the libtorch that is already loaded. It must be opened with its symbols
//! visible to later libraries (libtorch's linear algebra for CUDA is opened by libtorch itself, on demand) and resolved at
//! once, so that a missing library or one of another version is an answer here and not a crash later.

use std::env;
use std::ffi::{CStr, CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{CudaState, LIBRARY_VARIABLE};
use crate::libtorch;

/// File name of the CUDA part.
const LIBRARY: &str = "libtorch_cuda.so";

/// Finds, opens and asks.
pub(super) fn load() -> CudaState {
    let named = env::var_os(LIBRARY_VARIABLE).filter(|value| !value.is_empty());
    match open_first(named, &folders(), open) {
        Ok(library) => count_devices(library),
        Err(state) => state,
    }
}

/// Folders that may hold the library, in order, each once.
fn folders() -> Vec<PathBuf> {
    let linked = libtorch::folder();
    let real = linked.as_ref().and_then(|folder| folder.join(libtorch::CPU_LIBRARY).canonicalize().ok());
    let real = real.and_then(|file| file.parent().map(Path::to_path_buf));
    let given = env::var_os("LIBTORCH").filter(|value| !value.is_empty()).map(|root| PathBuf::from(root).join("lib"));
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in [linked, real, given].into_iter().flatten() {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// Opens the library that was named, or the first in the folders that can be opened.
///
/// A name decides alone: someone who names a file does not want another. Of several that fail the first is reported.
fn open_first(
    named: Option<OsString>,
    folders: &[PathBuf],
    open: impl Fn(&Path) -> Result<(), String>,
) -> Result<PathBuf, CudaState> {
    if let Some(named) = named {
        let named = PathBuf::from(named);
        let library = if named.is_dir() { named.join(LIBRARY) } else { named };
        if !library.exists() {
            let reason = format!("{LIBRARY_VARIABLE} points to it, and there is no such file");
            return Err(CudaState::LoadFailed { library, reason });
        }
        return match open(&library) {
            Ok(()) => Ok(library),
            Err(reason) => Err(CudaState::LoadFailed { library, reason }),
        };
    }
    let mut first_failure = None;
    let searched: Vec<PathBuf> = folders.iter().map(|folder| folder.join(LIBRARY)).collect();
    for library in searched.iter().filter(|library| library.exists()) {
        match open(library) {
            Ok(()) => return Ok(library.clone()),
            Err(reason) => {
                first_failure.get_or_insert(CudaState::LoadFailed { library: library.clone(), reason });
            }
        }
    }
    Err(first_failure.unwrap_or(CudaState::NoLibrary { searched }))
}

/// Opens a shared library for the life of the process.
fn open(library: &Path) -> Result<(), String> {
    let name = CString::new(library.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: `name` is a C string that outlives the call. Opening runs the library's constructors; it is libtorch's own
    // CUDA part, named by the user or found beside the libtorch in use, and it is never closed again.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if handle.is_null() { Err(last_loader_error()) } else { Ok(()) }
}

/// What the loader said last on this thread.
pub(super) fn last_loader_error() -> String {
    // SAFETY: takes nothing; returns null or a C string that stays until the next call of the loader on this thread.
    let message = unsafe { libc::dlerror() };
    if message.is_null() {
        return "the loader gave no reason".to_owned();
    }
    // SAFETY: not null, and copied before anything else could reach the loader.
    unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned()
}

/// Asks libtorch for its devices.
fn count_devices(library: PathBuf) -> CudaState {
    // SAFETY: takes and returns plain numbers; a C++ exception is caught on the other side and answered by -1.
    let count = unsafe { torch_sys::cuda::atc_cuda_device_count() };
    let reason = libtorch::take_last_error();
    match usize::try_from(count) {
        Ok(devices) if devices > 0 => CudaState::Available { devices, library },
        _ => CudaState::NoDevice { library, reason },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder of its own with an empty file of the library's name in each of `holding`.
    fn tree(name: &str, holding: &[&str]) -> PathBuf {
        let root = env::temp_dir().join(format!("torch_ext_{name}_{}", std::process::id()));
        for folder in holding {
            fs::create_dir_all(root.join(folder)).unwrap();
            fs::write(root.join(folder).join(LIBRARY), "").unwrap();
        }
        root
    }

    #[test]
    fn nothing_anywhere_lists_the_places_in_order() {
        let folders = [PathBuf::from("/nowhere/a"), PathBuf::from("/nowhere/b")];
        let searched = folders.iter().map(|folder| folder.join(LIBRARY)).collect();
        let answer = open_first(None, &folders, |_| panic!("nothing to open"));
        assert_eq!(answer, Err(CudaState::NoLibrary { searched }));
    }

    #[test]
    fn a_file_that_is_no_library_is_a_failed_load_with_the_loaders_words() {
        let root = tree("broken", &["lib"]);
        let answer = open_first(None, &[root.join("lib")], open);
        let Err(CudaState::LoadFailed { library, reason }) = answer else { panic!("{answer:?}") };
        assert_eq!(library, root.join("lib").join(LIBRARY));
        assert!(reason.contains(LIBRARY), "{reason}");
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_broken_library_does_not_hide_a_good_one_behind_it() {
        let root = tree("second", &["first", "second"]);
        let good = root.join("second").join(LIBRARY);
        let opener = |library: &Path| if *library == good { Ok(()) } else { Err("broken".to_owned()) };
        let folders = [root.join("first"), root.join("second")];
        assert_eq!(open_first(None, &folders, opener), Ok(good.clone()));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_named_library_decides_alone_whether_file_or_folder() {
        let root = tree("named", &["named", "beside"]);
        let (named, beside) = (root.join("named"), [root.join("beside")]);
        let all_good = |_: &Path| Ok(());
        let file = named.join(LIBRARY);
        assert_eq!(open_first(Some(named.clone().into()), &beside, all_good), Ok(file.clone()));
        assert_eq!(open_first(Some(file.clone().into()), &beside, all_good), Ok(file));
        let missing = root.join("missing.so");
        let answer = open_first(Some(missing.clone().into()), &beside, all_good);
        assert!(matches!(answer, Err(CudaState::LoadFailed { library, .. }) if library == missing));
        fs::remove_dir_all(root).unwrap();
    }
}
