//! Loops over rows of numbers: RMSNorm, SwiGLU and the softmax of a loss, each forward and backward in as few passes as its
//! sums allow.

use super::elementary::exp;
use super::{Simd, Work};

/// Most numbers in a vector.
const WIDEST: usize = 16;
/// Exponents beyond this stand for it: `1 / (1 + e^88)` is zero to float32 all but.
const STEEPEST: f32 = 88.0;

/// The vector at a place, what lies beyond the slice being `fill`.
#[inline(always)]
fn load<S: Simd>(simd: S, from: &[f32], at: usize, fill: f32) -> S::V {
    match from.len().saturating_sub(at) {
        // SAFETY: a whole vector is there.
        left if left >= S::LANES => unsafe { simd.load(from.as_ptr().wrapping_add(at)) },
        left => {
            let mut padded = [fill; WIDEST];
            padded[..left].copy_from_slice(&from[from.len() - left..]);
            // SAFETY: no set has more lanes than the array.
            unsafe { simd.load(padded.as_ptr()) }
        }
    }
}

/// Writes a vector at a place, without what lies beyond the slice.
#[inline(always)]
fn store<S: Simd>(simd: S, to: &mut [f32], at: usize, v: S::V) {
    match to.len().saturating_sub(at) {
        // SAFETY: a whole vector is there.
        left if left >= S::LANES => unsafe { simd.store(to.as_mut_ptr().wrapping_add(at), v) },
        left => {
            let start = to.len() - left;
            to[start..].copy_from_slice(&lanes(simd, v)[..left]);
        }
    }
}

/// The numbers of a vector, and zeros.
#[inline(always)]
fn lanes<S: Simd>(simd: S, v: S::V) -> [f32; WIDEST] {
    let mut numbers = [0.0; WIDEST];
    // SAFETY: no set has more lanes than the array.
    unsafe { simd.store(numbers.as_mut_ptr(), v) };
    numbers
}

/// The sum of a vector's numbers.
#[inline(always)]
fn total<S: Simd>(simd: S, v: S::V) -> f32 {
    lanes(simd, v).iter().sum()
}

/// Rows of `weight.len()` numbers: `out = weight * x / sqrt(mean(x^2) + epsilon)`.
#[derive(Debug)]
pub(in crate::tiled) struct RmsNorm<'a> {
    pub(in crate::tiled) x: &'a [f32],
    pub(in crate::tiled) weight: &'a [f32],
    pub(in crate::tiled) epsilon: f32,
    pub(in crate::tiled) out: &'a mut [f32],
}

impl Work for RmsNorm<'_> {
    type Answer = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            normed(simd, x, (self.weight, self.epsilon), out);
        }
    }
}

/// The same of rows to which others are added first, in place.
#[derive(Debug)]
pub(in crate::tiled) struct AddRmsNorm<'a> {
    pub(in crate::tiled) x: &'a mut [f32],
    pub(in crate::tiled) added: &'a [f32],
    pub(in crate::tiled) weight: &'a [f32],
    pub(in crate::tiled) epsilon: f32,
    pub(in crate::tiled) out: &'a mut [f32],
}

impl Work for AddRmsNorm<'_> {
    type Answer = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        let rows = self.x.chunks_exact_mut(width).zip(self.added.chunks_exact(width));
        for ((x, added), out) in rows.zip(self.out.chunks_exact_mut(width)) {
            let mut at = 0;
            while at < width {
                store(simd, x, at, simd.add(load(simd, x, at, 0.0), load(simd, added, at, 0.0)));
                at = at.wrapping_add(S::LANES);
            }
            normed(simd, x, (self.weight, self.epsilon), out);
        }
    }
}

/// A row of [`RmsNorm`].
#[inline(always)]
fn normed<S: Simd>(simd: S, x: &[f32], (weight, epsilon): (&[f32], f32), out: &mut [f32]) {
    let scale = simd.splat(inverse_root(simd, x, epsilon));
    let mut at = 0;
    while at < x.len() {
        let scaled = simd.mul(load(simd, x, at, 0.0), scale);
        store(simd, out, at, simd.mul(scaled, load(simd, weight, at, 0.0)));
        at = at.wrapping_add(S::LANES);
    }
}

