//! Attention between a block's passes: its answer is held until the backward comes for it.

use attention::{Attended, Backend, Gradients, dtype_of};
use tch::Tensor;
use torch_ext::autograd;

use super::pass::Pass;
use super::shifted_sparse::{Answer, ShiftedSparse};
use crate::error::Failure;

/// Attention's answer, and the way back.
#[derive(Debug)]
pub(super) enum Mixed {
    /// Of a backend that has a backward of its own, which takes output and log-sum-exp.
    Pair(Attended),
    /// Of such a one in groups.
    Groups(ShiftedSparse, Answer),
    /// Of one that has libtorch's graph instead: that graph, and the leaves that it starts from.
    Graph {
        /// `[batch, heads, length, head_dim]`, with its history.
        output: Tensor,
        /// q, k and v.
        leaves: [Tensor; 3],
    },
}

impl Mixed {
    /// Attention over q, k and v; with a way back where `returns`. To be called where nothing is recorded.
    pub(super) fn new(
        backend: Backend,
        pass: &Pass<'_>,
        projected: &[Tensor; 3],
        returns: bool,
    ) -> Result<Self, Failure> {
        let [q, k, v] = projected;
        if let Some(sparse) = pass.plan.sparse() {
            let place = (pass.plan, &pass.mask);
            if sparse.goes_back_alone(backend, place, [q, k, v])? {
                return Ok(Self::Groups(sparse, sparse.answered(backend, place, [q, k, v])?));
            }
            return Self::by_graph(projected, returns, |tensors| sparse.attend(backend, place, tensors.each_ref()));
        }
        let problem = pass.problem(q, k)?;
        let paired = dtype_of(q.kind()).is_some_and(|dtype| backend.has_backward(&problem, q.device(), dtype));
        if paired {
            return Ok(Self::Pair(backend.attend(&problem, q, k, v)?));
        }
        Self::by_graph(projected, returns, |[q, k, v]| Ok(backend.forward(&problem, q, k, v)?))
    }

    /// By libtorch's graph of `attend`, of which nothing is kept where it need not return.
    fn by_graph(
        projected: &[Tensor; 3],
        returns: bool,
        attend: impl Fn(&[Tensor; 3]) -> Result<Tensor, Failure>,
    ) -> Result<Self, Failure> {
        if !returns {
            let leaves = projected.each_ref().map(Tensor::shallow_clone);
            return Ok(Self::Graph { output: attend(&leaves)?, leaves });
        }
        let leaves = projected.each_ref().map(|t| t.detach().set_requires_grad(true));
        let output = tch::with_grad(|| attend(&leaves))?;
        Ok(Self::Graph { output, leaves })
    }

    /// Mixed values `[batch, heads, length, head_dim]`.
    pub(super) fn output(&self) -> &Tensor {
        match self {
            Self::Pair(attended) => &attended.output,
            Self::Groups(_, answer) => &answer.output,
            Self::Graph { output, .. } => output,
        }
    }

    /// The gradients by q, k and v for that by the output.
    pub(super) fn backward(
        self,
        backend: Backend,
        pass: &Pass<'_>,
        [q, k, v]: [Tensor; 3],
        grad: &Tensor,
    ) -> Result<[Tensor; 3], Failure> {
        match self {
            Self::Pair(attended) => {
                let problem = pass.problem(&q, &k)?;
                let Gradients { dq, dk, dv } = backend.backward(&problem, &q, &k, &v, &attended, grad)?;
                Ok([dq, dk, dv])
            }
            Self::Groups(sparse, answer) => {
                sparse.backward(backend, (pass.plan, &pass.mask), [&q, &k, &v], (&answer, grad))
            }
            Self::Graph { output, leaves } => {
                autograd::backward(&[&output], &[Some(grad)])?;
                Ok(leaves.map(|leaf| leaf.grad()))
            }
        }
    }
}
