//! Between libtorch tensors and what the rest of the crate works on.

use ndarray::{ArrayView4, ShapeError as NdShapeError};
use tch::{Device, Kind, TchError, Tensor};

use crate::error::{AttnError, DType, Feature, Unsupported};
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

/// Checks q, k and v against the problem and each other; returns their element type.
pub(crate) fn check(problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<DType, AttnError> {
    let shape = problem.shape();
    let dims = [("q", q, shape.query_dims()), ("k", k, shape.key_dims()), ("v", v, shape.key_dims())];
    for (tensor, given, expected) in dims {
        let found = given.size();
        if found != expected.map(signed) {
            return Err(AttnError::Dims { tensor, expected, found });
        }
    }
    let dtype = dtype_of(q.kind()).ok_or(AttnError::NotAFloat { kind: q.kind() })?;
    for (tensor, given) in [("k", k), ("v", v)] {
        if given.kind() != q.kind() {
            return Err(AttnError::Kinds { tensor, expected: q.kind(), found: given.kind() });
        }
        if given.device() != q.device() {
            return Err(AttnError::Devices { tensor, expected: q.device(), found: given.device() });
        }
    }
    Ok(dtype)
}

/// The reference on checked tensors: to f64 on the CPU, and back to the type and device of q.
pub(crate) fn reference_forward(
    problem: &AttnProblem,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<Tensor, AttnError> {
    // The way through f64 arrays leaves libtorch's graph: better no answer than one whose gradient is silently lost.
    if torch_ext::grad_enabled() && [q, k, v].iter().any(|tensor| tensor.requires_grad()) {
        return Err(Unsupported { backend: reference::NAME, feature: Feature::Gradients }.into());
    }
    let failed = |source| AttnError::Torch { shape: *problem.shape(), source };
    let (query_dims, key_dims) = (problem.shape().query_dims(), problem.shape().key_dims());
    let (q_host, k_host, v_host) = (host(q).map_err(failed)?, host(k).map_err(failed)?, host(v).map_err(failed)?);
    let q_view = view(&q_host, query_dims).map_err(failed)?;
    let k_view = view(&k_host, key_dims).map_err(failed)?;
    let v_view = view(&v_host, key_dims).map_err(failed)?;
    let answer = reference::forward(problem, q_view, k_view, v_view)?;
    let output: Vec<f64> = answer.output.into_iter().collect();
    let back = || Tensor::f_from_slice(&output)?.f_reshape(query_dims.map(signed))?.f_to_kind(q.kind());
    back().and_then(|tensor| tensor.f_to_device(q.device())).map_err(failed)
}

/// Every element of a tensor, in order.
fn host(tensor: &Tensor) -> Result<Vec<f64>, TchError> {
    let flat = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?.f_contiguous()?.f_view(-1)?;
    Vec::<f64>::try_from(&flat)
}

fn view(values: &[f64], dims: [usize; 4]) -> Result<ArrayView4<'_, f64>, TchError> {
    ArrayView4::from_shape(dims, values).map_err(|error: NdShapeError| TchError::Shape(error.to_string()))
}
