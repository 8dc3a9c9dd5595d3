//! The same step operation by operation in libtorch, for devices that have no kernel for it.

use tch::{Kind, TchError, Tensor};

use super::{BLOCK, LowMoments, LowPart, Numbers, Quantised};
use crate::optim::Codebook;
use crate::optim::random::{Draws, Use, bits_on};
use crate::optim::rounding::stochastic_bf16_tensor;

/// Moves a part that was checked.
pub(super) fn advance(part: &LowPart<'_>, n: &Numbers, draws: &Draws) -> Result<(), TchError> {
    tch::no_grad(|| {
        let scalar = f64::from;
        let flat = |tensor: &Tensor| tensor.view(-1).to_kind(Kind::Float);
        let gradient = flat(part.gradient) * scalar(n.scale);
        let (mean, square) = match part.moments {
            LowMoments::Bfloat16 { mean, square } => (flat(mean), flat(square)),
            LowMoments::Int8 { mean, square } => {
                (decoded(mean, Codebook::signed()), decoded(square, Codebook::unsigned()))
            }
        };
        // Products are rounded before they are added: one operation each.
        let mean = mean * scalar(n.beta1) + &gradient * scalar(n.take1);
        let square = square * scalar(n.beta2) + &gradient * scalar(n.take2) * &gradient;
        let square = square.clamp_max(f64::from(f32::MAX));
        // Of libtorch's two square roots on the CPU the one that rounds correctly; MKL's may be off by the last bit.
        let root = square.pow_tensor_scalar(0.5) * scalar(n.root) + scalar(n.epsilon);
        let weight = flat(part.parameter) * scalar(n.keep) - &mean / root * scalar(n.rate);
        put(part.parameter, &weight, (draws, Use::Weight, part.first))?;
        match part.moments {
            LowMoments::Bfloat16 { mean: into_mean, square: into_square } => {
                put(into_mean, &mean, (draws, Use::Mean, part.first))?;
                put(into_square, &square, (draws, Use::Square, part.first))
            }
            LowMoments::Int8 { mean: into_mean, square: into_square } => {
                encode(into_mean, &mean, Codebook::signed())?;
                encode(into_square, &square, Codebook::unsigned())
            }
        }
    })
}

/// Writes float32 numbers `[n]` into a tensor of any shape, rounded where it is of bfloat16.
fn put(into: &Tensor, numbers: &Tensor, (draws, what, first): (&Draws, Use, u64)) -> Result<(), TchError> {
    let numbers = match into.kind() {
        Kind::Float => numbers.shallow_clone(),
        _ => {
            let bits = bits_on(into.device(), draws, what, first, numbers.numel() as i64);
            stochastic_bf16_tensor(numbers, &bits)
        }
    };
    into.view(-1).f_copy_(&numbers)
}

fn values(book: &Codebook, like: &Tensor) -> Tensor {
    Tensor::from_slice(book.values()).to_device(like.device())
}

/// The scale of each of `[n]` numbers.
fn spread(scales: &Tensor, count: i64) -> Tensor {
    scales.repeat_interleave_self_int(BLOCK as i64, 0, None).narrow(0, 0, count)
}

fn decoded(moment: Quantised<'_>, book: &Codebook) -> Tensor {
    let codes = moment.codes.view(-1);
    values(book, &codes).index_select(0, &codes.to_kind(Kind::Int64)) * spread(moment.scales, codes.numel() as i64)
}

fn encode(into: Quantised<'_>, numbers: &Tensor, book: &Codebook) -> Result<(), TchError> {
    let (count, blocks) = (numbers.numel() as i64, into.scales.numel() as i64);
    let padded = numbers.constant_pad_nd([0, blocks * BLOCK as i64 - count]).view([blocks, -1]);
    let scales = padded.abs().amax([1], false);
    let divisors = scales.where_self(&scales.gt(0.0), &scales.ones_like());
    let middles = Tensor::from_slice(book.middles()).to_device(numbers.device());
    let codes = (numbers / spread(&divisors, count)).bucketize(&middles, true, false); // int32
    let least = codes.clamp_min(i64::from(book.least()));
    let codes = least.where_self(&numbers.gt(0.0), &codes).to_kind(Kind::Uint8);
    into.codes.view(-1).f_copy_(&codes)?;
    into.scales.shallow_clone().f_copy_(&scales)
}
