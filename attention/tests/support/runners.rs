//! How each backend is run on a case.

use attention::{Backend, Unsupported};
use ndarray::Array4;

use super::cases::{Case, Inputs};

/// What a backend answers.
pub(crate) struct Answer {
    pub(crate) output: Array4<f64>,
    /// `[batch, query_heads, query_len]` with a last dimension of one; none where the backend keeps it to itself.
    pub(crate) lse: Option<Array4<f64>>,
}

/// The answer of a backend, or why it declines. Any other error fails the test.
pub(crate) fn run(backend: Backend, case: &Case, inputs: &Inputs) -> Result<Answer, Unsupported> {
    backend.supports(&case.problem, case.dtype)?;
    Ok(answer(backend, case, inputs))
}

#[cfg(feature = "torch")]
fn answer(backend: Backend, case: &Case, inputs: &Inputs) -> Answer {
    let [q, k, v] = torch::qkv(backend, case, inputs);
    let failed = |error| -> ! { panic!("{} on {}: {error}", backend.name(), case.describe()) };
    let output = backend.forward(&case.problem, &q, &k, &v).unwrap_or_else(|error| failed(error));
    assert_eq!(output.kind(), q.kind(), "{}", case.describe());
    let lse = torch::granted(backend.attend(&case.problem, &q, &k, &v), attention::Feature::LogSumExp);
    let lse = lse.unwrap_or_else(|error| failed(error)).map(|attended| {
        assert!(attended.output.equal(&output), "two outputs of {} on {}", backend.name(), case.describe());
        torch::array(&attended.lse.unsqueeze(3))
    });
    Answer { output: torch::array(&output), lse }
}

/// Without libtorch the reference is the only backend; its answer is rounded as a tensor's would be.
#[cfg(not(feature = "torch"))]
fn answer(_backend: Backend, case: &Case, inputs: &Inputs) -> Answer {
    let (q, k, v) = (inputs.q.view(), inputs.k.view(), inputs.v.view());
    let exact = attention::reference::forward(&case.problem, q, k, v).expect("inputs of the case").output;
    let output = exact.mapv(|x| f64::from(super::plain::Rounding(case.dtype).round(x as f32)));
    Answer { output, lse: None }
}

/// Arrays to tensors and back.
#[cfg(feature = "torch")]
pub(crate) mod torch {
    use attention::{AttnError, Backend, DType, Feature};
    use ndarray::Array4;
    use tch::{Device, Kind, Tensor};

    use super::{Case, Inputs};

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
        let values =
            Vec::<f64>::try_from(tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double).contiguous().view(-1))
                .unwrap();
        Array4::from_shape_vec([dims[0], dims[1], dims[2], dims[3]], values).unwrap()
    }

    /// Where a backend is tested: in main memory if it can.
    pub(crate) fn device(backend: Backend) -> Device {
        if backend.runs_on(Device::Cpu) { Device::Cpu } else { Device::Cuda(0) }
    }

    /// The inputs of a case in its type, where the backend wants them.
    pub(crate) fn qkv(backend: Backend, case: &Case, inputs: &Inputs) -> [Tensor; 3] {
        let place = |array| tensor(array, kind(case.dtype)).to_device(device(backend));
        [&inputs.q, &inputs.k, &inputs.v].map(place)
    }

    /// An answer; none where the backend lacks just this feature.
    pub(crate) fn granted<T>(answer: Result<T, AttnError>, feature: Feature) -> Result<Option<T>, AttnError> {
        match answer {
            Err(AttnError::Unsupported(refusal)) if refusal.feature == feature => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Gradients by q, k and v of `sum(output * grad_output)` by libtorch's graph; none where the backend has none.
    pub(crate) fn gradients(backend: Backend, case: &Case, inputs: &Inputs) -> Option<[Tensor; 3]> {
        let [q, k, v] = qkv(backend, case, inputs).map(|tensor| tensor.set_requires_grad(true));
        let output = granted(backend.forward(&case.problem, &q, &k, &v), Feature::Gradients);
        let output = output.unwrap_or_else(|error| panic!("{} on {}: {error}", backend.name(), case.describe()))?;
        let grad_output = tensor(&inputs.grad_output, kind(case.dtype)).to_device(q.device());
        torch_ext::autograd::backward(&[&output], &[Some(&grad_output)])
            .unwrap_or_else(|error| panic!("backward of {} on {}: {error}", backend.name(), case.describe()));
        Some([q, k, v].map(|leaf| leaf.grad()))
    }
}
