//! Cross-entropy of a linear head, fused: the logits `[tokens, vocab]` never exist as a whole, forward or backward.
//!
//! For a piece of tokens at a time the logits are computed and turned, where they lie, into the derivative of the loss,
//! `factor (softmax - one at the target)`, from which follow the gradients by the hidden states and the head (the order of
//! work of Hsu et al. 2024, section 3.2): three matrix products and one pass over a piece that is still in the cache. The
//! backward pass multiplies them by the gradient of the loss. Beside the gradients themselves a piece of logits is all that
//! is held: [`loss_rows`] tokens.

use std::sync::{Arc, Mutex, PoisonError};

use attention::tiled::rows;
use tch::{Device, Kind, Tensor};
use torch_ext::autograd::{Backward, Recorded, custom, grad_enabled};
use torch_ext::fused::cross_entropy::{self, Targets};
use torch_ext::fused::{Use, told};
use torch_ext::host::contiguous_mut;

use crate::error::Failure;
use crate::model::{Llama, products};

/// Targets that are not counted.
pub const UNCOUNTED: i64 = -100;

/// The fewest and the most tokens of a piece where the recipe names no number, on the CPU and elsewhere: enough for matrix
/// products to be fast, and few enough that their logits are a small part of the whole.
const ROWS: [[i64; 2]; 2] = [[256, 1024], [512, 4096]];

/// Pieces that the logits are cut into, within [`ROWS`]. Every piece reads the head twice and its gradient once, and writes that
/// once, which a CPU feels more.
const PIECES: [i64; 2] = [6, 16];

/// Tokens whose logits exist at once, for `tokens` in all on a device; `asked` is the recipe's `loss_tokens`, 0 for a choice
/// by size.
pub fn loss_rows(asked: usize, tokens: i64, device: Device) -> i64 {
    let place = usize::from(device != Device::Cpu);
    let [fewest, most] = ROWS[place];
    match asked {
        0 => (tokens / PIECES[place]).clamp(fewest, most),
        rows => rows as i64,
    }
}

/// Sum of the negative log-likelihood of `targets` `[batch, length]` given `hidden` `[batch, length, hidden]`, in nats, in
/// float32; targets that are [`UNCOUNTED`] add nothing.
///
/// # Errors
///
/// A target outside the vocabulary; memory that cannot be had.
pub fn summed_loss(model: &Llama, hidden: &Tensor, targets: &Tensor) -> Result<Tensor, Failure> {
    weighted_loss(model, hidden, targets, None)
}

/// The same with each token's part multiplied by its weight, `weights` `[batch, length]` in float32, to which no gradient
/// leads.
///
/// # Errors
///
/// As [`summed_loss`].
pub fn weighted_loss(
    model: &Llama,
    hidden: &Tensor,
    targets: &Tensor,
    weights: Option<&Tensor>,
) -> Result<Tensor, Failure> {
    head_loss(hidden, model.head_weight(), targets, weights, model.memory.loss_tokens)
}

/// The same for a head `[vocab, hidden]`, with the logits of `loss_tokens` tokens at once; 0: chosen by size.
///
/// # Errors
///
/// As [`summed_loss`].
pub fn head_loss(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
    weights: Option<&Tensor>,
    loss_tokens: usize,
) -> Result<Tensor, Failure> {
    let hidden = hidden.reshape([-1, hidden.size().last().copied().unwrap_or(0)]);
    let (targets, weights) = (targets.reshape([-1]), weights.map(|weights| weights.reshape([-1])));
    let rows = loss_rows(loss_tokens, hidden.size()[0], hidden.device());
    let tokens = Tokens::new(&targets, weights.as_ref(), head.size()[0])?;
    linear_cross_entropy(&hidden, head, tokens, rows)
}

/// What is predicted at each place, and how much it counts.
struct Tokens {
    /// `[tokens]`, 0 where nothing is predicted.
    targets: Tensor,
    /// `[tokens]` in float32, 0 where nothing is predicted.
    factors: Tensor,
}

