//! Llama 3.1's scaling: by wavelength against the original context.
//!
//! With wavelength `w = 2 pi / f`: below `L0 / high` keep `f`, above `L0 / low` take `f / s`, between blend linearly in
//! `L0 / w` (Llama 3.1 reference code; transformers `llama3`).

use std::f64::consts::TAU;

use crate::geometry::RopeGeometry;
use crate::real::Real;
use crate::schemes::unscaled;

/// Scaled frequencies for every pair.
pub(crate) fn inv_freq<R: Real>(geometry: &RopeGeometry, factor: f64, low: f64, high: f64) -> Vec<R> {
    let original = f64::count(geometry.original_context());
    let (longest_kept, shortest_divided) = (R::of(original / high), R::of(original / low));
    let scaled = |frequency: R| {
        // Reciprocal times constant, not a division: PyTorch's order for scalar / tensor.
        let wavelength = R::one() / frequency * R::of(TAU);
        if wavelength < longest_kept {
            return frequency;
        }
        if wavelength > shortest_divided {
            return frequency / R::of(factor);
        }
        let turns = R::one() / wavelength * R::of(original);
        let keep = (turns - R::of(low)) / R::of(high - low);
        (R::one() - keep) * frequency / R::of(factor) + keep * frequency
    };
    unscaled(R::of(geometry.base()), geometry.rotary_dim()).into_iter().map(scaled).collect()
}
