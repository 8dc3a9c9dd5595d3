//! Plain attention in the precision of a case, which sets the error budget; and the same with a bug planted.
//!
//! Every intermediate is rounded to the element type (scores, probabilities, output) while sums run in float32: what a
//! straightforward program on tensors of that type does.

use attention::{AttnProblem, DType, RowMask};
use half::{bf16, f16};
use ndarray::{Array4, ArrayView1, ArrayView2, s};

use super::cases::Inputs;

#[cfg(feature = "torch")]
pub(crate) mod backward;

/// Keys in one tile of the tiled form.
const TILE: usize = 64;

/// Rounds to an element type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rounding(pub(crate) DType);

impl Rounding {
    pub(crate) fn round(self, x: f32) -> f32 {
        match self.0 {
            DType::F64 | DType::F32 => x,
            DType::BF16 => bf16::from_f32(x).to_f32(),
            DType::F16 => f16::from_f32(x).to_f32(),
        }
    }
}

/// What may be wrong with attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// The scale is 2 % too large.
    Scale,
    /// Queries see one key too far.
    MaskOffByOne,
    /// Query 0 stands at position 0 whatever the prefix.
    OffsetIgnored,
    /// Keys after the last whole tile are left out.
    RaggedTileDropped,
    /// Tiles are summed as if they had the same maximum.
    MaximumNotCarried,
    /// Scores are ignored.
    PlainMean,
    /// Nothing but NaN.
    AllNan,
    /// The largest element is 1 % off.
    OneElement,
    /// Query head h reads key head h mod key_heads.
    HeadsInterleaved,
    /// Every sequence of a batch has the documents of the first.
    FirstRowsDocuments,
    /// Sinks are forgotten.
    SinksForgotten,
    /// Every head has the first head's slope.
    FirstHeadsSlope,
    /// The cap is left out.
    CapIgnored,
    /// Rows that see nothing average the values.
    BlindRowsAverage,
    /// The slopes are left out.
    AlibiIgnored,
}

impl Bug {
    pub(crate) const ALL: [Self; 15] = [
        Self::Scale,
        Self::MaskOffByOne,
        Self::OffsetIgnored,
        Self::RaggedTileDropped,
        Self::MaximumNotCarried,
        Self::PlainMean,
        Self::AllNan,
        Self::OneElement,
        Self::HeadsInterleaved,
        Self::FirstRowsDocuments,
        Self::SinksForgotten,
        Self::FirstHeadsSlope,
        Self::CapIgnored,
        Self::BlindRowsAverage,
        Self::AlibiIgnored,
    ];
}

/// Attention of the inputs, with a bug or none.
pub(crate) fn forward(problem: &AttnProblem, inputs: &Inputs, rounding: Rounding, bug: Option<Bug>) -> Array4<f64> {
    let shape = problem.shape();
    let (q, k, v) = (single(&inputs.q), single(&inputs.k), single(&inputs.v));
    // Poisoned, so that an element that nobody writes is found.
    let mut output = Array4::from_elem(shape.query_dims(), f64::NAN);
    for batch in 0..shape.batch {
        for head in 0..shape.query_heads {
            let key_head = match bug {
                Some(Bug::HeadsInterleaved) => head % shape.key_heads,
                _ => shape.key_head_of(head),
            };
            let (keys, values) = (k.slice(s![batch, key_head, .., ..]), v.slice(s![batch, key_head, .., ..]));
            for query in 0..shape.query_len {
                let row = Row { problem, rounding, bug, batch, head, query };
                let scores = row.scores(q.slice(s![batch, head, query, ..]), keys);
                let out = row.output(&scores, values);
                let rounded = out.iter().map(|&x| f64::from(rounding.round(x)));
                output.slice_mut(s![batch, head, query, ..]).assign(&rounded.collect::<ndarray::Array1<f64>>());
            }
        }
    }
    if bug == Some(Bug::OneElement) {
        let largest = output.iter_mut().max_by(|a, b| a.abs().total_cmp(&b.abs()));
        *largest.expect("outputs are not empty") *= 1.01;
    }
    output
}

fn single(array: &Array4<f64>) -> Array4<f32> {
    array.mapv(|x| x as f32)
}

/// One sum from first to last, as written in a textbook: ndarray's own product sums in lanes, which errs less.
fn dot(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f32 {
    a.iter().zip(b).fold(0.0, |sum, (x, y)| sum + x * y)
}

/// One query of one head.
struct Row<'a> {
    problem: &'a AttnProblem,
    rounding: Rounding,
    bug: Option<Bug>,
    batch: usize,
    head: usize,
    query: usize,
}

