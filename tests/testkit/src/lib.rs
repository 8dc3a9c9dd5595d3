//! Comparison classes, seeded data and the host twin of the CUDA kernels, shared by the tests.
//!
//! ```
//! use testkit::{Class, SplitMix64, assert_same};
//!
//! let mut random = SplitMix64::new(7);
//! let data: Vec<f64> = (0..4).map(|_| random.normal()).collect();
//! assert_same(&data, &data, Class::Exact);
//! ```

mod compare;
mod random;
pub mod twin;

pub use compare::{Class, Mismatch, Real, assert_same, same};
pub use random::SplitMix64;
