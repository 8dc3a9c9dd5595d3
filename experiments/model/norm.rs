//! RMSNorm (Zhang and Sennrich 2019): `y = w * x * r` with `r = 1 / sqrt(mean(x^2) + epsilon)` over the last dimension.
//!
//! For the gradient `dy` by `y`: `dx = r (w dy - x r^2 mean(w dy x))`, `dw` the sum of `dy x r` over rows. Nothing but `x`
//! is kept for it: `r` costs less to compute again than a pass over what holds it. In float32 on the CPU both ways are one
//! pass of our own, on CUDA a kernel of ours where it may be used; elsewhere libtorch's operations, statistics in float32, as
//! in the checkpoints' own training.

use attention::tiled::rows::{self, RmsNormGradient};
use tch::{Kind, Tensor};
use torch_ext::autograd::{AutogradError, Backward, Recorded, custom};
use torch_ext::fused::norm::{self, Inputs, Norm as Fused};
use torch_ext::fused::{Use, told};

use super::host::{singles, singles_mut, unset_like};
use super::linear::Gradients;

/// A norm over the width of the residual stream.
#[derive(Debug)]
pub struct Norm {
    /// `[hidden]`.
    pub weight: Tensor,
    /// Added to the mean square.
    pub epsilon: f64,
}

impl Norm {
    /// `x` `[.., hidden]` normalised; nothing is recorded for gradients.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.by_rows(x).or_else(|| self.by_kernel(x)).unwrap_or_else(|| tch::no_grad(|| self.by_libtorch(x)))
    }

    /// The same as a step of libtorch's graph that keeps `x` and nothing else.
    ///
    /// # Errors
    ///
    /// When libtorch cannot make the node.
    pub fn recorded(&self, x: &Tensor) -> Result<Tensor, AutogradError> {
        let forward =
            || Ok::<_, AutogradError>(Recorded { outputs: vec![self.forward(x)], saved: vec![x.shallow_clone()] });
        let norm = self.handle();
        let backward = move |call: Backward| -> Result<_, AutogradError> {
            let Some(dy) = &call.gradients[0] else { return Ok(vec![None, None]) };
            let mut sums = super::linear::places(1);
            let dx = norm.backward(&call.saved[0], &dy.contiguous(), None, &mut sums);
            Ok(vec![Some(dx), sums.swap_remove(0)])
        };
        Ok(custom("RMSNorm", &[x, &self.weight], forward, backward)?.swap_remove(0))
    }

    /// `dx` for `x` and the gradient `dy` by [`Norm::forward`], both `[.., hidden]` and in one piece, added to `onto` where
    /// there is one; what they say of the weights is added to `sums`, in the order of [`Norm::parameters`].
    pub fn backward(&self, x: &Tensor, dy: &Tensor, onto: Option<&Tensor>, sums: &mut Gradients) -> Tensor {
        let by_kernel = || self.pulled_by_kernel(x, dy, onto);
        let (dx, dw) = match self.pulled_by_rows(x, dy, onto).or_else(by_kernel) {
            Some(answer) => answer,
            None => self.pulled_by_libtorch(x, dy, onto),
        };
        if self.weight.requires_grad() {
            sums[0] = Some(sums[0].take().map_or_else(|| dw.shallow_clone(), |before| before + &dw));
        }
        dx
    }

    /// Its tensors, with what follows the norm's name in a checkpoint.
    pub fn parameters(&self) -> Vec<(&'static str, &Tensor)> {
        vec![("weight", &self.weight)]
    }

    /// Another handle on the same tensors.
    pub(super) fn handle(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), epsilon: self.epsilon }
    }

    fn by_rows(&self, x: &Tensor) -> Option<Tensor> {
        let (numbers, weight) = (singles(x)?, singles(&self.weight)?);
        let mut out = unset_like(x);
        rows::rms_norm(numbers, weight, self.epsilon as f32, singles_mut(&mut out)?);
        Some(out)
    }

    fn inputs<'a>(&'a self, x: &'a Tensor) -> Inputs<'a> {
        Inputs { x, residual: None, weight: &self.weight, bias: None, epsilon: self.epsilon }
    }

    fn by_kernel(&self, x: &Tensor) -> Option<Tensor> {
        let inputs = self.inputs(x);
        let machine = Fused::Rms.where_used(&inputs, Use::of_process())?;
        told(Fused::Rms.forward(&machine, &inputs)).map(|normed| normed.out)
    }

    fn pulled_by_kernel(&self, x: &Tensor, dy: &Tensor, onto: Option<&Tensor>) -> Option<(Tensor, Tensor)> {
        let inputs = self.inputs(x);
        let machine = Fused::Rms.where_used(&inputs, Use::of_process())?;
        let gradients = norm::Gradients { grad: dy, grad_sum: onto };
        told(Fused::Rms.backward(&machine, &inputs, None, gradients)).map(|found| (found.x, found.weight))
    }

    fn by_libtorch(&self, x: &Tensor) -> Tensor {
        let hidden = self.weight.size();
        if x.kind() == Kind::Float {
            return x.rms_norm(hidden, Some(&self.weight), self.epsilon);
        }
        let normed = x.to_kind(wide(x)).rms_norm(hidden, None::<&Tensor>, self.epsilon);
        normed.to_kind(x.kind()) * &self.weight
    }

    fn pulled_by_rows(&self, x: &Tensor, dy: &Tensor, onto: Option<&Tensor>) -> Option<(Tensor, Tensor)> {
        let onto = match onto {
            Some(onto) => Some(singles(onto)?),
            None => None,
        };
        let given = RmsNormGradient {
            x: singles(x)?,
            weight: singles(&self.weight)?,
            epsilon: self.epsilon as f32,
            grad: singles(dy)?,
            onto,
        };
        let mut dx = unset_like(x);
        let dw = rows::rms_norm_backward(given, singles_mut(&mut dx)?);
        Some((dx, Tensor::from_slice(&dw)))
    }

    fn pulled_by_libtorch(&self, x: &Tensor, dy: &Tensor, onto: Option<&Tensor>) -> (Tensor, Tensor) {
        let kind = wide(x);
        let (x_wide, dy_wide) = (x.to_kind(kind), dy.to_kind(kind));
        let mean = |t: Tensor| t.mean_dim([-1_i64].as_slice(), true, kind);
        let r = (mean(&x_wide * &x_wide) + self.epsilon).rsqrt();
        let normed = x_wide * &r;
        let pushed = &dy_wide * self.weight.to_kind(kind);
        let mut dx = (&pushed - &normed * mean(&pushed * &normed)) * r;
        if let Some(onto) = onto {
            let _ = dx.g_add_(&onto.to_kind(kind));
        }
        let dw = (dy_wide * normed).reshape([-1, self.weight.size()[0]]);
        (dx.to_kind(x.kind()), dw.sum_dim_intlist([0_i64].as_slice(), false, kind).to_kind(self.weight.kind()))
    }
}

/// The type that statistics are taken in.
fn wide(x: &Tensor) -> Kind {
    if x.kind() == Kind::Double { Kind::Double } else { Kind::Float }
}