impl Row<'_> {
    /// Scores, `-inf` where hidden.
    fn scores(&self, q: ArrayView1<'_, f32>, keys: ArrayView2<'_, f32>) -> Vec<f32> {
        let problem = self.problem;
        let scale = problem.scale() as f32 * if self.bug == Some(Bug::Scale) { 1.02 } else { 1.0 };
        let position = self.query as i64 + problem.query_offset();
        let score = |(key, k): (usize, ArrayView1<'_, f32>)| {
            if !self.visible(key) {
                return f32::NEG_INFINITY;
            }
            let mut score = self.rounding.round(dot(q, k) * scale);
            if let (Some(cap), true) = (problem.soft_cap(), self.bug != Some(Bug::CapIgnored)) {
                score = self.rounding.round(cap as f32 * (score / cap as f32).tanh());
            }
            if let (Some(alibi), true) = (problem.alibi(), self.bug != Some(Bug::AlibiIgnored)) {
                let head = if self.bug == Some(Bug::FirstHeadsSlope) { 0 } else { self.head };
                score = self.rounding.round(score + alibi.bias(head, position, key) as f32);
            }
            score
        };
        keys.rows().into_iter().enumerate().map(score).collect()
    }

    fn visible(&self, key: usize) -> bool {
        let shape = self.problem.shape();
        let mask = self.problem.mask().row(self.batch);
        match (self.bug, mask) {
            (Some(Bug::MaskOffByOne), _) => mask.visible(self.query + 1, key),
            (Some(Bug::RaggedTileDropped), _) if shape.key_len > TILE => {
                key < shape.key_len / TILE * TILE && mask.visible(self.query, key)
            }
            (Some(Bug::OffsetIgnored), _) => at_position_zero(mask).visible(self.query, key),
            (Some(Bug::FirstRowsDocuments), _) => self.problem.mask().row(0).visible(self.query, key),
            (Some(Bug::SinksForgotten), RowMask::Window { size, offset, .. }) => {
                RowMask::Window { size, sinks: 0, offset }.visible(self.query, key)
            }
            _ => mask.visible(self.query, key),
        }
    }

    /// Values weighted by the softmax of the scores, `[head_dim]`.
    fn output(&self, scores: &[f32], values: ArrayView2<'_, f32>) -> Vec<f32> {
        let head_dim = values.ncols();
        if self.bug == Some(Bug::AllNan) {
            return vec![f32::NAN; head_dim];
        }
        let blind = scores.iter().all(|&score| score == f32::NEG_INFINITY);
        let weights = match self.bug {
            Some(Bug::BlindRowsAverage) if blind => vec![1.0 / scores.len() as f32; scores.len()],
            _ if blind => vec![0.0; scores.len()],
            Some(Bug::PlainMean) => mean_weights(scores),
            Some(Bug::MaximumNotCarried) => weights(scores, TILE, self.rounding),
            _ => weights(scores, scores.len(), self.rounding),
        };
        let mut output = vec![0.0; head_dim];
        for (weight, value) in weights.iter().zip(values.rows()) {
            output.iter_mut().zip(value).for_each(|(out, v)| *out += weight * v);
        }
        output
    }
}

/// The mask as if there were no prefix.
fn at_position_zero(mask: RowMask<'_>) -> RowMask<'_> {
    match mask {
        RowMask::Full => mask,
        RowMask::Causal { .. } => RowMask::Causal { offset: 0 },
        RowMask::Window { size, sinks, .. } => RowMask::Window { size, sinks, offset: 0 },
        RowMask::Documents { starts, .. } => RowMask::Documents { starts, offset: 0 },
    }
}

/// The same for every visible key.
fn mean_weights(scores: &[f32]) -> Vec<f32> {
    let seen = scores.iter().filter(|&&score| score > f32::NEG_INFINITY).count() as f32;
    scores.iter().map(|&score| if score > f32::NEG_INFINITY { 1.0 / seen } else { 0.0 }).collect()
}

/// Softmax with a maximum for each `tile` of keys: right only when one tile holds them all.
fn weights(scores: &[f32], tile: usize, rounding: Rounding) -> Vec<f32> {
    let exponents = scores.chunks(tile).flat_map(|scores| {
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let finite = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
        scores.iter().map(move |score| (score - finite).exp())
    });
    let exponents: Vec<f32> = exponents.collect();
    let sum: f32 = exponents.iter().sum();
    exponents.iter().map(|e| rounding.round(e / sum)).collect()
}
