//! A part of a parameter as slices of main memory, cut into tasks.

use half::bf16;
use rayon::prelude::*;
use tch::{Kind, Tensor};

use super::compute::{Isa, run};
use super::{BLOCK, LowMoments, LowPart, Numbers};
use crate::host::{Element, HostError, contiguous_mut, span};
use crate::optim::Draws;

/// Numbers of a task.
const TASK: usize = 64 * BLOCK;

/// Float32 or bfloat16 numbers.
#[derive(Debug)]
pub(super) enum Floats<'a> {
    Single(&'a mut [f32]),
    Brain(&'a mut [bf16]),
}

/// The same, read only.
#[derive(Debug, Clone, Copy)]
pub(super) enum Given<'a> {
    Single(&'a [f32]),
    Brain(&'a [bf16]),
}

/// Moments of as many numbers.
#[derive(Debug)]
pub(super) enum Moments<'a> {
    Brain { mean: &'a mut [bf16], square: &'a mut [bf16] },
    Bytes { mean: Coded<'a>, square: Coded<'a> },
}

/// Codes with a scale for each block.
#[derive(Debug)]
pub(super) struct Coded<'a> {
    pub(super) codes: &'a mut [u8],
    pub(super) scales: &'a mut [f32],
}

/// What belongs together, of one length.
#[derive(Debug)]
pub(super) struct Span<'a> {
    pub(super) weights: Floats<'a>,
    pub(super) gradients: Given<'a>,
    pub(super) moments: Moments<'a>,
}

/// The numbers of a tensor that someone else holds a handle of.
///
/// # Safety
///
/// The memory outlives the slice, and nothing else reads or writes it meanwhile.
unsafe fn lent<'a, T: Element>(tensor: &Tensor) -> Result<&'a mut [T], HostError> {
    let mut handle = tensor.shallow_clone();
    let slice = contiguous_mut::<T>(&mut handle)?;
    // SAFETY: the caller's word.
    Ok(unsafe { std::slice::from_raw_parts_mut(slice.as_mut_ptr(), slice.len()) })
}

impl<'a> Span<'a> {
    /// The numbers of a part on the CPU that was checked.
    pub(super) fn of(part: &LowPart<'a>) -> Result<Self, HostError> {
        // SAFETY of all: the part borrows its tensors for as long as the span, and no two of a parameter, its gradient and
        // its moments share memory.
        macro_rules! lent {
            ($tensor:expr) => {
                // SAFETY: above.
                unsafe { lent($tensor) }?
            };
        }
        let weights = match part.parameter.kind() {
            Kind::Float => Floats::Single(lent!(part.parameter)),
            _ => Floats::Brain(lent!(part.parameter)),
        };
        let gradients = match part.gradient.kind() {
            Kind::Float => Given::Single(span(part.gradient)?),
            _ => Given::Brain(span(part.gradient)?),
        };
        let moments = match part.moments {
            LowMoments::Bfloat16 { mean, square } => Moments::Brain { mean: lent!(mean), square: lent!(square) },
            LowMoments::Int8 { mean, square } => Moments::Bytes {
                mean: Coded { codes: lent!(mean.codes), scales: lent!(mean.scales) },
                square: Coded { codes: lent!(square.codes), scales: lent!(square.scales) },
            },
        };
        Ok(Self { weights, gradients, moments })
    }

    fn len(&self) -> usize {
        match &self.weights {
            Floats::Single(numbers) => numbers.len(),
            Floats::Brain(numbers) => numbers.len(),
        }
    }

    /// The first `count` numbers, a multiple of [`BLOCK`], and those after them.
    fn cut(self, count: usize) -> (Self, Self) {
        let (w, weights) = match self.weights {
            Floats::Single(all) => both(all.split_at_mut(count), Floats::Single),
            Floats::Brain(all) => both(all.split_at_mut(count), Floats::Brain),
        };
        let (g, gradients) = match self.gradients {
            Given::Single(all) => both(all.split_at(count), Given::Single),
            Given::Brain(all) => both(all.split_at(count), Given::Brain),
        };
        let (m, moments) = match self.moments {
            Moments::Brain { mean, square } => {
                let ((mean, mean_after), (square, square_after)) =
                    (mean.split_at_mut(count), square.split_at_mut(count));
                (Moments::Brain { mean, square }, Moments::Brain { mean: mean_after, square: square_after })
            }
            Moments::Bytes { mean, square } => {
                let ((mean, mean_after), (square, square_after)) = (mean.cut(count), square.cut(count));
                (Moments::Bytes { mean, square }, Moments::Bytes { mean: mean_after, square: square_after })
            }
        };
        (Self { weights: w, gradients: g, moments: m }, Self { weights, gradients, moments })
    }
}

impl Coded<'_> {
    fn cut(self, count: usize) -> (Self, Self) {
        let (codes, codes_after) = self.codes.split_at_mut(count);
        let (scales, scales_after) = self.scales.split_at_mut(count / BLOCK);
        (Self { codes, scales }, Self { codes: codes_after, scales: scales_after })
    }
}

fn both<A, B>((first, second): (A, A), make: impl Fn(A) -> B) -> (B, B) {
    (make(first), make(second))
}

/// Moves every number of a span whose first is number `first` of its parameter.
pub(super) fn walk(whole: Span<'_>, first: u64, numbers: &Numbers, draws: &Draws) {
    let isa = Isa::best();
    let mut tasks = Vec::with_capacity(whole.len().div_ceil(TASK));
    let (mut rest, mut place) = (whole, first);
    while rest.len() > TASK {
        let (task, after) = rest.cut(TASK);
        tasks.push((task, place));
        (rest, place) = (after, place + TASK as u64);
    }
    if tasks.is_empty() {
        // A vector is not worth waking anyone for.
        return run(isa, &mut rest, place, numbers, draws);
    }
    tasks.push((rest, place));
    tasks.into_par_iter().for_each(|(mut task, place)| run(isa, &mut task, place, numbers, draws));
}
