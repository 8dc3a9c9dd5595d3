//! NVRTC, CUDA's run-time compiler: where it is, and its few functions.
//!
//! It comes with PyTorch, with the set-up of this project, or with a CUDA toolkit, under a name that carries its version.
//! It is opened from a full path: by name the system's loader might give one of another version, and a program should
//! know which compiler its cache was filled by.

use std::env;
use std::ffi::{CString, OsString, c_char, c_int};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::error::CudaError;
use super::load::last_loader_error;
use crate::libtorch;

/// The variable that names NVRTC's library, or the folder that holds it.
pub const NVRTC_VARIABLE: &str = "BOWLINE_NVRTC";

/// Names by which the system's loader is asked, the newest first.
const SYSTEM_NAMES: [&str; 3] = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];

/// Folders below a Python's packages that hold NVRTC where PyTorch was installed with it, and the one below `.libtorch`.
const PACKAGED: [&str; 3] = ["nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib", "nvrtc/nvidia/cu13/lib"];

/// An opened NVRTC.
#[derive(Debug)]
pub struct Nvrtc {
    /// Its file, or the name that the system's loader found it by.
    library: PathBuf,
    version: (i32, i32),
    bytes: u64,
    pub(super) calls: Calls,
}

/// A program in NVRTC's hands.
pub(super) type Program = *mut libc::c_void;

/// NVRTC's functions that are used here. Each answers a number, zero for success.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) create: unsafe extern "C" fn(
        program: *mut Program,
        source: *const c_char,
        name: *const c_char,
        headers: c_int,
        texts: *const *const c_char,
        names: *const *const c_char,
    ) -> c_int,
    pub(super) destroy: unsafe extern "C" fn(program: *mut Program) -> c_int,
    pub(super) compile: unsafe extern "C" fn(program: Program, count: c_int, options: *const *const c_char) -> c_int,
    pub(super) cubin_size: unsafe extern "C" fn(program: Program, bytes: *mut usize) -> c_int,
    pub(super) cubin: unsafe extern "C" fn(program: Program, cubin: *mut c_char) -> c_int,
    pub(super) log_size: unsafe extern "C" fn(program: Program, bytes: *mut usize) -> c_int,
    pub(super) log: unsafe extern "C" fn(program: Program, log: *mut c_char) -> c_int,
    pub(super) error_string: unsafe extern "C" fn(result: c_int) -> *const c_char,
    version: unsafe extern "C" fn(major: *mut c_int, minor: *mut c_int) -> c_int,
}