/// `1 / sqrt(mean(x^2) + epsilon)`.
#[inline(always)]
fn inverse_root<S: Simd>(simd: S, x: &[f32], epsilon: f32) -> f32 {
    let mut squares = [simd.splat(0.0); 2];
    let mut at = 0;
    while at < x.len() {
        let v = load(simd, x, at, 0.0);
        squares = [squares[1], simd.mul_add(v, v, squares[0])];
        at = at.wrapping_add(S::LANES);
    }
    1.0 / (total(simd, simd.add(squares[0], squares[1])) / x.len() as f32 + epsilon).sqrt()
}

/// Derivatives of [`RmsNorm`] for the gradient `grad` of its answer: `out = onto + r w grad - x r^3 mean(w grad x)`, and
/// `grad x r` summed over rows into `weight_grad`; `r` is the inverse root mean square.
#[derive(Debug)]
pub(in crate::tiled) struct RmsNormBack<'a> {
    pub(in crate::tiled) x: &'a [f32],
    pub(in crate::tiled) weight: &'a [f32],
    pub(in crate::tiled) epsilon: f32,
    pub(in crate::tiled) grad: &'a [f32],
    pub(in crate::tiled) onto: Option<&'a [f32]>,
    pub(in crate::tiled) out: &'a mut [f32],
    pub(in crate::tiled) weight_grad: &'a mut [f32],
}

impl Work for RmsNormBack<'_> {
    type Answer = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let width = self.weight.len();
        assert!(self.weight_grad.len() == width, "one sum for each weight");
        let rows = self.x.chunks_exact(width).zip(self.grad.chunks_exact(width));
        for (row, ((x, grad), out)) in rows.zip(self.out.chunks_exact_mut(width)).enumerate() {
            let scale = inverse_root(simd, x, self.epsilon);
            let mut dots = [simd.splat(0.0); 2];
            let mut at = 0;
            while at < width {
                let weighed = simd.mul(load(simd, grad, at, 0.0), load(simd, self.weight, at, 0.0));
                dots = [dots[1], simd.mul_add(weighed, load(simd, x, at, 0.0), dots[0])];
                at = at.wrapping_add(S::LANES);
            }
            let mean = total(simd, simd.add(dots[0], dots[1])) / width as f32;
            let (scale, pull) = (simd.splat(scale), simd.splat(-mean * scale * scale * scale));
            let onto = self.onto.map(|onto| &onto[row * width..(row + 1) * width]);
            let mut at = 0;
            while at < width {
                let (x, grad) = (load(simd, x, at, 0.0), load(simd, grad, at, 0.0));
                let scaled = simd.mul(grad, scale);
                let base = onto.map_or(simd.splat(0.0), |onto| load(simd, onto, at, 0.0));
                let pushed = simd.mul_add(scaled, load(simd, self.weight, at, 0.0), base);
                store(simd, out, at, simd.mul_add(x, pull, pushed));
                let sum = load(simd, self.weight_grad, at, 0.0);
                store(simd, self.weight_grad, at, simd.mul_add(scaled, x, sum));
                at = at.wrapping_add(S::LANES);
            }
        }
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::V) -> S::V {
    let one = simd.splat(1.0);
    // NaN stays: it is the second operand.
    let fall = exp(simd, simd.min(simd.splat(STEEPEST), simd.sub(simd.splat(0.0), x)));
    simd.div(one, simd.add(one, fall))
}

/// `out = gate * sigmoid(gate) * up`.
#[derive(Debug)]
pub(in crate::tiled) struct SwiGlu<'a> {
    pub(in crate::tiled) gate: &'a [f32],
    pub(in crate::tiled) up: &'a [f32],
    pub(in crate::tiled) out: &'a mut [f32],
}

impl Work for SwiGlu<'_> {
    type Answer = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let count = self.out.len();
        let mut at = 0;
        while at < count {
            let gate = load(simd, self.gate, at, 0.0);
            let open = simd.mul(gate, sigmoid(simd, gate));
            store(simd, self.out, at, simd.mul(open, load(simd, self.up, at, 0.0)));
            at = at.wrapping_add(S::LANES);
        }
    }
}

