//! YaRN (Peng et al. 2023): interpolate slow pairs, leave fast ones, blend between, and raise the temperature.
//!
//! Ramp bounds are the pairs that turn `beta_fast` and `beta_slow` times within `L0`:
//! `b(beta) = d ln(L0 / (2 pi beta)) / (2 ln theta)` (equation 14 solved for the pair), rounded outwards when `truncate`,
//! and cut to `[0, d - 1]`: to the channels, as the authors and transformers do, not to the `d/2` pairs. The ramp rises
//! from 0 at the lower bound to 1 at the upper over the pair index, and the frequency is `f (1 - ramp) + (f / s) ramp`
//! (equation 13). Cosine and sine are multiplied by `0.1 ln s + 1` (equation 15's square root).
//!
//! Dynamic YaRN takes `s = max(1, L / L0)` anew at every length `L` (section 3.3, dynamic scaling), temperature included.

use std::f64::consts::PI;

use crate::geometry::RopeGeometry;
use crate::real::Real;
use crate::schemes::periods;

/// Lower and upper end of the ramp, in pair indexes; fractions when not truncated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ramp {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Ramp {
    /// The ramp between the pairs that turn `beta_fast` and `beta_slow` times within the original context.
    pub(crate) fn new(geometry: &RopeGeometry, beta_fast: f64, beta_slow: f64, truncate: bool) -> Self {
        let (mut low, mut high) = (turning_pair(geometry, beta_fast), turning_pair(geometry, beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        Self { low: low.max(0.0), high: high.min(f64::count(geometry.rotary_dim()) - 1.0) }
    }

    /// Share of interpolation at `pair`, 0 to 1.
    fn at<R: Real>(self, pair: usize) -> R {
        // The small step keeps equal bounds from dividing by zero; transformers adds the same.
        let high = if self.low == self.high { self.high + 0.001 } else { self.high };
        let share = (R::count(pair) - R::of(self.low)) / R::of(high - self.low);
        let (zero, one) = (R::of(0.0), R::one());
        if share < zero {
            zero
        } else if share > one {
            one
        } else {
            share
        }
    }
}

/// The (fractional) pair that turns `turns` times within the original context.
fn turning_pair(geometry: &RopeGeometry, turns: f64) -> f64 {
    let original = f64::count(geometry.original_context());
    f64::count(geometry.rotary_dim()) * (original / (turns * 2.0 * PI)).ln() / (2.0 * geometry.base().ln())
}

/// Blended frequencies for every pair.
pub(crate) fn inv_freq<R: Real>(geometry: &RopeGeometry, factor: f64, ramp: Ramp) -> Vec<R> {
    let factor = R::of(factor);
    periods(R::of(geometry.base()), geometry.rotary_dim())
        .enumerate()
        .map(|(pair, period)| {
            let (extrapolated, interpolated) = (R::one() / period, R::one() / (factor * period));
            let keep = R::one() - ramp.at(pair);
            interpolated * (R::one() - keep) + extrapolated * keep
        })
        .collect()
}

/// Dynamic YaRN's factor at `length` tokens.
pub(crate) fn dynamic_factor(geometry: &RopeGeometry, length: usize) -> f64 {
    (f64::count(length) / f64::count(geometry.original_context())).max(1.0)
}

/// Factor on cosine and sine: as given, else from the two `mscale` terms when both are set, else `0.1 ln s + 1`.
pub(crate) fn attention_factor(factor: f64, given: Option<f64>, mscale: Option<f64>, all_dim: Option<f64>) -> f64 {
    // transformers takes a zero for "not set".
    let set = |term: Option<f64>| term.filter(|&value| value != 0.0);
    match (given, set(mscale), set(all_dim)) {
        (Some(given), _, _) => given,
        (None, Some(mscale), Some(all_dim)) => temperature(factor, mscale) / temperature(factor, all_dim),
        _ => temperature(factor, 1.0),
    }
}

fn temperature(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}
