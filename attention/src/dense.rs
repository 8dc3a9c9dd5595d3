//! Masks and biases as dense tensors, for libtorch, which knows no other form.
//!
//! Built on the device from positions, in float32 (float64 for float64 problems), since bfloat16 cannot even count to
//! 257. What was built last is kept: the layers of a model ask for the same one in turn.

use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, TchError, Tensor};

use crate::mask::{DocumentStarts, Mask, Tile};
use crate::problem::AttnProblem;
use crate::shape::{MAX_LENGTH, signed};

/// Largest bias that is kept for the next call, in bytes.
const KEEP_BYTES: usize = 64 << 20;

/// What libtorch is given beside q, k and v.
#[derive(Debug)]
pub(crate) struct Dense {
    /// Added to the scores: `[batch or 1, query_heads or 1, query_len, key_len]`, `-inf` where the mask hides. Blind rows
    /// hold no `-inf`, since softmax over nothing is NaN in some kernels or their gradients.
    pub(crate) bias: Option<Tensor>,
    /// False for rows that see nothing, `[batch or 1, 1, query_len, 1]`; none when every row sees something.
    pub(crate) sighted: Option<Tensor>,
}

/// Everything that decides a [`Dense`].
#[derive(Debug, PartialEq)]
struct Key {
    mask: Mask,
    alibi: Option<crate::Alibi>,
    query_offset: i64,
    lengths: [usize; 2],
    device: Device,
    kind: Kind,
}

/// The last bias.
static LAST: Mutex<Option<(Key, Dense)>> = Mutex::new(None);

impl Dense {
    /// For a problem, with the bias in `kind`; from the last call where that asked for the same.
    pub(crate) fn of(problem: &AttnProblem, device: Device, kind: Kind) -> Result<Self, TchError> {
        let shape = problem.shape();
        let key = Key {
            mask: problem.mask().clone(),
            alibi: problem.alibi().cloned(),
            query_offset: problem.query_offset(),
            lengths: [shape.query_len, shape.key_len],
            device,
            kind,
        };
        // A panic elsewhere cannot leave half an entry behind: entries are replaced whole.
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((found, dense)) = last.as_ref()
            && *found == key
        {
            return Ok(dense.shared());
        }
        *last = None;
        let dense = tch::no_grad(|| Self::build(problem, device, kind))?;
        let bytes = dense.bias.as_ref().map_or(0, |bias| bias.numel() * kind.elt_size_in_bytes());
        if bytes <= KEEP_BYTES {
            *last = Some((key, dense.shared()));
        }
        Ok(dense)
    }

    fn build(problem: &AttnProblem, device: Device, kind: Kind) -> Result<Self, TchError> {
        let sighted = sighted(problem, device)?;
        let hidden = hidden(problem, device, sighted.as_ref())?;
        let work = if kind == Kind::Double { Kind::Double } else { Kind::Float };
        let bias = match (alibi(problem, device, work)?, hidden) {
            (Some(bias), Some(hidden)) => Some(bias.f_masked_fill(&hidden, f64::NEG_INFINITY)?),
            (Some(bias), None) => Some(bias),
            (None, Some(hidden)) => {
                Some(hidden.f_zeros_like()?.f_to_kind(work)?.f_masked_fill(&hidden, f64::NEG_INFINITY)?)
            }
            (None, None) => None,
        };
        Ok(Self { bias: bias.map(|bias| bias.f_to_kind(kind)).transpose()?, sighted })
    }

    /// The same storage under another handle.
    fn shared(&self) -> Self {
        let share = |tensor: &Option<Tensor>| tensor.as_ref().map(Tensor::shallow_clone);
        Self { bias: share(&self.bias), sighted: share(&self.sighted) }
    }
}

/// Sequences whose masks must be told apart.
fn rows(problem: &AttnProblem) -> usize {
    if problem.mask().varies_by_row() { problem.shape().batch } else { 1 }
}

/// Positions of the queries, `[query_len, 1]`, as integers.
fn query_positions(problem: &AttnProblem, device: Device) -> Result<Tensor, TchError> {
    let (first, len) = (problem.query_offset(), signed(problem.shape().query_len));
    Tensor::f_arange_start(first, first + len, (Kind::Int64, device))?.f_unsqueeze(1)
}

