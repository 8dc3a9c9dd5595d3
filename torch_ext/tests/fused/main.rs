//! The fused kernels, judged.
//!
//! - `cases`: the table of cases, their inputs, and the kernels that each needs.
//! - `reference`: every operation in f64, number by number.
//! - `budget`: the judgement, at most twice the error of plain arithmetic in the same precision plus the answer's rounding.
//! - `twin`: a machine that runs the kernels' own text on the CPU, lane by lane.
//! - `on_twin`: the table by the twin, gradients through libtorch's graph, any order of lanes.
//! - `adamw`: steps of the optimizer, which must leave the very bits of the CPU's.
//! - `mutants`: bugs planted in kernel text; each must be rejected.
//! - `on_device`: every kernel where there is a device; what passed becomes entries of the manifest.

// Everything here is a test, helpers included.
#![allow(clippy::unwrap_used)]

mod adamw;
mod budget;
mod cases;
mod mutants;
mod on_device;
mod on_twin;
mod reference;
mod twin;
