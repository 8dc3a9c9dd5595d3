//! The table of CUDA kernels: which there are, their text, and everything that a launch needs to know.
//!
//! A kernel is one text compiled for one [`Spec`] by definitions; [`TableKernel::source`] needs no include path and no headers.
//! It is compiled with `-std=c++17` and [`TableKernel::options`], as NVRTC takes them, and has one entry point, whose only
//! argument is [`Params`] by value. A launch has [`Kernel::grid`] blocks of [`Kernel::threads`]
//! threads with [`Kernel::shared_bytes`] of dynamic shared memory (above 48 KiB after the function's attribute is raised).
//! No kernel needs more than 99 KiB, which every device from sm_80 on gives.
//!
//! Backward is `Prepare`, then `Keys` and `Queries` in any order; it is deterministic. Each writes every element of its
//! results (blind rows and keys that nobody sees become zero), so nothing needs to be zeroed before.

use torch_ext::cuda::{Arch, Instruction, PRIMITIVES, TableKernel};

use super::hopper;
use super::params::Params;
use crate::error::DType;

/// What a kernel computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Output and log-sum-exp.
    Forward,
    /// What the other two of the backward need for each query.
    Prepare,
    /// Gradients by keys and values.
    Keys,
    /// Gradients by queries.
    Queries,
    /// Rotary embedding of queries and keys in place; made for every head size at once.
    Rotate,
}

/// What happens to scores between `q . k` and softmax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scores {
    /// Scale alone.
    Plain,
    /// Scale and ALiBi.
    Alibi,
    /// Scale, soft cap, and ALiBi if slopes are given.
    Capped,
}

/// Whose instructions a kernel is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Generation {
    /// `mma` and `cp.async`: every device from sm_80 on.
    First,
    /// `wgmma` and the copy engine: Hopper alone ([`super::hopper`]).
    Second,
}

/// One kernel of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Whose instructions it is made of.
    pub generation: Generation,
    /// What it computes.
    pub pass: Pass,
    /// Element type of its tensors.
    pub dtype: DType,
    /// The head size that it is made for; smaller ones are padded with zeros in shared memory.
    pub head_dim: usize,
    /// Its scores.
    pub scores: Scores,
}

/// Head sizes that kernels are made for.
pub const HEAD_DIMS: [usize; 5] = [64, 80, 96, 128, 256];

/// A kernel, ready to be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Which.
    pub spec: Spec,
    /// Queries in a tile (of [`Pass::Prepare`]: queries of a block; of [`Pass::Rotate`]: pairs of a thread).
    pub query_tile: usize,
    /// Keys in a tile.
    pub key_tile: usize,
    /// Warps in a block.
    pub warps: usize,
    /// Blocks that registers must leave room for on one multiprocessor.
    pub min_blocks: usize,
    /// Dynamic shared memory of a block.
    pub shared_bytes: usize,
}

impl Scores {
    /// What a problem needs.
    #[must_use]
    pub fn of(problem: &crate::AttnProblem) -> Self {
        match (problem.soft_cap(), problem.alibi()) {
            (Some(_), _) => Self::Capped,
            (None, Some(_)) => Self::Alibi,
            (None, None) => Self::Plain,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Alibi => "alibi",
            Self::Capped => "capped",
        }
    }
}

impl Pass {
    /// The name of the entry point.
    #[must_use]
    pub fn entry(self) -> &'static str {
        match self {
            Self::Forward => "attention_forward",
            Self::Prepare => "attention_prepare",
            Self::Keys => "attention_keys",
            Self::Queries => "attention_queries",
            Self::Rotate => "attention_rotate",
        }
    }

    /// The file that holds it for 16-bit elements, and its text.
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Forward => ("forward.cu", include_str!("../../cuda/forward.cu")),
            Self::Prepare => ("prepare.cu", include_str!("../../cuda/prepare.cu")),
            Self::Keys => ("keys.cu", include_str!("../../cuda/keys.cu")),
            Self::Queries => ("queries.cu", include_str!("../../cuda/queries.cu")),
            Self::Rotate => ("rotate.cu", include_str!("../../cuda/rotate.cu")),
        }
    }

    /// The same for float32.
    fn single_text(self) -> (&'static str, &'static str) {
        match self {
            Self::Forward => ("single_forward.cu", include_str!("../../cuda/single_forward.cu")),
            Self::Prepare => ("single_prepare.cu", include_str!("../../cuda/single_prepare.cu")),
            Self::Keys => ("single_keys.cu", include_str!("../../cuda/single_keys.cu")),
            Self::Queries => ("single_queries.cu", include_str!("../../cuda/single_queries.cu")),
            Self::Rotate => ("single_rotate.cu", include_str!("../../cuda/single_rotate.cu")),
        }
    }
}

