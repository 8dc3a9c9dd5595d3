//! Gradients of plain attention, everything between rounded to the element type; and the same with a bug planted.

use attention::AttnProblem;
use ndarray::{Array4, ArrayView1, ArrayView2, s};

use super::{Rounding, Row, TILE, dot, single, weights};
use crate::support::cases::Inputs;

/// What may be wrong with the gradients of attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// dq lacks the scale.
    ScaleMissingOnDq,
    /// dk has the scale twice.
    ScaleTwiceOnDk,
    /// `dS = P dP`: what normalisation takes away is left in.
    NormalisationDropped,
    /// `D` comes from the row before.
    NormalisationOfTheRowBefore,
    /// The cap's derivative is taken for one.
    CapDerivativeForgotten,
    /// The cap is left out of the scores that are computed anew.
    CapForgotten,
    /// ALiBi is left out of the scores that are computed anew.
    AlibiForgotten,
    /// dk and dv hold the last head of each group alone.
    GroupNotSummed,
    /// Query head h adds to key head h mod key_heads.
    HeadsInterleaved,
    /// The log-sum-exp is 2 % of a nat too large.
    LogSumExpOff,
    /// The log-sum-exp is taken for one to base 2.
    LogSumExpInBits,
    /// Hidden scores are computed anew as if one key further were seen.
    MaskOffByOne,
    /// Query 0 stands at position 0 whatever the prefix.
    OffsetIgnored,
    /// Keys after the last whole tile get no gradient.
    RaggedKeysDropped,
    /// Queries after the last whole tile give none.
    RaggedQueriesDropped,
    /// The probabilities of dv are not normalised.
    ValuesUnnormalised,
    /// Rows that see nothing count as if they saw everything alike.
    BlindRowsCount,
    /// Nothing but NaN.
    AllNan,
    /// The largest element of each is 2 % off.
    OneElement,
}

impl Bug {
    pub(crate) const ALL: [Self; 19] = [
        Self::ScaleMissingOnDq,
        Self::ScaleTwiceOnDk,
        Self::NormalisationDropped,
        Self::NormalisationOfTheRowBefore,
        Self::CapDerivativeForgotten,
        Self::CapForgotten,
        Self::AlibiForgotten,
        Self::GroupNotSummed,
        Self::HeadsInterleaved,
        Self::LogSumExpOff,
        Self::LogSumExpInBits,
        Self::MaskOffByOne,
        Self::OffsetIgnored,
        Self::RaggedKeysDropped,
        Self::RaggedQueriesDropped,
        Self::ValuesUnnormalised,
        Self::BlindRowsCount,
        Self::AllNan,
        Self::OneElement,
    ];

    /// What it does to the scores that are computed anew.
    fn of_scores(self) -> Option<super::Bug> {
        match self {
            Self::CapForgotten => Some(super::Bug::CapIgnored),
            Self::AlibiForgotten => Some(super::Bug::AlibiIgnored),
            Self::MaskOffByOne => Some(super::Bug::MaskOffByOne),
            Self::OffsetIgnored => Some(super::Bug::OffsetIgnored),
            _ => None,
        }
    }
}