/// Derivatives of [`SwiGlu`]: `grad`, by its answer, becomes the one by `gate`.
#[derive(Debug)]
pub(in crate::tiled) struct SwiGluBack<'a> {
    pub(in crate::tiled) gate: &'a [f32],
    pub(in crate::tiled) up: &'a [f32],
    pub(in crate::tiled) grad: &'a mut [f32],
    pub(in crate::tiled) up_grad: &'a mut [f32],
    /// Where to put the answer itself once more; empty where nobody asks.
    pub(in crate::tiled) product: &'a mut [f32],
}

impl Work for SwiGluBack<'_> {
    type Answer = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (count, one) = (self.grad.len(), simd.splat(1.0));
        assert!(self.product.is_empty() || self.product.len() == count, "one product for each gradient");
        let mut at = 0;
        while at < count {
            let (gate, up) = (load(simd, self.gate, at, 0.0), load(simd, self.up, at, 0.0));
            let grad = load(simd, self.grad, at, 0.0);
            let share = sigmoid(simd, gate);
            let open = simd.mul(gate, share);
            // d silu(g) / dg = s (1 + g (1 - s)) = s + silu(g) (1 - s)
            let slope = simd.mul_add(open, simd.sub(one, share), share);
            store(simd, self.grad, at, simd.mul(simd.mul(grad, up), slope));
            store(simd, self.up_grad, at, simd.mul(grad, open));
            if !self.product.is_empty() {
                store(simd, self.product, at, simd.mul(open, up));
            }
            at = at.wrapping_add(S::LANES);
        }
    }
}

/// One row of logits: its log-sum-exp, and what becomes of the row.
#[derive(Debug)]
pub(in crate::tiled) struct LogSumExp<'a> {
    pub(in crate::tiled) logits: &'a [f32],
}

impl Work for LogSumExp<'_> {
    /// The largest logit, and the sum of exponentials of what the others are less.
    type Answer = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f32, f32) {
        let mut logits = self.logits;
        exponentials(simd, &mut logits, |_, _, _| {})
    }
}

/// One row of logits becomes `factor * softmax(logits)`.
#[derive(Debug)]
pub(in crate::tiled) struct SoftmaxTimes<'a> {
    pub(in crate::tiled) logits: &'a mut [f32],
    pub(in crate::tiled) factor: f32,
}

impl Work for SoftmaxTimes<'_> {
    /// As of [`LogSumExp`].
    type Answer = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f32, f32) {
        let Self { mut logits, factor } = self;
        let (largest, sum) = exponentials(simd, &mut logits, |row, at, weight| store(simd, row, at, weight));
        let scale = simd.splat(factor / sum);
        let mut at = 0;
        while at < logits.len() {
            store(simd, logits, at, simd.mul(load(simd, logits, at, 0.0), scale));
            at = at.wrapping_add(S::LANES);
        }
        (largest, sum)
    }
}

/// The largest number of a row, and the sum of exponentials of what all are less; `each` gets every vector of these with its
/// place.
#[inline(always)]
fn exponentials<S: Simd, R: AsRef<[f32]>>(simd: S, row: &mut R, each: impl Fn(&mut R, usize, S::V)) -> (f32, f32) {
    let largest = largest(simd, row.as_ref());
    let (reference, mut sums) = (simd.splat(largest), [simd.splat(0.0); 2]);
    let mut at = 0;
    while at < row.as_ref().len() {
        let weight = exp(simd, simd.sub(load(simd, row.as_ref(), at, f32::NEG_INFINITY), reference));
        each(row, at, weight);
        sums = [sums[1], simd.add(sums[0], weight)];
        at = at.wrapping_add(S::LANES);
    }
    (largest, total(simd, simd.add(sums[0], sums[1])))
}

/// The largest number of a row; one that is NaN may be passed over.
#[inline(always)]
fn largest<S: Simd>(simd: S, row: &[f32]) -> f32 {
    let mut most = [simd.splat(f32::NEG_INFINITY); 2];
    let mut at = 0;
    while at < row.len() {
        most = [most[1], simd.max(most[0], load(simd, row, at, f32::NEG_INFINITY))];
        at = at.wrapping_add(S::LANES);
    }
    let numbers = lanes(simd, simd.max(most[0], most[1]));
    numbers[..S::LANES].iter().copied().fold(f32::NEG_INFINITY, f32::max)
}
