//! LongCE (Fang et al. 2024, "What is wrong with perplexity for long-context language modeling?", section 3.3): tokens that
//! the long context makes more likely than a short one does weigh more.
//!
//! With `l_i` everything before token `x_i` and `s_i` the short context of at least `short_context` tokens before it, the loss
//! is `sum_i I(x_i) (-log P(x_i | l_i))`, where `I(x_i) = min(P(x_i | l_i) / P(x_i | s_i), clip)` (equations 7 and 8) is no
//! function of the weights that are trained. Short contexts begin at every `stride`th token, so that one is `short_context`
//! to `short_context + stride - 1` tokens long; tokens before `short_context + stride` see the same either way and have
//! the weight 1. The sum is divided by the number of counted tokens, not by the weights, as the authors' program does. A step costs
//! a forward pass over `(short_context + stride) / stride` times its tokens more.

use attention::{DocumentStarts, Mask};
use tch::{Kind, Reduction, Tensor, no_grad};

use super::loss::UNCOUNTED;
use crate::config::Loss;
use crate::error::Failure;
use crate::model::{Llama, Pass, within};

/// One short context and the targets that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    /// First input.
    start: usize,
    /// Inputs.
    count: usize,
    /// First target, by the number of the input before it, within the window.
    first: usize,
}

/// The windows of a sequence of `length` inputs, but for those whose context is not short.
fn windows(length: usize, loss: &Loss) -> Vec<Window> {
    let (short, stride) = (loss.short_context, loss.stride);
    // Target `t`, the token after input `t - 1`, is of the last window that starts at least `short` tokens before it.
    let starts = (stride..).step_by(stride).take_while(|start| start + short <= length);
    starts.map(|start| Window { start, count: (short + stride - 1).min(length - start), first: short - 1 }).collect()
}

/// The weight of every target, `[batch, length]` in float32, for inputs and targets in that shape and the `hidden` states of
/// the pass over them, `[batch, length, hidden]`.
///
/// # Errors
///
/// As [`Llama::hidden`].
pub fn weights(
    model: &Llama,
    loss: &Loss,
    pass: &Pass,
    (inputs, targets): (&Tensor, &Tensor),
    hidden: &Tensor,
) -> Result<Tensor, Failure> {
    no_grad(|| {
        let long = token_losses(model, hidden, targets);
        let short = long.copy();
        for Window { start, count, first } in windows(inputs.size()[1] as usize, loss) {
            let mask = mask_of(&pass.mask, start, count)?;
            let pass = Pass { plan: pass.plan, offset: 0, mask };
            let inputs = inputs.narrow(1, start as i64, count as i64).contiguous();
            let hidden = model.hidden(&inputs, &pass, None)?;
            let (from, scored) = ((start + first) as i64, (count - first) as i64);
            let losses = token_losses(model, &hidden.narrow(1, first as i64, scored), &targets.narrow(1, from, scored));
            short.narrow(1, from, scored).copy_(&losses);
        }
        Ok(weight(&long, &short, loss.clip))
    })
}

/// `min(P(x | l) / P(x | s), clip)` from the negative logarithms of both.
fn weight(long: &Tensor, short: &Tensor, clip: f64) -> Tensor {
    (short - long).exp().clamp_max(clip)
}

/// Rows of logits held at once.
const ROWS: i64 = 1024;

/// Negative log-likelihood of every target `[batch, length]` given `hidden` `[batch, length, hidden]`, in float32; 0 where
/// none is counted.
fn token_losses(model: &Llama, hidden: &Tensor, targets: &Tensor) -> Tensor {
    let hidden = hidden.reshape([-1, hidden.size().last().copied().unwrap_or(1)]);
    let flat = targets.reshape([-1]);
    let part = |start: i64| {
        let count = ROWS.min(flat.size()[0] - start);
        let logits = model.logits(&hidden.narrow(0, start, count)).to_kind(Kind::Float);
        let targets = flat.narrow(0, start, count);
        logits.cross_entropy_loss(&targets, None::<&Tensor>, Reduction::None, UNCOUNTED, 0.0)
    };
    let parts: Vec<Tensor> = (0..flat.size()[0]).step_by(ROWS as usize).map(part).collect();
    Tensor::cat(&parts, 0).view_as(targets)
}

/// The mask of `count` tokens from token `start` on, read alone.
fn mask_of(mask: &Mask, start: usize, count: usize) -> Result<Mask, Failure> {
    let Mask::Documents { starts, .. } = mask else { return Ok(Mask::Causal { offset: 0 }) };
    let rows = (0..starts.rows()).map(|row| within(starts.row(row), start, count)).collect();
    let starts = DocumentStarts::new(rows).map_err(|error| Failure::data(error.to_string()))?;
    Ok(Mask::Documents { starts, offset: 0 })
}

#[cfg(test)]
#[path = "long_ce_tests.rs"]
mod tests;
