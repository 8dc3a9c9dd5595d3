//! Output and log-sum-exp.
//!
//! One task is a block of queries of one head, cut into panels as wide as the register tile. Scores are held transposed,
//! keys by queries: the left operand of both products is then a block of K or V as it lies in memory, the right operand stays in
//! the first-level cache, and what belongs to a query (maximum, sum, position) is one lane of a vector.
//!
//! ```text
//! S^T = K Q^T            Q^T packed once a task, times the scale
//! P^T = e^(S^T - max)    online: O^T and the sums shrink when a maximum grows
//! O^T = O^T + V^T P^T
//! ```
//!
//! Blocks of keys come in the order of their positions and are cut at fixed positions, so the answer has the same bits
//! whatever the number of threads.

use std::ops::Range;

use super::element::Element;
use super::plan::Plan;
use super::scoring::{Lanes, Scoring};
use super::simd::product::{Left, Product};
use super::simd::softmax::{Rescale, Softmax};
use super::simd::{Simd, Work};
use super::span::Span;
use super::view::{Place, Rows, View};
use super::workers::{Buffer, Cutter, in_order, threads};
use crate::mask::{RowMask, Tile};
use crate::problem::AttnProblem;

/// Everything a forward pass reads and writes.
pub struct Forward<'a, T> {
    pub(super) problem: &'a AttnProblem,
    pub(super) q: View<'a, T>,
    pub(super) k: View<'a, T>,
    pub(super) v: View<'a, T>,
    pub(super) output: &'a mut [T],
    pub(super) lse: &'a mut [f32],
}

/// A block of queries of one head, and where its answer goes.
struct Task<'a, T> {
    batch: usize,
    head: usize,
    queries: Range<usize>,
    output: &'a mut [T],
    lse: &'a mut [f32],
}

impl<T: Element> Work for Forward<'_, T> {
    type Answer = ();

    fn run<S: Simd>(self, simd: S) {
        let Self { problem, q, k, v, output, lse } = self;
        let shape = *problem.shape();
        let plan = Plan::forward::<S>(&shape, T::DTYPE, threads());
        let heads = output.chunks_mut(shape.query_len * shape.head_dim).zip(lse.chunks_mut(shape.query_len));
        let blocks = heads.enumerate().flat_map(|(number, (output, lse))| {
            let (batch, head) = (number / shape.query_heads, number % shape.query_heads);
            let parts = output.chunks_mut(plan.queries * shape.head_dim).zip(lse.chunks_mut(plan.queries));
            parts.enumerate().map(move |(block, (output, lse))| {
                let start = block * plan.queries;
                Task { batch, head, queries: start..start + lse.len(), output, lse }
            })
        });
        let mut tasks: Vec<Task<'_, T>> = blocks.collect();
        // Late queries see most under every causal mask: the heavy tasks first, head by head within a block.
        tasks.sort_by_key(|task| std::cmp::Reverse(task.queries.start));
        let scoring = Scoring::new(problem);
        let pass = Pass { simd, problem, scoring, plan, q, k, v };
        in_order(tasks.into_iter(), || Buffer::new(plan.forward_scratch(&shape)), |space, task| pass.task(space, task));
    }
}

/// What all tasks share.
struct Pass<'a, S, T> {
    simd: S,
    problem: &'a AttnProblem,
    scoring: Scoring,
    plan: Plan,
    q: View<'a, T>,
    k: View<'a, T>,
    v: View<'a, T>,
}

/// One panel of a task.
struct Panel<'s> {
    queries: Range<usize>,
    hull: Span,
    /// Lanes: the queries, up to whole vectors.
    width: usize,
    /// Q^T, `[head_dim, width]`.
    q: &'s mut [f32],
    /// O^T, `[head_dim, width]`.
    output: &'s mut [f32],
    largest: &'s mut [f32],
    sums: &'s mut [f32],
    /// Whether `output` holds anything yet.
    started: bool,
}

/// What panels use in turn.
struct Shared<'s> {
    /// S^T and P^T, `[keys, width]`.
    tile: &'s mut [f32],
    factors: &'s mut [f32],
    lanes: Lanes<'s>,
    /// One row, `[head_dim]`.
    row: &'s mut [f32],
}

