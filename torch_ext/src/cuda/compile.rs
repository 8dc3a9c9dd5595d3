//! From a kernel's text to machine code, by NVRTC, with the answer kept on disk.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;
use std::time::Duration;

use super::arch::Arch;
use super::cache::{Cache, Key};
use super::error::CudaError;
use super::nvrtc::{Nvrtc, Program};
use super::ptxas::PtxasReport;

/// What the compiler is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelSource<'a> {
    /// The name that it goes by in the compiler's messages, such as `forward.cu`.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
    /// What it may include: name as in the `#include`, text. Nothing else is found: no folder is searched.
    pub headers: &'a [(&'a str, &'a str)],
    /// Options beyond those that every kernel gets, such as `-DHEAD_DIM=128`.
    pub options: &'a [&'a str],
}

/// Machine code for one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// The code, as the driver loads it.
    pub cubin: Vec<u8>,
    /// What compiler and assembler said.
    pub log: String,
    /// Processor time of the compilation; none when the code came from the cache. Time of the thread, so that other work
    /// on the machine does not count: NVRTC compiles on the thread that calls it.
    pub took: Option<Duration>,
}

impl KernelSource<'_> {
    /// A hash of text, headers and options, without the name: two sources of one hash make the same code, given compiler
    /// and architecture.
    #[must_use]
    pub fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        // Counts and lengths stand in front, so that no text can be taken for two others.
        for count in [self.headers.len(), self.options.len()] {
            hasher.update(&(count as u64).to_le_bytes());
        }
        let headers = self.headers.iter().flat_map(|(name, text)| [*name, *text]);
        for part in std::iter::once(self.text).chain(headers).chain(self.options.iter().copied()) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize()
    }

    /// The machine code for an architecture, from the user's cache or else from the compiler.
    ///
    /// # Errors
    ///
    /// As [`KernelSource::compiled_by`], and what [`Nvrtc::get`] answers.
    pub fn compiled(&self, arch: Arch) -> Result<Compiled, CudaError> {
        self.compiled_with(Nvrtc::get()?, arch, Cache::of_user().as_ref())
    }

    /// [`KernelSource::compiled`] with a compiler and a cache that the caller has; none always compiles.
    ///
    /// # Errors
    ///
    /// As [`KernelSource::compiled_by`]. A cache that cannot be read or written is no error.
    pub fn compiled_with(&self, nvrtc: &Nvrtc, arch: Arch, cache: Option<&Cache>) -> Result<Compiled, CudaError> {
        let Some(cache) = cache else { return self.compiled_by(nvrtc, arch) };
        let key = self.key(&nvrtc.fingerprint(), arch, &all_options(self, arch, nvrtc.version()));
        if let Some((log, cubin)) = cache.get(&key) {
            return Ok(Compiled { cubin, log, took: None });
        }
        let compiled = self.compiled_by(nvrtc, arch)?;
        cache.put(&key, &compiled.log, &compiled.cubin);
        Ok(compiled)
    }

    /// Compiles, whatever any cache holds.
    ///
    /// # Errors
    ///
    /// [`CudaError::Compile`] with the compiler's words; [`CudaError::ZeroByte`].
    pub fn compiled_by(&self, nvrtc: &Nvrtc, arch: Arch) -> Result<Compiled, CudaError> {
        let options = all_options(self, arch, nvrtc.version());
        let mut job = Job::new(self, nvrtc)?;
        let started = thread_time();
        let outcome = job.compile(&options)?;
        let took = thread_time().saturating_sub(started);
        let log = job.log();
        let failed = |log: String| CudaError::Compile { source_name: self.name.to_owned(), arch, log };
        if let Err(name) = outcome {
            return Err(failed(if log.trim().is_empty() { name } else { log.trim().to_owned() }));
        }
        let cubin = job.cubin().map_err(failed)?;
        Ok(Compiled { cubin, log, took: Some(took) })
    }

    fn key(&self, compiler: &str, arch: Arch, options: &[String]) -> Key {
        Key::of(&[compiler, &arch.to_string(), &options.join("\n"), self.hash().to_hex().as_str()])
    }
}

impl Compiled {
    /// What the assembler said, taken apart.
    #[must_use]
    pub fn report(&self) -> PtxasReport {
        PtxasReport::parse(&self.log)
    }
}

/// Every option of one compilation.
fn all_options(source: &KernelSource<'_>, arch: Arch, version: (i32, i32)) -> Vec<String> {
    let mut options = vec![format!("-arch={arch}"), "--std=c++17".to_owned(), "--ptxas-options=-v".to_owned()];
    if version >= (12, 9) {
        // From this version on NVRTC has a cache of its own, which would hide how long a kernel takes.
        options.push("--no-cache".to_owned());
    }
    options.extend(source.options.iter().map(|&option| option.to_owned()));
    options
}

