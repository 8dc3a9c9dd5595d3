//! The frequency formulas, one file a family, each in the order of operations of transformers.

pub(crate) mod linear;
pub(crate) mod llama3;
pub(crate) mod longrope;
pub(crate) mod ntk;
pub(crate) mod yarn;

use crate::real::Real;

/// Wavelength of pair `i` in units of `1 / (2 pi)` tokens, `theta^(2i/d)`, for every pair.
pub(crate) fn periods<R: Real>(base: R, rotary_dim: usize) -> impl Iterator<Item = R> {
    (0..rotary_dim / 2).map(move |pair| base.pow(R::count(2 * pair) / R::count(rotary_dim)))
}

/// Unscaled frequencies `f[i] = theta^(-2i/d)` (Su et al. 2021, section 3.2.2), radians per token.
pub(crate) fn unscaled<R: Real>(base: R, rotary_dim: usize) -> Vec<R> {
    periods(base, rotary_dim).map(|period| R::one() / period).collect()
}
