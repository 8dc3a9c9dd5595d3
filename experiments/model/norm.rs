//! RMSNorm (Zhang and Sennrich 2019): `y = w * x * r` with `r = 1 / sqrt(mean(x^2) + epsilon)` over the last dimension; and
//! LayerNorm (Ba et al. 2016): the same of `x - mean(x)`, and `b` added.
//!
//! For the gradient `dy` by `y`: `dx = r (w dy - x r^2 mean(w dy x))`, `dw` the sum of `dy x r` over rows; of LayerNorm `dx`
//! is that less its mean over the row, and `db` the sum of `dy`. Nothing but `x`
//! is kept for it: `r` costs less to compute again than a pass over what holds it. In float32 on the CPU both ways are one
//! pass of our own, on CUDA a kernel of ours where it may be used; elsewhere libtorch's operations, statistics in float32, as
//! in the checkpoints' own training; on the CPU piece by piece.

use attention::tiled::rows::{self, RmsNormGradient};
use tch::{Kind, Tensor};
use torch_ext::autograd::{AutogradError, Backward, Recorded, custom};
use torch_ext::fused::norm::{self, Inputs, Norm as Fused, NormGradients};
use torch_ext::fused::{Use, told};

use super::host::{in_rows, pieces, singles, singles_mut, unset_like};
use super::linear::Gradients;

/// A norm over the width of the residual stream.
#[derive(Debug)]
pub struct Norm {
    /// `[hidden]`.
    pub weight: Tensor,
    /// `[hidden]`; a norm that has one is LayerNorm, one without is RMSNorm.
    pub bias: Option<Tensor>,
    /// Added to the mean square or variance.
    pub epsilon: f64,
}

