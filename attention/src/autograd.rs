//! How a backend with kernels of its own becomes differentiable: its attention as one node of libtorch's graph.

use tch::Tensor;
use torch_ext::autograd::{Backward, Recorded, custom};

use crate::backend::{Attended, AttentionBackend, Gradients};
use crate::error::AttnError;
use crate::problem::AttnProblem;

/// The output of `backend` for checked tensors: the one `forward` of every backend that has `attend` and `backward`.
///
/// Where gradients are tracked and q, k or v asks for one, they come from [`AttentionBackend::backward`], which is given q,
/// k, v, output and log-sum-exp as they were: that is all that is kept, nothing of the size of the scores. Otherwise this is
/// [`AttentionBackend::attend`] and nothing is kept.
///
/// # Errors
///
/// As [`AttentionBackend::attend`]; in the backward pass, what [`AttentionBackend::backward`] says becomes its error.
pub fn differentiable(
    backend: &'static dyn AttentionBackend,
    problem: &AttnProblem,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<Tensor, AttnError> {
    let forward = || {
        let Attended { output, lse } = backend.attend(problem, q, k, v)?;
        let saved = [q, k, v, &output, &lse].map(Tensor::shallow_clone).into();
        Ok::<_, AttnError>(Recorded { outputs: vec![output], saved })
    };
    let kept = problem.clone();
    let backward = move |call: Backward| gradients(backend, &kept, call);
    let mut outputs = custom(&format!("{} attention", backend.name()), &[q, k, v], forward, backward)?;
    Ok(outputs.swap_remove(0))
}

/// By q, k and v in turn; nothing where the output was of no consequence.
fn gradients(
    backend: &dyn AttentionBackend,
    problem: &AttnProblem,
    call: Backward,
) -> Result<Vec<Option<Tensor>>, AttnError> {
    let Backward { saved, mut gradients, wanted: _ } = call;
    let (Some(grad_output), Ok([q, k, v, output, lse])) = (gradients.swap_remove(0), <[Tensor; 5]>::try_from(saved))
    else {
        return Ok(vec![None, None, None]);
    };
    // A broadcast gradient, such as that of a sum, arrives with strides of zero; backends take any strides.
    let attended = Attended { output, lse };
    let Gradients { dq, dk, dv } = backend.backward(problem, &q, &k, &v, &attended, &grad_output)?;
    Ok(vec![Some(dq), Some(dk), Some(dv)])
}
