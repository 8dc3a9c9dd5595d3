//! Sizes of blocks, and the scratch memory that follows from them.

use super::scoring::Lanes;
use super::simd::PANEL_VECTORS;
use super::workers::Cutter;
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
    /// Whether keys and values are copied to float32.
    copies: bool,
}

impl Plan {
    /// Of a forward pass.
    pub(super) fn forward(shape: &AttnShape, dtype: DType, lanes: usize, threads: usize) -> Self {
        let panel = PANEL_VECTORS * lanes;
        // 192 queries share a block of keys in the second-level cache; fewer where threads would starve.
        let heads = shape.batch * shape.query_heads;
        let fair = (heads * shape.query_len).div_ceil(4 * threads);
        let queries = fair.clamp(1, 192).min(shape.query_len).next_multiple_of(panel);
        let copies = dtype != DType::F32;
        let keys = if copies { 64 } else { 192 };
        Self { queries, panel, keys, align: 8, copies }
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
