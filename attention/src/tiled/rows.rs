//! What stands between attention and the matrix products of a block, by the same vectors: RMSNorm, SwiGLU and the softmax
//! of a loss over rows of float32 in main memory, forward and backward, one call for what libtorch takes several passes for.
//!
//! Rows are shared out among the threads of the current rayon pool in pieces whose size does not depend on their number, so
//! that sums over rows have the same bits on any of them.
//!
//! ```
//! use attention::tiled::rows;
//!
//! let (x, mut out) = ([3.0_f32, 4.0], [0.0; 2]);
//! rows::rms_norm(&x, &[1.0, 2.0], 0.0, &mut out);
//! let root = 12.5_f32.sqrt();
//! assert!((out[0] - 3.0 / root).abs() < 1e-6 && (out[1] - 8.0 / root).abs() < 1e-6);
//! ```

use rayon::prelude::*;

use super::simd::rows::{LogSumExp, RmsNorm, RmsNormBack, SoftmaxTimes, SwiGlu, SwiGluBack};
use super::simd::{Isa, Simd, Work, dispatch};

/// Numbers of one piece: enough work for a thread to be woken, and a level 2 cache's worth of a few such slices.
const PIECE: usize = 1 << 15;

/// Work compiled with the instructions that it runs on.
struct Compiled<W>(W);

impl<W: Work> Work for Compiled<W> {
    type Answer = W::Answer;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> W::Answer {
        simd.operate(self.0)
    }
}

/// Runs work with the widest instructions of this processor.
fn with_best<W: Work>(work: W) -> W::Answer {
    dispatch(Isa::best(), Compiled(work)).expect("the best set is one that this processor has")
}

/// Rows of one piece, at least one.
fn piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

fn check(name: &str, found: usize, expected: usize) {
    assert!(found == expected, "{name} holds {found} numbers, not {expected}");
}

/// `out = weight * x / sqrt(mean(x^2) + epsilon)` (Zhang and Sennrich 2019) for rows of as many numbers as there are
/// weights.
///
/// # Panics
///
/// When lengths do not fit.
pub fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    check("out", out.len(), x.len());
    assert!(!weight.is_empty() && x.len().is_multiple_of(weight.len()), "whole rows");
    let size = piece(weight.len()) * weight.len();
    x.par_chunks(size)
        .zip(out.par_chunks_mut(size))
        .for_each(|(x, out)| with_best(RmsNorm { x, weight, epsilon, out }));
}

/// What [`rms_norm_backward`] is given.
#[derive(Debug, Clone, Copy)]
pub struct RmsNormGradient<'a> {
    /// What was normalised.
    pub x: &'a [f32],
    /// One for each number of a row.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
    /// The gradient by the norm's answer.
    pub grad: &'a [f32],
    /// A gradient by `x` that came another way.
    pub onto: Option<&'a [f32]>,
}

/// The gradient by `x`, added to `onto`, into `out`; returns that by the weights.
///
/// # Panics
///
/// When lengths do not fit.
#[must_use]
pub fn rms_norm_backward(given: RmsNormGradient<'_>, out: &mut [f32]) -> Vec<f32> {
    let RmsNormGradient { x, weight, epsilon, grad, onto } = given;
    let width = weight.len();
    check("out", out.len(), x.len());
    check("grad", grad.len(), x.len());
    onto.iter().for_each(|onto| check("onto", onto.len(), x.len()));
    assert!(width > 0 && x.len().is_multiple_of(width), "whole rows");
    let size = piece(width) * width;
    let sums: Vec<Vec<f32>> = out
        .par_chunks_mut(size)
        .enumerate()
        .map(|(index, out)| {
            let range = index * size..index * size + out.len();
            let mut weight_grad = vec![0.0; width];
            with_best(RmsNormBack {
                x: &x[range.clone()],
                weight,
                epsilon,
                grad: &grad[range.clone()],
                onto: onto.map(|onto| &onto[range]),
                out,
                weight_grad: &mut weight_grad,
            });
            weight_grad
        })
        .collect();
    let column = |at: usize| sums.iter().map(|piece| f64::from(piece[at])).sum::<f64>() as f32;
    (0..width).map(column).collect()
}

