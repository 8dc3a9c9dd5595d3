//! One block of queries against one run of keys: weights and gradients of scores, for the backward pass.

use std::ops::Range;

use super::element::Element;
use super::plan::Plan;
use super::scoring::{Lanes, Scoring};
use super::simd::Simd;
use super::simd::product::{Left, Product};
use super::simd::scores::{ScoreGradients, Weights};
use super::span::Span;
use super::view::{Place, Rows, View};
use super::workers::{Buffer, Cutter};
use crate::mask::Tile;
use crate::problem::AttnProblem;
use crate::shape::AttnShape;

/// What all tasks of a backward pass share.
pub(super) struct Pass<'a, S, T> {
    pub(super) simd: S,
    pub(super) problem: &'a AttnProblem,
    pub(super) scoring: Scoring,
    pub(super) plan: Plan,
    pub(super) q: View<'a, T>,
    pub(super) k: View<'a, T>,
    pub(super) v: View<'a, T>,
    pub(super) output: View<'a, T>,
    pub(super) lse: &'a [f32],
    pub(super) grad_output: View<'a, T>,
}

/// A block of queries, prepared.
pub(super) struct Side<'s> {
    batch: usize,
    head: usize,
    pub(super) queries: Range<usize>,
    pub(super) hull: Span,
    /// Lanes: the queries, up to whole vectors.
    pub(super) width: usize,
    /// Q^T times the factor of the scores, `[head_dim, width]`.
    q_columns: &'s [f32],
    /// dO^T times the scale, `[head_dim, width]`.
    grad_columns: &'s [f32],
    /// In nats; `+inf`, which gives no weight, for queries that see nothing and for lanes without a query.
    lse: &'s [f32],
    /// `scale * D`.
    deltas: &'s [f32],
    /// Q, rows of what a product takes.
    pub(super) q: Rows<'s>,
    /// dO, rows of what a product takes.
    pub(super) grad: Rows<'s>,
}

/// Where a [`Side`] is put together.
pub(super) struct SideRoom<'s> {
    q_columns: &'s mut [f32],
    grad_columns: &'s mut [f32],
    lse: &'s mut [f32],
    deltas: &'s mut [f32],
    q: &'s mut [f32],
    grad: &'s mut [f32],
}

/// Tiles of keys by queries.
pub(super) struct Tiles<'s> {
    /// S^T, then P^T.
    pub(super) weights: &'s mut [f32],
    /// dP^T, then dS^T.
    pub(super) gradients: &'s mut [f32],
    /// Of the soft cap; empty without one.
    bends: &'s mut [f32],
    lanes: Lanes<'s>,
}

/// One thread's scratch memory, cut up.
pub(super) struct Room<'s> {
    pub(super) tiles: Tiles<'s>,
    pub(super) side: SideRoom<'s>,
    pub(super) k: &'s mut [f32],
    pub(super) v: &'s mut [f32],
    /// dQ of a block of queries, or dK of a block of keys.
    pub(super) first: &'s mut [f32],
    /// dV of a block of keys, or a product on its way there.
    pub(super) second: &'s mut [f32],
    /// Two rows.
    pub(super) row: [&'s mut [f32]; 2],
}

impl Plan {
    /// Cuts up what [`Plan::backward_scratch`] measured.
    pub(super) fn room<'s>(&self, shape: &AttnShape, space: &'s mut Buffer) -> Room<'s> {
        let sizes = self.backward_sizes(shape);
        let mut cutter = Cutter(space.as_mut());
        let mut cut = |len| cutter.cut(len);
        let side = SideRoom {
            q_columns: cut(sizes.columns),
            grad_columns: cut(sizes.columns),
            lse: cut(sizes.lanes),
            deltas: cut(sizes.lanes),
            q: cut(sizes.query_rows),
            grad: cut(sizes.query_rows),
        };
        let (k, v) = (cut(sizes.key_rows), cut(sizes.value_rows));
        let (first, second) = (cut(sizes.first), cut(sizes.second));
        let row = [cut(shape.head_dim), cut(shape.head_dim)];
        let (weights, gradients) = (cut(sizes.tile), cut(sizes.tile));
        let lanes = Lanes::cut(&mut cutter, sizes.lanes);
        // What is left holds the bends, or nothing.
        let bends = cutter.0;
        Room { tiles: Tiles { weights, gradients, bends, lanes }, side, k, v, first, second, row }
    }
}

