//! What training does between matrix products, each in one pass over memory: norms, SwiGLU, cross-entropy, AdamW.
//!
//! On CUDA by kernels of our own (`torch_ext/kernels`) where they are verified for the device or asked for ([`Use`]); by
//! libtorch's operations everywhere else. [`rms_norm`], [`layer_norm`] and [`swiglu`] are nodes of libtorch's graph; the
//! modules below are the kernels themselves, for whoever has a graph of his own. [`kernel`] is the table of kernels, and a
//! [`Machine`] runs them: a CUDA device, or the host twin of the tests.

pub mod adamw;
pub mod cross_entropy;
pub mod kernel;
mod machine;
pub mod norm;
mod operations;
pub mod swiglu;
mod tensors;

pub use kernel::every_kernel;
pub use machine::{Machine, OnDevice, Parameters, Use, launched, manifest, verified};
pub use norm::Norm;
pub use operations::{Residual, layer_norm, norm_on, rms_norm, swiglu, swiglu_on};

use crate::autograd::AutogradError;
use crate::cuda::CudaError;

/// Why a fused operation did not take place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FusedError {
    /// Tensors that the operation does not take; nothing was written.
    #[error("{operation} {reason}")]
    Unfit {
        /// Which.
        operation: &'static str,
        /// What is wrong with them, as the rest of a sentence.
        reason: String,
    },
    /// A kernel could not be compiled or started.
    #[error("{operation} could not run on CUDA: {source}")]
    Cuda {
        /// Which.
        operation: &'static str,
        /// What stood in the way.
        source: CudaError,
    },
    /// Another [`Machine`] broke off.
    #[error("{operation} broke off: {reason}")]
    Broken {
        /// Which.
        operation: &'static str,
        /// In its words.
        reason: String,
    },
    /// libtorch refused or failed (out of memory, for one).
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// A graph could not be told that a parameter has changed.
    #[error(transparent)]
    Optim(#[from] crate::optim::OptimError),
    /// libtorch's graph could not take the gradients.
    #[error(transparent)]
    Autograd(#[from] AutogradError),
}
