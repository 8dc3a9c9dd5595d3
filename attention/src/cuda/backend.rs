//! The backends `cuda` and `hopper`.

use tch::{Device, Kind, Tensor};
use torch_ext::cuda::{self, Arch, CudaError, Launch, MapElement, TiledTensor};

use super::constants::constant;
use super::hopper;
use super::kernels::{Generation, Kernel, Pass, Scores, Spec, kernel, padded_head_dim};
use super::params::{Params, Strides, documents, slopes};
use super::ready::{ready, verified_of};
use crate::backend::{Attended, AttentionBackend, Backend, Gradients};
use crate::error::{AttnError, DType, Feature, Unsupported};
use crate::problem::AttnProblem;
use crate::shape::signed;
use crate::tensors::dtype_of;

/// The name of the one that takes the newest verified kernels.
const NAME: &str = "cuda";
/// The name of the one that takes those of the second generation.
const HOPPER_NAME: &str = "hopper";
/// The name of the same with gradients of queries added up in any order: other bits every time, to measure what turns cost.
pub(crate) const UNORDERED_NAME: &str = "hopper-unordered";
/// Blocks that a launch may have along y or z.
pub(super) const MOST_BLOCKS: usize = 65_535;
/// Kernels read rows in pieces of as many bytes.
const PIECE_BYTES: i64 = 16;

/// The backends `cuda` and `hopper`: kernels of our own on CUDA tensors, differentiable. The backward gives the same bits every
/// time, but for `hopper-unordered`.
#[derive(Debug, Clone, Copy)]
pub struct Cuda {
    /// None for the newest that is verified for problem and device, else the first.
    asked: Option<Generation>,
    /// Whether what several blocks add up is added in a fixed order.
    ordered: bool,
}

impl Cuda {
    pub(crate) const ANY: Self = Self { asked: None, ordered: true };
    pub(crate) const HOPPER: Self = Self { asked: Some(Generation::Second), ordered: true };
    pub(crate) const UNORDERED: Self = Self { ordered: false, ..Self::HOPPER };
    const FIRST: Self = Self { asked: Some(Generation::First), ordered: true };

    fn of(self) -> &'static Self {
        match self.asked {
            None => &Self::ANY,
            Some(Generation::First) => &Self::FIRST,
            Some(Generation::Second) if self.ordered => &Self::HOPPER,
            Some(Generation::Second) => &Self::UNORDERED,
        }
    }

    fn declined(self, feature: Feature) -> Unsupported {
        Unsupported { backend: self.name(), feature }
    }

    /// Whether there are kernels for a problem, wherever they would run.
    fn fits(self, problem: &AttnProblem, dtype: DType) -> Result<(), Unsupported> {
        fits(self.asked.unwrap_or(Generation::First), problem, dtype).map_err(|feature| self.declined(feature))
    }

    /// What a problem's kernels are made of on a device.
    fn generation(self, problem: &AttnProblem, dtype: DType, arch: Arch) -> Result<Generation, Unsupported> {
        match self.asked {
            None if verified_of(Generation::Second, problem, dtype, arch) => Ok(Generation::Second),
            None => Ok(Generation::First),
            Some(Generation::Second) if arch != Arch::SM_90A => {
                Err(self.declined(Feature::Device(format!("a device of {arch}: it is made for sm_90a"))))
            }
            Some(generation) => Ok(generation),
        }
    }
}

/// The backend whose kernels are of one generation, verified or not.
#[must_use]
pub fn backend_of(generation: Generation) -> Backend {
    Backend::of(Cuda { asked: Some(generation), ordered: true }.of())
}

