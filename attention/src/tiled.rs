//! Attention on CPUs in tiles: forward and backward over slices, nothing of the size of the scores.
//!
//! What is computed is what [`AttnProblem`] says, all of it, in float32 arithmetic whatever the element type. How:
//!
//! - **Tiles are transposed**, keys by queries. K and V are then left operands, whose elements are broadcast one by one from
//!   where they lie; queries are lanes of vectors, so that a row's maximum, sum and position never leave a register, and
//!   no reduction runs across lanes. Only blocks of Q (and dO) are packed, once a task.
//! - **One product** does it all: a register tile of 8 x 48 (AVX-512), 6 x 16 (AVX2) or 4 x 8 numbers, chosen at run time by
//!   [`Isa`]; [`forward_by`] and [`backward_by`] take another. Exponentials are a polynomial.
//! - **The mask decides what is visited**: runs of keys that a panel of queries cannot see are never touched, and a tile that
//!   everybody sees gets no masking. Ends of runs are cut to rows of the register tile, not to blocks.
//! - **Threads** are those of the current rayon pool; outside any pool they are those of libtorch's own kernels, which would
//!   otherwise spin beside the pool's. Tasks are blocks of queries, the heavy ones first. Results have the same bits on any
//!   number of threads: in the forward pass each query is one task's affair, in the backward pass tasks take turns at the
//!   gradients of each block of keys.
//! - **Memory** beyond inputs and outputs is a few hundred kilobytes for each thread; [`scratch_bytes`] counts it.
//!
//! ```
//! use attention::tiled::{self, View};
//! use attention::{AttnProblem, AttnShape, Mask};
//!
//! // One head, two tokens: under the causal mask the first sees itself alone.
//! let shape = AttnShape { batch: 1, query_heads: 1, key_heads: 1, query_len: 2, key_len: 2, head_dim: 1 };
//! let problem = AttnProblem::new(shape)?.with_mask(Mask::causal(&shape))?;
//! let (q, k, v) = ([1.0_f32, 1.0], [0.0, 0.0], [3.0, 5.0]);
//! let view = |data| View::contiguous(data, shape.query_dims());
//! let (mut output, mut lse) = ([0.0; 2], [0.0; 2]);
//! tiled::forward(&problem, view(&q), view(&k), view(&v), &mut output, &mut lse)?;
//! assert_eq!(output, [3.0, 4.0]);
//! assert_eq!(lse, [0.0, 2.0_f32.ln()]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "torch")]
mod backend;
mod backward;
mod element;
mod forward;
pub mod linear;
mod pair;
mod plan;
pub mod rows;
mod scoring;
mod simd;
mod span;
mod turns;
mod view;
mod workers;

use std::time::Duration;

#[cfg(feature = "torch")]
pub use backend::Tiled;
pub use element::Element;
pub use simd::Isa;
pub use view::View;
pub use workers::for_each;

use crate::error::{DType, Feature, Unsupported};
use crate::problem::AttnProblem;

/// Name of the backend.
pub const NAME: &str = "tiled";

/// Largest head size.
pub const MAX_HEAD_DIM: usize = 256;

/// Why the tiled kernels gave no answer.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TiledError {
    /// They do not take the problem.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// A slice ends before its tensor does.
    #[error("{tensor} needs {} elements, its slice has {found}", needed.map_or("too many".to_owned(), |n| n.to_string()))]
    TooShort {
        /// `q`, `k`, `v`, `output`, ...
        tensor: &'static str,
        /// Elements from the first to the last; none when that overflows.
        needed: Option<usize>,
        /// Elements in the slice.
        found: usize,
    },
    /// A slice to be written has another size than its tensor.
    #[error("{tensor} has {expected} elements, its slice has {found}")]
    Size {
        /// `output`, `lse`, `dq`, ...
        tensor: &'static str,
        /// By the problem.
        expected: usize,
        /// Elements in the slice.
        found: usize,
    },
    /// The processor lacks the instruction set asked for.
    #[error("this processor does not have {isa}")]
    MissingIsa {
        /// The set.
        isa: Isa,
    },
}

/// Whether the kernels take a problem: head sizes up to [`MAX_HEAD_DIM`], every type but float64.
///
/// # Errors
///
/// [`Unsupported`], naming the head size or the type.
pub fn supports(problem: &AttnProblem, dtype: DType) -> Result<(), Unsupported> {
    let declined = |feature| Err(Unsupported { backend: NAME, feature });
    match problem.shape().head_dim {
        _ if dtype == DType::F64 => declined(Feature::DType(dtype)),
        head_dim if head_dim > MAX_HEAD_DIM => declined(Feature::HeadDim(head_dim)),
        _ => Ok(()),
    }
}