/// The smallest head size of the table that holds `head_dim`, which must be a multiple of 8; none if there is none.
#[must_use]
pub fn padded_head_dim(head_dim: usize) -> Option<usize> {
    if !head_dim.is_multiple_of(8) {
        return None;
    }
    HEAD_DIMS.into_iter().find(|&size| size >= head_dim)
}

/// Kernels beside [`table`]: rotation, which no attention problem asks for by itself, and attention in float32.
#[must_use]
pub fn others() -> Vec<Kernel> {
    [DType::BF16, DType::F16, DType::F32]
        .into_iter()
        .filter_map(rotation)
        .chain(of_types(Generation::First, &[DType::F32]))
        .collect()
}

/// The kernel that rotates tensors of a type; none for float64.
#[must_use]
pub fn rotation(dtype: DType) -> Option<Kernel> {
    let generation = Generation::First;
    kernel(Spec { generation, pass: Pass::Rotate, dtype, head_dim: HEAD_DIMS[0], scores: Scores::Plain })
}

/// Every kernel of the first generation that an attention problem in 16-bit elements may ask for.
#[must_use]
pub fn table() -> Vec<Kernel> {
    of_types(Generation::First, &[DType::BF16, DType::F16])
}

/// Every kernel of the second generation.
#[must_use]
pub fn hopper_table() -> Vec<Kernel> {
    of_types(Generation::Second, &[DType::BF16, DType::F16])
}

/// The attention kernels of some element types.
fn of_types(generation: Generation, dtypes: &[DType]) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    for pass in [Pass::Forward, Pass::Prepare, Pass::Keys, Pass::Queries] {
        for &dtype in dtypes {
            for head_dim in HEAD_DIMS {
                for scores in [Scores::Plain, Scores::Alibi, Scores::Capped] {
                    kernels.extend(kernel(Spec { generation, pass, dtype, head_dim, scores }));
                }
            }
        }
    }
    kernels
}

/// The kernel of a spec; none if there is none. [`Pass::Prepare`] and [`Pass::Rotate`] have only [`Scores::Plain`], the
/// latter with the first of [`HEAD_DIMS`].
#[must_use]
pub fn kernel(spec: Spec) -> Option<Kernel> {
    if spec.dtype == DType::F64 || !HEAD_DIMS.contains(&spec.head_dim) {
        return None;
    }
    let scoreless = matches!(spec.pass, Pass::Prepare | Pass::Rotate);
    if scoreless && spec.scores != Scores::Plain || spec.pass == Pass::Rotate && spec.head_dim != HEAD_DIMS[0] {
        return None;
    }
    if spec.generation == Generation::Second {
        return hopper::kernel(spec);
    }
    if spec.dtype == DType::F32 {
        return Some(single(spec));
    }
    let (query_tile, key_tile, warps, min_blocks) = tiles(spec);
    // Rows of 16-bit elements that are held or on their way at once.
    let (rows, extra) = match spec.pass {
        Pass::Forward => (query_tile + 4 * key_tile, 4 * query_tile),
        Pass::Prepare | Pass::Rotate => (0, 0),
        // Up to three numbers for each query come along, here with each of the two stages.
        Pass::Keys => (2 * key_tile + 4 * query_tile, 2 * 3 * 4 * query_tile),
        Pass::Queries => (2 * query_tile + 4 * key_tile, 3 * 4 * query_tile),
    };
    let shared_bytes = rows * spec.head_dim * 2 + extra;
    Some(Kernel { spec, query_tile, key_tile, warps, min_blocks, shared_bytes })
}