impl<S: Simd, T: Element> Pass<'_, S, T> {
    fn task(&self, space: &mut Buffer, task: Task<'_, T>) {
        let shape = self.problem.shape();
        let mask = self.problem.mask().row(task.batch);
        let mut cutter = Cutter(space.as_mut());
        let mut shared = Shared {
            tile: cutter.cut(self.plan.keys * S::PANEL),
            factors: cutter.cut(S::PANEL),
            lanes: Lanes::cut(&mut cutter, S::PANEL),
            row: cutter.cut(shape.head_dim),
        };
        let packed = self.plan.packed(shape);
        let (k_space, v_space) = (cutter.cut(packed), cutter.cut(packed));
        let mut panels: Vec<Panel<'_>> = Vec::with_capacity(self.plan.queries.div_ceil(S::PANEL));
        for start in task.queries.clone().step_by(S::PANEL) {
            let queries = start..(start + S::PANEL).min(task.queries.end);
            panels.push(self.panel(&task, queries, mask, &mut cutter, shared.row));
        }
        let key_place = Place { batch: task.batch, head: shape.key_head_of(task.head), head_dim: shape.head_dim };
        for block in Span::hull(mask, &task.queries, shape.key_len).blocks(self.plan.keys) {
            let keys = self.plan.block(block, shape.key_len);
            let k = self.k.rows(key_place, keys.clone(), shape.head_dim, k_space);
            let v = self.v.rows(key_place, keys.clone(), shape.head_dim, v_space);
            for panel in &mut panels {
                for piece in panel.hull.pieces(&keys, self.plan.align) {
                    let rows = piece.start - keys.start;
                    let (k, v) = (Rows { data: k.tail(rows), ..k }, Rows { data: v.tail(rows), ..v });
                    self.piece(&task, panel, mask, piece, (k, v), &mut shared);
                }
            }
        }
        self.finish(panels, task, shared.row);
    }

    fn panel<'s>(
        &self,
        task: &Task<'_, T>,
        queries: Range<usize>,
        mask: RowMask<'_>,
        cutter: &mut Cutter<'s>,
        row: &mut [f32],
    ) -> Panel<'s> {
        let head_dim = self.problem.shape().head_dim;
        let width = queries.len().next_multiple_of(S::LANES);
        let (q, output) = (cutter.cut(head_dim * width), cutter.cut(head_dim * width));
        let (largest, sums) = (cutter.cut(width), cutter.cut(width));
        largest.fill(f32::NEG_INFINITY);
        sums.fill(0.0);
        let place = Place { batch: task.batch, head: task.head, head_dim };
        self.q.transposed(place, queries.clone(), width, self.scoring.factor, row, q);
        let hull = Span::hull(mask, &queries, self.problem.shape().key_len);
        Panel { queries, hull, width, q, output, largest, sums, started: false }
    }

    /// One run of keys against one panel.
    fn piece(
        &self,
        task: &Task<'_, T>,
        panel: &mut Panel<'_>,
        mask: RowMask<'_>,
        keys: Range<usize>,
        (k, v): (Rows<'_>, Rows<'_>),
        shared: &mut Shared<'_>,
    ) {
        let tile = mask.tile(panel.queries.clone(), keys.clone());
        if tile == Tile::None {
            return;
        }
        let (simd, head_dim, width) = (self.simd, self.problem.shape().head_dim, panel.width);
        let scores = &mut shared.tile[..keys.len() * width];
        Product {
            a: k.data,
            a_stride: k.stride,
            left: Left::Rows,
            b: panel.q,
            b_stride: width,
            out: scores,
            out_stride: width,
            rows: keys.len(),
            columns: width,
            depth: head_dim,
            add: false,
        }
        .compute(simd);
        self.scoring.cap(simd, scores, &mut []);
        let adjust = shared.lanes.adjust(self.problem, task.batch, task.head, &panel.queries, &keys, tile);
        let (largest, sums) = (&mut *panel.largest, &mut *panel.sums);
        let factors = &mut *shared.factors;
        let softmax = Softmax { tile: scores, rows: keys.len(), width, adjust, largest, sums, factors };
        if simd.operate(softmax) && panel.started {
            simd.operate(Rescale { rows: panel.output, width, factors: shared.factors });
        }
        Product {
            a: v.data,
            a_stride: v.stride,
            left: Left::Columns,
            b: &shared.tile[..keys.len() * width],
            b_stride: width,
            out: panel.output,
            out_stride: width,
            rows: head_dim,
            columns: width,
            depth: keys.len(),
            add: panel.started,
        }
        .compute(simd);
        panel.started = true;
    }

    /// Divides by the sums and writes.
    fn finish(&self, panels: Vec<Panel<'_>>, task: Task<'_, T>, row: &mut [f32]) {
        let head_dim = self.problem.shape().head_dim;
        for panel in panels {
            for (lane, query) in panel.queries.clone().enumerate() {
                let at = query - task.queries.start;
                let sum = panel.sums[lane];
                // Exactly zero where no piece was visited or every score was hidden; NaN is not zero, and stays.
                let blind = !panel.started || sum == 0.0;
                let inverse = if blind { 0.0 } else { sum.recip() };
                for (x, column) in row.iter_mut().zip(panel.output.chunks_exact(panel.width)) {
                    *x = if blind { 0.0 } else { column[lane] * inverse };
                }
                T::narrow(row, &mut task.output[at * head_dim..(at + 1) * head_dim]);
                task.lse[at] = if blind {
                    f32::NEG_INFINITY
                } else {
                    (f64::from(sum).ln() + f64::from(panel.largest[lane])) as f32
                };
            }
        }
    }
}