impl Nvrtc {
    /// Opens the compiler on the first call and remembers the answer for the life of the process.
    ///
    /// It is looked for where [`NVRTC_VARIABLE`] points, which then decides alone; or else beside libtorch as it was
    /// linked and as it was installed, in the packages of the Python that libtorch belongs to, and by the system's loader.
    ///
    /// # Errors
    ///
    /// [`CudaError::NoNvrtc`] with the places, [`CudaError::NvrtcUnusable`] with the reason.
    pub fn get() -> Result<&'static Self, CudaError> {
        static FOUND: OnceLock<Result<Nvrtc, CudaError>> = OnceLock::new();
        let named = || env::var_os(NVRTC_VARIABLE).filter(|value| !value.is_empty());
        FOUND.get_or_init(|| Self::first(named(), &folders())).as_ref().map_err(Clone::clone)
    }

    /// Its file, or the name that the system's loader found it by.
    #[must_use]
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// Major and minor version.
    #[must_use]
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// What tells this compiler from another in the key of a cache: version and size. Patches of one version differ in
    /// what they make, and nothing but the file tells them apart.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("nvrtc {}.{} of {} bytes", self.version.0, self.version.1, self.bytes)
    }

    fn first(named: Option<OsString>, folders: &[PathBuf]) -> Result<Self, CudaError> {
        if let Some(named) = named {
            let named = PathBuf::from(named);
            let library = if named.is_dir() { in_folder(&named).unwrap_or(named) } else { named };
            return Self::open(&library).map_err(|reason| CudaError::NvrtcUnusable { library, reason });
        }
        let mut first_failure = None;
        for library in folders.iter().filter_map(|folder| in_folder(folder)) {
            match Self::open(&library) {
                Ok(found) => return Ok(found),
                Err(reason) => _ = first_failure.get_or_insert(CudaError::NvrtcUnusable { library, reason }),
            }
        }
        let system = SYSTEM_NAMES.iter().find_map(|name| Self::open(Path::new(name)).ok());
        let nowhere = || {
            let searched = folders.iter().map(|folder| folder.join(SYSTEM_NAMES[0]));
            CudaError::NoNvrtc { searched: searched.chain(SYSTEM_NAMES.map(PathBuf::from)).collect() }
        };
        system.ok_or_else(|| first_failure.unwrap_or_else(nowhere))
    }

    /// Opens one file, for the life of the process.
    fn open(library: &Path) -> Result<Self, String> {
        // A link in the set-up's folder leads away from the companion, which lies beside the file itself.
        let real = library.canonicalize().unwrap_or_else(|_| library.to_path_buf());
        if let Some(companion) = companion(&real) {
            // NVRTC asks the loader for its builtins by name alone and finds them if they are open already.
            handle(&companion)?;
        }
        let handle = handle(&real)?;
        let calls = Calls::of(handle)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two places for two numbers, both alive during the call.
        let code = unsafe { (calls.version)(&raw mut major, &raw mut minor) };
        if code != 0 {
            return Err(format!("it does not tell its version (error {code})"));
        }
        let bytes = fs::metadata(&real).map_or(0, |file| file.len());
        Ok(Self { library: real, version: (major, minor), bytes, calls })
    }
}

impl Calls {
    /// Looks every function up; a missing one is an answer, since the file may be another library altogether.
    fn of(handle: *mut libc::c_void) -> Result<Self, String> {
        // SAFETY: in each line the type is the one that NVRTC's documentation gives to the function of that name, the
        // same since version 11.1.
        unsafe {
            Ok(Self {
                create: symbol(handle, "nvrtcCreateProgram")?,
                destroy: symbol(handle, "nvrtcDestroyProgram")?,
                compile: symbol(handle, "nvrtcCompileProgram")?,
                cubin_size: symbol(handle, "nvrtcGetCUBINSize")?,
                cubin: symbol(handle, "nvrtcGetCUBIN")?,
                log_size: symbol(handle, "nvrtcGetProgramLogSize")?,
                log: symbol(handle, "nvrtcGetProgramLog")?,
                error_string: symbol(handle, "nvrtcGetErrorString")?,
                version: symbol(handle, "nvrtcVersion")?,
            })
        }
    }
}

/// A function of an open library.
///
/// # Safety
///
/// `F` is the function pointer type of the function `name`.
unsafe fn symbol<F: Copy>(handle: *mut libc::c_void, name: &str) -> Result<F, String> {
    const { assert!(size_of::<F>() == size_of::<*mut libc::c_void>()) };
    let c_name = CString::new(name).map_err(|error| error.to_string())?;
    // SAFETY: the handle came from dlopen and was not closed; the name is a C string.
    let address = unsafe { libc::dlsym(handle, c_name.as_ptr()) };
    if address.is_null() {
        return Err(format!("it has no function {name}"));
    }
    // SAFETY: the caller vouches for the type; a function pointer has the size and form of the address.
    Ok(unsafe { std::mem::transmute_copy(&address) })
}

/// Opens a shared library; its symbols stay its own.
fn handle(library: &Path) -> Result<*mut libc::c_void, String> {
    let name = CString::new(library.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: a C string that outlives the call. Opening runs the constructors of NVIDIA's compiler, named by the user or
    // found beside the libtorch in use.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() { Err(last_loader_error()) } else { Ok(handle) }
}

/// NVRTC's library in a folder, the newest by name. PyTorch's archives put a hash into the name.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    newest(folder, |name| {
        let rest = name.strip_prefix("libnvrtc").filter(|rest| !rest.starts_with("-builtins"));
        rest.is_some_and(|rest| rest.starts_with(".so") || (rest.starts_with('-') && rest.contains(".so")))
    })
}