/// A float32 kernel: square tiles, 16 by 16 threads, rows padded by 16 bytes.
fn single(spec: Spec) -> Kernel {
    let tile = if spec.head_dim > 128 { 16 } else { 32 };
    // Tiles of vectors and of scores that are in shared memory at once.
    let (vectors, scores) = match spec.pass {
        Pass::Forward => (3, 1),
        Pass::Prepare | Pass::Rotate => (0, 0),
        Pass::Keys => (4, 2),
        Pass::Queries => (4, 1),
    };
    let shared_bytes = 4 * tile * (vectors * (spec.head_dim + 4) + scores * (tile + 1));
    let query_tile = if vectors == 0 { 8 } else { tile };
    Kernel { spec, query_tile, key_tile: tile, warps: 8, min_blocks: 1, shared_bytes }
}

/// Queries and keys in a tile, warps, blocks on a multiprocessor.
fn tiles(spec: Spec) -> (usize, usize, usize, usize) {
    match (spec.pass, spec.head_dim) {
        (Pass::Prepare | Pass::Rotate, _) => (8, 0, 8, 1),
        (Pass::Forward, 256) => (64, 32, 4, 1),
        (Pass::Forward, _) => (128, 64, 4, 2),
        (Pass::Keys, 256) => (16, 64, 4, 1),
        (Pass::Keys, 64) if spec.scores == Scores::Plain => (32, 128, 4, 2),
        (Pass::Keys, 64) => (64, 128, 8, 1),
        (Pass::Keys, _) => (32, 128, 8, 1),
        (Pass::Queries, 256) => (32, 32, 2, 1),
        (Pass::Queries, _) => (128, 32, 4, 2),
    }
}

impl TableKernel for Kernel {
    /// As `forward_bf16_128_plain`, `forward_hopper_bf16_128_plain`.
    fn name(&self) -> String {
        let Spec { generation, pass, dtype, head_dim, scores } = self.spec;
        let element = match dtype {
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::F32 | DType::F64 => "f32",
        };
        let pass = pass.entry().trim_start_matches("attention_");
        let generation = if generation == Generation::Second { "hopper_" } else { "" };
        format!("{pass}_{generation}{element}_{head_dim}_{}", scores.name())
    }

    fn entry(&self) -> &'static str {
        self.spec.pass.entry()
    }

    fn parts(&self) -> Vec<(&'static str, &'static str)> {
        if self.spec.generation == Generation::Second {
            return hopper::parts(self.spec.pass);
        }
        let mut parts = vec![
            PRIMITIVES,
            ("params.cuh", include_str!("../../cuda/params.cuh")),
            ("mask.cuh", include_str!("../../cuda/mask.cuh")),
            ("scores.cuh", include_str!("../../cuda/scores.cuh")),
        ];
        if self.spec.dtype == DType::F32 {
            parts.push(("single.cuh", include_str!("../../cuda/single.cuh")));
            parts.push(self.spec.pass.single_text());
        } else {
            parts.push(("tile.cuh", include_str!("../../cuda/tile.cuh")));
            parts.push(("products.cuh", include_str!("../../cuda/products.cuh")));
            parts.push(self.spec.pass.text());
        }
        parts
    }

    fn options(&self) -> Vec<String> {
        self.defines().into_iter().map(|(name, value)| format!("-D{name}={value}")).collect()
    }

    fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    fn is_for(&self, arch: Arch) -> bool {
        self.spec.generation == Generation::First || arch == Arch::SM_90A
    }

    fn instructions(&self) -> &'static [Instruction] {
        match self.spec.generation {
            Generation::First => &[],
            Generation::Second => hopper::instructions(self.spec.pass),
        }
    }

    fn exponentials_under_way(&self) -> usize {
        match self.spec.generation {
            Generation::First => 0,
            Generation::Second => hopper::exponentials_under_way(self),
        }
    }
}