impl<S: Simd, T: Element> Pass<'_, S, T> {
    /// Prepares a block of queries.
    pub(super) fn side<'s>(
        &'s self,
        room: &'s mut SideRoom<'_>,
        row: &mut [&mut [f32]; 2],
        batch: usize,
        head: usize,
        queries: Range<usize>,
    ) -> Side<'s> {
        let shape = self.problem.shape();
        let width = queries.len().next_multiple_of(S::LANES);
        let place = Place { batch, head, head_dim: shape.head_dim };
        let (q_columns, grad_columns) =
            (&mut room.q_columns[..shape.head_dim * width], &mut room.grad_columns[..shape.head_dim * width]);
        let scale = self.problem.scale() as f32;
        self.q.transposed(place, queries.clone(), width, self.scoring.factor, row[0], q_columns);
        self.grad_output.transposed(place, queries.clone(), width, scale, row[0], grad_columns);
        room.lse.fill(f32::INFINITY);
        room.deltas.fill(0.0);
        let first = (batch * shape.query_heads + head) * shape.query_len;
        for (lane, query) in queries.clone().enumerate() {
            let lse = self.lse[first + query];
            room.lse[lane] = if lse == f32::NEG_INFINITY { f32::INFINITY } else { lse };
            room.deltas[lane] = (self.problem.scale() * self.delta(place, query, row)) as f32;
        }
        let q = self.q.rows(place, queries.clone(), self.plan.columns, room.q);
        let grad = self.grad_output.rows(place, queries.clone(), self.plan.columns, room.grad);
        let hull = Span::hull(self.problem.mask().row(batch), &queries, shape.key_len);
        Side { batch, head, queries, hull, width, q_columns, grad_columns, lse: room.lse, deltas: room.deltas, q, grad }
    }

    /// D of a query: the product of its output and its gradient.
    fn delta(&self, place: Place, query: usize, row: &mut [&mut [f32]; 2]) -> f64 {
        let Place { batch, head, head_dim } = place;
        let [output, grad] = row;
        T::widen(self.output.row(batch, head, query, head_dim), output);
        T::widen(self.grad_output.row(batch, head, query, head_dim), grad);
        output.iter().zip(&**grad).map(|(&o, &g)| f64::from(o) * f64::from(g)).sum()
    }

    /// Fills the tiles of a run of keys, unless nobody sees any of it. `k` and `v` begin at the run.
    pub(super) fn tiles(
        &self,
        side: &Side<'_>,
        tiles: &mut Tiles<'_>,
        keys: Range<usize>,
        k: Rows<'_>,
        v: Rows<'_>,
    ) -> bool {
        let tile = self.problem.mask().row(side.batch).tile(side.queries.clone(), keys.clone());
        if tile == Tile::None {
            return false;
        }
        let (simd, rows, width) = (self.simd, keys.len(), side.width);
        let weights = &mut tiles.weights[..rows * width];
        self.against(k, side.q_columns, width, weights, rows);
        let bends = if self.scoring.is_capped() { &mut tiles.bends[..rows * width] } else { &mut [] };
        self.scoring.cap(simd, weights, bends);
        let adjust = tiles.lanes.adjust(self.problem, side.batch, side.head, &side.queries, &keys, tile);
        simd.operate(Weights { tile: weights, rows, width, adjust, lse: side.lse });
        let gradients = &mut tiles.gradients[..rows * width];
        self.against(v, side.grad_columns, width, gradients, rows);
        simd.operate(ScoreGradients { weights, gradients, bends, rows, width, deltas: side.deltas });
        true
    }

    /// Rows of keys or values against columns of queries.
    fn against(&self, keys: Rows<'_>, columns: &[f32], width: usize, tile: &mut [f32], rows: usize) {
        Product {
            a: keys.data,
            a_stride: keys.stride,
            left: Left::Rows,
            b: columns,
            b_stride: width,
            out: tile,
            out_stride: width,
            rows,
            columns: width,
            depth: self.problem.shape().head_dim,
            add: false,
        }
        .compute(self.simd);
    }
}