/// The builtins that belong to the NVRTC in this file.
fn companion(library: &Path) -> Option<PathBuf> {
    newest(library.parent()?, |name| name.starts_with("libnvrtc-builtins.so") || is_hashed_companion(name))
}

fn is_hashed_companion(name: &str) -> bool {
    name.strip_prefix("libnvrtc-builtins-").is_some_and(|rest| rest.contains(".so"))
}

/// The last file by name of those that `wanted` takes.
fn newest(folder: &Path, wanted: impl Fn(&str) -> bool) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted)).max()
}

/// Folders that may hold it, in order, each once.
fn folders() -> Vec<PathBuf> {
    let linked = libtorch::folder();
    let real = linked.as_ref().and_then(|folder| folder.join(libtorch::CPU_LIBRARY).canonicalize().ok());
    let real = real.and_then(|file| file.parent().map(Path::to_path_buf));
    let mut folders: Vec<PathBuf> = Vec::new();
    for lib in [linked, real].into_iter().flatten() {
        // `lib` lies in `.libtorch` or in a package `torch`; its neighbours lie beside that.
        let above = [lib.parent(), lib.parent().and_then(Path::parent)];
        let packaged = above.into_iter().flatten().flat_map(|root| PACKAGED.map(|inside| root.join(inside)));
        for folder in std::iter::once(lib.clone()).chain(packaged) {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os).filter(|value| !value.is_empty());
    folders.extend(toolkits.map(|root| PathBuf::from(root).join("lib64")));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), "no library").unwrap();
        }
        folder
    }

    #[test]
    fn it_is_found_under_the_names_that_packages_give_it() {
        let wheel =
            folder_with(&["libnvrtc.so.13", "libnvrtc-builtins.so.13.0", "libcudart.so.13", "libnvrtc.alt.so.13"]);
        assert_eq!(in_folder(wheel.path()), Some(wheel.path().join("libnvrtc.so.13")));
        let archive = folder_with(&["libnvrtc-0a1b2c.so.13", "libnvrtc-builtins-9d.so.13.0", "libtorch_cpu.so"]);
        assert_eq!(in_folder(archive.path()), Some(archive.path().join("libnvrtc-0a1b2c.so.13")));
        assert_eq!(companion(&archive.path().join("x")), Some(archive.path().join("libnvrtc-builtins-9d.so.13.0")));
        assert_eq!(in_folder(folder_with(&["libnvrtc-builtins.so.13.0"]).path()), None);
    }

    #[test]
    fn a_named_library_decides_alone_and_a_wrong_one_is_told_with_the_reason() {
        let good_by_name = folder_with(&["libnvrtc.so.13"]);
        let absent = PathBuf::from("/no/such/libnvrtc.so.13");
        let answer = Nvrtc::first(Some(absent.clone().into()), &[good_by_name.path().to_path_buf()]);
        let Err(CudaError::NvrtcUnusable { library, reason }) = answer else { panic!("{answer:?}") };
        assert_eq!(library, absent);
        assert!(reason.contains("libnvrtc.so.13"), "{reason}");
    }

    #[test]
    fn a_file_that_is_no_library_is_not_opened_and_another_library_is_not_taken_for_it() {
        let broken = folder_with(&["libnvrtc.so.13"]);
        assert!(Nvrtc::open(&broken.path().join("libnvrtc.so.13")).is_err());
        let reason = Nvrtc::open(Path::new("libc.so.6")).unwrap_err();
        assert!(reason.contains("nvrtcCreateProgram"), "{reason}");
    }

    #[test]
    fn the_answer_is_the_same_twice() {
        match (Nvrtc::get(), Nvrtc::get()) {
            (Ok(first), Ok(second)) => assert!(std::ptr::eq(first, second) && first.version().0 >= 11),
            (first, second) => assert_eq!(first.map(Nvrtc::version), second.map(Nvrtc::version)),
        }
    }
}
