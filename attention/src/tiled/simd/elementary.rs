//! The exponential and the hyperbolic tangent.

use super::Simd;

/// `2^f - 1 = f * P(f)` on [-1/2, 1/2], relative error of `2^f` at most 2.0e-9: coefficients by reweighted least squares
/// towards the smallest largest error, with the value at 0 held at 1.
const POWER: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_5, 0.000_153_533_62];

/// `1 / ln 2` in two parts: the nearest float32, and what it lacks.
const PER_LN_2: [f32; 2] = [std::f32::consts::LOG2_E, 1.925_963e-8];

/// Exponentials of less are zero: about the logarithm of the smallest normal float32.
const SMALLEST: f32 = -88.0;

/// `e^x` for `x <= 88`: within one and a half units in the last place above -87, zero from -88 down; exactly 1 at 0. NaN
/// stays.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    let x = simd.max(simd.splat(SMALLEST), x);
    let whole = simd.round(simd.mul(x, simd.splat(PER_LN_2[0])));
    let f = simd.mul_sub(x, simd.splat(PER_LN_2[0]), whole);
    let f = simd.mul_add(x, simd.splat(PER_LN_2[1]), f);
    let mut p = simd.splat(POWER[5]);
    p = simd.mul_add(p, f, simd.splat(POWER[4]));
    p = simd.mul_add(p, f, simd.splat(POWER[3]));
    p = simd.mul_add(p, f, simd.splat(POWER[2]));
    p = simd.mul_add(p, f, simd.splat(POWER[1]));
    p = simd.mul_add(p, f, simd.splat(POWER[0]));
    p = simd.mul_add(p, f, simd.splat(1.0));
    simd.times_power(p, whole)
}

/// `tanh(x) = x + x^3 Q(x^2)` below 0.625 (Moshier, Cephes, `tanhf`).
const TANGENT: [f32; 5] = [-0.333_332_8, 0.133_314_42, -0.053_739_716, 0.020_639_09, -0.005_704_988_7];

/// `tanh(x)`, within two units in the last place. NaN stays.
#[inline(always)]
pub(super) fn tanh<S: Simd>(simd: S, x: S::V) -> S::V {
    let (one, two) = (simd.splat(1.0), simd.splat(2.0));
    let square = simd.mul(x, x);
    let mut q = simd.splat(TANGENT[4]);
    for &coefficient in TANGENT[..4].iter().rev() {
        q = simd.mul_add(q, square, simd.splat(coefficient));
    }
    let near = simd.mul_add(simd.mul(q, square), x, x);
    // 1 - 2 / (e^(2 |x|) + 1); float32 cannot tell it from 1 beyond 10.
    let size = simd.min(simd.splat(10.0), simd.abs(x));
    let power = exp(simd, simd.add(size, size));
    let far = simd.sub(one, simd.div(two, simd.add(power, one)));
    let far = simd.select(simd.less(x, simd.splat(0.0)), simd.sub(simd.splat(0.0), far), far);
    simd.select(simd.less(simd.abs(x), simd.splat(0.625)), near, far)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiled::simd::{Isa, Work, dispatch};

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Tanh,
    }

    struct Map<'a>(Function, &'a mut [f32]);

    impl Work for Map<'_> {
        type Answer = ();

        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            for chunk in self.1.chunks_exact_mut(S::LANES) {
                // SAFETY: a chunk holds LANES numbers.
                let x = unsafe { simd.load(chunk.as_ptr()) };
                let y = match self.0 {
                    Function::Exp => exp(simd, x),
                    Function::Tanh => tanh(simd, x),
                };
                // SAFETY: as above.
                unsafe { simd.store(chunk.as_mut_ptr(), y) };
            }
        }
    }

    fn sets() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The function at `points`, whose count is a multiple of every vector.
    fn map(isa: Isa, function: Function, points: &[f32]) -> Vec<f32> {
        let mut values = points.to_vec();
        dispatch(isa, Map(function, &mut values)).unwrap();
        values
    }

    /// Distance in units in the last place of the exact value.
    fn ulps(found: f32, exact: f64) -> f64 {
        let unit = (exact as f32).abs().max(f32::MIN_POSITIVE);
        let unit = f64::from(f32::from_bits(unit.to_bits() + 1)) - f64::from(unit);
        (f64::from(found) - exact).abs() / unit
    }

    #[test]
    fn exponentials_are_near_the_last_place_over_the_whole_range() {
        let points: Vec<f32> = (0..1 << 20).map(|i| -87.0 + i as f32 * (175.0 / (1 << 20) as f32)).collect();
        for isa in sets() {
            let worst = points
                .iter()
                .zip(map(isa, Function::Exp, &points))
                .map(|(&x, y)| ulps(y, f64::from(x).exp()))
                .fold(0.0, f64::max);
            println!("{isa}: {worst:.2} ulps");
            assert!(worst <= 1.5, "{isa}: {worst}");
            assert!(worst > 0.5, "{isa}: no polynomial is this good");
        }
    }

    #[test]
    fn exponentials_at_the_edges() {
        let points = [0.0, -88.0, -200.0, f32::NEG_INFINITY, -1e30, -0.0, 1.0, f32::NAN].repeat(2);
        for isa in sets() {
            let values = map(isa, Function::Exp, &points);
            assert_eq!(values[..6], [1.0, 0.0, 0.0, 0.0, 0.0, 1.0], "{isa}");
            assert!((values[6] - std::f32::consts::E).abs() < 3e-7 && values[7].is_nan(), "{isa}");
        }
    }

    #[test]
    fn the_tangent_is_within_two_ulps_and_saturates() {
        let points: Vec<f32> = (0..1 << 18).map(|i| -13.0 + i as f32 * (26.0 / (1 << 18) as f32)).collect();
        for isa in sets() {
            let worst = points
                .iter()
                .zip(map(isa, Function::Tanh, &points))
                .map(|(&x, y)| ulps(y, f64::from(x).tanh()))
                .fold(0.0, f64::max);
            println!("{isa}: {worst:.2} ulps");
            assert!(worst <= 2.0, "{isa}: {worst}");
            let edges = map(isa, Function::Tanh, &[0.0, 1e30, -1e30, f32::NAN].repeat(4));
            assert_eq!(edges[..3], [0.0, 1.0, -1.0], "{isa}");
            assert!(edges[3].is_nan(), "{isa}");
        }
    }
}
