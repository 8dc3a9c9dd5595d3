//! Kernels in tables: what every table says of its kernels, and those that a process has made ready.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use super::arch::Arch;
use super::cache::Cache;
use super::compile::{Compiled, KernelSource};
use super::device::Device;
use super::error::CudaError;
use super::launch::Kernel;
use super::manifest::Manifest;
use super::nvrtc::Nvrtc;
use super::sass::Instruction;

/// What kernels ask of the device beyond C++: the first part of the text of every one. The host twin has another.
pub const PRIMITIVES: (&str, &str) = ("primitives.cuh", include_str!("../../kernels/primitives.cuh"));

/// What kernels for Hopper (sm_90a) ask beyond [`PRIMITIVES`]: the second part of their text. The host twin has another.
pub const HOPPER_PRIMITIVES: (&str, &str) = ("hopper.cuh", include_str!("../../kernels/hopper.cuh"));

/// One kernel of a table: a text that definitions make this kernel, with one entry point.
pub trait TableKernel: Send + Sync {
    /// One word for reports and for the manifest; no two kernels of a program share one.
    fn name(&self) -> String;

    /// The entry point.
    fn entry(&self) -> &'static str;

    /// The files that make up the text, by name, in order; the first is [`PRIMITIVES`].
    fn parts(&self) -> Vec<(&'static str, &'static str)>;

    /// Options of the compiler, such as `-DHEAD_DIM=128`.
    fn options(&self) -> Vec<String>;

    /// Dynamic shared memory of a block (bytes).
    fn shared_bytes(&self) -> usize;

    /// Whether it can be compiled for an architecture: all can, but for those that use one chip's own instructions.
    fn is_for(&self, arch: Arch) -> bool {
        let _ = arch;
        true
    }

    /// Instructions that its machine code must have: without them it is not the kernel that it was written to be.
    fn instructions(&self) -> &'static [Instruction] {
        &[]
    }

    /// Exponentials (of those that stand in its machine code once) that are to be computed while products are under way.
    fn exponentials_under_way(&self) -> usize {
        0
    }

    /// The whole text, complete without any header.
    fn source(&self) -> String {
        self.parts().into_iter().map(|(file, text)| format!("#line 1 \"{file}\"\n{text}\n")).collect()
    }
}

/// Calls `work` with a kernel's source as the compiler takes it.
pub fn source_of<T>(kernel: &dyn TableKernel, work: impl FnOnce(&KernelSource<'_>) -> T) -> T {
    let (name, text, options) = (kernel.name(), kernel.source(), kernel.options());
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    work(&KernelSource { name: &name, text: &text, headers: &[], options: &options })
}

/// The hash of a kernel's text and options, in hexadecimal, by which a manifest knows it.
#[must_use]
pub fn source_hash(kernel: &dyn TableKernel) -> String {
    source_of(kernel, |source| source.hash().to_hex().to_string())
}

/// A kernel's machine code for an architecture; needs no device. With a cache, from there if it is there.
///
/// # Errors
///
/// [`CudaError::Compile`] with the compiler's words.
pub fn compiled(
    kernel: &dyn TableKernel,
    nvrtc: &Nvrtc,
    arch: Arch,
    cache: Option<&Cache>,
) -> Result<Compiled, CudaError> {
    source_of(kernel, |source| source.compiled_with(nvrtc, arch, cache))
}

/// By device and key, what was found and the kernel that was loaded.
type Known<K, T> = HashMap<(usize, K), (T, Kernel)>;

/// Kernels of one table with their code, by device and by what a table knows them by; each is made ready when it is first
/// asked for.
#[derive(Debug)]
pub struct Ready<K, T> {
    known: Mutex<Option<Known<K, T>>>,
}

impl<K: Copy + Eq + Hash, T: TableKernel + Clone> Ready<K, T> {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { known: Mutex::new(None) }
    }

    /// The kernel that `find` gives for a key, with its code on a device; none if it gives none. The first time it is compiled
    /// or read from the cache, and one that `manifest` does not hold for the device is told on standard error.
    ///
    /// # Errors
    ///
    /// When it cannot be compiled or loaded.
    pub fn get(
        &self,
        device: &Device,
        key: K,
        manifest: &Manifest,
        find: impl FnOnce() -> Option<T>,
    ) -> Result<Option<(T, Kernel)>, CudaError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        if let Some(found) = known.get(&(device.ordinal(), key)) {
            return Ok(Some(found.clone()));
        }
        let Some(kernel) = find() else { return Ok(None) };
        let name = kernel.name();
        if !manifest.holds(&name, device.arch()) {
            eprintln!(
                "warning: the CUDA kernel {name} was never verified on a device of {}; `bowline kernels list` says which were",
                device.arch()
            );
        }
        let code = source_of(&kernel, |source| device.kernel(&name, source, kernel.entry()))?;
        known.insert((device.ordinal(), key), (kernel.clone(), code));
        Ok(Some((kernel, code)))
    }

    /// Names of those that were made ready for a device.
    pub fn names(&self, device: usize) -> BTreeSet<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let of_device = known.iter().flatten().filter(|((ordinal, _), _)| *ordinal == device);
        of_device.map(|(_, (kernel, _))| kernel.name()).collect()
    }
}

impl<K: Copy + Eq + Hash, T: TableKernel + Clone> Default for Ready<K, T> {
    fn default() -> Self {
        Self::new()
    }
}