impl Norm {
    /// `x` `[.., hidden]` normalised; nothing is recorded for gradients.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        self.by_rows(x).or_else(|| self.by_kernel(x)).unwrap_or_else(|| tch::no_grad(|| self.in_pieces(x)))
    }

    /// Adds `x` to `h` in place, both `[.., hidden]`, and gives the norm of the sum, in one pass over memory where
    /// [`Norm::forward`] is one; nothing is recorded for gradients.
    pub fn after_adding(&self, h: &mut Tensor, x: &Tensor) -> Tensor {
        if let Some(normed) = self.added_by_rows(h, x).or_else(|| self.added_by_kernel(h, x)) {
            return normed;
        }
        let _ = h.g_add_(x);
        self.forward(h)
    }

    /// [`Norm::forward`] as a step of libtorch's graph that keeps `x` and nothing else.
    ///
    /// # Errors
    ///
    /// When libtorch cannot make the node.
    pub fn recorded(&self, x: &Tensor) -> Result<Tensor, AutogradError> {
        let forward =
            || Ok::<_, AutogradError>(Recorded { outputs: vec![self.forward(x)], saved: vec![x.shallow_clone()] });
        let norm = self.handle();
        let backward = move |call: Backward| -> Result<_, AutogradError> {
            let count = norm.parameters().len();
            let Some(dy) = &call.gradients[0] else { return Ok(super::linear::places(1 + count)) };
            let mut sums = super::linear::places(count);
            let dx = norm.backward(&call.saved[0], &dy.contiguous(), None, &mut sums);
            Ok([Some(dx)].into_iter().chain(sums).collect())
        };
        let inputs: Vec<&Tensor> = [x, &self.weight].into_iter().chain(&self.bias).collect();
        Ok(custom("norm", &inputs, forward, backward)?.swap_remove(0))
    }

    /// `dx` for `x` and the gradient `dy` by [`Norm::forward`], both `[.., hidden]` and in one piece, added to `onto` where
    /// there is one; what they say of the weights is added to `sums`, in the order of [`Norm::parameters`].
    pub fn backward(&self, x: &Tensor, dy: &Tensor, onto: Option<&Tensor>, sums: &mut Gradients) -> Tensor {
        let by_kernel = || self.pulled_by_kernel(x, dy, onto);
        let pulled = match self.pulled_by_rows(x, dy, onto).or_else(by_kernel) {
            Some(answer) => answer,
            None => self.pulled_in_pieces(x, dy, onto),
        };
        let parts = [Some((&self.weight, &pulled.weight)), self.bias.as_ref().zip(pulled.bias.as_ref())];
        for (sum, (parameter, part)) in sums.iter_mut().zip(parts.into_iter().flatten()) {
            if parameter.requires_grad() {
                *sum = Some(sum.take().map_or_else(|| part.shallow_clone(), |before| before + part));
            }
        }
        pulled.x
    }

    /// Its tensors, with what follows the norm's name in a checkpoint.
    pub fn parameters(&self) -> Vec<(&'static str, &Tensor)> {
        [("weight", &self.weight)].into_iter().chain(self.bias.as_ref().map(|bias| ("bias", bias))).collect()
    }

    /// Another handle on the same tensors.
    pub(super) fn handle(&self) -> Self {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        Self { weight: self.weight.shallow_clone(), bias, epsilon: self.epsilon }
    }

    fn by_rows(&self, x: &Tensor) -> Option<Tensor> {
        if self.bias.is_some() {
            return None;
        }
        let (numbers, weight) = (singles(x)?, singles(&self.weight)?);
        let mut out = unset_like(x);
        rows::rms_norm(numbers, weight, self.epsilon as f32, singles_mut(&mut out)?);
        Some(out)
    }

    fn added_by_rows(&self, h: &mut Tensor, x: &Tensor) -> Option<Tensor> {
        singles(h).filter(|_| self.bias.is_none())?;
        let (added, weight) = (singles(x)?, singles(&self.weight)?);
        let mut out = unset_like(h);
        rows::rms_norm_after_adding(singles_mut(h)?, added, weight, self.epsilon as f32, singles_mut(&mut out)?);
        Some(out)
    }

    fn inputs<'a>(&'a self, x: &'a Tensor) -> Inputs<'a> {
        Inputs { x, residual: None, weight: &self.weight, bias: self.bias.as_ref(), epsilon: self.epsilon }
    }

    fn fused(&self) -> Fused {
        if self.bias.is_some() { Fused::Layer } else { Fused::Rms }
    }

    fn by_kernel(&self, x: &Tensor) -> Option<Tensor> {
        let (inputs, norm) = (self.inputs(x), self.fused());
        let machine = norm.where_used(&inputs, Use::of_process())?;
        told(norm.forward(&machine, &inputs)).map(|normed| normed.out)
    }

    fn added_by_kernel(&self, h: &Tensor, x: &Tensor) -> Option<Tensor> {
        let (inputs, norm) = (Inputs { residual: Some(x), ..self.inputs(h) }, self.fused());
        let machine = norm.where_used(&inputs, Use::of_process())?;
        told(norm.forward_over(&machine, &inputs)).map(|normed| normed.out)
    }

    fn pulled_by_kernel(&self, x: &Tensor, dy: &Tensor, onto: Option<&Tensor>) -> Option<NormGradients> {
        let (inputs, norm) = (self.inputs(x), self.fused());
        let machine = norm.where_used(&inputs, Use::of_process())?;
        let gradients = norm::Gradients { grad: dy, grad_sum: onto };
        told(norm.backward(&machine, &inputs, None, gradients))
    }

    fn in_pieces(&self, x: &Tensor) -> Tensor {
        let (rows, out) = (in_rows(x), unset_like(x));
        let out_rows = in_rows(&out);
        for (start, count) in pieces(&rows) {
            out_rows.narrow(0, start, count).copy_(&self.by_libtorch(&rows.narrow(0, start, count)));
        }
        out
    }

    fn by_libtorch(&self, x: &Tensor) -> Tensor {
        let hidden = self.weight.size();
        if let Some(bias) = &self.bias {
            // libtorch's own kernel takes its statistics in float32 for types of 16 bits.
            return x.layer_norm(hidden, Some(&self.weight), Some(bias), self.epsilon, true);
        }
        if x.kind() == Kind::Float {
            return x.rms_norm(hidden, Some(&self.weight), self.epsilon);
        }
        let normed = x.to_kind(wide(x)).rms_norm(hidden, None::<&Tensor>, self.epsilon);
        normed.to_kind(x.kind()) * &self.weight
    }

    fn pulled_by_rows(&self, x: &Tensor, dy: &Tensor, onto: Option<&Tensor>) -> Option<NormGradients> {
        if self.bias.is_some() {
            return None;
        }
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
        Some(NormGradients { x: dx, weight: Tensor::from_slice(&dw), bias: None })
    }

    fn pulled_in_pieces(&self, x: &Tensor, dy: &Tensor, onto: Option<&Tensor>) -> NormGradients {
        let (rows, dy_rows, onto_rows) = (in_rows(x), in_rows(dy), onto.map(in_rows));
        let (dx, kind) = (unset_like(x), wide(x));
        let dx_rows = in_rows(&dx);
        let sum = |of: &Tensor| Tensor::zeros(of.size(), (kind, of.device()));
        let (mut weight, mut bias) = (sum(&self.weight), self.bias.as_ref().map(sum));
        for (start, count) in pieces(&rows) {
            let part = |rows: &Tensor| rows.narrow(0, start, count);
            let pulled = self.pulled_by_libtorch(&part(&rows), &part(&dy_rows), onto_rows.as_ref().map(part).as_ref());
            part(&dx_rows).copy_(&pulled.x);
            weight += pulled.weight;
            if let (Some(bias), Some(part)) = (&mut bias, pulled.bias) {
                *bias += part;
            }
        }
        let narrowed = |sum: Tensor| sum.to_kind(self.weight.kind());
        NormGradients { x: dx, weight: narrowed(weight), bias: bias.map(narrowed) }
    }

    /// The sums of the weights' gradients stay in the type that statistics are taken in.
    fn pulled_by_libtorch(&self, x: &Tensor, dy: &Tensor, onto: Option<&Tensor>) -> NormGradients {
        let kind = wide(x);
        let (mut x_wide, dy_wide) = (x.to_kind(kind), dy.to_kind(kind));
        let mean = |t: Tensor| t.mean_dim([-1_i64].as_slice(), true, kind);
        if self.bias.is_some() {
            x_wide = &x_wide - mean(x_wide.shallow_clone());
        }
        let r = (mean(&x_wide * &x_wide) + self.epsilon).rsqrt();
        let normed = x_wide * &r;
        let pushed = &dy_wide * self.weight.to_kind(kind);
        let mut dx = &pushed - &normed * mean(&pushed * &normed);
        if self.bias.is_some() {
            dx -= mean(pushed);
        }
        let mut dx = dx * r;
        if let Some(onto) = onto {
            let _ = dx.g_add_(&onto.to_kind(kind));
        }
        let summed = |rows: Tensor| {
            let rows = rows.reshape([-1, self.weight.size()[0]]);
            rows.sum_dim_intlist([0_i64].as_slice(), false, kind)
        };
        let bias = self.bias.as_ref().map(|_| summed(dy_wide.shallow_clone()));
        NormGradients { x: dx.to_kind(x.kind()), weight: summed(dy_wide * normed), bias }
    }
}

