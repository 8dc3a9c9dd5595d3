//! What a launch of generation 2 is told: [`Params`], descriptors for the copy engine, and how the work is divided.

use super::stays;
use crate::cuda::kernels::{Kernel, Pass};
use crate::cuda::params::{Params, Strides};

/// Memory that one section of the work may read again and again: part of the 50 MB that Hopper's L2 cache has.
const SECTION_BYTES: i64 = 32 << 20;
/// Bytes of a row of a box: the width of the exchange by which tiles lie in shared memory.
const BOX_ROW_BYTES: u64 = 128;

/// 128 bytes that the copy engine knows a tensor by. The driver writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(128))]
pub struct TensorMap(pub [u64; 16]);

/// What such a descriptor describes: a tensor `[batch, heads, length, head_dim]` and the boxes that are copied of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiled {
    /// Device address, a multiple of 16.
    pub address: u64,
    /// Head size, length, heads, batch.
    pub dims: [u64; 4],
    /// Bytes from one row, head and sequence to the next, multiples of 16.
    pub strides: [u64; 3],
    /// Rows of a box; its columns are 128 bytes.
    pub rows: u32,
    /// Bytes of an element: 2, or 4 for float32.
    pub element_bytes: u32,
}

/// The only argument of a kernel of generation 2, mirrored field by field in `cuda/hopper/launch.cuh`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct Launch {
    /// Queries, keys, values, output, output gradient, dq in float32; all zero where a kernel has no need of it.
    pub maps: [TensorMap; 6],
    /// As for generation 1.
    pub params: Params,
    /// Device address of the turns at adding to dq, int32 `[batch, query_heads, padded_query_len / query tile, 2]`; zero for
    /// additions in any order.
    pub turns: u64,
    /// Heads of a sequence that have pieces: of queries, in the kernel of the keys of keys.
    pub heads: i32,
    /// Tiles of a head.
    pub tiles: i32,
    /// Heads, of all sequences, in a section.
    pub section: i32,
    /// Query heads that share keys.
    pub group: i32,
    /// Heads of all sequences.
    pub planes: i32,
    /// Pieces of a section.
    pub section_pieces: i32,
    /// Pieces of all.
    pub pieces: i32,
    /// Whether the last tiles of keys come first, as turns need it.
    pub shortest_first: i32,
}

impl Tiled {
    /// Of a tensor of `heads` heads of `length` rows.
    fn of(
        address: u64,
        strides: Strides,
        params: &Params,
        [heads, length]: [i32; 2],
        rows: usize,
        element_bytes: u32,
    ) -> Self {
        let dims = [params.head_dim, length, heads, params.batch].map(|n| u64::from(n.unsigned_abs()));
        // The step of a dimension of one entry is never taken and may be anything; the driver wants a sound one.
        let sound = (dims[0] * u64::from(element_bytes)).next_multiple_of(16);
        let bytes = |step: i64, dim: u64| if dim == 1 { sound } else { step.unsigned_abs() * u64::from(element_bytes) };
        let strides = [bytes(strides.row, dims[1]), bytes(strides.head, dims[2]), bytes(strides.batch, dims[3])];
        Self { address, dims, strides, rows: u32::try_from(rows).unwrap_or(u32::MAX), element_bytes }
    }

    /// Columns of a box.
    #[must_use]
    pub fn columns(&self) -> u32 {
        u32::try_from(BOX_ROW_BYTES).unwrap_or(u32::MAX) / self.element_bytes
    }

    /// The tensors of a kernel, in the order of [`Launch::maps`]; none for those that it does not copy.
    #[must_use]
    pub fn of_kernel(kernel: &Kernel, p: &Params) -> [Option<Self>; 6] {
        let queries = |address, strides, rows| Self::of(address, strides, p, [p.query_heads, p.query_len], rows, 2);
        let keys = |address, strides| Self::of(address, strides, p, [p.key_heads, p.key_len], kernel.key_tile, 2);
        let inputs =
            [queries(p.q, p.q_strides, kernel.query_tile), keys(p.k, p.k_strides), keys(p.v, p.v_strides)].map(Some);
        let [q, k, v] = inputs;
        match kernel.spec.pass {
            Pass::Forward => [q, k, v, Some(queries(p.output, p.output_strides, 64)), None, None],
            Pass::Keys => {
                let row = i64::from(p.head_dim);
                let head = row * i64::from(p.padded_query_len);
                let strides = Strides { batch: head * i64::from(p.query_heads), head, row };
                let sums = Self::of(p.dq_sum, strides, p, [p.query_heads, p.padded_query_len], 64, 4);
                [q, k, v, None, Some(queries(p.grad_output, p.grad_output_strides, kernel.query_tile)), Some(sums)]
            }
            _ => [None; 6],
        }
    }
}

impl Launch {
    /// For one kernel; `encode` makes descriptors. `turns` is zero unless dq is to be the same bits every time.
    ///
    /// # Errors
    ///
    /// Those of `encode`.
    pub fn of<E>(
        kernel: &Kernel,
        params: &Params,
        turns: u64,
        mut encode: impl FnMut(&Tiled) -> Result<TensorMap, E>,
    ) -> Result<Self, E> {
        let p = params;
        let mut maps = [TensorMap::default(); 6];
        for (map, tiled) in maps.iter_mut().zip(Tiled::of_kernel(kernel, p)) {
            if let Some(tiled) = tiled {
                *map = encode(&tiled)?;
            }
        }
        let group = p.query_heads / p.key_heads;
        let tile = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        // What the blocks of a plane read together: keys and values, or queries, their gradients and dq.
        let row = i64::from(p.head_dim);
        let (heads, tiles, bytes, together) = match kernel.spec.pass {
            Pass::Keys => {
                let queries = i64::from(p.query_len) * i64::from(group);
                (p.key_heads, ceil(p.key_len, tile(kernel.key_tile)), queries * row * (2 + 2 + 4), 1)
            }
            _ => {
                (p.query_heads, ceil(p.query_len, tile(kernel.query_tile)), i64::from(p.key_len) * row * (2 + 2), group)
            }
        };
        let planes = heads.saturating_mul(p.batch);
        let fitting = i32::try_from(SECTION_BYTES / bytes.max(1)).unwrap_or(i32::MAX);
        let section = fitting.max(1).saturating_mul(together).min(planes);
        let (section_pieces, pieces) = (tiles.saturating_mul(section), tiles.saturating_mul(planes));
        let shortest_first = i32::from(turns != 0);
        Ok(Self {
            maps,
            params: *p,
            turns,
            heads,
            tiles,
            section,
            group,
            planes,
            section_pieces,
            pieces,
            shortest_first,
        })
    }

    /// Whether blocks wait for each other, and hence must all be on the device at once.
    #[must_use]
    pub fn blocks_wait(&self, kernel: &Kernel) -> bool {
        kernel.spec.pass == Pass::Keys && self.turns != 0
    }

    /// Blocks in x, y and z on a device with so many multiprocessors.
    #[must_use]
    pub fn grid(&self, kernel: &Kernel, multiprocessors: u32) -> [u32; 3] {
        match stays(kernel.spec.pass) {
            true => [self.pieces.unsigned_abs().min(multiprocessors), 1, 1],
            false => kernel.grid(&self.params),
        }
    }
}

fn ceil(length: i32, tile: i32) -> i32 {
    length / tile + i32::from(length % tile != 0)
}
