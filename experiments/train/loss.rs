//! Cross-entropy over tokens, without the logits of a whole batch at once.

use tch::{Kind, Reduction, Tensor};

use crate::model::Llama;

/// Rows of logits held at once.
const ROWS: i64 = 8192;

/// Targets that are not counted.
pub const UNCOUNTED: i64 = -100;

/// Sum of the negative log-likelihood of `targets` `[batch, length]` given `hidden` `[batch, length, hidden]`, in nats;
/// targets that are [`UNCOUNTED`] add nothing.
pub fn summed_loss(model: &Llama, hidden: &Tensor, targets: &Tensor) -> Tensor {
    let width = hidden.size()[2];
    let hidden = hidden.reshape([-1, width]);
    let targets = targets.reshape([-1]);
    let rows = targets.size()[0];
    let parts: Vec<Tensor> = (0..rows)
        .step_by(ROWS as usize)
        .map(|start| {
            let count = ROWS.min(rows - start);
            let logits = model.logits(&hidden.narrow(0, start, count)).to_kind(Kind::Float);
            logits.cross_entropy_loss(&targets.narrow(0, start, count), None::<&Tensor>, Reduction::Sum, UNCOUNTED, 0.0)
        })
        .collect();
    match parts.as_slice() {
        [only] => only.shallow_clone(),
        parts => Tensor::stack(parts, 0).sum(Kind::Float),
    }
}
