//! Kernels of the table made ready for a device.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use torch_ext::cuda::{Arch, Cache, Compiled, CudaError, Device, Kernel as Code, KernelSource, Nvrtc};

use super::kernels::{Kernel, Spec, kernel, others, table};
use super::manifest::{manifest, source_of};

/// Kernels with their code, by device and spec.
type Ready = HashMap<(usize, Spec), (Kernel, Code)>;

/// Those that were made ready.
static READY: Mutex<Option<Ready>> = Mutex::new(None);

/// The kernel of a spec with its code on a device; none if the table has none. The first time it is compiled or read from
/// the cache, and one that was not verified on such a device is told on standard error.
pub(super) fn ready(device: &Device, spec: Spec) -> Result<Option<(Kernel, Code)>, CudaError> {
    let mut known = READY.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(found) = known.get(&(device.ordinal(), spec)) {
        return Ok(Some(found.clone()));
    }
    let Some(kernel) = kernel(spec) else { return Ok(None) };
    let name = kernel.name();
    if !manifest().holds(&name, device.arch()) {
        eprintln!(
            "warning: the CUDA kernel {name} was never verified on a device of {}; `bowline kernels list` says which were",
            device.arch()
        );
    }
    let code = source_of(&kernel, |source| device.kernel(&name, source, spec.pass.entry()))?;
    known.insert((device.ordinal(), spec), (kernel.clone(), code));
    Ok(Some((kernel, code)))
}

/// Every kernel of this build: those of attention problems in any element type, and rotation.
#[must_use]
pub fn every_kernel() -> Vec<Kernel> {
    table().into_iter().chain(others()).collect()
}

/// Names of the kernels that this process has put on a device.
#[must_use]
pub fn launched(device: usize) -> BTreeSet<String> {
    let known = READY.lock().unwrap_or_else(PoisonError::into_inner);
    let of_device = known.iter().flatten().filter(|((ordinal, _), _)| *ordinal == device);
    of_device.map(|(_, (kernel, _))| kernel.name()).collect()
}

/// A kernel's machine code for an architecture; needs no device. With a cache, from there if it is there.
///
/// # Errors
///
/// [`CudaError::Compile`] with the compiler's words.
pub fn compiled(kernel: &Kernel, nvrtc: &Nvrtc, arch: Arch, cache: Option<&Cache>) -> Result<Compiled, CudaError> {
    source_of(kernel, |source| source.compiled_with(nvrtc, arch, cache))
}

/// The hash of a kernel's text and options, in hexadecimal, by which the manifest knows it.
#[must_use]
pub fn source_hash(kernel: &Kernel) -> String {
    source_of(kernel, |source: &KernelSource<'_>| source.hash().to_hex().to_string())
}