/// A program in NVRTC's hands, given back when dropped.
struct Job<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl<'a> Job<'a> {
    fn new(source: &KernelSource<'_>, nvrtc: &'a Nvrtc) -> Result<Self, CudaError> {
        let (name, text) = (c_string("a kernel's name", source.name)?, c_string("a kernel's text", source.text)?);
        let names = c_strings("a header's name", source.headers.iter().map(|(name, _)| *name))?;
        let texts = c_strings("a header's text", source.headers.iter().map(|(_, text)| *text))?;
        let (name_pointers, text_pointers) = (pointers(&names), pointers(&texts));
        let mut program: Program = ptr::null_mut();
        // SAFETY: every pointer leads to a C string that outlives the call, which copies them; the two lists have the
        // length that is told.
        let code = unsafe {
            (nvrtc.calls.create)(
                &raw mut program,
                text.as_ptr(),
                name.as_ptr(),
                names.len() as c_int,
                text_pointers.as_ptr(),
                name_pointers.as_ptr(),
            )
        };
        if code != 0 {
            let reason = format!("it takes no program: {}", error_name(nvrtc, code));
            return Err(CudaError::NvrtcUnusable { library: nvrtc.library().to_path_buf(), reason });
        }
        Ok(Self { nvrtc, program })
    }

    /// Compiles; the inner error is the name of NVRTC's error.
    fn compile(&mut self, options: &[String]) -> Result<Result<(), String>, CudaError> {
        let options = c_strings("an option", options.iter().map(String::as_str))?;
        let pointers = pointers(&options);
        // SAFETY: the program is whole; the list holds as many C strings as told, all alive during the call.
        let code = unsafe { (self.nvrtc.calls.compile)(self.program, options.len() as c_int, pointers.as_ptr()) };
        Ok(if code == 0 { Ok(()) } else { Err(error_name(self.nvrtc, code)) })
    }

    /// What compiler and assembler said, if they left anything.
    fn log(&self) -> String {
        // SAFETY: the two functions belong together and the program is whole.
        let bytes = unsafe { self.bytes(self.nvrtc.calls.log_size, self.nvrtc.calls.log) };
        let bytes = bytes.unwrap_or_default();
        String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(&bytes)).into_owned()
    }

    fn cubin(&self) -> Result<Vec<u8>, String> {
        // SAFETY: the two functions belong together and the program was compiled.
        let bytes = unsafe { self.bytes(self.nvrtc.calls.cubin_size, self.nvrtc.calls.cubin) }?;
        if bytes.starts_with(b"\x7fELF") { Ok(bytes) } else { Err("the compiler left no machine code".to_owned()) }
    }

    /// What a pair of functions answers: how many bytes, and the bytes.
    ///
    /// # Safety
    ///
    /// `fill` writes as many bytes as `size` tells of the same program.
    unsafe fn bytes(
        &self,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        fill: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, String> {
        let mut count = 0;
        // SAFETY: a whole program and the place for one number.
        let code = unsafe { size(self.program, &raw mut count) };
        if code != 0 {
            return Err(error_name(self.nvrtc, code));
        }
        let mut bytes = vec![0_u8; count];
        // SAFETY: there is room for as many bytes as were told.
        let code = unsafe { fill(self.program, bytes.as_mut_ptr().cast()) };
        if code == 0 { Ok(bytes) } else { Err(error_name(self.nvrtc, code)) }
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        // SAFETY: the program was made by the same NVRTC and is given back once. Its answer would change nothing.
        _ = unsafe { (self.nvrtc.calls.destroy)(&raw mut self.program) };
    }
}

/// The name of an error of NVRTC's.
fn error_name(nvrtc: &Nvrtc, code: c_int) -> String {
    // SAFETY: takes any number; answers null or a C string that is part of the library.
    let name = unsafe { (nvrtc.calls.error_string)(code) };
    if name.is_null() {
        return format!("error {code}");
    }
    // SAFETY: not null, and never freed.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}

fn c_string(what: &'static str, text: &str) -> Result<CString, CudaError> {
    CString::new(text).map_err(|_| CudaError::ZeroByte { what })
}

fn c_strings<'a>(what: &'static str, texts: impl Iterator<Item = &'a str>) -> Result<Vec<CString>, CudaError> {
    texts.map(|text| c_string(what, text)).collect()
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).collect()
}

/// Processor time that this thread has used.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place for one time; the clock exists on every Linux.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    match (code, seconds, nanoseconds) {
        (0, Ok(seconds), Ok(nanoseconds)) => Duration::new(seconds, nanoseconds),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
