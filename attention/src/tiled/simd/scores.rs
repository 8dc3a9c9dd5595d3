//! What happens to scores between the products: cap, ALiBi, mask; and in the backward pass, weights and their gradients.
//!
//! A tile of scores has one row for each key and one lane for each query, so that whatever belongs to a query (its
//! maximum, its position, the keys it sees) is a vector that stays in registers while the loop runs down the keys.

use super::elementary::{exp, tanh};
use super::{Simd, Work};

/// Keys that each query sees, in numbers of rows of the tile: those in `first..end`, and those in `..sinks`.
#[derive(Debug, Clone, Copy)]
pub(in crate::tiled) struct Seen<'a> {
    pub(in crate::tiled) first: &'a [f32],
    pub(in crate::tiled) end: &'a [f32],
    pub(in crate::tiled) sinks: &'a [f32],
}

/// ALiBi: `score - slope * |position - row|`.
#[derive(Debug, Clone, Copy)]
pub(in crate::tiled) struct Slope<'a> {
    pub(in crate::tiled) slope: f32,
    /// Of each query, in rows of the tile.
    pub(in crate::tiled) positions: &'a [f32],
}

/// What is done to the scores of a tile.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::tiled) struct Adjust<'a> {
    pub(in crate::tiled) alibi: Option<Slope<'a>>,
    /// None where every query sees every key.
    pub(in crate::tiled) seen: Option<Seen<'a>>,
}

impl Adjust<'_> {
    /// Every slice has a number for each query.
    pub(super) fn check(&self, width: usize) {
        let alibi = self.alibi.is_none_or(|alibi| alibi.positions.len() >= width);
        let seen = self.seen.is_none_or(|seen| [seen.first, seen.end, seen.sinks].iter().all(|s| s.len() >= width));
        assert!(alibi && seen, "lanes of a tile");
    }
}

/// The adjustments of one vector of queries, in registers.
#[derive(Clone, Copy)]
pub(super) struct Lanes<S: Simd> {
    slope: S::V,
    position: S::V,
    first: S::V,
    end: S::V,
    sinks: S::V,
}

impl<S: Simd> Lanes<S> {
    /// Of the queries from `lane` on.
    #[inline(always)]
    pub(super) fn new(simd: S, adjust: &Adjust<'_>, lane: usize) -> Self {
        // SAFETY: `Adjust::check` has compared the slices with the tile's width, of which `lane` is one whole vector.
        let load = |from: &[f32]| unsafe { simd.load(from.as_ptr().wrapping_add(lane)) };
        let zero = simd.splat(0.0);
        let (slope, position) = match adjust.alibi {
            Some(alibi) => (simd.splat(-alibi.slope), load(alibi.positions)),
            None => (zero, zero),
        };
        let (first, end, sinks) = match adjust.seen {
            Some(seen) => (load(seen.first), load(seen.end), load(seen.sinks)),
            None => (zero, zero, zero),
        };
        Self { slope, position, first, end, sinks }
    }

    /// The score of the key in row `row`.
    #[inline(always)]
    pub(super) fn adjusted<const ALIBI: bool, const MASK: bool>(&self, simd: S, score: S::V, row: S::V) -> S::V {
        let mut score = score;
        if ALIBI {
            score = simd.mul_add(self.slope, simd.abs(simd.sub(self.position, row)), score);
        }
        if MASK {
            let next = simd.add(row, simd.splat(1.0));
            let inside = simd.both(simd.less(self.first, next), simd.less(row, self.end));
            let visible = simd.either(inside, simd.less(row, self.sinks));
            score = simd.select(visible, score, simd.splat(f32::NEG_INFINITY));
        }
        score
    }
}

/// A tile: `rows` keys by `width` queries, row after row.
pub(super) fn check_tile(tile: &[f32], rows: usize, width: usize, lanes: usize) {
    assert!(width.is_multiple_of(lanes) && tile.len() >= rows * width, "a tile of {rows} keys and {width} queries");
}

/// Soft cap: `x` becomes `cap * tanh(x)`, where `x` is the score over the cap.
#[derive(Debug)]
pub(in crate::tiled) struct Cap<'a> {
    pub(in crate::tiled) tile: &'a mut [f32],
    /// Where to put the derivative `1 - tanh(x)^2`; as long as the tile, or empty where nobody asks.
    pub(in crate::tiled) bends: &'a mut [f32],
    pub(in crate::tiled) cap: f32,
}

