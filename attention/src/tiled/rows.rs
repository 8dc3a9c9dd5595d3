//! What stands between attention and the matrix products of a block, by the same vectors: RMSNorm, SwiGLU and the softmax
//! of a loss over rows of float32 in main memory, forward and backward, one call for what libtorch takes several passes for.
//!
//! Rows are shared out among threads, as attention's tasks are, in pieces whose size does not depend on the number of threads,
//! so that sums over rows have the same bits on any of them.
//!
//! ```
//! use attention::tiled::rows;
//!
//! let (x, mut out) = ([3.0_f32, 4.0], [0.0; 2]);
//! rows::rms_norm(&x, &[1.0, 2.0], 0.0, &mut out);
//! let root = 12.5_f32.sqrt();
//! assert!((out[0] - 3.0 / root).abs() < 1e-6 && (out[1] - 8.0 / root).abs() < 1e-6);
//! ```

use super::simd::rows::{AddRmsNorm, LogSumExp, RmsNorm, RmsNormBack, SoftmaxTimes, SwiGlu, SwiGluBack};
use super::simd::{self, Simd, Work};
use super::workers::for_each;

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
    simd::with_best(Compiled(work))
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
    for_each(x.chunks(size).zip(out.chunks_mut(size)), |(x, out)| with_best(RmsNorm { x, weight, epsilon, out }));
}

/// [`rms_norm`] of `x + added`, which takes the place of `x`; the same bits as the one after the other, in one pass over memory.
///
/// # Panics
///
/// When lengths do not fit.
pub fn rms_norm_after_adding(x: &mut [f32], added: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    check("out", out.len(), x.len());
    check("added", added.len(), x.len());
    assert!(!weight.is_empty() && x.len().is_multiple_of(weight.len()), "whole rows");
    let size = piece(weight.len()) * weight.len();
    let pieces = x.chunks_mut(size).zip(added.chunks(size)).zip(out.chunks_mut(size));
    for_each(pieces, |((x, added), out)| with_best(AddRmsNorm { x, added, weight, epsilon, out }));
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
    let mut sums = vec![0.0; x.len().div_ceil(size) * width];
    for_each(out.chunks_mut(size).zip(sums.chunks_mut(width)).enumerate(), |(index, (out, weight_grad))| {
        let range = index * size..index * size + out.len();
        let (x, grad, onto) = (&x[range.clone()], &grad[range.clone()], onto.map(|onto| &onto[range]));
        with_best(RmsNormBack { x, weight, epsilon, grad, onto, out, weight_grad });
    });
    let column = |at: usize| sums.iter().skip(at).step_by(width).map(|&sum| f64::from(sum)).sum::<f64>() as f32;
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
    let inputs = gate.chunks(PIECE).zip(up.chunks(PIECE));
    for_each(out.chunks_mut(PIECE).zip(inputs), |(out, (gate, up))| with_best(SwiGlu { gate, up, out }));
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
    let inputs = gate.chunks(PIECE).zip(up.chunks(PIECE));
    let outputs = grad.chunks_mut(PIECE).zip(up_grad.chunks_mut(PIECE)).zip(inputs);
    match product {
        None => for_each(outputs, |((grad, up_grad), (gate, up))| {
            with_best(SwiGluBack { gate, up, grad, up_grad, product: &mut [] });
        }),
        Some(product) => {
            check("product", product.len(), count);
            for_each(outputs.zip(product.chunks_mut(PIECE)), |(((grad, up_grad), (gate, up)), product)| {
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
    let count = piece(width);
    let given = targets.chunks(count).zip(factors.chunks(count)).zip(losses.chunks_mut(count));
    for_each(logits.chunks_mut(count * width).zip(given), |(logits, ((targets, factors), losses))| {
        let given = targets.iter().zip(factors).zip(losses);
        for (logits, ((target, &factor), loss)) in logits.chunks_exact_mut(width).zip(given) {
            let Some(target) = *target else {
                logits.fill(0.0);
                *loss = 0.0;
                continue;
            };
            let logit = logits[target];
            let (largest, sum) = with_best(SoftmaxTimes { logits: &mut *logits, factor });
            logits[target] -= factor;
            *loss = factor * (largest - logit + sum.ln());
        }
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
    let count = piece(width);
    let given = targets.chunks(count).zip(factors.chunks(count)).zip(losses.chunks_mut(count));
    for_each(logits.chunks(count * width).zip(given), |(logits, ((targets, factors), losses))| {
        let given = targets.iter().zip(factors).zip(losses);
        for (logits, ((target, &factor), loss)) in logits.chunks_exact(width).zip(given) {
            *loss = target.map_or(0.0, |target| {
                let (largest, sum) = with_best(LogSumExp { logits });
                factor * (largest - logits[target] + sum.ln())
            });
        }
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
    let count = piece(width);
    let mut scores = vec![(0.0, 0); targets.len()];
    let given = targets.chunks(count).zip(scores.chunks_mut(count));
    for_each(logits.chunks(count * width).zip(given), |(logits, (targets, scores))| {
        for (logits, (&target, score)) in logits.chunks_exact(width).zip(targets.iter().zip(scores)) {
            let (largest, sum) = with_best(LogSumExp { logits });
            let top = logits.iter().position(|&logit| logit == largest).unwrap_or(0);
            *score = (logits[target] - largest - sum.ln(), top);
        }
    });
    scores
}

/// Numbers in each of `rows` rows; one where there are neither.
fn width(numbers: usize, rows: usize) -> usize {
    assert!(numbers == 0 || rows > 0 && numbers.is_multiple_of(rows), "{numbers} logits in {rows} rows");
    numbers.checked_div(rows).unwrap_or(0).max(1)
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
