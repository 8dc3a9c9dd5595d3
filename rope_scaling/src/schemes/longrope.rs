//! LongRoPE (Ding et al. 2024): every pair has its own divisor, from one list up to `L0` tokens and another beyond.
//!
//! The first n-hat tokens may keep their unscaled positions (equation 4): see
//! [`StartFrequencies`](crate::StartFrequencies). Cosine and sine are multiplied by `sqrt(1 + ln s / ln L0)` (section 3.3 and transformers `longrope`).

use crate::geometry::RopeGeometry;
use crate::real::Real;
use crate::schemes::periods;

/// Frequencies divided by `divisors`, pair by pair. A pair without divisor gets NaN, so that an unchecked list of the
/// wrong length cannot pass for a frequency.
pub(crate) fn inv_freq<R: Real>(geometry: &RopeGeometry, divisors: &[f64]) -> Vec<R> {
    periods(R::of(geometry.base()), geometry.rotary_dim())
        .enumerate()
        .map(|(pair, period)| R::one() / (R::of(divisors.get(pair).copied().unwrap_or(f64::NAN)) * period))
        .collect()
}

/// Factor on cosine and sine: as given, else from the factor and the original context.
pub(crate) fn attention_factor(factor: f64, given: Option<f64>, original: usize) -> f64 {
    match given {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / f64::count(original).ln()).sqrt(),
    }
}