impl Work for Cap<'_> {
    type Answer = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert!(self.tile.len().is_multiple_of(S::LANES), "a tile of whole vectors");
        assert!(self.bends.is_empty() || self.bends.len() == self.tile.len(), "bends of a tile");
        let (tile, bends) = (self.tile.as_mut_ptr(), self.bends.as_mut_ptr());
        let mut at = 0;
        while at < self.tile.len() {
            let place = tile.wrapping_add(at);
            // SAFETY: whole vectors of the tile, and of the bends if there are any.
            unsafe {
                let t = tanh(simd, simd.load(place));
                simd.store(place, simd.mul(t, simd.splat(self.cap)));
                if !self.bends.is_empty() {
                    let bend = simd.sub(simd.splat(1.0), simd.mul(t, t));
                    simd.store(bends.wrapping_add(at), bend);
                }
            }
            at += S::LANES;
        }
    }
}

/// Scores become softmax weights: `e^(score - lse)`.
#[derive(Debug)]
pub(in crate::tiled) struct Weights<'a> {
    pub(in crate::tiled) tile: &'a mut [f32],
    pub(in crate::tiled) rows: usize,
    pub(in crate::tiled) width: usize,
    pub(in crate::tiled) adjust: Adjust<'a>,
    /// Log-sum-exp of each query in nats; `+inf` gives no weight.
    pub(in crate::tiled) lse: &'a [f32],
}

impl Work for Weights<'_> {
    type Answer = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        check_tile(self.tile, self.rows, self.width, S::LANES);
        self.adjust.check(self.width);
        assert!(self.lse.len() >= self.width, "lanes of a tile");
        match (self.adjust.alibi.is_some(), self.adjust.seen.is_some()) {
            (false, false) => self.fill::<S, false, false>(simd),
            (false, true) => self.fill::<S, false, true>(simd),
            (true, false) => self.fill::<S, true, false>(simd),
            (true, true) => self.fill::<S, true, true>(simd),
        }
    }
}

impl Weights<'_> {
    #[inline(always)]
    fn fill<S: Simd, const ALIBI: bool, const MASK: bool>(&mut self, simd: S) {
        let mut lane = 0;
        while lane < self.width {
            let lanes = Lanes::new(simd, &self.adjust, lane);
            // SAFETY: `run` has compared the length with the width.
            let lse = unsafe { simd.load(self.lse.as_ptr().wrapping_add(lane)) };
            let mut place = self.tile.as_mut_ptr().wrapping_add(lane);
            let mut row = simd.splat(0.0);
            for _ in 0..self.rows {
                // SAFETY: a row of the tile, whose length `run` has checked.
                unsafe {
                    let score = lanes.adjusted::<ALIBI, MASK>(simd, simd.load(place), row);
                    // Natural units as in the log-sum-exp: in another unit both would be rounded once more, and a query
                    // that sees one key would not get a weight of exactly one.
                    simd.store(place, exp(simd, simd.sub(score, lse)));
                }
                row = simd.add(row, simd.splat(1.0));
                place = place.wrapping_add(self.width);
            }
            lane += S::LANES;
        }
    }
}

/// Gradients by the weights become gradients by the scores: `dS = P (dP - D) bend`.
#[derive(Debug)]
pub(in crate::tiled) struct ScoreGradients<'a> {
    /// P.
    pub(in crate::tiled) weights: &'a [f32],
    /// dP on entry, dS on return.
    pub(in crate::tiled) gradients: &'a mut [f32],
    /// Of the soft cap, or empty.
    pub(in crate::tiled) bends: &'a [f32],
    pub(in crate::tiled) rows: usize,
    pub(in crate::tiled) width: usize,
    /// D of each query.
    pub(in crate::tiled) deltas: &'a [f32],
}

impl Work for ScoreGradients<'_> {
    type Answer = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        check_tile(self.weights, self.rows, self.width, S::LANES);
        check_tile(self.gradients, self.rows, self.width, S::LANES);
        assert!(self.deltas.len() >= self.width, "lanes of a tile");
        assert!(self.bends.is_empty() || self.bends.len() >= self.rows * self.width, "bends of a tile");
        let mut lane = 0;
        while lane < self.width {
            // SAFETY: the lengths are checked above, here and below.
            let delta = unsafe { simd.load(self.deltas.as_ptr().wrapping_add(lane)) };
            let mut at = lane;
            for _ in 0..self.rows {
                let place = self.gradients.as_mut_ptr().wrapping_add(at);
                // SAFETY: as above.
                unsafe {
                    let weight = simd.load(self.weights.as_ptr().wrapping_add(at));
                    let mut gradient = simd.mul(weight, simd.sub(simd.load(place), delta));
                    if !self.bends.is_empty() {
                        gradient = simd.mul(gradient, simd.load(self.bends.as_ptr().wrapping_add(at)));
                    }
                    simd.store(place, gradient);
                }
                at = at.wrapping_add(self.width);
            }
            lane += S::LANES;
        }
    }
}