impl AttentionBackend for Cuda {
    fn name(&self) -> &'static str {
        match self.asked {
            Some(Generation::Second) if self.ordered => HOPPER_NAME,
            Some(Generation::Second) => UNORDERED_NAME,
            _ => NAME,
        }
    }

    fn supports(&self, problem: &AttnProblem, dtype: DType) -> Result<(), Unsupported> {
        let state = cuda::state();
        if !state.is_available() {
            return Err(self.declined(Feature::Device(format!("this machine, which has no CUDA device: {state}"))));
        }
        self.fits(problem, dtype)
    }

    fn runs_on(&self, device: Device) -> bool {
        matches!(device, Device::Cuda(_))
    }

    fn has_backward(&self, _problem: &AttnProblem, _device: Device, _dtype: DType) -> bool {
        true
    }

    fn forward(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, AttnError> {
        crate::autograd::differentiable(self.of(), problem, q, k, v)
    }

    fn attend(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Attended, AttnError> {
        let job = Job::new(*self, problem, q)?;
        let [q, k, v] = [job.readable(q)?, job.readable(k)?, job.readable(v)?];
        let shape = problem.shape();
        let output = job.empty(&shape.query_dims(), q.kind())?;
        let lse = job.empty(&[shape.batch, shape.query_heads, shape.query_len], Kind::Float)?;
        let (inputs, _tables) = job.inputs(&q, &k, &v)?;
        let params =
            Params { output: address(&output), output_strides: strides(&output)?, lse: address(&lse), ..inputs };
        job.run(Pass::Forward, &params, 0)?;
        Ok(Attended { output, lse })
    }

    fn backward(
        &self,
        problem: &AttnProblem,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        attended: &Attended,
        grad_output: &Tensor,
    ) -> Result<Gradients, AttnError> {
        let job = Job::new(*self, problem, q)?;
        let [q, k, v] = [job.readable(q)?, job.readable(k)?, job.readable(v)?];
        let [output, grad_output] = [job.readable(&attended.output)?, job.readable(grad_output)?];
        let lse = attended.lse.f_contiguous().map_err(|source| job.torch(source))?;
        let shape = problem.shape();
        let [dq, dk, dv] =
            [shape.query_dims(), shape.key_dims(), shape.key_dims()].map(|dims| job.empty(&dims, q.kind()));
        let (dq, dk, dv) = (dq?, dk?, dv?);
        let (inputs, _tables) = job.inputs(&q, &k, &v)?;
        let padded = usize::try_from(inputs.padded_query_len).unwrap_or(shape.query_len);
        let row_dims = [shape.batch, shape.query_heads, padded];
        let (delta, lse_log2) = (job.empty(&row_dims, Kind::Float)?, job.empty(&row_dims, Kind::Float)?);
        let scratch = job.scratch(padded)?;
        let params = Params {
            dq_sum: scratch.as_ref().map_or(0, |(sums, _)| address(sums)),
            output: address(&output),
            output_strides: strides(&output)?,
            lse: address(&lse),
            grad_output: address(&grad_output),
            grad_output_strides: strides(&grad_output)?,
            dq: address(&dq),
            dq_strides: strides(&dq)?,
            dk: address(&dk),
            dk_strides: strides(&dk)?,
            dv: address(&dv),
            dv_strides: strides(&dv)?,
            delta: address(&delta),
            lse_log2: address(&lse_log2),
            ..inputs
        };
        let turns = scratch.as_ref().filter(|_| self.ordered).map_or(0, |(_, turns)| address(turns));
        for pass in [Pass::Prepare, Pass::Keys, Pass::Queries] {
            job.run(pass, &params, turns)?;
        }
        Ok(Gradients { dq, dk, dv })
    }
}

/// Whether there are kernels of a generation for a problem, wherever they would run.
fn fits(generation: Generation, problem: &AttnProblem, dtype: DType) -> Result<(), Feature> {
    let shape = problem.shape();
    if dtype == DType::F64 || generation == Generation::Second && dtype == DType::F32 {
        return Err(Feature::DType(dtype));
    }
    if padded(generation, problem).is_none() {
        return Err(Feature::HeadDim(shape.head_dim));
    }
    if Params::of(problem).is_none() {
        return Err(Feature::Other(format!("lengths such as those of {shape}")));
    }
    // The kernel of the keys may put two blocks of a sequence along z.
    if shape.query_heads > MOST_BLOCKS || shape.batch > MOST_BLOCKS / 2 {
        return Err(Feature::Other(format!("as many heads or sequences as {shape}")));
    }
    Ok(())
}

/// The head size that the kernels of a problem are made for.
fn padded(generation: Generation, problem: &AttnProblem) -> Option<usize> {
    let head_dim = problem.shape().head_dim;
    match generation {
        Generation::First => padded_head_dim(head_dim),
        Generation::Second => hopper::padded_head_dim(head_dim, Scores::of(problem)),
    }
}

/// The kernels of a problem: forward, then the three of the backward.
fn specs(generation: Generation, problem: &AttnProblem, dtype: DType) -> Option<[Spec; 4]> {
    let head_dim = padded(generation, problem)?;
    let spec = |pass| {
        let scoreless = pass == Pass::Prepare || pass == Pass::Queries && generation == Generation::Second;
        let scores = if scoreless { Scores::Plain } else { Scores::of(problem) };
        Spec { generation, pass, dtype, head_dim, scores }
    };
    Some([Pass::Forward, Pass::Prepare, Pass::Keys, Pass::Queries].map(spec))
}

/// The kernels of a generation that answer a problem: forward, then the three of the backward. None where there are none.
#[must_use]
pub fn kernels_of(generation: Generation, problem: &AttnProblem, dtype: DType) -> Option<[Kernel; 4]> {
    fits(generation, problem, dtype).ok()?;
    let [forward, prepare, keys, queries] = specs(generation, problem, dtype)?.map(kernel);
    Some([forward?, prepare?, keys?, queries?])
}

/// One problem on one device.
struct Job<'a> {
    backend: Cuda,
    generation: Generation,
    problem: &'a AttnProblem,
    dtype: DType,
    device: Device,
    on: &'static cuda::Device,
}