/// The type that statistics are taken in.
fn wide(x: &Tensor) -> Kind {
    if x.kind() == Kind::Double { Kind::Double } else { Kind::Float }
}

#[cfg(test)]
mod tests {
    use super::super::host;
    use super::*;

    fn drawn(name: &str, shape: &[i64]) -> Tensor {
        host::drawn(7, name, shape)
    }

    #[test]
    fn the_derivatives_of_both_norms_are_those_of_libtorch() {
        for with_bias in [false, true] {
            let leaf = |name: &str| drawn(name, &[24]).set_requires_grad(true);
            let norm = Norm { weight: leaf("weight"), bias: with_bias.then(|| leaf("bias")), epsilon: 1e-3 };
            let (x, dy) = (drawn("x", &[2, 5, 24]).set_requires_grad(true), drawn("dy", &[2, 5, 24]));
            (norm.recorded(&x).unwrap() * &dy).sum(Kind::Float).backward();
            let ours: Vec<Tensor> = [&x, &norm.weight].into_iter().chain(&norm.bias).map(|t| t.grad().copy()).collect();
            for tensor in [&x, &norm.weight].into_iter().chain(&norm.bias) {
                let _ = tensor.grad().zero_();
            }
            (norm.by_libtorch(&x) * &dy).sum(Kind::Float).backward();
            let theirs = [&x, &norm.weight].into_iter().chain(&norm.bias).map(Tensor::grad);
            for (name, (a, b)) in ["x", "weight", "bias"].into_iter().zip(ours.iter().zip(theirs)) {
                assert!(a.allclose(&b, 1e-5, 1e-5, false), "{name}, with a bias: {with_bias}");
            }
            assert!(norm.forward(&x).allclose(&norm.by_libtorch(&x), 1e-5, 1e-5, false));
        }
    }

    #[test]
    fn a_norm_after_adding_has_the_bits_of_one_after_the_other() {
        for (kind, with_bias, whole) in [
            (Kind::Float, false, true),
            (Kind::Float, true, true),
            (Kind::BFloat16, false, true),
            // A part of every sequence of several, which is not in one piece.
            (Kind::Float, false, false),
        ] {
            let tensor = |name: &str, shape: &[i64]| drawn(name, shape).to_kind(kind);
            let bias = with_bias.then(|| tensor("bias", &[24]));
            let norm = Norm { weight: tensor("weight", &[24]), bias, epsilon: 1e-3 };
            let part = |t: &Tensor| if whole { t.shallow_clone() } else { t.narrow(1, 1, 3) };
            let [mut h, mut sum, x] = ["h", "h", "x"].map(|name| part(&tensor(name, &[2, 5, 24])));
            let _ = sum.g_add_(&x);
            let (found, expected) = (norm.after_adding(&mut h, &x), norm.forward(&sum));
            assert_eq!((found, h), (expected, sum), "{kind:?}, with a bias: {with_bias}, whole: {whole}");
        }
    }
}
