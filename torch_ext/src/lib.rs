//! The doors that tch leaves closed: custom autograd, libtorch's CUDA part opened at run time, and what was found.
//!
//! A program linked against libtorch's CPU part alone serves machines with and without a GPU: [`cuda::state`] opens the
//! CUDA part, once, and says in a type what came of it. [`libtorch`] says which libtorch is in use, from where, and what
//! the processor offers. [`optim`] calls libtorch's fused optimizer step, which tch does not bind. [`mod@autograd`] puts Rust
//! closures into libtorch's graph, [`mod@fused`] does in one pass over memory what training does between matrix products,
//! [`generator_state`] reads the random generators, [`fill_bernoulli`] draws beside them, [`memory`] counts what tensors hold,
//! [`host`] lends the numbers of a tensor as a slice, [`transfer`] copies tensors to host memory and back beside other work,
//! [`team`] runs work on the threads of libtorch's own kernels.
//!
//! ```
//! use torch_ext::cuda::{self, CudaState};
//!
//! match cuda::state() {
//!     CudaState::Available { devices, .. } => println!("{devices} CUDA devices"),
//!     other => println!("no CUDA: {other}"),
//! }
//! ```

pub mod autograd;
pub mod cuda;
pub mod fused;
mod generator;
pub mod host;
pub mod libtorch;
pub mod memory;
mod message;
pub mod optim;
mod poison;
pub mod team;
pub mod transfer;

pub use autograd::grad_enabled;
pub use generator::{fill_bernoulli, generator_state, set_generator_state};
pub use poison::PoisonedMemory;

/// Held by tests that read or move the random generator, which all tests of this binary share.
#[cfg(test)]
fn test_lock() -> std::sync::MutexGuard<'static, ()> {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
