//! Gradients by q, k and v.
//!
//! A task is a block of queries of one head, as in the forward pass. Weights are rebuilt from the log-sum-exp, which is one
//! lane of a vector, and five products follow for each block of keys that the queries see (Dao et al. 2022, algorithm 4,
//! with the loops exchanged):
//!
//! ```text
//! S^T  = K Q^T      P^T  = e^(S^T - lse)
//! dP^T = V dO^T     dS^T = P^T (dP^T - D) bend scale        D = rowsum(dO O)
//! dV   = dV + P^T dO      dK = dK + dS^T Q      dQ = dQ + dS K
//! ```
//!
//! dQ belongs to the task. dK and dV belong to all tasks, so they take turns: every block of keys counts its contributions,
//! and a task adds its own when the count has reached its rank among the tasks that see the block, in the order in which
//! tasks were handed out. Sums then have one order, hence the same bits, whatever the number of threads; gradients are
//! summed where they are returned, so no thread needs a copy of its own; and one head of one sequence fills all threads,
//! each a block behind the one before it. The task that was handed out first among those unfinished never waits, so the
//! wait ends. With as many heads as threads, tasks alternate between heads and hardly meet.
//!
//! Sixteen-bit gradients cannot be summed where they are returned, and float32 copies of them would be the largest thing in
//! memory. There, dQ is computed by blocks of queries and dK and dV by blocks of keys, which computes S and dP twice: seven
//! products instead of five.

use std::cmp::Reverse;
use std::ops::Range;

use super::element::Element;
use super::pair::{Pass, Room, Side};
use super::plan::Plan;
use super::scoring::Scoring;
use super::simd::product::{Left, Product};
use super::simd::{Simd, Work};
use super::span::Span;
use super::turns::{Ranked, Turn, Turns};
use super::view::{Place, Rows, View};
use super::workers::{Buffer, in_order, threads};
use crate::mask::Tile;
use crate::problem::AttnProblem;

/// Everything a backward pass reads and writes.
pub struct Backward<'a, T> {
    pub(super) problem: &'a AttnProblem,
    pub(super) q: View<'a, T>,
    pub(super) k: View<'a, T>,
    pub(super) v: View<'a, T>,
    pub(super) output: View<'a, T>,
    pub(super) lse: &'a [f32],
    pub(super) grad_output: View<'a, T>,
    pub(super) dq: &'a mut [T],
    pub(super) dk: &'a mut [T],
    pub(super) dv: &'a mut [T],
}

/// A block of queries of one head.
struct QueryTask<'a, T> {
    batch: usize,
    head: usize,
    queries: Range<usize>,
    dq: &'a mut [T],
}

/// A block of keys of one head.
struct KeyTask<'a, T> {
    batch: usize,
    key_head: usize,
    keys: Range<usize>,
    dk: &'a mut [T],
    dv: &'a mut [T],
}

impl<T: Element> Work for Backward<'_, T> {
    type Answer = ();

    fn run<S: Simd>(self, simd: S) {
        let Self { problem, q, k, v, output, lse, grad_output, dq, dk, dv } = self;
        let (shape, scoring) = (*problem.shape(), Scoring::new(problem));
        let plan = Plan::backward::<S>(&shape, T::DTYPE);
        let pass = Pass { simd, problem, scoring, plan, q, k, v, output, lse, grad_output };
        let tasks = pass.query_tasks(dq);
        let space = || Buffer::new(plan.backward_scratch(&shape, scoring.is_capped()));
        if let (Some(dk), Some(dv)) = (T::singles_mut(dk), T::singles_mut(dv)) {
            pass.in_turns(tasks, dk, dv, space);
            return;
        }
        in_order(tasks.into_iter(), space, |space, task| pass.by_queries(space, task, || None));
        in_order(pass.key_tasks(dk, dv).into_iter(), space, |space, task| pass.by_keys(space, task));
    }
}

