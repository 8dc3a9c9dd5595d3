//! What training does between matrix products, each in one pass over memory: norms, SwiGLU, cross-entropy, AdamW.
//!
//! On CUDA by kernels of our own (`torch_ext/kernels`) where they are verified for the device or asked for ([`Use`]); by
//! libtorch's operations everywhere else. [`rms_norm`], [`layer_norm`] and [`swiglu()`] are nodes of libtorch's graph; the
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

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::autograd::AutogradError;
use crate::cuda::CudaError;

/// The answer; where there is none, that is told on standard error, once for each reason, and whoever asked goes another way.
pub fn told<T>(answer: Result<T, FusedError>) -> Option<T> {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let error = match answer {
        Ok(answer) => return Some(answer),
        Err(error) => error.to_string(),
    };
    if TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(error.clone()) {
        eprintln!("warning: {error}; libtorch's operations do it");
    }
    None
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_passes_and_a_failure_is_none() {
        assert_eq!(told(Ok::<_, FusedError>(3)), Some(3));
        let broken = || FusedError::Broken { operation: "a test of ours", reason: "told once".to_owned() };
        assert_eq!([told::<i32>(Err(broken())), told(Err(broken()))], [None, None]);
    }
}
