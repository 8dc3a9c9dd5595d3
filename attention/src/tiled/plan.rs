//! Sizes of blocks, and the scratch memory that follows from them.

use std::ops::Range;

use super::Scratch;
use super::scoring::Lanes;
use super::simd::{Simd, Work};
use super::workers::{Buffer, Cutter};
use crate::error::DType;
use crate::shape::AttnShape;

/// How a pass is cut up. Block sizes of keys never depend on the number of threads, so that sums keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Queries of one task.
    pub(super) queries: usize,
    /// Queries of one panel.
    pub(super) panel: usize,
    /// Keys of one block.
    pub(super) keys: usize,
    /// Ends of a run of keys lie on multiples of this: rows of the register tile.
    pub(super) align: usize,
    /// Columns of rows that a product takes: the head size, rounded up.
    pub(super) columns: usize,
    /// Whether tensors are copied to float32.
    copies: bool,
}

/// Numbers in each part of the scratch memory of a backward pass.
pub(super) struct BackwardSizes {
    pub(super) columns: usize,
    pub(super) lanes: usize,
    pub(super) query_rows: usize,
    pub(super) key_rows: usize,
    pub(super) value_rows: usize,
    pub(super) first: usize,
    pub(super) second: usize,
    pub(super) tile: usize,
}

impl Plan {
    /// Of a forward pass.
    pub(super) fn forward<S: Simd>(shape: &AttnShape, dtype: DType, threads: usize) -> Self {
        let panel = S::PANEL;
        // 192 queries share a block of keys in the second-level cache; fewer where threads would starve.
        let heads = shape.batch * shape.query_heads;
        let fair = (heads * shape.query_len).div_ceil(4 * threads);
        let queries = fair.clamp(1, 192).min(shape.query_len).next_multiple_of(panel);
        let copies = dtype != DType::F32;
        let keys = if copies { 64 } else { 192 }.min(shape.key_len.next_multiple_of(S::ROWS));
        Self { queries, panel, keys, align: S::ROWS, columns: shape.head_dim.next_multiple_of(S::STEP), copies }
    }

    /// Of a backward pass.
    pub(super) fn backward<S: Simd>(shape: &AttnShape, dtype: DType) -> Self {
        let copies = dtype != DType::F32;
        // Wide heads get small blocks, so that scratch memory stays as small.
        let (queries, keys) = match (copies, shape.head_dim <= 128) {
            (false, true) => (96, 96),
            (false, false) => (48, 96),
            (true, true) => (48, 64),
            (true, false) => (48, 32),
        };
        let (queries, keys) = (queries.min(shape.query_len.next_multiple_of(S::PANEL)), keys.min(shape.key_len));
        let columns = shape.head_dim.next_multiple_of(S::STEP);
        Self { queries, panel: queries, keys, align: S::ROWS, columns, copies }
    }

    /// Keys of a block.
    pub(super) fn block(&self, number: usize, key_len: usize) -> Range<usize> {
        number * self.keys..((number + 1) * self.keys).min(key_len)
    }

    /// The parts of one thread's scratch memory in a backward pass.
    pub(super) fn backward_sizes(&self, shape: &AttnShape) -> BackwardSizes {
        let (queries, keys, head_dim) = (self.queries, self.keys, shape.head_dim);
        let whole = self.columns == head_dim;
        BackwardSizes {
            columns: queries * head_dim,
            lanes: queries,
            query_rows: if self.copies || !whole { queries * self.columns } else { 0 },
            key_rows: if self.copies || !whole { keys * self.columns } else { 0 },
            value_rows: if self.copies { keys * head_dim } else { 0 },
            first: queries.max(if self.copies { keys } else { 0 }) * self.columns,
            second: if self.copies || !whole { keys * self.columns } else { 0 },
            tile: keys * queries,
        }
    }

    /// Numbers that one thread of a backward pass needs.
    pub(super) fn backward_scratch(&self, shape: &AttnShape, capped: bool) -> usize {
        let sizes = self.backward_sizes(shape);
        let (row, bends) = (shape.head_dim, if capped { sizes.tile } else { 0 });
        let twice = [sizes.columns, sizes.query_rows, sizes.lanes, row, sizes.tile];
        let once = [sizes.key_rows, sizes.value_rows, sizes.first, sizes.second, bends];
        2 * Cutter::total(&twice) + Cutter::total(&once) + Cutter::total(&[sizes.lanes; Lanes::SLICES])
    }

    /// Numbers of one block of keys or values in float32, where they are copied.
    pub(super) fn packed(&self, shape: &AttnShape) -> usize {
        if self.copies { self.keys * shape.head_dim } else { 0 }
    }

    /// Numbers that one thread of a forward pass needs.
    pub(super) fn forward_scratch(&self, shape: &AttnShape) -> usize {
        let panel = [shape.head_dim * self.panel, shape.head_dim * self.panel, self.panel, self.panel];
        let shared = [self.keys * self.panel, shape.head_dim, self.packed(shape), self.packed(shape)];
        let lanes = [self.panel; 1 + Lanes::SLICES];
        self.queries.div_ceil(self.panel) * Cutter::total(&panel) + Cutter::total(&shared) + Cutter::total(&lanes)
    }
}

/// Work for [`super::scratch_bytes`].
pub(super) struct Measure {
    pub(super) shape: AttnShape,
    pub(super) dtype: DType,
    pub(super) threads: usize,
    pub(super) capped: bool,
}

/// Bytes of one task in a list, and of one block of keys: generous.
const ENTRY: usize = 96;

impl Work for Measure {
    type Answer = Scratch;

    fn run<S: Simd>(self, _simd: S) -> Scratch {
        let Self { shape, dtype, threads, capped } = self;
        let workers = |tasks: usize| threads.min(tasks).max(1);
        let heads = shape.batch * shape.query_heads;
        let forward = Plan::forward::<S>(&shape, dtype, threads);
        let tasks = heads * shape.query_len.div_ceil(forward.queries);
        let numbers = workers(tasks) * Buffer::numbers(forward.forward_scratch(&shape));
        let backward = Plan::backward::<S>(&shape, dtype);
        let blocks = shape.batch * shape.key_heads * shape.key_len.div_ceil(backward.keys);
        let query_tasks = heads * shape.query_len.div_ceil(backward.queries);
        let most = query_tasks.max(if backward.copies { blocks } else { 0 });
        let backward_numbers = workers(most) * Buffer::numbers(backward.backward_scratch(&shape, capped));
        Scratch {
            forward: size_of::<f32>() * numbers + ENTRY * tasks,
            backward: size_of::<f32>() * backward_numbers + ENTRY * (query_tasks + blocks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiled::scratch_bytes;
    use crate::{AttnProblem, Mask};

    #[test]
    fn two_threads_need_at_most_one_percent_of_the_scores_in_every_type() {
        for (head_dim, dtype) in [(64, DType::F32), (80, DType::F32), (128, DType::F32), (128, DType::BF16)] {
            let (query_len, key_len) = (4096, 4096);
            let shape = AttnShape { batch: 1, query_heads: 8, key_heads: 8, query_len, key_len, head_dim };
            let problem = AttnProblem::new(shape).unwrap().with_mask(Mask::causal(&shape)).unwrap();
            let Scratch { forward, backward } = scratch_bytes(&problem, dtype, 2);
            let limit = 4096 * 4096 * size_of::<f32>() / 100;
            println!("{head_dim} {dtype}: {forward} and {backward} of {limit} bytes");
            assert!(forward <= limit && backward <= limit, "{head_dim} {dtype}: {forward}, {backward}");
        }
    }
}