/// Positions of the keys, `[key_len]`, as integers.
fn key_positions(problem: &AttnProblem, device: Device) -> Result<Tensor, TchError> {
    Tensor::f_arange(signed(problem.shape().key_len), (Kind::Int64, device))
}

/// Whether each row sees anything, `[rows, 1, query_len, 1]`; none when all do.
fn sighted(problem: &AttnProblem, device: Device) -> Result<Option<Tensor>, TchError> {
    let (rows, len) = (rows(problem), problem.shape().query_len);
    let sees = (0..rows).flat_map(|row| (0..len).map(move |query| !problem.is_blind(row, query)));
    let sees: Vec<bool> = sees.collect();
    if !sees.contains(&false) {
        return Ok(None);
    }
    let tensor = Tensor::f_from_slice(&sees)?.f_reshape([signed(rows), 1, signed(len), 1])?;
    tensor.f_to_device(device).map(Some)
}

/// Pairs to hide, `[rows, 1, query_len, key_len]`; none when nothing is. Blind rows are left open.
fn hidden(problem: &AttnProblem, device: Device, sighted: Option<&Tensor>) -> Result<Option<Tensor>, TchError> {
    if problem.visibility() == Tile::All {
        return Ok(None);
    }
    let (queries, keys) = (query_positions(problem, device)?, key_positions(problem, device)?);
    let future = keys.f_gt_tensor(&queries)?; // [query_len, key_len]
    let hidden = match problem.mask() {
        Mask::Full => return Ok(None),
        Mask::Causal { .. } => future,
        Mask::Window { size, sinks, .. } => {
            // A window beyond every length hides nothing to the left; clamped, it cannot overflow.
            let left = keys.f_le_tensor(&queries.f_sub_scalar(signed(*size.min(&MAX_LENGTH)))?)?;
            future.f_logical_or(&left.f_logical_and(&keys.f_ge(signed(*sinks))?)?)?
        }
        Mask::Documents { starts, .. } => {
            let of_keys = document_numbers(starts, 0, problem.shape().key_len, device)?;
            let of_queries = document_numbers(starts, problem.query_offset(), problem.shape().query_len, device)?;
            let other = of_queries.f_unsqueeze(3)?.f_ne_tensor(&of_keys.f_unsqueeze(2)?)?;
            other.f_logical_or(&future)?
        }
    };
    let dims = [-1, 1, signed(problem.shape().query_len), signed(problem.shape().key_len)];
    let hidden = hidden.f_reshape(dims)?;
    match sighted {
        Some(sighted) => hidden.f_logical_and(sighted).map(Some),
        None => Ok(Some(hidden)),
    }
}

/// Number of the document at each of `len` positions from `first`, `[rows, 1, len]`.
fn document_numbers(starts: &DocumentStarts, first: i64, len: usize, device: Device) -> Result<Tensor, TchError> {
    let positions = move || (0..signed(len)).map(move |i| first + i);
    let number = |row: usize, position: i64| signed(starts.row(row).partition_point(|&s| signed(s) <= position));
    let numbers: Vec<i64> =
        (0..starts.rows()).flat_map(|row| positions().map(move |position| number(row, position))).collect();
    Tensor::f_from_slice(&numbers)?.f_reshape([signed(starts.rows()), 1, signed(len)])?.f_to_device(device)
}

/// `-slope * distance`, `[1, query_heads, query_len, key_len]`.
fn alibi(problem: &AttnProblem, device: Device, kind: Kind) -> Result<Option<Tensor>, TchError> {
    let Some(alibi) = problem.alibi() else { return Ok(None) };
    let (queries, keys) = (query_positions(problem, device)?, key_positions(problem, device)?);
    let distance = queries.f_sub(&keys)?.f_abs()?.f_to_kind(kind)?; // [query_len, key_len]
    let slopes = Tensor::f_from_slice(alibi.slopes())?.f_to_kind(kind)?.f_to_device(device)?;
    slopes.f_neg()?.f_view([1, -1, 1, 1])?.f_mul(&distance).map(Some)
}
