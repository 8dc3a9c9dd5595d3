//! RMSNorm (Zhang and Sennrich 2019): `y = w * x / sqrt(mean(x^2) + epsilon)` over the last dimension.

use tch::{Kind, Tensor};

/// A norm over the width of the residual stream.
#[derive(Debug)]
pub struct Norm {
    /// `[hidden]`.
    pub weight: Tensor,
    /// Added to the mean square.
    pub epsilon: f64,
}

impl Norm {
    /// `x` `[.., hidden]` normalised; statistics in float32, as in the checkpoints' own training. Differentiable.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let hidden = self.weight.size();
        if x.kind() == Kind::Float {
            return x.rms_norm(hidden, Some(&self.weight), self.epsilon);
        }
        let normed = x.to_kind(Kind::Float).rms_norm(hidden, None::<&Tensor>, self.epsilon);
        normed.to_kind(x.kind()) * &self.weight
    }
}