impl Kernel {
    /// Definitions that make the text this kernel.
    #[must_use]
    pub fn defines(&self) -> Vec<(&'static str, usize)> {
        let scores = match self.spec.scores {
            Scores::Plain => 0,
            Scores::Alibi => 1,
            Scores::Capped => 2,
        };
        let mut defines = vec![
            ("ELEMENT_F16", usize::from(self.spec.dtype == DType::F16)),
            ("HEAD_DIM", self.spec.head_dim),
            ("SCORES", scores),
            ("TILE_M", self.query_tile),
            ("TILE_N", self.key_tile),
            ("WARPS", self.warps),
            ("MIN_BLOCKS", self.min_blocks),
        ];
        match self.spec.generation {
            Generation::First => defines.push(("STEP_UNROLL", self.step_unroll())),
            Generation::Second => defines.extend(hopper::defines(self.spec)),
        }
        defines
    }

    /// Steps of 16 columns of a product that are in flight at once: more of them cost registers.
    fn step_unroll(&self) -> usize {
        match (self.spec.pass, self.spec.head_dim, self.spec.scores) {
            (Pass::Queries, ..) | (Pass::Forward, 128, Scores::Plain) => 2,
            _ => 4,
        }
    }

    /// Threads in a block, all in x.
    #[must_use]
    pub fn threads(&self) -> u32 {
        32 * small(self.warps)
    }

    /// Blocks in x, y and z; of those of the second generation whose blocks stay ([`hopper::stays`]), see
    /// [`hopper::Launch::grid`].
    #[must_use]
    pub fn grid(&self, params: &Params) -> [u32; 3] {
        let unsigned = |n: i32| n.unsigned_abs();
        let (queries, keys) = (small(self.query_tile), small(self.key_tile));
        let (batch, query_heads) = (unsigned(params.batch), unsigned(params.query_heads));
        match self.spec.pass {
            Pass::Queries if self.spec.generation == Generation::Second => {
                let threads = unsigned(params.query_len) * (unsigned(params.head_dim) / 8);
                [threads.div_ceil(self.threads()), query_heads, batch]
            }
            Pass::Forward | Pass::Queries => [unsigned(params.query_len).div_ceil(queries), query_heads, batch],
            Pass::Rotate => {
                let rows = unsigned(params.query_len).max(unsigned(params.key_len));
                let threads = rows * (unsigned(params.pairs) / 8);
                [threads.div_ceil(self.threads()), query_heads + unsigned(params.key_heads), batch]
            }
            Pass::Prepare => [unsigned(params.padded_query_len).div_ceil(small(self.warps)), query_heads, batch],
            Pass::Keys => {
                [unsigned(params.key_len).div_ceil(keys), unsigned(params.key_heads), batch * self.key_splits()]
            }
        }
    }

    /// Blocks that share the columns of the gradients of one tile of keys, since registers do not hold more than 128.
    fn key_splits(&self) -> u32 {
        if self.spec.head_dim > 128 && self.spec.dtype != DType::F32 { 2 } else { 1 }
    }
}

/// Tile sizes are small constants.
fn small(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_fits_the_smallest_device() {
        for kernel in table().into_iter().chain(others()) {
            assert!(kernel.shared_bytes <= 99 * 1024, "{}: {} bytes", kernel.name(), kernel.shared_bytes);
            assert!(kernel.source().contains(kernel.spec.pass.entry()));
        }
    }

    #[test]
    fn head_sizes_are_padded_to_the_next_of_the_table() {
        assert_eq!(padded_head_dim(32), Some(64));
        assert_eq!(padded_head_dim(80), Some(80));
        assert_eq!(padded_head_dim(20), None);
        assert_eq!(padded_head_dim(264), None);
    }

    #[test]
    fn names_are_unique() {
        let all: Vec<Kernel> = table().into_iter().chain(others()).chain(hopper_table()).collect();
        let names: std::collections::HashSet<String> = all.iter().map(Kernel::name).collect();
        assert_eq!(names.len(), all.len());
    }
}
