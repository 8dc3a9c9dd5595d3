//! The fastest backend that is right for a device and a problem, and why it is that one.
//!
//! | device | problem | backend |
//! |---|---|---|
//! | CPU | taken by `tiled`, 16 queries or more | `tiled` |
//! | CPU | fewer queries, as in decoding over a cache | `libtorch` |
//! | CUDA | kernels of `cuda`, of either generation, verified on that architecture | `cuda` |
//! | any | anything else | `libtorch` |
//!
//! [`Backend::auto`] asks anew for every problem. A backend that is asked for by name is never replaced by another.

use std::borrow::Cow;

use tch::{Device, Tensor};

use crate::backend::{Attended, AttentionBackend, Backend, Gradients};
use crate::error::{AttnError, DType, Unsupported};
use crate::problem::AttnProblem;
use crate::tensors::dtype_of;

/// Fewest queries for which `tiled` was not slower than `libtorch` on the CPU: with fewer its tiles stay empty.
const FEWEST_QUERIES: usize = 16;

/// The name of [`Backend::auto`].
pub const AUTO: &str = "auto";

/// A backend and why it was chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The chosen one.
    pub backend: Backend,
    /// In words that follow "because".
    pub reason: Cow<'static, str>,
}

impl Backend {
    /// The backend that takes the fastest way for each problem, by [`Backend::default_for`].
    #[must_use]
    pub fn auto() -> Self {
        Self::of(&Auto)
    }

    /// The fastest backend that is right for a problem in an element type on a device.
    #[must_use]
    pub fn default_for(device: Device, problem: &AttnProblem, dtype: DType) -> Choice {
        let own = match device {
            Device::Cpu => on_cpu(problem, dtype),
            Device::Cuda(ordinal) => on_cuda(ordinal, problem, dtype),
            _ => Err("no other backend runs on this device".into()),
        };
        match own {
            Ok(choice) => choice,
            Err(reason) => Choice { backend: Self::of(&crate::libtorch::LibTorch), reason },
        }
    }

    /// The backend that answers a problem when this one is asked, and why: another for [`Backend::auto`] alone.
    #[must_use]
    pub fn answering(self, device: Device, problem: &AttnProblem, dtype: DType) -> Choice {
        match self.name() {
            AUTO => Self::default_for(device, problem, dtype),
            _ => Choice { backend: self, reason: "it was asked for by name".into() },
        }
    }
}

/// `tiled`, or why not.
fn on_cpu(problem: &AttnProblem, dtype: DType) -> Result<Choice, Cow<'static, str>> {
    if problem.shape().query_len < FEWEST_QUERIES {
        return Err("so few queries do not fill the tiles of tiled".into());
    }
    let Ok(tiled) = Backend::from_name("tiled") else { return Err("this build has no backend tiled".into()) };
    tiled.supports(problem, dtype).map_err(|unsupported| unsupported.to_string())?;
    Ok(Choice { backend: tiled, reason: "it is the fastest on the CPU".into() })
}

/// `cuda` where its kernels are verified, or why not.
fn on_cuda(ordinal: usize, problem: &AttnProblem, dtype: DType) -> Result<Choice, Cow<'static, str>> {
    let Ok(cuda) = Backend::from_name("cuda") else { return Err("this build has no backend cuda".into()) };
    cuda.supports(problem, dtype).map_err(|unsupported| unsupported.to_string())?;
    if problem.shape().query_len < FEWEST_QUERIES {
        return Err("few queries leave most of the device idle in the kernels of cuda".into());
    }
    let device = torch_ext::cuda::Device::get(ordinal).map_err(|error| error.to_string())?;
    if !crate::cuda::verified(problem, dtype, device.arch()) {
        return Err(format!("the kernels of cuda are not verified on {}", device.arch()).into());
    }
    Ok(Choice { backend: cuda, reason: "its kernels are verified on this device".into() })
}

/// The backend `auto`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Auto;

impl Auto {
    fn choice(problem: &AttnProblem, q: &Tensor) -> Result<Backend, AttnError> {
        let dtype = dtype_of(q.kind()).ok_or(AttnError::NotAFloat { kind: q.kind() })?;
        Ok(Backend::default_for(q.device(), problem, dtype).backend)
    }
}

impl AttentionBackend for Auto {
    fn name(&self) -> &'static str {
        AUTO
    }

    fn supports(&self, problem: &AttnProblem, dtype: DType) -> Result<(), Unsupported> {
        // Whatever the others decline, libtorch takes.
        crate::libtorch::LibTorch.supports(problem, dtype)
    }

    fn has_backward(&self, problem: &AttnProblem, device: Device, dtype: DType) -> bool {
        Backend::default_for(device, problem, dtype).backend.has_backward(problem, device, dtype)
    }

    fn forward(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, AttnError> {
        Self::choice(problem, q)?.forward(problem, q, k, v)
    }

    fn attend(&self, problem: &AttnProblem, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Attended, AttnError> {
        Self::choice(problem, q)?.attend(problem, q, k, v)
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
        // The same problem leads to the same backend as in the forward pass.
        Self::choice(problem, q)?.backward(problem, q, k, v, attended, grad_output)
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::{AttnShape, Mask};

    fn problem(query_len: usize, head_dim: usize) -> AttnProblem {
        let shape = AttnShape { batch: 1, query_heads: 2, key_heads: 1, query_len, key_len: 70, head_dim };
        AttnProblem::new(shape).unwrap().with_mask(Mask::causal(&shape)).unwrap()
    }

    #[test]
    fn a_name_is_kept_and_auto_is_settled_with_a_reason() {
        let problem = problem(64, 64);
        let reference = Backend::from_name("reference").unwrap().answering(Device::Cpu, &problem, DType::F32);
        assert_eq!((reference.backend.name(), &*reference.reason), ("reference", "it was asked for by name"));
        let auto = Backend::from_name("auto").unwrap();
        assert_eq!(auto, Backend::auto());
        let choice = auto.answering(Device::Cpu, &problem, DType::F32);
        println!("{} because {}", choice.backend.name(), choice.reason);
        assert!(Backend::all().any(|backend| backend == choice.backend), "it is one of the registered");
        assert_ne!(choice.backend.name(), "reference");
    }

    #[test]
    fn what_tiled_declines_goes_to_libtorch_with_its_words() {
        let one = Backend::default_for(Device::Cpu, &problem(1, 64), DType::F32);
        assert_eq!((one.backend.name(), one.reason.contains("few queries")), ("libtorch", true));
        let odd = Backend::default_for(Device::Cpu, &problem(64, 3), DType::F64);
        assert_eq!(odd.backend.name(), "libtorch", "{}", odd.reason);
        assert!(odd.reason.contains("tiled"), "{}", odd.reason);
        assert_eq!(Backend::default_for(Device::Mps, &problem(64, 64), DType::F32).backend.name(), "libtorch");
    }

    #[test]
    fn auto_answers_as_the_backend_that_it_settles_on() {
        let problem = problem(64, 64);
        let tensor = |heads, len| Tensor::randn([1, heads, len, 64], (Kind::Float, Device::Cpu));
        let (q, k, v) = (tensor(2, 64).set_requires_grad(true), tensor(1, 70), tensor(1, 70));
        let settled = Backend::default_for(Device::Cpu, &problem, DType::F32).backend;
        let [auto, own] = [Backend::auto(), settled].map(|backend| {
            let output = backend.forward(&problem, &q, &k, &v).unwrap();
            (output.sum(Kind::Float).backward(), output).1
        });
        assert!(auto.equal(&own) && q.grad().defined());
    }
}
