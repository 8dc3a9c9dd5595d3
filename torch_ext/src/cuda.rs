//! CUDA: whether there is any, and where from; and kernels of our own, compiled, kept and run.
//!
//! [`state`] opens libtorch's CUDA part. The rest is for kernels that libtorch does not have: [`KernelSource`] is compiled by
//! [`Nvrtc`] for an [`Arch`], which needs no device, the code is kept in a [`Cache`], and a [`Device`] loads and runs it
//! where libtorch computes. A [`TableKernel`] says what a table of kernels knows of one, and a [`Manifest`] which of them passed
//! their cases on a device. Nothing here is linked: what is not there is an answer with a reason.

use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

mod arch;
mod cache;
mod compile;
mod device;
mod error;
mod launch;
mod load;
mod manifest;
mod nvrtc;
mod ptxas;
mod sass;
mod table;
mod tally;
mod tensor_map;

pub use arch::{Arch, ArchError, Capability};
pub use cache::{CACHE_VARIABLE, Cache, Key};
pub use compile::{Compiled, KernelSource};
pub use device::Device;
pub use error::CudaError;
pub use launch::{Kernel, Launch};
pub use manifest::{Manifest, ManifestError, Verified};
pub use nvrtc::{NVRTC_VARIABLE, Nvrtc};
pub use ptxas::{FunctionReport, PtxasReport};
pub use sass::{Instruction, instructions, special_under_way};
pub use table::{HOPPER_PRIMITIVES, PRIMITIVES, Ready, TableKernel, compiled, source_hash, source_of};
pub use tally::Tally;
pub use tensor_map::{MapElement, TiledTensor};

/// The variable that names libtorch's CUDA library, or the folder that holds it.
pub const LIBRARY_VARIABLE: &str = "BOWLINE_LIBTORCH_CUDA";

/// What came of looking for CUDA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaState {
    /// libtorch can compute on CUDA devices.
    Available {
        /// Devices that it sees; at least one.
        devices: usize,
        /// Its CUDA part.
        library: PathBuf,
    },
    /// libtorch's CUDA part is in none of the places.
    NoLibrary {
        /// Where it was looked for, in order.
        searched: Vec<PathBuf>,
    },
    /// The CUDA part is there and could not be opened.
    LoadFailed {
        /// The file.
        library: PathBuf,
        /// In the loader's words.
        reason: String,
    },
    /// The CUDA part works and sees no device.
    NoDevice {
        /// Its file.
        library: PathBuf,
        /// In the driver's words, if it gave any.
        reason: Option<String>,
    },
}

impl CudaState {
    /// Whether tensors can be put on `cuda:0`.
    #[must_use]
    pub fn is_available(&self) -> bool {
        matches!(self, Self::Available { .. })
    }

    /// Devices to choose from; zero unless available.
    #[must_use]
    pub fn devices(&self) -> usize {
        match self {
            Self::Available { devices, .. } => *devices,
            _ => 0,
        }
    }
}

impl fmt::Display for CudaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Available { devices: 1, library } => write!(f, "1 CUDA device, by {}", library.display()),
            Self::Available { devices, library } => write!(f, "{devices} CUDA devices, by {}", library.display()),
            Self::NoLibrary { searched } if searched.is_empty() => {
                f.write_str("libtorch's CUDA part was not found: there was no folder to look in")
            }
            Self::NoLibrary { searched } => {
                let places: Vec<String> = searched.iter().map(|path| path.display().to_string()).collect();
                write!(f, "libtorch's CUDA part was not found; looked for {}", places.join(", "))
            }
            Self::LoadFailed { library, reason } => {
                write!(f, "libtorch's CUDA part was found at {} but could not be opened: {reason}", library.display())
            }
            Self::NoDevice { library, reason } => {
                write!(f, "libtorch's CUDA part at {} sees no CUDA device", library.display())?;
                reason.as_ref().map_or(Ok(()), |reason| write!(f, ": {reason}"))
            }
        }
    }
}

/// Opens libtorch's CUDA part on the first call and remembers the answer for the life of the process.
///
/// Call it before anything else asks libtorch about CUDA (`tch::Device::cuda_if_available`, for one): libtorch settles
/// the question the first time it is put. The library is looked for where [`LIBRARY_VARIABLE`] points, or else beside
/// `libtorch_cpu.so` as it was linked, beside the file that this link leads to, and in `$LIBTORCH/lib`.
pub fn state() -> &'static CudaState {
    static STATE: OnceLock<CudaState> = OnceLock::new();
    STATE.get_or_init(load::load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_does_not_change_and_agrees_with_libtorch() {
        let first = state();
        println!("{first}");
        assert_eq!(first, state());
        assert_eq!(first.is_available(), tch::Cuda::is_available(), "{first}");
        assert_eq!(first.devices() > 0, first.is_available());
    }

    #[test]
    fn a_failed_load_is_one_sentence_with_file_and_reason() {
        let (library, reason) =
            (PathBuf::from("/opt/torch/lib/libtorch_cuda.so"), "libcudnn.so.9 is missing".to_owned());
        let message = CudaState::LoadFailed { library, reason }.to_string();
        let expected = "libtorch's CUDA part was found at /opt/torch/lib/libtorch_cuda.so but could not be opened: \
                        libcudnn.so.9 is missing";
        assert_eq!(message, expected);
    }

    #[test]
    fn every_place_searched_is_named() {
        let searched = vec![PathBuf::from("/a/libtorch_cuda.so"), PathBuf::from("/b/libtorch_cuda.so")];
        let message = CudaState::NoLibrary { searched }.to_string();
        assert!(message.ends_with("looked for /a/libtorch_cuda.so, /b/libtorch_cuda.so"), "{message}");
    }
}
