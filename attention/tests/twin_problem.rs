//! A case of the table through the host twin: buffers, strides and launches as a launcher on a device has them.

use attention::DType;
use attention::cuda::kernels::{Generation, Kernel};
use attention::cuda::params::{self, Params, Strides};
use attention::cuda::{hopper, kernels_of};
use half::{bf16, f16};
use ndarray::{Array4, ArrayView4};
use torch_ext::cuda::TableKernel;

use crate::support::cases::{Case, Inputs};
use crate::twin_machine::{Launch, Program, compile, described};

/// What the kernels answer.
pub(crate) struct Answer {
    pub(crate) output: Array4<f64>,
    /// With a last dimension of one.
    pub(crate) lse: Array4<f64>,
    /// By q, k and v.
    pub(crate) gradients: [Array4<f64>; 3],
    pub(crate) bank_conflicts: u64,
    /// Bytes of all of it, to compare runs by.
    pub(crate) bytes: Vec<Vec<u8>>,
}

/// A change of kernel text: in which file what becomes what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mutation {
    pub(crate) file: &'static str,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

/// Memory of the device in the making: tensors lie in buffers, numbered from 1 on.
pub(crate) struct Memory {
    pub(crate) dtype: DType,
    pub(crate) buffers: Vec<Vec<u8>>,
}

impl Memory {
    fn put(&mut self, bytes: Vec<u8>) -> u64 {
        self.buffers.push(bytes);
        self.buffers.len() as u64
    }

    /// A tensor of elements, heads inside of positions if `interleaved`, and its strides.
    pub(crate) fn tensor(&mut self, array: ArrayView4<'_, f64>, interleaved: bool) -> (u64, Strides) {
        let (_, heads, length, head_dim) = array.dim();
        let [heads, length, head_dim] = [heads, length, head_dim].map(|n| n as i64);
        let (head, row) = if interleaved { (head_dim, heads * head_dim) } else { (length * head_dim, head_dim) };
        let strides = Strides { batch: heads * length * head_dim, head, row };
        let order = if interleaved { [0, 2, 1, 3] } else { [0, 1, 2, 3] };
        let bytes = array.permuted_axes(order).iter().flat_map(|&x| encode(self.dtype, x)).collect();
        (self.put(bytes), strides)
    }

    /// An output to be: every element NaN.
    fn poisoned(&mut self, dims: [usize; 4], interleaved: bool) -> (u64, Strides) {
        self.tensor(Array4::from_elem(dims, f64::NAN).view(), interleaved)
    }

    pub(crate) fn floats(&mut self, values: impl IntoIterator<Item = f32>) -> u64 {
        self.put(values.into_iter().flat_map(f32::to_ne_bytes).collect())
    }

    fn integers(&mut self, values: Vec<i32>) -> u64 {
        self.put(values.into_iter().flat_map(i32::to_ne_bytes).collect())
    }

    pub(crate) fn elements(&self, buffer: u64, dims: [usize; 4], interleaved: bool) -> Array4<f64> {
        let [batch, heads, length, head_dim] = dims;
        let (stored, order) =
            if interleaved { ([batch, length, heads, head_dim], [0, 2, 1, 3]) } else { (dims, [0, 1, 2, 3]) };
        let size = encode(self.dtype, 0.0).len();
        let values = self.bytes(buffer).chunks(size).map(|bytes| decode(self.dtype, bytes)).collect();
        Array4::from_shape_vec(stored, values).unwrap().permuted_axes(order)
    }

    fn bytes(&self, buffer: u64) -> &Vec<u8> {
        &self.buffers[buffer as usize - 1]
    }
}

fn encode(dtype: DType, x: f64) -> Vec<u8> {
    match dtype {
        DType::BF16 => bf16::from_f64(x).to_ne_bytes().to_vec(),
        DType::F16 => f16::from_f64(x).to_ne_bytes().to_vec(),
        DType::F32 | DType::F64 => (x as f32).to_ne_bytes().to_vec(),
    }
}

fn decode(dtype: DType, bytes: &[u8]) -> f64 {
    match dtype {
        DType::BF16 => bf16::from_ne_bytes(bytes.try_into().unwrap()).to_f64(),
        DType::F16 => f16::from_ne_bytes(bytes.try_into().unwrap()).to_f64(),
        DType::F32 | DType::F64 => f64::from(f32::from_ne_bytes(bytes.try_into().unwrap())),
    }
}

/// The program of one kernel, its text changed by a mutation if there is one for it.
fn program(kernel: &Kernel, mutation: Option<Mutation>) -> Program {
    let changed = |(file, text): &(&'static str, &'static str)| match mutation {
        Some(mutation) if mutation.file == *file => {
            assert!(text.contains(mutation.from), "{file} has changed: {:?} is not in it", mutation.from);
            (*file, text.replace(mutation.from, mutation.to))
        }
        _ => (*file, (*text).to_owned()),
    };
    let parts: Vec<(&str, String)> = kernel.parts()[1..].iter().map(changed).collect();
    compile(&parts, kernel.entry(), &kernel.options())
}