impl<S: Simd, T: Element> Pass<'_, S, T> {
    /// Late queries first: under a causal mask they see most.
    ///
    /// Key heads go in bundles of one for each thread, so that threads seldom want the same block of keys.
    fn query_tasks<'a>(&self, dq: &'a mut [T]) -> Vec<QueryTask<'a, T>> {
        let shape = *self.problem.shape();
        let heads = dq.chunks_mut(shape.query_len * shape.head_dim).enumerate();
        let blocks = heads.flat_map(|(number, dq)| {
            let (batch, head) = (number / shape.query_heads, number % shape.query_heads);
            dq.chunks_mut(self.plan.queries * shape.head_dim).enumerate().map(move |(block, dq)| {
                let start = block * self.plan.queries;
                QueryTask { batch, head, queries: start..start + dq.len() / shape.head_dim, dq }
            })
        });
        let mut tasks: Vec<QueryTask<'a, T>> = blocks.collect();
        let threads = threads();
        tasks.sort_by_key(|task| {
            let unit = task.batch * shape.key_heads + shape.key_head_of(task.head);
            (unit / threads, task.head % shape.group(), Reverse(task.queries.start), unit)
        });
        tasks
    }

    fn key_tasks<'a>(&self, dk: &'a mut [T], dv: &'a mut [T]) -> Vec<KeyTask<'a, T>> {
        let shape = *self.problem.shape();
        let (head, block) = (shape.key_len * shape.head_dim, self.plan.keys * shape.head_dim);
        let heads = dk.chunks_mut(head).zip(dv.chunks_mut(head)).enumerate();
        let blocks = heads.flat_map(|(number, (dk, dv))| {
            let (batch, key_head) = (number / shape.key_heads, number % shape.key_heads);
            dk.chunks_mut(block).zip(dv.chunks_mut(block)).enumerate().map(move |(block, (dk, dv))| {
                let start = block * self.plan.keys;
                KeyTask { batch, key_head, keys: start..start + dk.len() / shape.head_dim, dk, dv }
            })
        });
        // Early keys first: under a causal mask most queries see them.
        let mut tasks: Vec<KeyTask<'a, T>> = blocks.collect();
        tasks.sort_by_key(|task| task.keys.start);
        tasks
    }

    /// Numbers of the blocks of keys of which some pair is visible.
    fn visible_blocks(&self, batch: usize, queries: &Range<usize>) -> Vec<usize> {
        let (mask, key_len) = (self.problem.mask().row(batch), self.problem.shape().key_len);
        let blocks = Span::hull(mask, queries, key_len).blocks(self.plan.keys);
        blocks.filter(|&block| mask.tile(queries.clone(), self.plan.block(block, key_len)) != Tile::None).collect()
    }

    /// All three gradients in one pass.
    fn in_turns(
        &self,
        tasks: Vec<QueryTask<'_, T>>,
        dk: &mut [f32],
        dv: &mut [f32],
        space: impl Fn() -> Buffer + Sync,
    ) {
        let shape = *self.problem.shape();
        dk.fill(0.0);
        dv.fill(0.0);
        let turns = Turns::new(dk, dv, shape.key_len * shape.head_dim, self.plan.keys * shape.head_dim);
        let mut ranks = turns.ranks();
        // Handing out a task fixes its ranks, so they follow the order of the tasks.
        let tasks = tasks.into_iter().map(|task| {
            let unit = task.batch * shape.key_heads + shape.key_head_of(task.head);
            let blocks = self.visible_blocks(task.batch, &task.queries);
            let ranked: Vec<Ranked> = blocks.into_iter().map(|block| ranks.next(unit, block)).collect();
            (task, ranked)
        });
        in_order(tasks, space, |space, (task, ranked)| {
            let _alarm = turns.alarm();
            let mut ranked = ranked.into_iter();
            self.by_queries(space, task, || ranked.next().map(|ranked| turns.turn(ranked)));
        });
    }

    /// One block of queries against every block of keys that it sees: dQ, and dK and dV where there are turns for them.
    fn by_queries<'t, 'g: 't>(
        &self,
        space: &mut Buffer,
        task: QueryTask<'_, T>,
        mut next_turn: impl FnMut() -> Option<Turn<'t, 'g>>,
    ) {
        let shape = self.problem.shape();
        let (head_dim, columns) = (shape.head_dim, self.plan.columns);
        let Room { mut tiles, mut side, k, v, first: dq, second: partial, mut row } = self.plan.room(shape, space);
        let side = self.side(&mut side, &mut row, task.batch, task.head, task.queries.clone());
        let place = Place { batch: task.batch, head: shape.key_head_of(task.head), head_dim };
        dq[..task.queries.len() * columns].fill(0.0);
        for block in self.visible_blocks(task.batch, &task.queries) {
            let keys = self.plan.block(block, shape.key_len);
            let k = self.k.rows(place, keys.clone(), columns, k);
            let v = self.v.rows(place, keys.clone(), head_dim, v);
            let mut turn = next_turn();
            let pieces = side.hull.pieces(&keys, self.plan.align);
            let is_last = |piece: &Range<usize>| pieces[1].is_empty() || *piece == pieces[1];
            for piece in pieces.clone() {
                let row = piece.start - keys.start;
                let (k, v) = (Rows { data: k.tail(row), ..k }, Rows { data: v.tail(row), ..v });
                if !self.tiles(&side, &mut tiles, piece.clone(), k, v) {
                    continue;
                }
                if let Some(turn) = &turn {
                    turn.with(|dk, dv| {
                        let (rows, at) = (piece.len(), row * head_dim);
                        self.add_rows(&side, tiles.weights, side.grad, rows, &mut dv[at..], partial);
                        self.add_rows(&side, tiles.gradients, side.q, rows, &mut dk[at..], partial);
                    });
                }
                if is_last(&piece) {
                    // Others may go on while this thread sees to its own dQ.
                    turn = None;
                }
                Product {
                    a: tiles.gradients,
                    a_stride: side.width,
                    left: Left::Columns,
                    b: k.data,
                    b_stride: k.stride,
                    out: dq,
                    out_stride: columns,
                    rows: task.queries.len(),
                    columns,
                    depth: piece.len(),
                    add: true,
                }
                .compute(self.simd);
            }
        }
        for (to, from) in task.dq.chunks_exact_mut(head_dim).zip(dq.chunks_exact(columns)) {
            T::narrow(&from[..head_dim], to);
        }
    }

    /// Adds `tile` (keys by queries) times `right` (queries by head_dim) to `to`, rows of `head_dim`.
    fn add_rows(
        &self,
        side: &Side<'_>,
        tile: &[f32],
        right: Rows<'_>,
        rows: usize,
        to: &mut [f32],
        partial: &mut [f32],
    ) {
        let (head_dim, columns) = (self.problem.shape().head_dim, self.plan.columns);
        let direct = columns == head_dim;
        Product {
            a: tile,
            a_stride: side.width,
            left: Left::Rows,
            b: right.data,
            b_stride: right.stride,
            out: if direct { &mut *to } else { &mut *partial },
            out_stride: columns,
            rows,
            columns,
            depth: side.queries.len(),
            add: direct,
        }
        .compute(self.simd);
        if !direct {
            for (to, from) in to.chunks_exact_mut(head_dim).zip(partial.chunks_exact(columns)).take(rows) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
    }

    /// One block of keys against every block of queries that sees it: dK and dV.
    fn by_keys(&self, space: &mut Buffer, task: KeyTask<'_, T>) {
        let shape = self.problem.shape();
        let (head_dim, columns) = (shape.head_dim, self.plan.columns);
        let mask = self.problem.mask().row(task.batch);
        let Room { mut tiles, mut side, k, v, first: dk, second: dv, mut row } = self.plan.room(shape, space);
        let place = Place { batch: task.batch, head: task.key_head, head_dim };
        let k = self.k.rows(place, task.keys.clone(), columns, k);
        let v = self.v.rows(place, task.keys.clone(), head_dim, v);
        dk.fill(0.0);
        dv.fill(0.0);
        for head in task.key_head * shape.group()..(task.key_head + 1) * shape.group() {
            for start in (0..shape.query_len).step_by(self.plan.queries) {
                let queries = start..(start + self.plan.queries).min(shape.query_len);
                if mask.tile(queries.clone(), task.keys.clone()) == Tile::None {
                    continue;
                }
                let side = self.side(&mut side, &mut row, task.batch, head, queries);
                for piece in side.hull.pieces(&task.keys, self.plan.align) {
                    let first = piece.start - task.keys.start;
                    let (k, v) = (Rows { data: k.tail(first), ..k }, Rows { data: v.tail(first), ..v });
                    if self.tiles(&side, &mut tiles, piece.clone(), k, v) {
                        let at = first * columns;
                        self.add_columns(&side, tiles.weights, side.grad, piece.len(), &mut dv[at..]);
                        self.add_columns(&side, tiles.gradients, side.q, piece.len(), &mut dk[at..]);
                    }
                }
            }
        }
        for (to, from) in [(task.dk, dk), (task.dv, dv)] {
            for (to, from) in to.chunks_exact_mut(head_dim).zip(from.chunks_exact(columns)) {
                T::narrow(&from[..head_dim], to);
            }
        }
    }

    /// As [`Pass::add_rows`], to rows of `columns`.
    fn add_columns(&self, side: &Side<'_>, tile: &[f32], right: Rows<'_>, rows: usize, to: &mut [f32]) {
        Product {
            a: tile,
            a_stride: side.width,
            left: Left::Rows,
            b: right.data,
            b_stride: right.stride,
            out: to,
            out_stride: self.plan.columns,
            rows,
            columns: self.plan.columns,
            depth: side.queries.len(),
            add: true,
        }
        .compute(self.simd);
    }
}
