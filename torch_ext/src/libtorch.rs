//! Which libtorch is in use, and what the machine under it offers.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// File name of libtorch's CPU part.
pub(crate) const CPU_LIBRARY: &str = "libtorch_cpu.so";

/// The libtorch that this process runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibTorchInfo {
    /// Version, such as `2.11.0+cu130`; none when its folder does not say.
    pub version: Option<String>,
    /// Folder that its CPU part was loaded from, as linked; none when it is part of the program.
    pub folder: Option<PathBuf>,
    /// Threads that one operation may use.
    pub threads: usize,
    /// Threads that run operations side by side.
    pub interop_threads: usize,
}

/// What libtorch is in use now.
#[must_use]
pub fn info() -> LibTorchInfo {
    let folder = folder();
    LibTorchInfo {
        version: folder.as_deref().and_then(version_of),
        folder,
        threads: usize::try_from(tch::get_num_threads()).unwrap_or(0),
        interop_threads: usize::try_from(tch::get_num_interop_threads()).unwrap_or(0),
    }
}

/// Folder of the loaded `libtorch_cpu.so`, as the loader was told it: a link is not followed.
#[must_use]
pub fn folder() -> Option<PathBuf> {
    let mut found: Option<PathBuf> = None;
    // SAFETY: `look` is called only during this call, with `data` pointing to `found`, which outlives it.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut found).cast()) };
    found
}

/// Stops at the object whose file is libtorch's CPU part and notes its folder.
///
/// # Safety
///
/// To be called by `dl_iterate_phdr` alone, with `data` pointing to an `Option<PathBuf>`.
unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _size: libc::size_t, data: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the loader passes a valid record.
    let name = unsafe { (*info).dlpi_name };
    if name.is_null() {
        return 0;
    }
    // SAFETY: the loader keeps the name as a C string while the object is loaded.
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
    if path.file_name() != Some(OsStr::new(CPU_LIBRARY)) {
        return 0;
    }
    let folder = path.parent().map(Path::to_path_buf);
    // SAFETY: the caller of `dl_iterate_phdr` passed an `Option<PathBuf>` that nothing else touches meanwhile.
    unsafe { *data.cast::<Option<PathBuf>>() = folder };
    1
}

/// Version of the libtorch whose libraries are in `folder`.
///
/// libtorch's archives carry a file `build-version` beside `lib`, Python's package a `version.py` instead; a folder of
/// links has its files where the links lead.
fn version_of(folder: &Path) -> Option<String> {
    let real = folder.join(CPU_LIBRARY).canonicalize().ok();
    let real_root = real.as_deref().and_then(Path::parent).and_then(Path::parent);
    let roots = [real_root, folder.parent()];
    roots.into_iter().flatten().find_map(|root| {
        let python = fs::read_to_string(root.join("version.py")).ok().and_then(|text| python_version(&text));
        let plain = || fs::read_to_string(root.join("build-version")).ok().map(|text| text.trim().to_owned());
        python.or_else(plain).filter(|version| !version.is_empty())
    })
}

/// The string that a `version.py` assigns to `__version__`.
fn python_version(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("__version__"))?;
    let value = line.split_once('=')?.1.trim();
    Some(value.trim_matches(['\'', '"']).to_owned())
}

/// Takes the error that a call into libtorch left on this thread.
pub(crate) fn take_last_error() -> Option<String> {
    // SAFETY: takes nothing; returns null or a C string that is now ours.
    let message = unsafe { torch_sys::get_and_reset_last_err() };
    if message.is_null() {
        return None;
    }
    // SAFETY: not null, a C string.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // SAFETY: made by strdup on the other side, freed once.
    unsafe { libc::free(message.cast()) };
    Some(text)
}

/// Instruction sets that matter to attention and matrix products, and whether this processor has them.
///
/// Empty on processors other than x86-64.
#[must_use]
pub fn cpu_features() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    {
        let amx = kernel_flags();
        vec![
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("f16c", std::is_x86_feature_detected!("f16c")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
            ("avx512_bf16", std::is_x86_feature_detected!("avx512bf16")),
            ("avx512_vnni", std::is_x86_feature_detected!("avx512vnni")),
            ("avx512_fp16", std::is_x86_feature_detected!("avx512fp16")),
            ("amx_tile", amx.iter().any(|flag| flag == "amx_tile")),
            ("amx_bf16", amx.iter().any(|flag| flag == "amx_bf16")),
        ]
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

/// Flags that Linux lists for the first processor: the standard library has no stable name for AMX yet.
#[cfg(target_arch = "x86_64")]
fn kernel_flags() -> Vec<String> {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    line.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libtorch_in_use_is_found_with_its_version() {
        let info = info();
        let folder = info.folder.expect("tests are linked dynamically");
        assert!(folder.join(CPU_LIBRARY).exists(), "{}", folder.display());
        let version = info.version.expect("the folder says its version");
        assert!(version.starts_with("2.11.0"), "{version}");
        assert!(info.threads >= 1 && info.interop_threads >= 1);
    }

    #[test]
    fn a_python_version_file_is_read_and_its_all_list_is_not_taken_for_it() {
        let text = "__all__ = ['__version__', 'debug']\n__version__ = '2.11.0+cu130'\ndebug = False\n";
        assert_eq!(python_version(text).as_deref(), Some("2.11.0+cu130"));
        assert_eq!(python_version("debug = False\n"), None);
    }

    #[test]
    fn no_error_is_left_behind_by_calls_that_succeed() {
        assert_eq!(take_last_error(), None);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn features_agree_with_the_kernels_list() {
        let flags = kernel_flags();
        for (name, present) in cpu_features() {
            assert!(!present || flags.is_empty() || flags.iter().any(|flag| flag == name), "{name}");
        }
    }
}
