//! The online softmax (Milakov and Gimelshein 2018, algorithm 3; Dao et al. 2022, algorithm 1) on tiles of scores.

use super::elementary::exp;
use super::scores::{Adjust, Lanes, check_tile};
use super::{Simd, Work};

/// Takes the place of a maximum of `-inf`, so that hidden scores give zero and not the NaN of `-inf - -inf`.
const FLOOR: f32 = -1e30;

/// Scores of a further tile become weights relative to the largest score so far.
#[derive(Debug)]
pub(in crate::tiled) struct Softmax<'a> {
    /// `rows` keys by `width` queries.
    pub(in crate::tiled) tile: &'a mut [f32],
    pub(in crate::tiled) rows: usize,
    pub(in crate::tiled) width: usize,
    pub(in crate::tiled) adjust: Adjust<'a>,
    /// Largest score of each query so far; `-inf` before the first.
    pub(in crate::tiled) largest: &'a mut [f32],
    /// Sum of each query's weights so far.
    pub(in crate::tiled) sums: &'a mut [f32],
    /// Where to put the factor on what was summed before.
    pub(in crate::tiled) factors: &'a mut [f32],
}

impl Work for Softmax<'_> {
    /// Whether any factor differs from one.
    type Answer = bool;

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) -> bool {
        check_tile(self.tile, self.rows, self.width, S::LANES);
        self.adjust.check(self.width);
        let lanes = [self.largest.len(), self.sums.len(), self.factors.len()];
        assert!(lanes.iter().all(|&len| len >= self.width), "lanes of a tile");
        let mut grew = false;
        let mut lane = 0;
        while lane < self.width {
            let largest = match (self.adjust.alibi.is_some(), self.adjust.seen.is_some()) {
                (false, false) => self.largest_of::<S, false, false>(simd, lane),
                (false, true) => self.largest_of::<S, false, true>(simd, lane),
                (true, false) => self.largest_of::<S, true, false>(simd, lane),
                (true, true) => self.largest_of::<S, true, true>(simd, lane),
            };
            grew |= self.weigh(simd, lane, largest);
            lane += S::LANES;
        }
        grew
    }
}

impl Softmax<'_> {
    /// Adjusts the scores of one vector of queries and finds the largest.
    #[inline(always)]
    fn largest_of<S: Simd, const ALIBI: bool, const MASK: bool>(&mut self, simd: S, lane: usize) -> S::V {
        let lanes = Lanes::new(simd, &self.adjust, lane);
        let mut place = self.tile.as_mut_ptr().wrapping_add(lane);
        // Two maxima, or each would wait for the one before it.
        let mut largest = [simd.splat(f32::NEG_INFINITY); 2];
        let mut row = simd.splat(0.0);
        for _ in 0..self.rows {
            // SAFETY: a row of the tile, whose length `run` has checked.
            let mut score = unsafe { simd.load(place) };
            if ALIBI || MASK {
                score = lanes.adjusted::<ALIBI, MASK>(simd, score, row);
                // SAFETY: as above.
                unsafe { simd.store(place, score) };
                row = simd.add(row, simd.splat(1.0));
            }
            largest = [largest[1], simd.max(largest[0], score)];
            place = place.wrapping_add(self.width);
        }
        simd.max(largest[0], largest[1])
    }

    /// Turns the scores of one vector of queries into weights; says whether a maximum grew.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, simd: S, lane: usize, largest: S::V) -> bool {
        let floor = simd.splat(FLOOR);
        let [most, sums, factors] =
            [&mut self.largest, &mut self.sums, &mut self.factors].map(|lanes| lanes.as_mut_ptr().wrapping_add(lane));
        // SAFETY: `run` has compared the lengths with the width.
        let (before, sum_before) = unsafe { (simd.load(most), simd.load(sums)) };
        let now = simd.max(before, largest);
        let reference = simd.max(floor, now);
        let factor = exp(simd, simd.sub(simd.max(floor, before), reference));
        let mut sum = [simd.splat(0.0); 2];
        let mut place = self.tile.as_mut_ptr().wrapping_add(lane);
        for _ in 0..self.rows {
            // SAFETY: a row of the tile, whose length `run` has checked.
            unsafe {
                let weight = exp(simd, simd.sub(simd.load(place), reference));
                simd.store(place, weight);
                sum = [sum[1], simd.add(sum[0], weight)];
            }
            place = place.wrapping_add(self.width);
        }
        let total = simd.mul_add(sum_before, factor, simd.add(sum[0], sum[1]));
        // SAFETY: as at the loads.
        unsafe {
            simd.store(most, now);
            simd.store(sums, total);
            simd.store(factors, factor);
        }
        simd.any(simd.less(before, now))
    }
}

/// Multiplies every row by the factor of its lane.
#[derive(Debug)]
pub(in crate::tiled) struct Rescale<'a> {
    /// Rows of `width` numbers.
    pub(in crate::tiled) rows: &'a mut [f32],
    pub(in crate::tiled) width: usize,
    pub(in crate::tiled) factors: &'a [f32],
}

impl Work for Rescale<'_> {
    type Answer = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let count = self.rows.len() / self.width;
        check_tile(self.rows, count, self.width, S::LANES);
        assert!(self.factors.len() >= self.width, "lanes of a tile");
        let mut lane = 0;
        while lane < self.width {
            // SAFETY: lengths are checked above, for the loads and the stores below, too.
            let factor = unsafe { simd.load(self.factors.as_ptr().wrapping_add(lane)) };
            let mut place = self.rows.as_mut_ptr().wrapping_add(lane);
            for _ in 0..count {
                // SAFETY: as above.
                unsafe { simd.store(place, simd.mul(simd.load(place), factor)) };
                place = place.wrapping_add(self.width);
            }
            lane += S::LANES;
        }
    }
}
