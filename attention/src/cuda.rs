//! CUDA kernels of our own: attention forward and backward for every mask, ALiBi and the soft cap, in bfloat16, float16 and
//! float32.
//!
//! [`kernels`] is the table of kernels with their text, [`params`] what a launch is told.
//! The backend `cuda` compiles a kernel for the device found, which takes a second once and is kept on disk, and puts it on
//! libtorch's own stream. [`verified`] says whether the kernels of a problem have passed the case table on a device of an
//! architecture: others run only when they are asked for by name, with a warning. [`rotate()`] is the rotary embedding of a
//! tensor in place, and [`rotation_verified`] says the same of it.
//!
//! Kernels come in two generations: one for every device from sm_80 on, and [`hopper`] for sm_90a alone. `cuda` takes the
//! second where it is verified; the backend `hopper` takes it by name.

pub mod hopper;
pub mod kernels;
pub mod params;

mod backend;
mod constants;
mod ready;
mod rotate;

pub(crate) use backend::{Cuda, UNORDERED_NAME};
pub use backend::{backend_of, kernels_of};
pub use ready::{every_kernel, launched, manifest, verified, verified_of};
pub use rotate::{RotateError, rotate, rotation_params, rotation_verified};