impl Tokens {
    fn new(targets: &Tensor, weights: Option<&Tensor>, vocab: i64) -> Result<Self, Failure> {
        let counted = targets.f_ne(UNCOUNTED)?;
        let targets = targets.f_mul(&counted.f_to_kind(Kind::Int64)?)?;
        if targets.numel() > 0 {
            let (least, most) = (targets.f_min()?.int64_value(&[]), targets.f_max()?.int64_value(&[]));
            if let Some(id) = [least, most].into_iter().find(|id| !(0..vocab).contains(id)) {
                return Err(Failure::data(format!("token id {id} is outside the vocabulary of {vocab}")));
            }
        }
        let counted = counted.f_to_kind(Kind::Float)?;
        let factors = match weights {
            // A product would keep a weight that is NaN where nothing is counted.
            Some(weights) => {
                weights.f_detach()?.f_to_kind(Kind::Float)?.f_where_self(&counted.f_to_kind(Kind::Bool)?, &counted)?
            }
            None => counted,
        };
        Ok(Self { targets, factors })
    }

    fn part(&self, start: i64, count: i64) -> Self {
        Self { targets: self.targets.narrow(0, start, count), factors: self.factors.narrow(0, start, count) }
    }
}

/// Gradients of the summed loss, computed while it was.
#[derive(Debug, Default)]
struct Found {
    /// `[tokens, hidden]`.
    hidden: Option<Tensor>,
    /// `[vocab, hidden]`.
    head: Option<Tensor>,
}

/// The loss of `hidden` `[tokens, hidden]` under the head `[vocab, hidden]`, so many tokens at once, as one node of libtorch's
/// graph.
fn linear_cross_entropy(hidden: &Tensor, head: &Tensor, tokens: Tokens, rows: i64) -> Result<Tensor, Failure> {
    let wanted = [hidden, head].map(|input| grad_enabled() && input.requires_grad());
    let found = Arc::new(Mutex::new(Found::default()));
    let forward = || {
        let (loss, gradients) = by_pieces(&hidden.detach(), &head.detach(), &tokens, rows, wanted)?;
        *found.lock().unwrap_or_else(PoisonError::into_inner) = gradients;
        Ok::<_, Failure>(Recorded { outputs: vec![loss], saved: vec![] })
    };
    let taken = Arc::clone(&found);
    let backward = move |call: Backward| -> Result<Vec<Option<Tensor>>, Failure> {
        // Theirs alone, so that the graph takes them over as they are.
        let Found { hidden, head } = std::mem::take(&mut *taken.lock().unwrap_or_else(PoisonError::into_inner));
        if [&hidden, &head].into_iter().zip(wanted).any(|(found, wanted)| wanted && found.is_none()) {
            return Err(Failure::config("the graph of a loss serves one backward pass"));
        }
        let Some(scale) = &call.gradients[0] else { return Ok(vec![None, None]) };
        let scaled = |gradient: Option<Tensor>| gradient.map(|mut gradient| gradient.f_mul_(scale)).transpose();
        Ok(vec![scaled(hidden)?, scaled(head)?])
    };
    Ok(custom("linear cross-entropy", &[hidden, head], forward, backward)?.swap_remove(0))
}

/// Loss and the gradients that are wanted, by the hidden states and by the head.
fn by_pieces(
    hidden: &Tensor,
    head: &Tensor,
    tokens: &Tokens,
    rows: i64,
    [by_hidden, by_head]: [bool; 2],
) -> Result<(Tensor, Found), Failure> {
    let (count, rows) = (hidden.size()[0], rows.max(1));
    // Sums of many pieces would lose in 16 bits what the later ones add.
    let sum_kind = if count > rows && head.kind() != Kind::Double { Kind::Float } else { head.kind() };
    let d_hidden = if by_hidden { Some(hidden.f_empty_like()?.f_contiguous()?) } else { None };
    let mut d_head = if by_head { Some(Tensor::f_zeros(head.size(), (sum_kind, head.device()))?) } else { None };
    let mut loss = Tensor::f_zeros([0_i64; 0], (Kind::Float, hidden.device()))?;
    // Of one place for all pieces: memory that is new costs time.
    let space = Tensor::f_empty([rows.min(count), head.size()[0]], (head.kind(), head.device()))?;
    for start in (0..count).step_by(rows as usize) {
        let size = rows.min(count - start);
        let part = hidden.narrow(0, start, size);
        let mut logits = space.narrow(0, 0, size); // [size, vocab]
        products::forward(&part, head, &mut logits)?;
        let (sum, gradient) = scored(logits, &tokens.part(start, size), by_hidden || by_head)?;
        loss = loss.f_add_(&sum)?;
        let Some(gradient) = gradient else { continue };
        if let Some(d_hidden) = &d_hidden {
            products::pulled(&gradient, head, &mut d_hidden.narrow(0, start, size), false)?;
        }
        if let Some(d_head) = &mut d_head {
            match d_head.kind() == gradient.kind() {
                true => products::gathered(&gradient, &part, d_head, true)?,
                false => *d_head = d_head.f_add_(&gradient.f_tr()?.f_mm(&part)?)?,
            }
        }
    }
    let d_head = d_head.map(|d_head| d_head.f_to_kind(head.kind())).transpose()?;
    Ok((loss, Found { hidden: d_hidden, head: d_head }))
}

