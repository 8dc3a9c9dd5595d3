//! What a launch is told: one structure for every attention kernel, mirrored field by field in `cuda/params.cuh`.
//!
//! [`Params::of`] fills in what the problem decides. The launcher adds addresses and strides:
//!
//! | kernel | reads | writes |
//! |---|---|---|
//! | forward | `q`, `k`, `v` | `output`, `lse` |
//! | prepare | `output`, `lse`, `grad_output` | `delta`, `lse_log2` |
//! | keys | `q`, `k`, `v`, `grad_output`, `delta`, `lse_log2` | `dk`, `dv` |
//! | queries | the same | `dq` |
//! | rotate | `angles`, `q`, `k` | `q`, `k`, in place; one whose address is zero is left out |
//!
//! and for every problem with ALiBi `slopes` ([`slopes`]), with documents `starts` and `start_offsets` ([`documents`]).
//! An address that is not needed is zero. q, k, v, `output`, `grad_output`, `dq`, `dk` and `dv` are in the kernel's element
//! type with a contiguous last dimension; their addresses and the strides of every dimension with more than one entry are
//! multiples of 16 bytes (the launcher copies what is not). `lse`, `delta` and `lse_log2` are float32 and contiguous.

use crate::mask::Mask;
use crate::problem::AttnProblem;
use crate::shape::signed;

/// Largest length, offset, window or sink count that the kernels count with: sums of two of them still fit 32 bits.
pub const MAX_LENGTH: usize = 1 << 29;

/// Rows of `delta` and `lse_log2` are padded to a multiple of this.
pub const QUERY_PADDING: usize = 128;

/// Steps, in elements, from one batch row, head and position to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Strides {
    /// Between sequences.
    pub batch: i64,
    /// Between heads.
    pub head: i64,
    /// Between queries or keys.
    pub row: i64,
}

/// The only argument of every attention kernel, passed by value.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct Params {
    /// Device address of the queries, `[batch, query_heads, query_len, head_dim]`.
    pub q: u64,
    /// Of the keys, `[batch, key_heads, key_len, head_dim]`.
    pub k: u64,
    /// Of the values, in the keys' shape.
    pub v: u64,
    /// Of the output, in the queries' shape.
    pub output: u64,
    /// Of the log-sum-exp in nats, float32 `[batch, query_heads, query_len]`.
    pub lse: u64,
    /// Of the output's gradient, in the queries' shape.
    pub grad_output: u64,
    /// Of the queries' gradient.
    pub dq: u64,
    /// Of the keys' gradient.
    pub dk: u64,
    /// Of the values' gradient.
    pub dv: u64,
    /// Scratch: row sums of `grad_output * output`, float32 `[batch, query_heads, padded_query_len]`.
    pub delta: u64,
    /// Scratch in the same shape: log-sum-exp in powers of two; `+inf` for rows that see nothing and for the padding.
    pub lse_log2: u64,
    /// Scratch of the kernels that add to the queries' gradient in float32, zeroed before them:
    /// `[batch, query_heads, padded_query_len, head_dim]`.
    pub dq_sum: u64,
    /// ALiBi slopes, float32 `[query_heads]`; zero without ALiBi.
    pub slopes: u64,
    /// Starts of the documents of all sequences one after the other, int32; zero without documents.
    pub starts: u64,
    /// Where each sequence's starts begin in `starts`, and their count: int32 `[batch + 1]`; zero without documents.
    pub start_offsets: u64,
    /// Rotation: cosine and sine, times the attention factor if there is one, float32 `[positions, pairs, 2]`.
    pub angles: u64,
    /// Strides of `q`.
    pub q_strides: Strides,
    /// Strides of `k`.
    pub k_strides: Strides,
    /// Strides of `v`.
    pub v_strides: Strides,
    /// Strides of `output`.
    pub output_strides: Strides,
    /// Strides of `grad_output`.
    pub grad_output_strides: Strides,
    /// Strides of `dq`.
    pub dq_strides: Strides,
    /// Strides of `dk`.
    pub dk_strides: Strides,
    /// Strides of `dv`.
    pub dv_strides: Strides,
    /// Sequences.
    pub batch: i32,
    /// Heads of the queries.
    pub query_heads: i32,
    /// Heads of keys and values.
    pub key_heads: i32,
    /// Queries in a sequence.
    pub query_len: i32,
    /// Keys in a sequence.
    pub key_len: i32,
    /// Head size; at most the kernel's and a multiple of 8.
    pub head_dim: i32,
    /// 0 when every query sees every key, 1 when keys after the query's position are hidden.
    pub ordered: i32,
    /// Position of query 0 among the keys.
    pub offset: i32,
    /// Keys in the window, [`MAX_LENGTH`] without one.
    pub window: i32,
    /// Keys at the start that stay visible.
    pub sinks: i32,
    /// `query_len` rounded up to a multiple of [`QUERY_PADDING`].
    pub padded_query_len: i32,
    /// Rotation: 1 to rotate back.
    pub inverse: i32,
    /// Rotation: pairs of channels that turn, a multiple of 8.
    pub pairs: i32,
    /// Rotation: position of key 0; that of query 0 is `offset`.
    pub key_offset: i32,
    /// Factor on `q . k`.
    pub scale: f32,
    /// Soft cap; 0 without one.
    pub soft_cap: f32,
}