/// `out = silu(gate) * up` (Shazeer 2020).
///
/// # Panics
///
/// When lengths differ.
pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
    check("gate", gate.len(), out.len());
    check("up", up.len(), out.len());
    let inputs = gate.par_chunks(PIECE).zip(up.par_chunks(PIECE));
    out.par_chunks_mut(PIECE).zip(inputs).for_each(|(out, (gate, up))| with_best(SwiGlu { gate, up, out }));
}

/// Derivatives of [`swiglu`]: `grad`, by its answer, becomes the one by `gate`; that by `up` goes to `up_grad`, and the answer
/// itself once more to `product`, where one is given.
///
/// # Panics
///
/// When lengths differ.
pub fn swiglu_backward(gate: &[f32], up: &[f32], grad: &mut [f32], up_grad: &mut [f32], product: Option<&mut [f32]>) {
    let count = grad.len();
    [("gate", gate.len()), ("up", up.len()), ("up_grad", up_grad.len())]
        .into_iter()
        .for_each(|(name, found)| check(name, found, count));
    let inputs = gate.par_chunks(PIECE).zip(up.par_chunks(PIECE));
    let outputs = grad.par_chunks_mut(PIECE).zip(up_grad.par_chunks_mut(PIECE)).zip(inputs);
    match product {
        None => outputs.for_each(|((grad, up_grad), (gate, up))| {
            with_best(SwiGluBack { gate, up, grad, up_grad, product: &mut [] });
        }),
        Some(product) => {
            check("product", product.len(), count);
            outputs.zip(product.par_chunks_mut(PIECE)).for_each(|(((grad, up_grad), (gate, up)), product)| {
                with_best(SwiGluBack { gate, up, grad, up_grad, product });
            });
        }
    }
}

/// Negative log-likelihoods `factor * (log-sum-exp - logit)` in nats of one target a row, for rows of as many logits as
/// `logits.len() / targets.len()`; each row then holds its derivative, `factor * (softmax - one at the target)`. A target of
/// none gives zero loss and a row of zeros.
///
/// # Panics
///
/// When lengths do not fit, or a target is beyond its row.
pub fn cross_entropy_gradient(logits: &mut [f32], targets: &[Option<usize>], factors: &[f32], losses: &mut [f32]) {
    check("factors", factors.len(), targets.len());
    check("losses", losses.len(), targets.len());
    let width = width(logits.len(), targets.len());
    let given = targets.par_iter().zip(factors).zip(losses);
    logits.par_chunks_mut(width.max(1)).zip(given).for_each(|(logits, ((target, &factor), loss))| {
        let Some(target) = *target else {
            logits.fill(0.0);
            *loss = 0.0;
            return;
        };
        let logit = logits[target];
        let (largest, sum) = with_best(SoftmaxTimes { logits: &mut *logits, factor });
        logits[target] -= factor;
        *loss = factor * (largest - logit + sum.ln());
    });
}

/// The same losses, and nothing changed.
///
/// # Panics
///
/// As [`cross_entropy_gradient`].
pub fn cross_entropy(logits: &[f32], targets: &[Option<usize>], factors: &[f32], losses: &mut [f32]) {
    check("factors", factors.len(), targets.len());
    check("losses", losses.len(), targets.len());
    let width = width(logits.len(), targets.len());
    let given = targets.par_iter().zip(factors).zip(losses);
    logits.par_chunks(width.max(1)).zip(given).for_each(|(logits, ((target, &factor), loss))| {
        *loss = target.map_or(0.0, |target| {
            let (largest, sum) = with_best(LogSumExp { logits });
            factor * (largest - logits[target] + sum.ln())
        });
    });
}

/// The log-probability of one target a row, and the place of the row's largest logit (the first of equals).
///
/// # Panics
///
/// When lengths do not fit, or a target is beyond its row.
#[must_use]
pub fn scored(logits: &[f32], targets: &[usize]) -> Vec<(f32, usize)> {
    let width = width(logits.len(), targets.len());
    let rows = logits.par_chunks(width.max(1)).zip(targets);
    rows.map(|(logits, &target)| {
        let (largest, sum) = with_best(LogSumExp { logits });
        let top = logits.iter().position(|&logit| logit == largest).unwrap_or(0);
        (logits[target] - largest - sum.ln(), top)
    })
    .collect()
}

/// Numbers in each of `rows` rows.
fn width(numbers: usize, rows: usize) -> usize {
    assert!(rows == 0 && numbers == 0 || rows > 0 && numbers.is_multiple_of(rows), "{numbers} logits in {rows} rows");
    numbers.checked_div(rows).unwrap_or(0)
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
