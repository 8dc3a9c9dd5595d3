//! The contract of every attention backend.
//!
//! - `conformance`: each backend of the build over the table of cases, under the error budget.
//! - `mutants`: known-wrong attention over the same table by the same judgement; each must be rejected.
//! - `gradients`: the reference against finite differences, libtorch's autograd against the reference.
//! - `on_tensors`: what backends owe beyond numbers: strides, errors, gradients refused.
//!
//! `support` holds the table, the inputs, the judgement and the plain attention that sets the budget.

// Everything here is a test, helpers included.
#![allow(clippy::unwrap_used)]

mod conformance;
mod gradients;
mod mutants;
#[cfg(feature = "torch")]
mod on_tensors;
mod support;