impl<'a> Job<'a> {
    /// For checked tensors; refuses those that lie elsewhere.
    fn new(backend: Cuda, problem: &'a AttnProblem, q: &Tensor) -> Result<Self, AttnError> {
        let device = q.device();
        let Device::Cuda(ordinal) = device else {
            let name = if device == Device::Cpu { "cpu".to_owned() } else { format!("{device:?}") };
            return Err(backend.declined(Feature::Device(name)).into());
        };
        let dtype = dtype_of(q.kind()).ok_or(AttnError::NotAFloat { kind: q.kind() })?;
        backend.fits(problem, dtype)?;
        let on = cuda::Device::get(ordinal).map_err(|source| failed(problem, source))?;
        let generation = backend.generation(problem, dtype, on.arch())?;
        Ok(Self { backend, generation, problem, dtype, device, on })
    }

    /// A tensor as the kernels read it: itself, or a copy where rows are not in one piece or begin askew.
    fn readable(&self, tensor: &Tensor) -> Result<Tensor, AttnError> {
        let plain = tensor.detach();
        // The copy engine has not been seen to take steps of zero.
        let expanded = || plain.size().iter().zip(plain.stride()).any(|(dim, step)| *dim > 1 && step == 0);
        let in_place = is_readable(&plain) && !(self.generation == Generation::Second && expanded());
        if in_place { Ok(plain) } else { copied(&plain).map_err(|source| self.torch(source)) }
    }

    fn empty(&self, dims: &[usize], kind: Kind) -> Result<Tensor, AttnError> {
        let dims: Vec<i64> = dims.iter().copied().map(signed).collect();
        Tensor::f_empty(dims, (kind, self.device)).map_err(|source| self.torch(source))
    }

    /// What every kernel is told: the problem, q, k and v, and the tables that mask and ALiBi need on the device. The tables
    /// come along, to be held until the last launch: another thread may push them out of those that are kept.
    fn inputs(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Params, Vec<Tensor>), AttnError> {
        let lengths =
            || self.backend.declined(Feature::Other(format!("lengths such as those of {}", self.problem.shape())));
        let mut params = Params::of(self.problem).ok_or_else(lengths)?;
        (params.q, params.k, params.v) = (address(q), address(k), address(v));
        (params.q_strides, params.k_strides, params.v_strides) = (strides(q)?, strides(k)?, strides(v)?);
        let mut tables = Vec::new();
        let mut keep = |table: Tensor| {
            let at = address(&table);
            tables.push(table);
            at
        };
        if let Some(slopes) = slopes(self.problem) {
            params.slopes = keep(self.constant(&slopes)?);
        }
        if let Some((starts, offsets)) = documents(self.problem) {
            params.starts = keep(self.constant(&starts)?);
            params.start_offsets = keep(self.constant(&offsets)?);
        }
        Ok((params, tables))
    }

    fn constant<T: tch::kind::Element>(&self, values: &[T]) -> Result<Tensor, AttnError> {
        let stream = self.on.current_stream().map_err(|source| failed(self.problem, source))?;
        constant(values, self.device, stream).map_err(|source| self.torch(source))
    }

    /// What kernels of the second generation add dq up in, and their turns at it; none for the first.
    fn scratch(&self, padded_query_len: usize) -> Result<Option<(Tensor, Tensor)>, AttnError> {
        if self.generation == Generation::First {
            return Ok(None);
        }
        let shape = self.problem.shape();
        let sums = self.empty(&[shape.batch, shape.query_heads, padded_query_len, shape.head_dim], Kind::Float)?;
        let rows = shape.batch * shape.query_heads * padded_query_len;
        let turns = self.empty(&[2 * rows / hopper::SMALLEST_QUERY_TILE], Kind::Int)?;
        Ok(Some((sums, turns)))
    }

