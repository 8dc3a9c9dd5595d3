//! The host twin (`testkit::twin`) for attention's kernels: their parameters as bytes.

use std::path::Path;

use attention::cuda::hopper;
use attention::cuda::params::{Params, Strides};
use testkit::twin;

/// Fields of [`Params`] that are addresses, all at its start.
const POINTERS: u32 = 16;

/// A compiled kernel.
pub(crate) struct Program(twin::Program);

/// One launch of it.
pub(crate) struct Launch<'a> {
    pub(crate) grid: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared_bytes: usize,
    /// Decides in which order blocks, warps and lanes run.
    pub(crate) seed: u32,
    /// Blocks that run at once.
    pub(crate) at_once: u32,
    /// Addresses are numbers of buffers, from 1 on.
    pub(crate) params: &'a dyn Arguments,
    pub(crate) buffers: &'a mut [Vec<u8>],
}

/// What a kernel takes, as C++ has it in memory.
pub(crate) trait Arguments {
    fn bytes(&self) -> Vec<u8>;
}

impl Arguments for Params {
    fn bytes(&self) -> Vec<u8> {
        bytes(self)
    }
}

impl Arguments for hopper::Launch {
    fn bytes(&self) -> Vec<u8> {
        let l = self;
        let mut all: Vec<u8> = l.maps.iter().flat_map(|map| map.0).flat_map(u64::to_ne_bytes).collect();
        all.extend(bytes(&l.params));
        all.extend(l.turns.to_ne_bytes());
        let sizes = [l.heads, l.tiles, l.section, l.group, l.planes, l.section_pieces, l.pieces, l.shortest_first];
        all.extend(sizes.iter().flat_map(|x| x.to_ne_bytes()));
        all.resize(all.len().next_multiple_of(align_of::<Self>()), 0);
        assert_eq!(all.len(), size_of::<Self>(), "a field of Launch is missing here");
        all
    }
}

/// A descriptor as the twin's copy engine reads it; the address is the number of a buffer.
pub(crate) fn described(tiled: &hopper::Tiled) -> hopper::TensorMap {
    let [d0, d1, d2, d3] = tiled.dims;
    let [s0, s1, s2] = tiled.strides;
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let boxes = pair(tiled.columns(), tiled.rows);
    let element = pair(tiled.element_bytes, u32::from(tiled.element_bytes == 4));
    hopper::TensorMap([tiled.address, d0, d1, d2, d3, s0, s1, s2, boxes, element, 0, 0, 0, 0, 0, 0])
}

/// Compiles `parts` with the definitions of `options`; the entry point is `entry`.
///
/// # Panics
///
/// When there is no compiler, or when it refuses the text.
pub(crate) fn compile(parts: &[(&str, String)], entry: &str, options: &[String]) -> Program {
    Program(twin::compile(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("twin"), parts, entry, options))
}

impl Program {
    /// Runs a launch; the buffers then hold what it left in them. Returns bank conflicts of matrix loads.
    ///
    /// # Errors
    ///
    /// The rule that the kernel broke.
    pub(crate) fn run(&self, launch: Launch<'_>) -> Result<u64, String> {
        let Launch { grid, threads, shared_bytes, seed, at_once, params, buffers } = launch;
        let params = &params.bytes();
        self.0.run(twin::Launch { grid, threads, shared_bytes, seed, at_once, params, pointers: POINTERS, buffers })
    }
}

/// The structure as C++ has it in memory.
fn bytes(params: &Params) -> Vec<u8> {
    let p = params;
    let addresses = [
        p.q,
        p.k,
        p.v,
        p.output,
        p.lse,
        p.grad_output,
        p.dq,
        p.dk,
        p.dv,
        p.delta,
        p.lse_log2,
        p.dq_sum,
        p.slopes,
        p.starts,
        p.start_offsets,
        p.angles,
    ];
    let strides = [
        p.q_strides,
        p.k_strides,
        p.v_strides,
        p.output_strides,
        p.grad_output_strides,
        p.dq_strides,
        p.dk_strides,
        p.dv_strides,
    ];
    let sizes = [
        p.batch,
        p.query_heads,
        p.key_heads,
        p.query_len,
        p.key_len,
        p.head_dim,
        p.ordered,
        p.offset,
        p.window,
        p.sinks,
        p.padded_query_len,
        p.inverse,
        p.pairs,
        p.key_offset,
    ];
    let mut all: Vec<u8> = addresses.iter().flat_map(|x| x.to_ne_bytes()).collect();
    let steps = strides.iter().flat_map(|&Strides { batch, head, row }| [batch, head, row]);
    all.extend(steps.flat_map(i64::to_ne_bytes));
    all.extend(sizes.iter().flat_map(|x| x.to_ne_bytes()));
    all.extend([p.scale, p.soft_cap].iter().flat_map(|x| x.to_ne_bytes()));
    assert_eq!(all.len(), size_of::<Params>(), "a field of Params is missing here");
    all
}