/// Output and log-sum-exp, by the best instruction set of this processor, on threads as the module says.
///
/// `output` is `[batch, query_heads, query_len, head_dim]` and `lse`, in nats, `[batch, query_heads, query_len]`, both
/// contiguous; every element is written. A query that sees nothing gets zeros and `-inf`.
///
/// # Errors
///
/// [`TiledError`] when the problem is not supported or a slice does not fit it.
pub fn forward<T: Element>(
    problem: &AttnProblem,
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    output: &mut [T],
    lse: &mut [f32],
) -> Result<(), TiledError> {
    forward_by(Isa::best(), problem, q, k, v, output, lse)
}

/// [`forward()`] by a given instruction set.
///
/// # Errors
///
/// As [`forward()`], and [`TiledError::MissingIsa`].
pub fn forward_by<T: Element>(
    isa: Isa,
    problem: &AttnProblem,
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    output: &mut [T],
    lse: &mut [f32],
) -> Result<(), TiledError> {
    check_inputs(problem, q, k, v)?;
    let queries = problem.shape().query_dims();
    check_size("output", output.len(), queries.iter().product())?;
    check_size("lse", lse.len(), queries[..3].iter().product())?;
    let work = forward::Forward { problem, q, k, v, output, lse };
    T::forward(isa, work).ok_or(TiledError::MissingIsa { isa })
}

/// Gradients of `sum(output * grad_output)`, by the best instruction set of this processor, on threads as the module says;
/// the same bits whatever their number.
///
/// `output` and `lse` are those of [`forward()`]. `dq` has the shape of q, `dk` and `dv` have that of k, contiguous; every
/// element is written.
///
/// # Errors
///
/// [`TiledError`] when the problem is not supported or a slice does not fit it.
#[allow(clippy::too_many_arguments)] // Six tensors in and three out are what a backward pass is.
pub fn backward<T: Element>(
    problem: &AttnProblem,
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    output: View<'_, T>,
    lse: &[f32],
    grad_output: View<'_, T>,
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
) -> Result<(), TiledError> {
    backward_by(Isa::best(), problem, q, k, v, output, lse, grad_output, dq, dk, dv)
}

/// [`backward()`] by a given instruction set.
///
/// # Errors
///
/// As [`backward()`], and [`TiledError::MissingIsa`].
#[allow(clippy::too_many_arguments)]
pub fn backward_by<T: Element>(
    isa: Isa,
    problem: &AttnProblem,
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    output: View<'_, T>,
    lse: &[f32],
    grad_output: View<'_, T>,
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
) -> Result<(), TiledError> {
    check_inputs(problem, q, k, v)?;
    let (queries, keys) = (problem.shape().query_dims(), problem.shape().key_dims());
    output.check("output", queries)?;
    grad_output.check("grad_output", queries)?;
    check_size("lse", lse.len(), queries[..3].iter().product())?;
    for (tensor, found, dims) in [("dq", dq.len(), queries), ("dk", dk.len(), keys), ("dv", dv.len(), keys)] {
        check_size(tensor, found, dims.iter().product())?;
    }
    let work = backward::Backward { problem, q, k, v, output, lse, grad_output, dq, dk, dv };
    T::backward(isa, work).ok_or(TiledError::MissingIsa { isa })
}

/// Memory beyond inputs and outputs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scratch {
    /// Of a forward pass.
    pub forward: usize,
    /// Of a backward pass.
    pub backward: usize,
}

/// What `threads` threads allocate for a problem by the best instruction set: their panels and tiles, and the lists of
/// blocks and tasks.
#[must_use]
pub fn scratch_bytes(problem: &AttnProblem, dtype: DType, threads: usize) -> Scratch {
    let shape = *problem.shape();
    let measured =
        simd::dispatch(Isa::best(), plan::Measure { shape, dtype, threads, capped: problem.soft_cap().is_some() });
    // The best set is one that this processor has.
    measured.unwrap_or(Scratch { forward: 0, backward: 0 })
}

/// GFLOP/s that fused multiply-adds alone reach on this thread by an instruction set, the best of some 20 ms; zero where the
/// processor lacks it.
#[must_use]
pub fn fma_peak_gflops(isa: Isa) -> f64 {
    simd::peak::of_this_thread(isa, Duration::from_millis(20))
}

fn check_inputs<T: Element>(
    problem: &AttnProblem,
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
) -> Result<(), TiledError> {
    supports(problem, T::DTYPE)?;
    q.check("q", problem.shape().query_dims())?;
    k.check("k", problem.shape().key_dims())?;
    v.check("v", problem.shape().key_dims())
}

fn check_size(tensor: &'static str, found: usize, expected: usize) -> Result<(), TiledError> {
    if found == expected { Ok(()) } else { Err(TiledError::Size { tensor, expected, found }) }
}
