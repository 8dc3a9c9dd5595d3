//! NTK-aware scaling: stretch the base, so that the slowest pair is interpolated by `s` and the fastest not at all.
//!
//! Static (bloc97, 2023; YaRN paper equation 16): `theta * s^(d/(d-2))`. Dynamic (emozilla, 2023; as transformers
//! computes it): `theta * (s*L/L0 - (s-1))^(d/(d-2))` for `L > L0`, `theta` up to there. With `s = 1` the dynamic rule
//! still stretches beyond `L0`, by `L/L0`.

use crate::real::Real;

/// The exponent `d / (d - 2)`; infinite for two rotated channels, whose only pair does not depend on the base.
fn exponent(rotary_dim: usize) -> f64 {
    f64::count(rotary_dim) / (f64::count(rotary_dim) - 2.0)
}

/// Base of the static scheme. In f64 at either precision, since it reaches transformers as a written `rope_theta`.
pub(crate) fn static_base(base: f64, rotary_dim: usize, factor: f64) -> f64 {
    base * factor.powf(exponent(rotary_dim))
}

/// Base of the dynamic scheme at `length` tokens.
pub(crate) fn dynamic_base<R: Real>(base: f64, rotary_dim: usize, factor: f64, original: usize, length: usize) -> R {
    if length <= original {
        return R::of(base);
    }
    let stretch = R::of(factor) * R::count(length) / R::count(original) - R::of(factor - 1.0);
    // PyTorch keeps a scalar exponent in f64 when the power itself is f32.
    R::of(base) * stretch.pow_wide(exponent(rotary_dim))
}
