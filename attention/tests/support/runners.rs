//! How each backend is run on a case.

use attention::{Backend, Unsupported};
use ndarray::Array4;

use super::cases::{Case, Inputs};

/// The answer of a backend, or why it declines. Any other error fails the test.
pub(crate) fn run(backend: Backend, case: &Case, inputs: &Inputs) -> Result<Array4<f64>, Unsupported> {
    backend.supports(&case.problem, case.dtype)?;
    Ok(answer(backend, case, inputs))
}

#[cfg(feature = "torch")]
fn answer(backend: Backend, case: &Case, inputs: &Inputs) -> Array4<f64> {
    let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(|array| torch::tensor(array, torch::kind(case.dtype)));
    let output = backend.forward(&case.problem, &q, &k, &v);
    let output = output.unwrap_or_else(|error| panic!("{} on {}: {error}", backend.name(), case.describe()));
    assert_eq!(output.kind(), q.kind(), "{}", case.describe());
    torch::array(&output)
}

/// Without libtorch the reference is the only backend; its answer is rounded as a tensor's would be.
#[cfg(not(feature = "torch"))]
fn answer(_backend: Backend, case: &Case, inputs: &Inputs) -> Array4<f64> {
    let (q, k, v) = (inputs.q.view(), inputs.k.view(), inputs.v.view());
    let exact = attention::reference::forward(&case.problem, q, k, v).expect("inputs of the case").output;
    exact.mapv(|x| f64::from(super::plain::Rounding(case.dtype).round(x as f32)))
}

/// Arrays to tensors and back.
#[cfg(feature = "torch")]
pub(crate) mod torch {
    use attention::DType;
    use ndarray::Array4;
    use tch::{Kind, Tensor};

    pub(crate) fn kind(dtype: DType) -> Kind {
        match dtype {
            DType::F64 => Kind::Double,
            DType::F32 => Kind::Float,
            DType::BF16 => Kind::BFloat16,
            DType::F16 => Kind::Half,
        }
    }

    pub(crate) fn tensor(array: &Array4<f64>, kind: Kind) -> Tensor {
        let values: Vec<f64> = array.iter().copied().collect();
        let dims: Vec<i64> = array.shape().iter().map(|&n| n as i64).collect();
        Tensor::from_slice(&values).reshape(dims).to_kind(kind)
    }

    pub(crate) fn array(tensor: &Tensor) -> Array4<f64> {
        let dims: Vec<usize> = tensor.size().iter().map(|&n| n as usize).collect();
        let values = Vec::<f64>::try_from(tensor.detach().to_kind(Kind::Double).contiguous().view(-1)).unwrap();
        Array4::from_shape_vec([dims[0], dims[1], dims[2], dims[3]], values).unwrap()
    }
}
