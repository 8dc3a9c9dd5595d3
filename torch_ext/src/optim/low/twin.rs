//! The same step number by number, in loops that anyone can check: what every fast path is held against, bit for bit.

use half::bf16;

use super::{BLOCK, Numbers};
use crate::optim::random::{Draws, Use};
use crate::optim::{AdamWStep, Codebook, stochastic_bf16};

/// Moments of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Moments {
    /// In bfloat16: of the gradient, of its square.
    Bfloat16(Vec<bf16>, Vec<bf16>),
    /// In 8 bits: codes and scales of both.
    Int8([Vec<u8>; 2], [Vec<f32>; 2]),
}

/// Weights of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Weights {
    /// Moved as they are.
    Float32(Vec<f32>),
    /// Rounded stochastically.
    Bfloat16(Vec<bf16>),
}

/// One step on a part of a parameter whose first number is number `first` of it.
pub fn step(
    weights: &mut Weights,
    gradients: &[f32],
    moments: &mut Moments,
    first: u64,
    step: &AdamWStep,
    draws: &Draws,
) {
    let n = Numbers::from(step);
    let (mut means, mut squares) = moments.decoded();
    for (i, &gradient) in gradients.iter().enumerate() {
        let g = gradient * n.scale;
        means[i] = means[i] * n.beta1 + g * n.take1;
        squares[i] = (squares[i] * n.beta2 + g * n.take2 * g).min(f32::MAX);
        let moved = |w: f32| w * n.keep - means[i] / (squares[i].sqrt() * n.root + n.epsilon) * n.rate;
        match weights {
            Weights::Float32(all) => all[i] = moved(all[i]),
            Weights::Bfloat16(all) => {
                all[i] = stochastic_bf16(moved(all[i].to_f32()), draws.bits(Use::Weight, first + i as u64));
            }
        }
    }
    match moments {
        Moments::Bfloat16(mean, square) => {
            for (all, exact, what) in [(mean, &means, Use::Mean), (square, &squares, Use::Square)] {
                for (i, number) in all.iter_mut().enumerate() {
                    *number = stochastic_bf16(exact[i], draws.bits(what, first + i as u64));
                }
            }
        }
        Moments::Int8(codes, scales) => {
            for (which, book) in [Codebook::signed(), Codebook::unsigned()].into_iter().enumerate() {
                let exact = if which == 0 { &means } else { &squares };
                (codes[which], scales[which]) = quantised(exact, book);
            }
        }
    }
}

impl Moments {
    /// Both in float32.
    fn decoded(&self) -> (Vec<f32>, Vec<f32>) {
        match self {
            Self::Bfloat16(mean, square) => {
                let wide = |all: &[bf16]| all.iter().map(|number| number.to_f32()).collect();
                (wide(mean), wide(square))
            }
            Self::Int8(codes, scales) => {
                let wide = |which: usize, book: &Codebook| {
                    let value = |(i, &code): (usize, &u8)| book.values()[usize::from(code)] * scales[which][i / BLOCK];
                    codes[which].iter().enumerate().map(value).collect()
                };
                (wide(0, Codebook::signed()), wide(1, Codebook::unsigned()))
            }
        }
    }
}

/// Codes and scales of numbers, block by block.
#[must_use]
pub fn quantised(numbers: &[f32], book: &Codebook) -> (Vec<u8>, Vec<f32>) {
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for block in numbers.chunks(BLOCK) {
        let scale = block.iter().fold(0.0_f32, |most, number| most.max(number.abs()));
        scales.push(scale);
        for &number in block {
            let nearest = book.nearest(if scale > 0.0 { number / scale } else { 0.0 });
            codes.push(if number > 0.0 { nearest.max(book.least()) } else { nearest });
        }
    }
    (codes, scales)
}
