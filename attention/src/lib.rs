//! Attention problems, an f64 reference, and the backends that are judged against it.
//!
//! An [`AttnProblem`] says what is asked: sizes (MHA, GQA, MQA; queries and keys of different lengths), scale, mask, ALiBi,
//! soft cap. [`mod@reference`] answers every problem in double precision and is never optimised. A [`Backend`], found by name,
//! answers the problems that it supports, and declines the others by a typed answer.
//!
//! ```
//! use attention::{AttnProblem, AttnShape, Mask, reference};
//! use ndarray::Array4;
//!
//! // One head, two tokens: under the causal mask the first sees itself alone.
//! let shape = AttnShape { batch: 1, query_heads: 1, key_heads: 1, query_len: 2, key_len: 2, head_dim: 1 };
//! let problem = AttnProblem::new(shape)?.with_mask(Mask::causal(&shape))?;
//! let tokens = |values| Array4::from_shape_vec(shape.query_dims(), values);
//! let (q, k, v) = (tokens(vec![1.0, 1.0])?, tokens(vec![0.0, 0.0])?, tokens(vec![3.0, 5.0])?);
//! let answer = reference::forward(&problem, q.view(), k.view(), v.view())?;
//! assert_eq!(answer.output, tokens(vec![3.0, 4.0])?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! With the feature `torch` (on by default) a backend works on libtorch tensors, and the backend `libtorch` is there.
//! Without it this crate needs no libtorch, and the problem types and the reference remain.

#[cfg(feature = "torch")]
pub mod autograd;
mod backend;
mod bias;
#[cfg(feature = "torch")]
mod choice;
#[cfg(feature = "torch")]
pub mod cuda;
#[cfg(feature = "torch")]
mod dense;
mod error;
#[cfg(feature = "torch")]
mod libtorch;
mod mask;
mod problem;
pub mod reference;
mod shape;
#[cfg(feature = "torch")]
mod tensors;
pub mod tiled;
pub mod workload;

#[cfg(feature = "torch")]
pub use backend::{Attended, Gradients};
pub use backend::{AttentionBackend, Backend};
pub use bias::{Alibi, AlibiError};
#[cfg(feature = "torch")]
pub use choice::{AUTO, Choice};
pub use error::{AttnError, DType, Feature, Unsupported};
#[cfg(feature = "torch")]
pub use libtorch::{LibTorch, LibTorchKernel};
pub use mask::{DocumentStarts, Mask, MaskError, RowMask, Tile};
pub use problem::{AttnProblem, ProblemError};
pub use shape::{AttnShape, ShapeError};
#[cfg(feature = "torch")]
pub use tensors::dtype_of;