/// Forward and backward of a case by the first generation.
///
/// # Errors
///
/// The rule that a kernel broke.
pub(crate) fn run(case: &Case, i: &Inputs, mutation: Option<Mutation>, seed: u32) -> Result<Answer, String> {
    run_by(Way::First, case, i, mutation, seed)
}

/// Whose kernels run, and on how much of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    First,
    /// dq the same bits every time; at most so many blocks, which share the pieces of work.
    Ordered {
        blocks: u32,
        run: Run,
    },
    /// dq in any order.
    Unordered {
        blocks: u32,
        run: Run,
    },
}

/// How the blocks of a launch share the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Run {
    /// One after the other: a block may wait only for those before it.
    InTurn,
    /// All at once, as on a device with as many multiprocessors.
    AtOnce,
}

/// As [`run`], by either generation.
pub(crate) fn run_by(
    way: Way,
    case: &Case,
    i: &Inputs,
    mutation: Option<Mutation>,
    seed: u32,
) -> Result<Answer, String> {
    let (problem, shape) = (&case.problem, case.problem.shape());
    let (query_dims, key_dims) = (shape.query_dims(), shape.key_dims());
    // Both orders of heads and positions occur among the tensors of every case.
    let turned = case.number.is_multiple_of(2);
    let mut memory = Memory { dtype: case.dtype, buffers: Vec::new() };
    let mut p = Params::of(problem).unwrap();
    (p.q, p.q_strides) = memory.tensor(i.q.view(), turned);
    (p.k, p.k_strides) = memory.tensor(i.k.view(), !turned);
    (p.v, p.v_strides) = memory.tensor(i.v.view(), turned);
    (p.grad_output, p.grad_output_strides) = memory.tensor(i.grad_output.view(), !turned);
    (p.output, p.output_strides) = memory.poisoned(query_dims, turned);
    (p.dq, p.dq_strides) = memory.poisoned(query_dims, !turned);
    (p.dk, p.dk_strides) = memory.poisoned(key_dims, turned);
    (p.dv, p.dv_strides) = memory.poisoned(key_dims, !turned);
    let rows = shape.batch * shape.query_heads;
    p.lse = memory.floats(vec![f32::NAN; rows * shape.query_len]);
    let padded = rows * usize::try_from(p.padded_query_len).unwrap();
    p.delta = memory.floats(vec![f32::NAN; padded]);
    p.lse_log2 = memory.floats(vec![f32::NAN; padded]);
    if let Some(slopes) = params::slopes(problem) {
        p.slopes = memory.floats(slopes);
    }
    if let Some((starts, offsets)) = params::documents(problem) {
        (p.starts, p.start_offsets) = (memory.integers(starts), memory.integers(offsets));
    }
    let generation = if way == Way::First { Generation::First } else { Generation::Second };
    let mut turns = 0;
    if generation == Generation::Second {
        p.dq_sum = memory.floats(vec![f32::NAN; padded * shape.head_dim]);
        turns = if matches!(way, Way::Ordered { .. }) { memory.integers(vec![-1; 2 * padded / 64]) } else { 0 };
    }
    let mut bank_conflicts = 0;
    for kernel in kernels_of(generation, problem, case.dtype).unwrap() {
        let program = program(&kernel, mutation);
        let told = hopper::Launch::of(&kernel, &p, turns, |tiled| Ok::<_, String>(described(tiled)))?;
        let (grid, run) = match way {
            Way::First => (kernel.grid(&p), Run::InTurn),
            Way::Ordered { blocks, run } | Way::Unordered { blocks, run } => (told.grid(&kernel, blocks), run),
        };
        // Blocks that do not stay have nothing to do with each other.
        let at_once = if run == Run::AtOnce && hopper::stays(kernel.spec.pass) { grid[0] } else { 1 };
        let launch = Launch {
            grid,
            threads: kernel.threads(),
            shared_bytes: kernel.shared_bytes,
            seed,
            at_once,
            params: if way == Way::First { &p } else { &told },
            buffers: &mut memory.buffers,
        };
        bank_conflicts += program.run(launch).map_err(|rule| format!("{}: {rule}", kernel.name()))?;
    }
    let lse = memory.bytes(p.lse).chunks(4).map(|bytes| decode(DType::F32, bytes)).collect();
    Ok(Answer {
        output: memory.elements(p.output, query_dims, turned),
        lse: Array4::from_shape_vec([shape.batch, shape.query_heads, shape.query_len, 1], lse).unwrap(),
        gradients: [
            memory.elements(p.dq, query_dims, !turned),
            memory.elements(p.dk, key_dims, turned),
            memory.elements(p.dv, key_dims, !turned),
        ],
        bank_conflicts,
        // What dq is before it is rounded tells orders apart that the result hides.
        bytes: [p.output, p.lse, p.dq, p.dk, p.dv, p.dq_sum]
            .into_iter()
            .filter(|&buffer| buffer != 0)
            .map(|buffer| memory.bytes(buffer).clone())
            .collect(),
    })
}