impl Params {
    /// Sizes, mask, scale and cap of a problem; addresses and strides zero. None if a number is beyond [`MAX_LENGTH`].
    #[must_use]
    pub fn of(problem: &AttnProblem) -> Option<Self> {
        let shape = problem.shape();
        let within = |length: usize| i32::try_from(length).ok().filter(|_| length <= MAX_LENGTH);
        // A window or sinks beyond every key act like as many as there may be.
        let capped = |count: usize| within(count.min(MAX_LENGTH));
        let offset = problem.query_offset();
        let (window, sinks) = match problem.mask() {
            Mask::Window { size, sinks, .. } => (*size, *sinks),
            _ => (MAX_LENGTH, 0),
        };
        Some(Self {
            batch: within(shape.batch)?,
            query_heads: within(shape.query_heads)?,
            key_heads: within(shape.key_heads)?,
            query_len: within(shape.query_len)?,
            key_len: within(shape.key_len)?,
            head_dim: within(shape.head_dim)?,
            ordered: i32::from(*problem.mask() != Mask::Full),
            offset: i32::try_from(offset).ok().filter(|_| offset.abs() <= signed(MAX_LENGTH))?,
            window: capped(window)?,
            sinks: capped(sinks)?,
            padded_query_len: within(shape.query_len.next_multiple_of(QUERY_PADDING))?,
            scale: problem.scale() as f32,
            soft_cap: problem.soft_cap().unwrap_or(0.0) as f32,
            ..Self::default()
        })
    }
}

/// What `slopes` holds for a problem with ALiBi.
#[must_use]
pub fn slopes(problem: &AttnProblem) -> Option<Vec<f32>> {
    problem.alibi().map(|alibi| alibi.slopes().iter().map(|&slope| slope as f32).collect())
}

/// What `starts` and `start_offsets` hold for a problem with documents.
#[must_use]
pub fn documents(problem: &AttnProblem) -> Option<(Vec<i32>, Vec<i32>)> {
    let Mask::Documents { starts, .. } = problem.mask() else { return None };
    let (mut all, mut offsets) = (Vec::new(), vec![0]);
    for row in 0..starts.rows() {
        // Starts are keys of the problem; Params::of has refused more keys than fit.
        all.extend(starts.row(row).iter().map(|&start| i32::try_from(start).unwrap_or(i32::MAX)));
        offsets.push(i32::try_from(all.len()).unwrap_or(i32::MAX));
    }
    Some((all, offsets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::DocumentStarts;
    use crate::shape::AttnShape;

    const SHAPE: AttnShape =
        AttnShape { batch: 2, query_heads: 4, key_heads: 2, query_len: 5, key_len: 9, head_dim: 64 };

    fn params(mask: Mask) -> Params {
        Params::of(&AttnProblem::new(SHAPE).unwrap().with_mask(mask).unwrap()).unwrap()
    }

    #[test]
    fn masks_become_order_window_and_sinks() {
        let full = params(Mask::Full);
        assert_eq!((full.ordered, full.offset, full.sinks), (0, 4, 0));
        let window = params(Mask::Window { size: 3, sinks: 2, offset: 1 });
        assert_eq!((window.ordered, window.offset, window.window, window.sinks), (1, 1, 3, 2));
        let wide = params(Mask::Window { size: usize::MAX, sinks: usize::MAX, offset: 0 });
        assert_eq!((wide.window, wide.sinks), (MAX_LENGTH as i32, MAX_LENGTH as i32));
        assert_eq!(full.padded_query_len, 128);
    }

    #[test]
    fn starts_of_all_rows_lie_one_after_the_other() {
        let starts = DocumentStarts::new(vec![vec![0, 3], vec![0, 1, 4]]).unwrap();
        let problem = AttnProblem::new(SHAPE).unwrap().with_mask(Mask::Documents { starts, offset: 4 }).unwrap();
        assert_eq!(documents(&problem), Some((vec![0, 3, 0, 1, 4], vec![0, 2, 5])));
    }

    #[test]
    fn lengths_beyond_32_bits_are_declined() {
        let shape = AttnShape { key_len: MAX_LENGTH + 1, ..SHAPE };
        assert_eq!(Params::of(&AttnProblem::new(shape).unwrap()), None);
    }

    #[test]
    fn the_structure_has_no_holes() {
        assert_eq!(size_of::<Params>(), 16 * 8 + 8 * 24 + 16 * 4);
    }
}
