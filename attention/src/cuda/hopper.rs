//! The second generation of attention kernels, for Hopper (sm_90a) alone: products by `wgmma`, tiles by the copy engine (TMA),
//! warpgroups that have roles (Shah et al. 2024).
//!
//! | kernel | a block holds | walks over | adds |
//! |---|---|---|---|
//! | forward | 64 queries for each of two warpgroups, of three at head size 64 | 128 keys, two tiles deep | |
//! | prepare | 8 queries | - | as in generation 1; zeros for dq, turns |
//! | keys | 128 keys, 64 for each of two warpgroups | 64 queries (128 at head size 64), two tiles deep | dk, dv; dq in float32 |
//! | queries | - | - | dq, rounded |
//!
//! They are made for head sizes 64 and 128 in bfloat16 and float16; smaller ones are padded with zeros by the copy engine.
//! With a soft cap only 128: the registers of head size 64 hold larger tiles. Forward and keys have as many blocks as the
//! device has multiprocessors, each with a share of the [`Launch`]'s pieces.

use torch_ext::cuda::{HOPPER_PRIMITIVES, Instruction, PRIMITIVES};

use super::kernels::{Kernel, Pass, Scores, Spec};
use crate::error::DType;

mod launch;

pub use launch::{Launch, TensorMap, Tiled};

/// Stages of the rings that tiles come through.
const STAGES: usize = 2;
/// Warpgroups of the kernel of the keys that compute.
const KEY_CONSUMERS: usize = 2;
/// Fewest queries in a tile of the kernel of the keys, which turns at adding to dq are counted by at most.
pub(super) const SMALLEST_QUERY_TILE: usize = 64;
/// Keys in a tile.
const KEY_TILE: usize = 128;
/// What tells of a piece of work, and its mbarriers.
const LETTERS_BYTES: usize = 2 * (4 * 8 + 16);
/// Bytes of an mbarrier.
const MBARRIER: usize = 8;

/// Warpgroups that compute; one more moves data. At head size 64 sums of three find room in registers.
fn consumers(spec: Spec) -> usize {
    if spec.pass == Pass::Forward && spec.head_dim == 64 { 3 } else { KEY_CONSUMERS }
}

/// Definitions that a kernel of this generation has beside those of every kernel. Registers of threads that move data and of
/// those that compute are together no more than what a block has at entry, the same number for each thread.
pub(super) fn defines(spec: Spec) -> [(&'static str, usize); 4] {
    let [moving, computing] = match consumers(spec) {
        3 => [32, 160],
        // With a cap the assembler fits the kernel of the keys into 232 and spills where it may take 240.
        _ if (spec.pass, spec.scores) == (Pass::Keys, Scores::Capped) => [24, 232],
        _ => [24, 240],
    };
    let consumers = consumers(spec);
    [("STAGES", STAGES), ("CONSUMERS", consumers), ("PRODUCER_REGISTERS", moving), ("CONSUMER_REGISTERS", computing)]
}

/// The head size that kernels are made for which holds `head_dim`; none if there is none.
#[must_use]
pub fn padded_head_dim(head_dim: usize, scores: Scores) -> Option<usize> {
    match head_dim {
        _ if !head_dim.is_multiple_of(8) || head_dim == 0 => None,
        ..=64 if scores != Scores::Capped => Some(64),
        ..=128 => Some(128),
        _ => None,
    }
}

/// Whether a kernel's blocks stay for piece after piece.
#[must_use]
pub fn stays(pass: Pass) -> bool {
    matches!(pass, Pass::Forward | Pass::Keys)
}

/// The kernel of a spec; none if there is none.
pub(super) fn kernel(spec: Spec) -> Option<Kernel> {
    let Spec { pass, dtype, head_dim, scores, .. } = spec;
    let made = matches!(head_dim, 64 | 128) && matches!(dtype, DType::BF16 | DType::F16);
    let scoreless = matches!(pass, Pass::Prepare | Pass::Queries);
    if !made
        || pass == Pass::Rotate
        || scoreless && scores != Scores::Plain
        || head_dim == 64 && scores == Scores::Capped
    {
        return None;
    }
    let query_tile = if pass == Pass::Forward { 64 * consumers(spec) } else { 8192 / head_dim };
    let tile = |rows: usize| rows * head_dim * 2;
    let shared_bytes = match pass {
        Pass::Forward => {
            let tiles = 2 * tile(query_tile) + 2 * STAGES * tile(KEY_TILE);
            tiles + LETTERS_BYTES + (2 + 4 * STAGES) * MBARRIER
        }
        Pass::Keys => {
            let tiles = 2 * tile(KEY_TILE) + 2 * STAGES * tile(query_tile);
            // Gradients of scores in two buffers, those of queries in float32, two numbers of each query.
            let gradients = 2 * 2 * KEY_TILE * query_tile + KEY_CONSUMERS * 64 * 64 * 4 + 2 * STAGES * 4 * query_tile;
            tiles + gradients + LETTERS_BYTES + (2 + 3 * KEY_CONSUMERS + 4 * STAGES) * MBARRIER
        }
        _ => 0,
    };
    let warps = if stays(pass) { 4 * (consumers(spec) + 1) } else { 8 };
    Some(Kernel { spec, query_tile, key_tile: KEY_TILE, warps, min_blocks: 1, shared_bytes })
}

/// What the machine code of a pass must have.
pub(super) fn instructions(pass: Pass) -> &'static [Instruction] {
    use Instruction::{Hgmma, Ublkcp, Usetmaxreg, Utmaldg, Utmaredg, Utmastg};
    match pass {
        Pass::Forward => &[Hgmma, Utmaldg, Utmastg, Usetmaxreg],
        Pass::Keys => &[Hgmma, Utmaldg, Ublkcp, Utmaredg, Usetmaxreg],
        _ => &[],
    }
}

/// Exponentials of a thread that are to be computed while products are under way. A tile of scores has half as many for each
/// thread as the tile has columns; the forward has two loops.
pub(super) fn exponentials_under_way(kernel: &Kernel) -> usize {
    // With a cap two more special functions make one score.
    let each = if kernel.spec.scores == Scores::Capped { 3 } else { 1 };
    match kernel.spec.pass {
        Pass::Forward => 2 * each * kernel.key_tile / 2 * 7 / 8,
        Pass::Keys => each * kernel.query_tile / 2 * 7 / 8,
        _ => 0,
    }
}

/// The text of a pass.
pub(super) fn parts(pass: Pass) -> Vec<(&'static str, &'static str)> {
    let text = match pass {
        Pass::Forward => ("hopper/forward.cu", include_str!("../../cuda/hopper/forward.cu")),
        Pass::Keys => ("hopper/keys.cu", include_str!("../../cuda/hopper/keys.cu")),
        Pass::Queries => ("hopper/queries.cu", include_str!("../../cuda/hopper/queries.cu")),
        // Rotation has no kernel of this generation.
        Pass::Prepare | Pass::Rotate => ("hopper/prepare.cu", include_str!("../../cuda/hopper/prepare.cu")),
    };
    vec![
        PRIMITIVES,
        HOPPER_PRIMITIVES,
        ("params.cuh", include_str!("../../cuda/params.cuh")),
        ("mask.cuh", include_str!("../../cuda/mask.cuh")),
        ("scores.cuh", include_str!("../../cuda/scores.cuh")),
        ("hopper/tile.cuh", include_str!("../../cuda/hopper/tile.cuh")),
        ("hopper/launch.cuh", include_str!("../../cuda/hopper/launch.cuh")),
        text,
    ]
}

#[cfg(test)]
#[path = "hopper_tests.rs"]
mod tests;
