//! Stochastic rounding to bfloat16 (Gupta et al. 2015, section 3.1): up or down with the odds that make the mean exact.

use half::bf16;

/// `x` rounded away from zero with the probability `bits / 2^16` calls for: over all `bits` the mean is `x` itself.
///
/// Between two bfloat16 numbers of one binade the lower 16 bits of a float32 say how far it is on the way. Finite numbers
/// stay finite: above the largest bfloat16 they become that. Infinities stay, and NaN stays NaN.
#[must_use]
#[inline(always)]
pub fn stochastic_bf16(x: f32, bits: u16) -> bf16 {
    const EXPONENT: u32 = 0x7F80;
    let word = x.to_bits();
    let truncated = word >> 16;
    let rounded = word.wrapping_add(u32::from(bits)) >> 16;
    let is_nan = (word & 0x7FFF_FFFF) > 0x7F80_0000;
    let kept = truncated | if is_nan { 0x40 } else { 0 };
    let leaves = (rounded & EXPONENT) == EXPONENT || (truncated & EXPONENT) == EXPONENT;
    bf16::from_bits(if leaves { kept } else { rounded } as u16)
}

/// The same on tensors, where there is no kernel; `bits` are integers below 2^16.
pub(super) fn stochastic_bf16_tensor(x: &tch::Tensor, bits: &tch::Tensor) -> tch::Tensor {
    let word = x.contiguous().view_dtype(tch::Kind::Int); // [n]
    // With the sign taken off the sum cannot wrap for a finite number.
    let magnitude = word.bitwise_and(0x7FFF_FFFF);
    let sum = (&magnitude + bits.to_kind(tch::Kind::Int)).bitwise_and(0x7FFF_0000);
    let leaves = sum.ge(0x7F80_0000);
    let kept = magnitude.bitwise_and(0x7FFF_0000);
    let moved = kept.where_self(&leaves, &sum).bitwise_or_tensor(&word.bitwise_and(i64::from(i32::MIN)));
    let rounded = moved.view_dtype(tch::Kind::Float);
    // Exact for what was rounded already.
    rounded.where_self(&x.isfinite(), x).to_kind(tch::Kind::BFloat16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::random::{Draws, Use};

    /// Mean of `round` over many draws, in units of the distance between the neighbours of `x`, less `x`.
    fn bias(x: f32, round: impl Fn(f32, u16) -> bf16) -> f64 {
        let draws = Draws { seed: 11, step: 1, parameter: 0 };
        let count = 40_000;
        let sum: f64 = (0..count).map(|e| f64::from(round(x, draws.bits(Use::Weight, e)).to_f32())).sum();
        let below = f32::from_bits(x.to_bits() & 0xFFFF_0000);
        let above = f32::from_bits((x.to_bits() & 0xFFFF_0000) + 0x1_0000);
        (sum / count as f64 - f64::from(x)) / f64::from(above - below).abs()
    }

    /// Six standard deviations of the mean of 40,000 draws of variance at most 1/4.
    const ALLOWED: f64 = 6.0 * 0.5 / 200.0;

    const SAMPLES: [f32; 8] = [1.001, -1.001, 0.333_333, 255.7, -3.1e-9, 1.0e-40, 1.993, 6.02e23];

    #[test]
    fn rounding_is_unbiased_and_other_roundings_are_found_out() {
        for x in SAMPLES {
            let off = bias(x, stochastic_bf16);
            assert!(off.abs() < ALLOWED, "{x}: {off}");
        }
        let worst = |round: fn(f32, u16) -> bf16| SAMPLES.map(|x| bias(x, round).abs()).into_iter().fold(0.0, f64::max);
        assert!(worst(|x, _| bf16::from_f32(x)) > ALLOWED, "to nearest");
        assert!(worst(|x, _| bf16::from_bits((x.to_bits() >> 16) as u16)) > ALLOWED, "truncated");
        assert!(worst(|x, bits| stochastic_bf16(x, bits >> 1)) > ALLOWED, "15 bits");
    }

    #[test]
    fn the_mean_over_all_bits_is_the_number_itself() {
        let sum: f64 = (0..=u16::MAX).map(|bits| f64::from(stochastic_bf16(1.234_567, bits).to_f32())).sum();
        assert_eq!(sum / 65_536.0, f64::from(1.234_567_f32));
    }

    #[test]
    fn exact_numbers_stay_and_nothing_becomes_infinite() {
        for x in [0.0, -0.0, 1.0, -2.5, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(stochastic_bf16(x, u16::MAX).to_f32().to_bits(), x.to_bits());
        }
        assert_eq!(stochastic_bf16(f32::MAX, u16::MAX), bf16::MAX);
        assert_eq!(stochastic_bf16(f32::MIN, 1), bf16::MIN);
        assert!(stochastic_bf16(f32::NAN, 0).is_nan() && stochastic_bf16(f32::from_bits(0x7F80_0001), 7).is_nan());
        assert!(stochastic_bf16(f32::from_bits(u32::MAX), u16::MAX).is_nan());
    }

    #[test]
    fn tensors_are_rounded_alike() {
        let draws = Draws { seed: 2, step: 9, parameter: 1 };
        let mut numbers: Vec<f32> = (0..2000).map(|n| ((n * n) as f32).sin() * 10_f32.powi(n % 60 - 30)).collect();
        numbers.extend([0.0, -0.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, 1e-45, -1e-40]);
        let count = numbers.len() as i64;
        let bits = super::super::random::bits_on(tch::Device::Cpu, &draws, Use::Square, 0, count);
        let tensor = stochastic_bf16_tensor(&tch::Tensor::from_slice(&numbers), &bits);
        let found = crate::host::span::<bf16>(&tensor).unwrap();
        for (e, (&x, found)) in numbers.iter().zip(found).enumerate() {
            let expected = stochastic_bf16(x, draws.bits(Use::Square, e as u64));
            assert_eq!(found.to_bits(), expected.to_bits(), "{e}: {x}");
        }
    }
}
