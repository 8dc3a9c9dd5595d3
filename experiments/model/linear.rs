//! A linear map and its derivatives: the one place where a weight meets activations, so that what changes weights (an
//! adapter, another number format) changes them here and nowhere else.
//!
//! For `y = x W^T + b` and the gradient `dy` by `y`: `dx = dy W`, `dW = dy^T x`, `db` the sum of `dy` over rows.

use tch::{Kind, Tensor};

/// A linear map `x W^T + b`, weight `[out, in]`.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

/// Gradients by some tensors, each in its place; none for one that asks for none.
pub type Gradients = Vec<Option<Tensor>>;

impl Linear {
    /// `[.., out]` of `x` `[.., in]`; differentiable.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }

    /// Adds what `x` `[rows, in]` and the gradient `dy` `[rows, out]` say of the map's tensors to `sums`, which is in the
    /// order of [`Linear::parameters`]; of those that ask for no gradient nothing is computed. Nothing is recorded.
    pub fn gather(&self, x: &Tensor, dy: &Tensor, sums: &mut Gradients) {
        if self.weight.requires_grad() {
            let dy = dy.tr();
            match &mut sums[0] {
                Some(sum) => drop(sum.addmm_(&dy, x)),
                none => *none = Some(dy.mm(x)),
            }
        }
        if let Some(bias) = self.bias.as_ref().filter(|bias| bias.requires_grad()) {
            let sum = dy.sum_dim_intlist([0_i64].as_slice(), false, Kind::Float).to_kind(bias.kind());
            sums[1] = Some(sums[1].take().map_or_else(|| sum.shallow_clone(), |before| before + &sum));
        }
    }

    /// `dx` `[rows, in]` for `dy` `[rows, out]`, added to `onto` where there is one, which is then written over.
    pub fn pulled(&self, dy: &Tensor, onto: Option<Tensor>) -> Tensor {
        match onto {
            Some(mut onto) => onto.addmm_(dy, &self.weight),
            None => dy.mm(&self.weight),
        }
    }

    /// Its tensors, with what follows the map's name in a checkpoint.
    pub fn parameters(&self) -> Vec<(&'static str, &Tensor)> {
        let bias = self.bias.as_ref().map(|bias| ("bias", bias));
        [("weight", &self.weight)].into_iter().chain(bias).collect()
    }

    /// Another handle on the same tensors.
    pub(super) fn handle(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), bias: self.bias.as_ref().map(Tensor::shallow_clone) }
    }
}

/// A place for a gradient by each of `count` tensors.
pub(super) fn places(count: usize) -> Gradients {
    std::iter::repeat_with(|| None).take(count).collect()
}