/// Gradients by q, k and v, with a bug or none.
pub(crate) fn backward(
    problem: &AttnProblem,
    inputs: &Inputs,
    rounding: Rounding,
    bug: Option<Bug>,
) -> [Array4<f64>; 3] {
    let shape = problem.shape();
    let (q, k, v, d_out) = (single(&inputs.q), single(&inputs.k), single(&inputs.v), single(&inputs.grad_output));
    let mut dq = Array4::<f32>::zeros(shape.query_dims());
    let (mut dk, mut dv) = (Array4::<f32>::zeros(shape.key_dims()), Array4::<f32>::zeros(shape.key_dims()));
    let scale = problem.scale() as f32;
    for (batch, head) in (0..shape.batch).flat_map(|batch| (0..shape.query_heads).map(move |head| (batch, head))) {
        let key_head = shape.key_head_of(head);
        let (keys, values) = (k.slice(s![batch, key_head, .., ..]), v.slice(s![batch, key_head, .., ..]));
        let to_head = if bug == Some(Bug::HeadsInterleaved) { head % shape.key_heads } else { key_head };
        if bug == Some(Bug::GroupNotSummed) {
            dk.slice_mut(s![batch, to_head, .., ..]).fill(0.0);
            dv.slice_mut(s![batch, to_head, .., ..]).fill(0.0);
        }
        let mut d_before = 0.0;
        for query in 0..rows_counted(shape.query_len, bug) {
            let row = Row { problem, rounding, bug: bug.and_then(Bug::of_scores), batch, head, query };
            let (q_i, do_i) = (q.slice(s![batch, head, query, ..]), d_out.slice(s![batch, head, query, ..]));
            let Some(weights) = probabilities(&row, q_i, keys, bug) else { continue };
            let d_weights: Vec<f32> = values.rows().into_iter().map(|v_j| rounding.round(dot(do_i, v_j))).collect();
            let d_i: f32 = weights.iter().zip(&d_weights).map(|(w, dw)| w * dw).sum();
            let subtracted = match bug {
                Some(Bug::NormalisationDropped) => 0.0,
                Some(Bug::NormalisationOfTheRowBefore) => d_before,
                _ => d_i,
            };
            d_before = d_i;
            for key in 0..keys_counted(shape.key_len, bug) {
                let bend = bend(problem, q_i, keys.row(key), bug);
                let d_raw = rounding.round(weights[key] * (d_weights[key] - subtracted) * bend);
                let (on_q, on_k) = match bug {
                    Some(Bug::ScaleMissingOnDq) => (1.0, scale),
                    Some(Bug::ScaleTwiceOnDk) => (scale, scale * scale),
                    _ => (scale, scale),
                };
                let for_values = if bug == Some(Bug::ValuesUnnormalised) { 1.5 * weights[key] } else { weights[key] };
                dq.slice_mut(s![batch, head, query, ..]).scaled_add(d_raw * on_q, &keys.row(key));
                dk.slice_mut(s![batch, to_head, key, ..]).scaled_add(d_raw * on_k, &q_i);
                dv.slice_mut(s![batch, to_head, key, ..]).scaled_add(for_values, &do_i);
            }
        }
    }
    [dq, dk, dv].map(|grad| spoilt(grad.mapv(|x| f64::from(rounding.round(x))), bug))
}

/// The row's probabilities; none where it sees nothing.
fn probabilities(
    row: &Row<'_>,
    q: ArrayView1<'_, f32>,
    keys: ArrayView2<'_, f32>,
    bug: Option<Bug>,
) -> Option<Vec<f32>> {
    let scores = row.scores(q, keys);
    if scores.iter().all(|&score| score == f32::NEG_INFINITY) {
        return (bug == Some(Bug::BlindRowsCount)).then(|| vec![1.0 / scores.len() as f32; scores.len()]);
    }
    let right = weights(&scores, scores.len(), row.rounding);
    let factor = match bug {
        Some(Bug::LogSumExpOff) => (-0.02_f32).exp(),
        Some(Bug::LogSumExpInBits) => {
            let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let lse = most + scores.iter().map(|s| (s - most).exp()).sum::<f32>().ln();
            (lse - lse / std::f32::consts::LN_2).exp().min(100.0)
        }
        _ => return Some(right),
    };
    Some(right.into_iter().map(|weight| weight * factor).collect())
}

/// The cap's derivative.
fn bend(problem: &AttnProblem, q: ArrayView1<'_, f32>, k: ArrayView1<'_, f32>, bug: Option<Bug>) -> f32 {
    match (problem.soft_cap(), bug) {
        (None, _) | (_, Some(Bug::CapDerivativeForgotten)) => 1.0,
        (Some(cap), _) => {
            let bent = (dot(q, k) * problem.scale() as f32 / cap as f32).tanh();
            1.0 - bent * bent
        }
    }
}

fn rows_counted(queries: usize, bug: Option<Bug>) -> usize {
    if bug == Some(Bug::RaggedQueriesDropped) && queries > TILE { queries / TILE * TILE } else { queries }
}

fn keys_counted(keys: usize, bug: Option<Bug>) -> usize {
    if bug == Some(Bug::RaggedKeysDropped) && keys > TILE { keys / TILE * TILE } else { keys }
}

fn spoilt(mut grad: Array4<f64>, bug: Option<Bug>) -> Array4<f64> {
    match bug {
        Some(Bug::AllNan) => grad.fill(f64::NAN),
        Some(Bug::OneElement) => {
            let largest = grad.iter_mut().max_by(|a, b| a.abs().total_cmp(&b.abs()));
            *largest.expect("gradients are not empty") *= 1.02;
        }
        _ => {}
    }
    grad
}
