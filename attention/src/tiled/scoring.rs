//! From a problem to what the kernels do to its scores.

use std::ops::Range;

use super::simd::Simd;
use super::simd::scores::{Adjust, Cap, Seen, Slope};
use super::span::Span;
use super::workers::Cutter;
use crate::mask::Tile;
use crate::problem::AttnProblem;
use crate::shape::signed;

/// Factors of a problem.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scoring {
    /// On the queries: the scale, over the cap where there is one.
    pub(super) factor: f32,
    cap: Option<f32>,
}

impl Scoring {
    pub(super) fn new(problem: &AttnProblem) -> Self {
        match problem.soft_cap() {
            None => Self { factor: problem.scale() as f32, cap: None },
            Some(cap) => Self { factor: (problem.scale() / cap) as f32, cap: Some(cap as f32) },
        }
    }

    /// Whether scores are bent.
    pub(super) fn is_capped(&self) -> bool {
        self.cap.is_some()
    }

    /// Bends the scores of a tile, if the problem asks for it; the derivatives go to `bends` unless it is empty.
    pub(super) fn cap<S: Simd>(&self, simd: S, tile: &mut [f32], bends: &mut [f32]) {
        if let Some(cap) = self.cap {
            simd.operate(Cap { tile, bends, cap });
        }
    }
}

/// What the kernels must know of each query, relative to the first key of a tile.
pub(super) struct Lanes<'s> {
    first: &'s mut [f32],
    end: &'s mut [f32],
    sinks: &'s mut [f32],
    positions: &'s mut [f32],
}

impl<'s> Lanes<'s> {
    /// Slices cut per [`Lanes::cut`].
    pub(super) const SLICES: usize = 4;

    /// For tiles of up to `width` queries.
    pub(super) fn cut(cutter: &mut Cutter<'s>, width: usize) -> Self {
        let [first, end, sinks, positions] = [(); Self::SLICES].map(|()| cutter.cut(width));
        Self { first, end, sinks, positions }
    }

    /// The adjustments of the tile `queries` by `keys`, which the mask says is `tile`.
    pub(super) fn adjust(
        &mut self,
        problem: &AttnProblem,
        batch: usize,
        head: usize,
        queries: &Range<usize>,
        keys: &Range<usize>,
        tile: Tile,
    ) -> Adjust<'_> {
        if tile == Tile::Some {
            let mask = problem.mask().row(batch);
            // Lanes beyond the last query see nothing.
            for lanes in [&mut *self.first, &mut *self.end, &mut *self.sinks] {
                lanes[queries.len()..].fill(0.0);
            }
            let relative = |key: usize| key.clamp(keys.start, keys.end).saturating_sub(keys.start) as f32;
            for (lane, query) in queries.clone().enumerate() {
                let span = Span::of(mask, query, problem.shape().key_len);
                self.first[lane] = relative(span.first);
                self.end[lane] = relative(span.end);
                self.sinks[lane] = relative(span.sinks);
            }
        }
        let slope = problem.alibi().map(|alibi| alibi.slopes()[head] as f32);
        if slope.is_some() {
            let start = signed(queries.start) + problem.query_offset() - signed(keys.start);
            self.positions.iter_mut().zip(start..).for_each(|(lane, position)| *lane = position as f32);
        }
        let (first, end, sinks) = (&*self.first, &*self.end, &*self.sinks);
        Adjust {
            alibi: slope.map(|slope| Slope { slope, positions: self.positions }),
            seen: (tile == Tile::Some).then_some(Seen { first, end, sinks }),
        }
    }
}
