//! The doors that tch leaves closed: libtorch's CUDA part opened at run time, and what was found.
//!
//! A program linked against libtorch's CPU part alone serves machines with and without a GPU: [`cuda::state`] opens the
//! CUDA part, once, and says in a type what came of it. [`libtorch`] says which libtorch is in use, from where, and what
//! the processor offers. [`optim`] calls libtorch's fused optimizer step, which tch does not bind.
//!
//! ```
//! use torch_ext::cuda::{self, CudaState};
//!
//! match cuda::state() {
//!     CudaState::Available { devices, .. } => println!("{devices} CUDA devices"),
//!     other => println!("no CUDA: {other}"),
//! }
//! ```

mod autograd;
pub mod cuda;
pub mod libtorch;
pub mod optim;

pub use autograd::grad_enabled;
