//! Between libtorch tensors and what the rest of the crate works on.

use ndarray::{Array4, ArrayView4, ShapeError as NdShapeError};
use tch::{Device, Kind, TchError, Tensor};

use crate::backend::{Attended, Gradients};
use crate::error::{AttnError, DType};
use crate::problem::AttnProblem;
use crate::reference;
use crate::shape::signed;

/// The element type of a tensor; none for integers, booleans and floats that attention does not work on.
#[must_use]
pub fn dtype_of(kind: Kind) -> Option<DType> {
    match kind {
        Kind::Double => Some(DType::F64),
        Kind::Float => Some(DType::F32),
        Kind::BFloat16 => Some(DType::BF16),
        Kind::Half => Some(DType::F16),
        _ => None,
    }
}

/// The type of the log-sum-exp that goes with inputs of a type.
pub(crate) fn lse_kind(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

/// Checks q, k and v against the problem and each other; returns their element type.
pub(crate) fn check(problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<DType, AttnError> {
    let shape = problem.shape();
    check_dims("q", q, &shape.query_dims())?;
    check_dims("k", k, &shape.key_dims())?;
    check_dims("v", v, &shape.key_dims())?;
    let dtype = dtype_of(q.kind()).ok_or(AttnError::NotAFloat { kind: q.kind() })?;
    check_like("k", k, q)?;
    check_like("v", v, q)?;
    Ok(dtype)
}

/// Checks what a backward takes beside q, k and v, which are checked already.
pub(crate) fn check_attended(
    problem: &AttnProblem,
    q: &Tensor,
    attended: &Attended,
    grad_output: &Tensor,
) -> Result<(), AttnError> {
    let Attended { output, lse } = attended;
    let [batch, heads, query_len, head_dim] = problem.shape().query_dims();
    for (tensor, given) in [("output", output), ("grad_output", grad_output)] {
        check_dims(tensor, given, &[batch, heads, query_len, head_dim])?;
        check_like(tensor, given, q)?;
    }
    check_dims("lse", lse, &[batch, heads, query_len])?;
    check_device("lse", lse, q)?;
    let expected = lse_kind(q.kind());
    if lse.kind() != expected {
        return Err(AttnError::LseKind { expected, found: lse.kind() });
    }
    Ok(())
}

fn check_dims(tensor: &'static str, given: &Tensor, expected: &[usize]) -> Result<(), AttnError> {
    let found = given.size();
    if found.iter().copied().eq(expected.iter().map(|&n| signed(n))) {
        return Ok(());
    }
    Err(AttnError::Dims { tensor, expected: expected.to_vec(), found })
}

fn check_like(tensor: &'static str, given: &Tensor, q: &Tensor) -> Result<(), AttnError> {
    if given.kind() != q.kind() {
        return Err(AttnError::Kinds { tensor, expected: q.kind(), found: given.kind() });
    }
    check_device(tensor, given, q)
}

fn check_device(tensor: &'static str, given: &Tensor, q: &Tensor) -> Result<(), AttnError> {
    if given.device() != q.device() {
        return Err(AttnError::Devices { tensor, expected: q.device(), found: given.device() });
    }
    Ok(())
}

/// The reference on checked tensors: to f64 on the CPU, and back to the type and device of q.
pub(crate) fn reference_attend(
    problem: &AttnProblem,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<Attended, AttnError> {
    let inputs = Host::of(problem, [q, k, v])?;
    let [q_view, k_view, v_view] = inputs.views()?;
    let answer = reference::forward(problem, q_view, k_view, v_view)?;
    let output = inputs.tensor(answer.output.iter(), &problem.shape().query_dims(), q.kind(), q.device())?;
    let lse_dims = &problem.shape().query_dims()[..3];
    let lse = inputs.tensor(answer.log_sum_exp.iter(), lse_dims, lse_kind(q.kind()), q.device())?;
    Ok(Attended { output, lse })
}

/// Gradients of the reference, which computes the forward pass anew, on checked tensors.
pub(crate) fn reference_backward(
    problem: &AttnProblem,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    grad_output: &Tensor,
) -> Result<Gradients, AttnError> {
    let inputs = Host::of(problem, [q, k, v])?;
    let [q_view, k_view, v_view] = inputs.views()?;
    let grad = host(grad_output).map_err(|source| inputs.failed(source))?;
    let grad_view = inputs.view(&grad, problem.shape().query_dims())?;
    let grads = reference::backward(problem, q_view, k_view, v_view, grad_view)?;
    let back = |grad: &Array4<f64>| inputs.tensor(grad.iter(), grad.shape(), q.kind(), q.device());
    Ok(Gradients { dq: back(&grads.q)?, dk: back(&grads.k)?, dv: back(&grads.v)? })
}

/// q, k and v of a problem as f64 on the CPU.
struct Host<'a> {
    problem: &'a AttnProblem,
    values: [Vec<f64>; 3],
}

impl<'a> Host<'a> {
    fn of(problem: &'a AttnProblem, [q, k, v]: [&Tensor; 3]) -> Result<Self, AttnError> {
        let shape = *problem.shape();
        let copied = |tensor| host(tensor).map_err(|source| AttnError::Torch { shape, source });
        Ok(Self { problem, values: [copied(q)?, copied(k)?, copied(v)?] })
    }

    fn views(&self) -> Result<[ArrayView4<'_, f64>; 3], AttnError> {
        let (query_dims, key_dims) = (self.problem.shape().query_dims(), self.problem.shape().key_dims());
        let [q, k, v] = &self.values;
        Ok([self.view(q, query_dims)?, self.view(k, key_dims)?, self.view(v, key_dims)?])
    }

    fn view<'v>(&self, values: &'v [f64], dims: [usize; 4]) -> Result<ArrayView4<'v, f64>, AttnError> {
        let viewed = ArrayView4::from_shape(dims, values);
        viewed.map_err(|error: NdShapeError| self.failed(TchError::Shape(error.to_string())))
    }

    /// Values in order as a tensor of a type on a device.
    fn tensor<'v>(
        &self,
        values: impl Iterator<Item = &'v f64>,
        dims: &[usize],
        kind: Kind,
        device: Device,
    ) -> Result<Tensor, AttnError> {
        let values: Vec<f64> = values.copied().collect();
        let dims: Vec<i64> = dims.iter().map(|&n| signed(n)).collect();
        let made = || Tensor::f_from_slice(&values)?.f_reshape(dims)?.f_to_kind(kind)?.f_to_device(device);
        made().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: TchError) -> AttnError {
        AttnError::Torch { shape: *self.problem.shape(), source }
    }
}

/// Every element of a tensor, in order.
fn host(tensor: &Tensor) -> Result<Vec<f64>, TchError> {
    let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_contiguous()?.f_view(-1)?;
    Vec::<f64>::try_from(&flat)
}
