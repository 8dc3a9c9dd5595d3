//! One block at a time in float32: read, move, write. Plain loops over arrays, compiled for three instruction sets.

use half::bf16;

use super::span::{Coded, Floats, Given, Moments, Span};
use super::{BLOCK, Numbers};
use crate::optim::random::{Draws, Use};
use crate::optim::{Codebook, stochastic_bf16};

/// Instruction sets that the loops are compiled for; none changes a bit of what they compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    Avx512,
    Avx2,
    Portable,
}

impl Isa {
    pub(super) const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// The widest that this processor has.
    pub(super) fn best() -> Self {
        Self::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Self::Portable)
    }

    pub(super) fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }
}

/// Moves the numbers of `span`, of which the first is number `first` of its parameter.
pub(super) fn run(isa: Isa, span: &mut Span<'_>, first: u64, numbers: &Numbers, draws: &Draws) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if isa.is_available() => {
            // SAFETY: the processor has them, as the guard says.
            unsafe { blocks_avx512(span, first, numbers, draws) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.is_available() => {
            // SAFETY: as above.
            unsafe { blocks_avx2(span, first, numbers, draws) }
        }
        _ => blocks(span, first, numbers, draws),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn blocks_avx512(span: &mut Span<'_>, first: u64, numbers: &Numbers, draws: &Draws) {
    blocks(span, first, numbers, draws);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn blocks_avx2(span: &mut Span<'_>, first: u64, numbers: &Numbers, draws: &Draws) {
    blocks(span, first, numbers, draws);
}

/// A block in float32. Beyond the end of a parameter everything is zero.
struct Block {
    weights: [f32; BLOCK],
    gradients: [f32; BLOCK],
    means: [f32; BLOCK],
    squares: [f32; BLOCK],
    bits: [u16; BLOCK],
}

#[inline(always)]
fn blocks(span: &mut Span<'_>, first: u64, numbers: &Numbers, draws: &Draws) {
    let zeros = [0.0; BLOCK];
    let mut block = Block { weights: zeros, gradients: zeros, means: zeros, squares: zeros, bits: [0; BLOCK] };
    let len = match &span.gradients {
        Given::Single(all) => all.len(),
        Given::Brain(all) => all.len(),
    };
    let mut start = 0;
    while start < len {
        let range = start..len.min(start + BLOCK);
        let place = first + start as u64;
        block.read(span, range.clone());
        block.advance(numbers);
        block.write(span, range, place, draws);
        start += BLOCK;
    }
}

impl Block {
    #[inline(always)]
    fn read(&mut self, span: &Span<'_>, range: std::ops::Range<usize>) {
        match &span.weights {
            Floats::Single(all) => singles(&all[range.clone()], &mut self.weights),
            Floats::Brain(all) => brains(&all[range.clone()], &mut self.weights),
        }
        match &span.gradients {
            Given::Single(all) => singles(&all[range.clone()], &mut self.gradients),
            Given::Brain(all) => brains(&all[range.clone()], &mut self.gradients),
        }
        match &span.moments {
            Moments::Brain { mean, square } => {
                brains(&mean[range.clone()], &mut self.means);
                brains(&square[range], &mut self.squares);
            }
            Moments::Bytes { mean, square } => {
                decoded(mean, Codebook::signed(), range.clone(), &mut self.means);
                decoded(square, Codebook::unsigned(), range, &mut self.squares);
            }
        }
    }

    /// Algorithm 2 of the paper; the operations of [`super::twin`] in their order.
    #[inline(always)]
    fn advance(&mut self, n: &Numbers) {
        for i in 0..BLOCK {
            let gradient = self.gradients[i] * n.scale;
            let mean = self.means[i] * n.beta1 + gradient * n.take1;
            let square = self.squares[i] * n.beta2 + gradient * n.take2 * gradient;
            let square = if square < f32::MAX { square } else { f32::MAX };
            let root = square.sqrt() * n.root + n.epsilon;
            self.weights[i] = self.weights[i] * n.keep - mean / root * n.rate;
            (self.means[i], self.squares[i]) = (mean, square);
        }
    }

    #[inline(always)]
    fn write(&mut self, span: &mut Span<'_>, range: std::ops::Range<usize>, place: u64, draws: &Draws) {
        match &mut span.weights {
            Floats::Single(all) => {
                let into = &mut all[range.clone()];
                into.copy_from_slice(&self.weights[..into.len()]);
            }
            Floats::Brain(all) => {
                draws.fill(Use::Weight, place, &mut self.bits);
                rounded(&self.weights, &self.bits, &mut all[range.clone()]);
            }
        }
        match &mut span.moments {
            Moments::Brain { mean, square } => {
                draws.fill(Use::Mean, place, &mut self.bits);
                rounded(&self.means, &self.bits, &mut mean[range.clone()]);
                draws.fill(Use::Square, place, &mut self.bits);
                rounded(&self.squares, &self.bits, &mut square[range]);
            }
            Moments::Bytes { mean, square } => {
                coded(&self.means, mean, Codebook::signed(), range.clone());
                coded(&self.squares, square, Codebook::unsigned(), range);
            }
        }
    }
}

#[inline(always)]
fn singles(from: &[f32], into: &mut [f32; BLOCK]) {
    into[..from.len()].copy_from_slice(from);
    into[from.len()..].fill(0.0);
}

#[inline(always)]
fn brains(from: &[bf16], into: &mut [f32; BLOCK]) {
    for (number, &brain) in into.iter_mut().zip(from) {
        *number = f32::from_bits(u32::from(brain.to_bits()) << 16);
    }
    into[from.len()..].fill(0.0);
}

#[inline(always)]
fn rounded(from: &[f32; BLOCK], bits: &[u16; BLOCK], into: &mut [bf16]) {
    for ((number, &bits), brain) in from.iter().zip(bits).zip(into) {
        *brain = stochastic_bf16(*number, bits);
    }
}

#[inline(always)]
fn decoded(from: &Coded<'_>, book: &Codebook, range: std::ops::Range<usize>, into: &mut [f32; BLOCK]) {
    let scale = from.scales[range.start / BLOCK];
    let codes = &from.codes[range];
    for (number, &code) in into.iter_mut().zip(codes) {
        *number = book.values()[usize::from(code)] * scale;
    }
    into[codes.len()..].fill(0.0);
}

#[inline(always)]
fn coded(from: &[f32; BLOCK], into: &mut Coded<'_>, book: &Codebook, range: std::ops::Range<usize>) {
    let mut lanes = [0.0_f32; 16];
    for sixteen in from.as_chunks::<16>().0 {
        for (most, number) in lanes.iter_mut().zip(sixteen) {
            let magnitude = number.abs();
            *most = if magnitude > *most { magnitude } else { *most };
        }
    }
    let scale = lanes.into_iter().fold(0.0, f32::max);
    into.scales[range.start / BLOCK] = scale;
    let divisor = if scale > 0.0 { scale } else { 1.0 };
    for (&number, code) in from.iter().zip(&mut into.codes[range]) {
        let nearest = book.code(number / divisor);
        *code = if number > 0.0 { nearest.max(book.least()) } else { nearest };
    }
}