    /// Puts one kernel on the stream; `turns` is the address of turns, or zero.
    fn run(&self, pass: Pass, params: &Params, turns: u64) -> Result<(), AttnError> {
        let none = || self.backend.declined(Feature::HeadDim(self.problem.shape().head_dim));
        let specs = specs(self.generation, self.problem, self.dtype).ok_or_else(none)?;
        let spec = specs.into_iter().find(|spec| spec.pass == pass).ok_or_else(none)?;
        let (kernel, code) = ready(self.on, spec).map_err(|source| failed(self.problem, source))?.ok_or_else(none)?;
        let shared_bytes = u32::try_from(kernel.shared_bytes).unwrap_or(u32::MAX);
        let launch = |grid| Launch { grid, block: [kernel.threads(), 1, 1], shared_bytes };
        if self.generation == Generation::Second {
            let encode = |tiled: &hopper::Tiled| encoded(tiled, self.dtype, self.on);
            let told =
                hopper::Launch::of(&kernel, params, turns, encode).map_err(|source| failed(self.problem, source))?;
            let launch = launch(told.grid(&kernel, self.on.multiprocessors()));
            // SAFETY: as below; the function takes `hopper::Launch`, whose descriptors are of the tensors of `params`.
            let answer = unsafe {
                if told.blocks_wait(&kernel) {
                    code.launch_together(&launch, &told)
                } else {
                    code.launch(&launch, &told)
                }
            };
            return answer.map_err(|source| failed(self.problem, source));
        }
        // SAFETY: the function takes `Params`, whose layout a test compares with the text of the kernels. Its addresses
        // are of tensors on this device of the shapes, types and strides that it is told, and allocated on the current
        // stream; those that go out of scope after this are not used again before what is on the stream has run.
        unsafe { code.launch(&launch(kernel.grid(params)), params) }.map_err(|source| failed(self.problem, source))
    }

    fn torch(&self, source: tch::TchError) -> AttnError {
        AttnError::Torch { shape: *self.problem.shape(), source }
    }
}

/// A descriptor for the copy engine, by the driver.
fn encoded(tiled: &hopper::Tiled, dtype: DType, on: &cuda::Device) -> Result<hopper::TensorMap, CudaError> {
    let element = match (tiled.element_bytes, dtype) {
        (4, _) => MapElement::F32,
        (_, DType::F16) => MapElement::F16,
        _ => MapElement::Bf16,
    };
    let box_dims = [tiled.columns(), tiled.rows];
    let tensor = TiledTensor { address: tiled.address, element, dims: tiled.dims, strides: tiled.strides, box_dims };
    tensor.encoded(on).map(hopper::TensorMap)
}

fn failed(problem: &AttnProblem, source: CudaError) -> AttnError {
    AttnError::Cuda { shape: *problem.shape(), source }
}

/// Whether rows lie in one piece and every row begins where a piece may.
pub(super) fn is_readable(tensor: &Tensor) -> bool {
    let element = tensor.kind().elt_size_in_bytes() as i64;
    let (dims, strides) = (tensor.size(), tensor.stride());
    let Some((last, others)) = strides.split_last() else { return false };
    let aligned = |(dim, stride): (&i64, &i64)| *dim == 1 || (stride * element) % PIECE_BYTES == 0;
    *last == 1
        && dims.iter().zip(others).all(aligned)
        && address(tensor).is_multiple_of(PIECE_BYTES.unsigned_abs())
        && !tensor.is_neg()
}

/// The same elements at an address of their own. libtorch's `contiguous` would hand a tensor in one piece back as it is,
/// though it begins askew or is lazily negated.
fn copied(tensor: &Tensor) -> Result<Tensor, tch::TchError> {
    let mut copy = Tensor::f_empty(tensor.size(), (tensor.kind(), tensor.device()))?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}

/// Where a tensor's elements begin on its device.
pub(super) fn address(tensor: &Tensor) -> u64 {
    tensor.data_ptr() as u64
}

/// The steps of a tensor of four dimensions whose rows lie in one piece.
fn strides(tensor: &Tensor) -> Result<Strides, AttnError> {
    match tensor.stride()[..] {
        [batch, head, row, _] => Ok(Strides { batch, head, row }),
        // Every caller passes tensors that were checked or made with four dimensions.
        _ => Err(Cuda::ANY.declined(Feature::Other(format!("tensors of {} dimensions", tensor.dim()))).into()),
    }
}

#[cfg(test)]
#[path = "backend_tests.rs"]
mod tests;
