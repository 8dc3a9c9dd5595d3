//! Position Interpolation (Chen et al. 2023, equation 4): position `m` is read as `m / s`, so every frequency is `f / s`.

use crate::real::Real;
use crate::schemes::unscaled;

/// `f[i] / s` for every pair.
pub(crate) fn inv_freq<R: Real>(base: R, rotary_dim: usize, factor: f64) -> Vec<R> {
    unscaled(base, rotary_dim).into_iter().map(|frequency| frequency / R::of(factor)).collect()
}