/// The summed loss of logits `[rows, vocab]` and, where it is wanted, its derivative by them, in their place.
fn scored(mut logits: Tensor, tokens: &Tokens, wanted: bool) -> Result<(Tensor, Option<Tensor>), Failure> {
    if logits.device() != Device::Cpu || logits.kind() != Kind::Float {
        return match by_kernel(&mut logits, tokens, wanted) {
            Some(losses) => Ok((losses.f_mul(&tokens.factors)?.f_sum(Kind::Float)?, wanted.then_some(logits))),
            None => by_libtorch(&logits, tokens, wanted),
        };
    }
    let (targets, factors) = (Vec::<i64>::try_from(&tokens.targets)?, Vec::<f32>::try_from(&tokens.factors)?);
    let known = |(&target, &factor): (&i64, &f32)| (factor != 0.0).then_some(target as usize);
    let known: Vec<Option<usize>> = targets.iter().zip(&factors).map(known).collect();
    let mut losses = vec![0.0; known.len()];
    let numbers = contiguous_mut(&mut logits).map_err(|error| Failure::data(error.to_string()))?;
    match wanted {
        true => rows::cross_entropy_gradient(numbers, &known, &factors, &mut losses),
        false => rows::cross_entropy(numbers, &known, &factors, &mut losses),
    }
    let sum: f64 = losses.into_iter().map(f64::from).sum();
    Ok((Tensor::from(sum as f32), wanted.then_some(logits)))
}

/// Losses of the rows by a kernel of ours, where it may be used: the logits become the derivative where that is wanted.
fn by_kernel(logits: &mut Tensor, tokens: &Tokens, wanted: bool) -> Option<Tensor> {
    let machine = cross_entropy::where_used(logits, Use::of_process())?;
    let Tokens { targets, factors } = tokens;
    let (weights, gradient) = (Some(factors), wanted.then_some(1.0));
    let targets = Targets { columns: targets, ignored: UNCOUNTED, weights, gradient };
    told(cross_entropy::by_kernel(&machine, logits, &targets))
}

/// The same by libtorch's operations, in float32.
fn by_libtorch(logits: &Tensor, tokens: &Tokens, wanted: bool) -> Result<(Tensor, Option<Tensor>), Failure> {
    let kind = if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let mut wide = logits.f_to_dtype(kind, false, wanted && logits.kind() == kind)?;
    let (targets, factors) = (tokens.targets.f_unsqueeze(1)?, tokens.factors.f_to_kind(kind)?.f_unsqueeze(1)?);
    let lse = wide.f_logsumexp([1_i64].as_slice(), true)?; // [rows, 1]
    let losses = lse.f_sub(&wide.f_gather(1, &targets, false)?)?.f_mul(&factors)?;
    // Where nothing is counted a loss that is NaN adds nothing.
    let losses = losses.f_where_self(&factors.f_ne(0.0)?, &losses.f_zeros_like()?)?;
    let sum = losses.f_sum(Kind::Float)?;
    if !wanted {
        return Ok((sum, None));
    }
    let gradient = wide.f_sub_(&lse)?.f_exp_()?.f_mul_(&factors)?.f_scatter_add_(1, &targets, &factors.f_neg()?)?;
    Ok((sum, Some(gradient.f_to_kind(logits.kind())?)))
}

#[cfg(test)]
#[path = "loss_tests.rs"]
mod tests;
