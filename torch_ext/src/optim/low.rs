//! AdamW on moments of 16 or 8 bits, and on weights of 16 bits without a copy in more.
//!
//! All arithmetic is float32, one rounding an operation, in the order of [`twin`]: what a step leaves is the same bits
//! whatever computes it. Moments are read, moved, used, and only then rounded.

mod compute;
mod device;
mod span;
#[cfg(test)]
mod tests;
pub mod twin;

use tch::{Device, Kind, Tensor};

use super::random::{CHUNK, Draws};
use super::{AdamWStep, OptimError};
use crate::fused::{self, adamw};
use span::Span;

/// Numbers of a block of 8-bit moments, and of what is worked on at once: parts of a parameter begin at multiples of it.
pub const BLOCK: usize = CHUNK;

/// A parameter, or a part of one that begins at a multiple of [`BLOCK`], and what belongs to it. All are contiguous and on
/// one device.
#[derive(Debug, Clone, Copy)]
pub struct LowPart<'a> {
    /// What is moved: float32, or bfloat16 by stochastic rounding.
    pub parameter: &'a Tensor,
    /// Float32 or bfloat16, finite, of as many numbers. Not changed.
    pub gradient: &'a Tensor,
    /// Its moments.
    pub moments: LowMoments<'a>,
    /// Place of its first number within the parameter.
    pub first: u64,
}

/// Running means of the gradient and of its square.
#[derive(Debug, Clone, Copy)]
pub enum LowMoments<'a> {
    /// In bfloat16, stochastically rounded; as many numbers as the parameter has.
    Bfloat16 {
        /// Of the gradient.
        mean: &'a Tensor,
        /// Of its square.
        square: &'a Tensor,
    },
    /// In 8 bits by [`super::Codebook`], with a float32 scale for each [`BLOCK`].
    Int8 {
        /// Of the gradient.
        mean: Quantised<'a>,
        /// Of its square.
        square: Quantised<'a>,
    },
}

/// Places in a map of 256 values, and what the values are multiplied by.
#[derive(Debug, Clone, Copy)]
pub struct Quantised<'a> {
    /// Unsigned bytes, as many as the parameter has numbers.
    pub codes: &'a Tensor,
    /// Float32, one for each [`BLOCK`] numbers, the last of which may be fewer.
    pub scales: &'a Tensor,
}

/// Codes and scales of moments that are zero, for a parameter of `shape`: what a run starts from.
///
/// # Errors
///
/// When memory cannot be had.
pub fn zero_moment(shape: &[i64], signed: bool, device: Device) -> Result<(Tensor, Tensor), tch::TchError> {
    let book = if signed { super::Codebook::signed() } else { super::Codebook::unsigned() };
    let numel: i64 = shape.iter().product();
    let codes = Tensor::f_full(shape, i64::from(book.nearest(0.0)), (Kind::Uint8, device))?;
    let scales = Tensor::f_zeros([numel.unsigned_abs().div_ceil(BLOCK as u64) as i64], (Kind::Float, device))?;
    Ok((codes, scales))
}

/// One step of AdamW (Loshchilov and Hutter 2019, algorithm 2); `draws` says which random bits round.
///
/// On the CPU by vector code on all of rayon's threads; on CUDA by a kernel where it may be used ([`fused::Use`]), else
/// operation by operation in libtorch, which is slow and takes 64-bit integers as scratch memory, a few for each number. The
/// bits of the result are the same.
///
/// # Errors
///
/// When a tensor does not fit, or `first` is not a multiple of [`BLOCK`]: nothing was changed then. When libtorch has no
/// memory.
pub fn adamw_low(part: &LowPart<'_>, step: &AdamWStep, draws: &Draws) -> Result<(), OptimError> {
    if step.step == 0 {
        return Err(OptimError::StepZero);
    }
    check(part)?;
    let numbers = Numbers::from(step);
    match part.parameter.device() {
        Device::Cpu => span::walk(Span::of(part).map_err(refused)?, part.first, &numbers, draws),
        _ if adamw::low_where_used(part, step, draws, fused::Use::of_process()).map_err(refused)? => {}
        _ => device::advance(part, &numbers, draws).map_err(refused)?,
    }
    // Written behind libtorch's back; a graph that still needs the former values must say so.
    super::changed(&[part.parameter])
}

fn refused(error: impl std::fmt::Display) -> OptimError {
    OptimError::Refused(error.to_string())
}

/// [`AdamWStep`] as the loops read it, in float32.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Numbers {
    /// What the gradient is multiplied by.
    pub(crate) scale: f32,
    pub(crate) beta1: f32,
    /// One less `beta1`.
    pub(crate) take1: f32,
    pub(crate) beta2: f32,
    pub(crate) take2: f32,
    /// What weights are multiplied by.
    pub(crate) keep: f32,
    /// Learning rate over the correction of the mean.
    pub(crate) rate: f32,
    /// What roots of mean squares are multiplied by: the inverse root of their correction. (libtorch divides by a number
    /// through its inverse, too.)
    pub(crate) root: f32,
    pub(crate) epsilon: f32,
}

impl From<&AdamWStep> for Numbers {
    fn from(step: &AdamWStep) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf(step.step as f64);
        Self {
            scale: step.gradient_scale as f32,
            beta1: step.beta1 as f32,
            take1: (1.0 - step.beta1) as f32,
            beta2: step.beta2 as f32,
            take2: (1.0 - step.beta2) as f32,
            keep: (1.0 - step.learning_rate * step.weight_decay) as f32,
            rate: (step.learning_rate / correction(step.beta1)) as f32,
            root: (1.0 / correction(step.beta2).sqrt()) as f32,
            epsilon: step.epsilon as f32,
        }
    }
}

/// That every tensor has the type, size, device and layout that the loops rely on.
pub(crate) fn check(part: &LowPart<'_>) -> Result<(), OptimError> {
    let numel = part.parameter.numel();
    let blocks = numel.div_ceil(BLOCK);
    let wide: &[Kind] = &[Kind::Float, Kind::BFloat16];
    let mut all = vec![("parameter", part.parameter, wide, numel), ("gradient", part.gradient, wide, numel)];
    match part.moments {
        LowMoments::Bfloat16 { mean, square } => {
            all.extend([("mean", mean, &[Kind::BFloat16][..], numel), ("square", square, &[Kind::BFloat16], numel)]);
        }
        LowMoments::Int8 { mean, square } => {
            for (codes, scales, moment) in
                [("mean", "scales of the mean", mean), ("square", "scales of the square", square)]
            {
                all.push((codes, moment.codes, &[Kind::Uint8], numel));
                all.push((scales, moment.scales, &[Kind::Float], blocks));
            }
        }
    }
    let refused = |what: String| Err(OptimError::Refused(what));
    for (what, tensor, kinds, count) in all {
        if !tensor.defined() {
            return refused(format!("the {what} is undefined"));
        }
        if !kinds.contains(&tensor.kind()) || tensor.numel() != count {
            let (kind, found) = (tensor.kind(), tensor.numel());
            return refused(format!("the {what} is {found} numbers of {kind:?}, expected {count} of {kinds:?}"));
        }
        if !tensor.is_contiguous() || tensor.device() != part.parameter.device() {
            return refused(format!("the {what} is not in one piece beside its parameter"));
        }
    }
    match part.first % BLOCK as u64 {
        0 => Ok(()),
        _ => refused(format!("a part begins at {}, which is not a multiple of {BLOCK}", part.first)),
    }
}
