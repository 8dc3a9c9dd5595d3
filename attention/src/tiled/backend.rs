//! The backend `tiled`: the kernels on tensors in main memory.

use half::{bf16, f16};
use tch::{Device, Kind, Tensor};
use torch_ext::host;

use super::{Element, Scratch, TiledError, View, backward, forward, scratch_bytes, supports};
use crate::backend::{Attended, AttentionBackend, Gradients};
use crate::error::{AttnError, DType, Unsupported};
use crate::problem::AttnProblem;
use crate::shape::signed;

/// The backend `tiled`, differentiable; its backward gives the same bits every time, whatever the number of threads.
///
/// Tensors may have any strides. One whose last dimension is not contiguous is copied; all others are read where they lie.
///
/// Called inside a job of a rayon pool, the thread may take up other jobs of that pool while it waits for the last block, and
/// libtorch's state of the thread, such as gradients being untracked, is then theirs as well. Whoever computes several
/// graphs side by side gives each a thread of its own.
#[derive(Debug, Clone, Copy)]
pub struct Tiled;

impl AttentionBackend for Tiled {
    fn name(&self) -> &'static str {
        super::NAME
    }

    fn supports(&self, problem: &AttnProblem, dtype: DType) -> Result<(), Unsupported> {
        supports(problem, dtype)
    }

    fn runs_on(&self, device: Device) -> bool {
        device == Device::Cpu
    }

    fn scratch_bytes(&self, problem: &AttnProblem, dtype: DType, threads: usize) -> Option<Scratch> {
        Some(scratch_bytes(problem, dtype, threads))
    }

    fn has_backward(&self, _problem: &AttnProblem, _device: Device, _dtype: DType) -> bool {
        true
    }

    fn forward(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, AttnError> {
        crate::autograd::differentiable(&Self, problem, q, k, v)
    }

    fn attend(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Attended, AttnError> {
        match q.kind() {
            Kind::BFloat16 => attend_in::<bf16>(problem, [q, k, v]),
            Kind::Half => attend_in::<f16>(problem, [q, k, v]),
            // Other types are refused by the slices, by name.
            _ => attend_in::<f32>(problem, [q, k, v]),
        }
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
        let tensors = [q, k, v, &attended.output, grad_output];
        match q.kind() {
            Kind::BFloat16 => backward_in::<bf16>(problem, tensors, &attended.lse),
            Kind::Half => backward_in::<f16>(problem, tensors, &attended.lse),
            _ => backward_in::<f32>(problem, tensors, &attended.lse),
        }
    }
}

fn attend_in<T: Element + host::Element>(problem: &AttnProblem, tensors: [&Tensor; 3]) -> Result<Attended, AttnError> {
    let [q, k, v] = readable(problem, tensors)?;
    let queries = problem.shape().query_dims();
    let mut output = empty(problem, &queries, T::KIND)?;
    let mut lse = empty(problem, &queries[..3], Kind::Float)?;
    let failed = failure(problem);
    let output_slice = host::contiguous_mut::<T>(&mut output).map_err(&failed)?;
    let lse_slice = host::contiguous_mut::<f32>(&mut lse).map_err(&failed)?;
    let (q, k, v) = (view::<T>(problem, &q)?, view(problem, &k)?, view(problem, &v)?);
    forward(problem, q, k, v, output_slice, lse_slice).map_err(|error| answer(problem, error))?;
    Ok(Attended { output, lse })
}

fn backward_in<T: Element + host::Element>(
    problem: &AttnProblem,
    tensors: [&Tensor; 5],
    lse: &Tensor,
) -> Result<Gradients, AttnError> {
    let [q, k, v, output, grad] = readable(problem, tensors)?;
    let failed = failure(problem);
    let lse = lse.f_contiguous().map_err(|source| AttnError::Torch { shape: *problem.shape(), source })?;
    let (queries, keys) = (problem.shape().query_dims(), problem.shape().key_dims());
    let [mut dq, mut dk] = [empty(problem, &queries, T::KIND)?, empty(problem, &keys, T::KIND)?];
    let mut dv = empty(problem, &keys, T::KIND)?;
    backward(
        problem,
        view::<T>(problem, &q)?,
        view(problem, &k)?,
        view(problem, &v)?,
        view(problem, &output)?,
        host::span::<f32>(&lse).map_err(&failed)?,
        view(problem, &grad)?,
        host::contiguous_mut(&mut dq).map_err(&failed)?,
        host::contiguous_mut(&mut dk).map_err(&failed)?,
        host::contiguous_mut(&mut dv).map_err(&failed)?,
    )
    .map_err(|error| answer(problem, error))?;
    Ok(Gradients { dq, dk, dv })
}

/// The tensors themselves, or copies of those whose rows are scattered or lazily negated.
fn readable<const N: usize>(problem: &AttnProblem, tensors: [&Tensor; N]) -> Result<[Tensor; N], AttnError> {
    let mut readable = tensors.map(Tensor::shallow_clone);
    for tensor in &mut readable {
        if tensor.stride().last() != Some(&1) || tensor.is_neg() {
            // In memory a negated view holds the numbers before their sign was turned.
            let copy = tensor.f_resolve_neg().and_then(|plain| plain.f_contiguous());
            *tensor = copy.map_err(|source| AttnError::Torch { shape: *problem.shape(), source })?;
        }
    }
    Ok(readable)
}

fn view<'a, T: Element + host::Element>(problem: &AttnProblem, tensor: &'a Tensor) -> Result<View<'a, T>, AttnError> {
    let data = host::span::<T>(tensor).map_err(failure(problem))?;
    let strides = tensor.stride();
    let stride = |dim: usize| strides.get(dim).and_then(|&stride| usize::try_from(stride).ok()).unwrap_or(0);
    Ok(View { data, strides: [stride(0), stride(1), stride(2)] })
}

/// Every element is to be written.
fn empty(problem: &AttnProblem, dims: &[usize], kind: Kind) -> Result<Tensor, AttnError> {
    let dims: Vec<i64> = dims.iter().map(|&n| signed(n)).collect();
    let made = Tensor::f_empty(dims, (kind, Device::Cpu));
    made.map_err(|source| AttnError::Torch { shape: *problem.shape(), source })
}

fn failure(problem: &AttnProblem) -> impl Fn(host::HostError) -> AttnError {
    let shape = *problem.shape();
    move |error| AttnError::Kernel { backend: super::NAME, shape, reason: error.to_string() }
}

fn answer(problem: &AttnProblem, error: TiledError) -> AttnError {
    match error {
        TiledError::Unsupported(unsupported) => unsupported.into(),
        other => AttnError::Kernel { backend: super::NAME, shape: *problem.shape(), reason: other.to_string() },
    }
}
