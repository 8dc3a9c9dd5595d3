//! Devices as the driver knows them, in the context that libtorch computes in.

use std::collections::HashMap;
use std::ffi::CStr;
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use cudarc::driver::{result, sys};

use super::arch::{Arch, Capability};
use super::compile::KernelSource;
use super::error::CudaError;
use super::launch::{Kernel, Module, current_stream};
use super::load::last_loader_error;

/// A device that kernels of ours run on. Its context is the primary one, which libtorch uses as well, so that pointers and
/// streams of the one are good for the other.
#[derive(Debug)]
pub struct Device {
    ordinal: usize,
    name: String,
    capability: Capability,
    arch: Arch,
    multiprocessors: u32,
    shared_bytes: u32,
    context: Context,
    kernels: Mutex<HashMap<String, Kernel>>,
}

/// The driver's handle of a context, valid for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Context(sys::CUcontext);

// SAFETY: the driver's calls may be made with one context from any thread, and this one is never destroyed.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

/// A context made current on this thread; the one before is current again afterwards.
pub(super) struct Entered(());

impl Context {
    pub(super) fn enter(self) -> Result<Entered, CudaError> {
        // SAFETY: a context that is never destroyed.
        driver("enter a device's context", unsafe { sys::cuCtxPushCurrent_v2(self.0) })?;
        Ok(Entered(()))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut left: sys::CUcontext = ptr::null_mut();
        // SAFETY: takes from this thread's stack what was put there; nothing can be done about a refusal.
        _ = unsafe { sys::cuCtxPopCurrent_v2(&raw mut left) };
    }
}

impl Device {
    /// The device of this number, as libtorch counts (`cuda:N`). Opened once and remembered.
    ///
    /// # Errors
    ///
    /// [`CudaError::NoDriver`], [`CudaError::TooOld`], [`CudaError::Driver`].
    pub fn get(ordinal: usize) -> Result<&'static Self, CudaError> {
        static OPEN: Mutex<Vec<&'static Device>> = Mutex::new(Vec::new());
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = open.iter().find(|device| device.ordinal == ordinal) {
            return Ok(device);
        }
        let device: &'static Self = Box::leak(Box::new(Self::open(ordinal)?));
        open.push(device);
        Ok(device)
    }

    fn open(ordinal: usize) -> Result<Self, CudaError> {
        start()?;
        let unknown =
            |_| CudaError::Driver { doing: format!("find device {ordinal}"), reason: "no such number".into() };
        let number = i32::try_from(ordinal).map_err(unknown)?;
        let device = told(&format!("find device {ordinal}"), result::device::get(number))?;
        let name = told("tell a device's name", result::device::get_name(device))?;
        let ask = |attribute| {
            // SAFETY: a device that the driver named above.
            let answer = unsafe { result::device::get_attribute(device, attribute) };
            told("tell what a device can do", answer).map(|number| u32::try_from(number).unwrap_or(0))
        };
        let capability = Capability {
            major: ask(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            minor: ask(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        };
        let arch = Arch::for_device(capability).ok_or_else(|| CudaError::TooOld { name: name.clone(), capability })?;
        let multiprocessors = ask(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared_bytes = ask(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        // SAFETY: a device that the driver named above. The context is kept for the life of the process.
        let context = Context(told("open a device's context", unsafe { result::primary_ctx::retain(device) })?);
        let kernels = Mutex::default();
        Ok(Self { ordinal, name, capability, arch, multiprocessors, shared_bytes, context, kernels })
    }

    pub(super) fn context(&self) -> Context {
        self.context
    }

    /// Its number.
    #[must_use]
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Its name, such as `NVIDIA H100 80GB HBM3`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The numbers that say what it can do.
    #[must_use]
    pub fn capability(&self) -> Capability {
        self.capability
    }

    /// What kernels are compiled for on its behalf.
    #[must_use]
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Processors, each of which runs blocks on its own.
    #[must_use]
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Shared memory (bytes) that one block may have at most.
    #[must_use]
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }

    /// What identifies the stream that libtorch uses on this device now, on this thread: equal for equal streams.
    ///
    /// # Errors
    ///
    /// [`CudaError::Stream`].
    pub fn current_stream(&self) -> Result<usize, CudaError> {
        current_stream(self.ordinal).map(|stream| stream as usize)
    }

    /// The function of this name in a source, compiled (or taken from the cache), loaded once and remembered by `label`,
    /// which must stand for this source and this function alone.
    ///
    /// # Errors
    ///
    /// As [`KernelSource::compiled`]; [`CudaError::Driver`] when the driver does not take the code or finds no such
    /// function in it.
    pub fn kernel(&self, label: &str, source: &KernelSource<'_>, function: &str) -> Result<Kernel, CudaError> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(label) {
            return Ok(*kernel);
        }
        let compiled = source.compiled(self.arch)?;
        let kernel = Module::load(self.context, source.name, &compiled.cubin)?.kernel(self, function)?;
        kernels.insert(label.to_owned(), kernel);
        Ok(kernel)
    }
}

/// Opens and starts the driver, once.
fn start() -> Result<(), CudaError> {
    static STARTED: OnceLock<Result<(), CudaError>> = OnceLock::new();
    STARTED.get_or_init(try_start).clone()
}

fn try_start() -> Result<(), CudaError> {
    // The bindings panic when they do not find the library, so it is opened here first; they then find it by one of their
    // own names.
    // SAFETY: a C string. The driver's library may be opened anywhere and stays open.
    let handle = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() {
        return Err(CudaError::NoDriver { reason: last_loader_error() });
    }
    // SAFETY: opens libraries and asks nothing of them.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver { reason: "libcuda.so.1 opens once and not again".to_owned() });
    }
    result::init().map_err(|error| CudaError::NoDriver { reason: words(error) })
}

/// A call's answer, with what was asked when it was refused.
pub(super) fn driver(doing: &str, answer: sys::CUresult) -> Result<(), CudaError> {
    told(doing, answer.result())
}

/// As [`driver`], for calls that the bindings have wrapped.
pub(super) fn told<T>(doing: &str, answer: Result<T, result::DriverError>) -> Result<T, CudaError> {
    answer.map_err(|error| CudaError::Driver { doing: doing.to_owned(), reason: words(error) })
}

/// The driver's words for an error, or the error's name.
fn words(error: result::DriverError) -> String {
    error.error_string().map_or_else(|_| format!("{:?}", error.0), |text| CStr::to_string_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_there_is_a_sentence_and_no_panic() {
        match Device::get(0) {
            Ok(device) => {
                assert!(device.arch().runs_on(device.capability()));
                assert!(std::ptr::eq(device, Device::get(0).unwrap()));
            }
            Err(CudaError::NoDriver { reason }) => assert!(!reason.is_empty()),
            Err(other) => println!("{other}"),
        }
    }

    #[test]
    fn a_number_that_no_device_has_is_refused() {
        assert!(Device::get(usize::MAX).is_err());
        assert!(Device::get(4096).is_err());
    }
}
