//! What runs a fused kernel: a CUDA device, or whatever else can.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use tch::{Device, Tensor};

use super::FusedError;
use super::kernel::{Kernel, Spec, every_kernel};
use crate::cuda::{self, Arch, Launch, Manifest, Ready, TableKernel};

/// Kernels that passed their cases on a device, as it was when this was built.
const TEXT: &str = include_str!("../../kernels.json");

/// Kernels that were made ready.
static READY: Ready<Spec, Kernel> = Ready::new();

/// What a kernel is told: its only argument, by value.
///
/// # Safety
///
/// A `repr(C)` structure without padding, laid out as `Params` in the text of the kernels that take it; its first
/// [`POINTERS`](Self::POINTERS) fields are addresses of 64 bits, its alignment is theirs.
pub unsafe trait Parameters: Copy {
    /// Addresses at its start.
    const POINTERS: u32;

    /// Its memory.
    fn bytes(&self) -> &[u8] {
        // SAFETY: a live structure, all of whose bytes are initialised, as it has no padding.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

/// Whatever runs kernels.
pub trait Machine {
    /// Processors, by which launches that stay for many rows are sized.
    fn multiprocessors(&self) -> u32;

    /// Runs a kernel on `grid` blocks, or begins to. `tensors` are those that `params` leads to.
    ///
    /// # Errors
    ///
    /// When it cannot be compiled or started, or breaks off.
    ///
    /// # Safety
    ///
    /// The kernel takes `P`. Every address in it is null or that of a tensor among `tensors` that is in one piece, on the
    /// machine's device, and of the extent that the kernel reaches with these parameters and this grid.
    unsafe fn launch<P: Parameters>(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        params: &P,
        tensors: &[&Tensor],
    ) -> Result<(), FusedError>;
}

/// When kernels of ours are used on CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Use {
    /// Those that were verified on a device of this kind.
    #[default]
    Verified,
    /// All of them, with a warning for those that were not: someone asked by name.
    Asked,
    /// None.
    Never,
}

/// What this process was asked for, by place in [`Use::ALL`].
static ASKED: AtomicUsize = AtomicUsize::new(0);

impl Use {
    const ALL: [Self; 3] = [Self::Verified, Self::Asked, Self::Never];

    /// What whoever started this process asked for; [`Use::Verified`] unless it was [set](Self::set_for_process).
    #[must_use]
    pub fn of_process() -> Self {
        Self::ALL[ASKED.load(Ordering::Relaxed).min(2)]
    }

    /// Makes this what [`Use::of_process`] answers.
    pub fn set_for_process(self) {
        let place = Self::ALL.iter().position(|wish| *wish == self).unwrap_or(0);
        ASKED.store(place, Ordering::Relaxed);
    }
}

/// A CUDA device, on libtorch's current stream.
#[derive(Debug, Clone, Copy)]
pub struct OnDevice(&'static cuda::Device);

impl OnDevice {
    /// The device of a tensor, if kernels of ours are to be used there.
    #[must_use]
    pub fn of(tensor: &Tensor, kernels: &[&Kernel], wish: Use) -> Option<Self> {
        let Device::Cuda(ordinal) = tensor.device() else { return None };
        if wish == Use::Never || wish == Use::Verified && manifest().is_empty() {
            return None;
        }
        let device = cuda::Device::get(ordinal).ok()?;
        (wish == Use::Asked || kernels.iter().all(|kernel| verified(kernel, device.arch()))).then_some(Self(device))
    }
}

impl Machine for OnDevice {
    fn multiprocessors(&self) -> u32 {
        self.0.multiprocessors()
    }

    unsafe fn launch<P: Parameters>(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        params: &P,
        _tensors: &[&Tensor],
    ) -> Result<(), FusedError> {
        let failed = |source| FusedError::Cuda { operation: kernel.operation(), source };
        let Some((kernel, code)) =
            READY.get(self.0, kernel.spec, manifest(), || Some(kernel.clone())).map_err(failed)?
        else {
            return Ok(());
        };
        let shared_bytes = u32::try_from(kernel.shared_bytes()).unwrap_or(u32::MAX);
        let launch = Launch { grid, block: [kernel.threads(), 1, 1], shared_bytes };
        // SAFETY: the function takes `P` and reaches what the caller vouches for. Tensors that are let go after this are not
        // used again before what is on the stream has run.
        unsafe { code.launch(&launch, params) }.map_err(failed)
    }
}

/// The manifest of this build.
pub fn manifest() -> &'static Manifest {
    static READ: OnceLock<Manifest> = OnceLock::new();
    // A test reads the file; should it be wrong nevertheless, no kernel counts as verified.
    READ.get_or_init(|| Manifest::parse(TEXT, &every_kernel()).unwrap_or_default())
}

/// Whether a kernel passed its cases on a device of this architecture, in the text that this build has.
#[must_use]
pub fn verified(kernel: &Kernel, arch: Arch) -> bool {
    manifest().verifies([kernel], arch)
}

/// Names of the fused kernels that this process has put on a device.
#[must_use]
pub fn launched(device: usize) -> BTreeSet<String> {
    READY.names(device)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tch::Kind;

    use super::*;

    #[test]
    fn the_file_of_this_build_is_read_and_names_kernels_of_the_table() {
        let read = Manifest::parse(TEXT, &every_kernel()).unwrap();
        assert_eq!(&read, manifest());
        let names: HashSet<String> = every_kernel().iter().map(TableKernel::name).collect();
        assert!(read.entries().iter().all(|entry| names.contains(&entry.kernel)));
    }

    #[test]
    fn tensors_elsewhere_have_no_machine() {
        let tensor = Tensor::zeros([2], (Kind::Float, Device::Cpu));
        for wish in [Use::Verified, Use::Asked, Use::Never] {
            assert!(OnDevice::of(&tensor, &[], wish).is_none());
        }
    }
}
