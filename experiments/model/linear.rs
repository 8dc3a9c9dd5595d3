//! A linear map: the one place where a weight meets activations, so that what changes weights (an adapter, another number
//! format) changes them here and nowhere else.

use tch::Tensor;

/// A linear map `x W^T + b`, weight `[out, in]`.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// `[.., out]` of `x` `[.., in]`; differentiable.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }

    /// Its tensors, with what follows the map's name in a checkpoint.
    pub fn parameters(&self) -> Vec<(&'static str, &Tensor)> {
        let bias = self.bias.as_ref().map(|bias| ("bias", bias));
        [("weight", &self.weight)].into_iter().chain(bias).collect()
    }
}
