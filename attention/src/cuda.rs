//! CUDA kernels of our own: their table and what a launch is told.

pub mod kernels;
pub mod params;
