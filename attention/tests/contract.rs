//! The contract of every attention backend.
//!
//! - `conformance`: each backend of the build over the table of cases, under the error budget.
//! - `mutants`: known-wrong attention over the same table by the same judgement; each must be rejected.
//! - `gradients`: the reference against finite differences, libtorch's graph over it and over libtorch against it.
//! - `backward`: the gradients of each backend over the table, against the reference, libtorch and its own differences;
//!   known-wrong gradients by the same judgement.
//! - `on_cuda`: every CUDA kernel where there is a device; what passed becomes entries of the manifest.
//! - `twin_*`: the text of the CUDA kernels, run lane by lane on the CPU, under the same judgement; bugs planted in it.
//! - `on_tensors`: what backends owe beyond numbers: strides, errors, the same bits twice, results all written.
//! - `tiled_forward`, `tiled_backward`, `tiled_promises`: the CPU kernels over slices, by every instruction set.
//!
//! `support` holds the table, the inputs, the judgement and the plain attention that sets the budget.

// Everything here is a test, helpers included.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "torch")]
mod backward;
mod conformance;
mod gradients;
mod mutants;
#[cfg(feature = "torch")]
mod on_cuda;
#[cfg(feature = "torch")]
mod on_tensors;
mod support;
mod tiled_backward;
mod tiled_forward;
mod tiled_promises;
#[cfg(feature = "torch")]
mod twin_attention;
#[cfg(feature = "torch")]
mod twin_hopper;
#[cfg(feature = "torch")]
mod twin_hopper_primitives;
#[cfg(feature = "torch")]
mod twin_machine;
#[cfg(feature = "torch")]
mod twin_mutants;
#[cfg(feature = "torch")]
mod twin_primitives;
#[cfg(feature = "torch")]
mod twin_problem;
#[cfg(feature = "torch")]
mod twin_rotation;
