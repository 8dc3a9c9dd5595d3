//! Plain Rust: four numbers side by side, which every compiler for a machine with vectors makes one of.

use super::product::{self, Product};
use super::{Simd, Work};

/// Needs no proof.
#[derive(Debug, Clone, Copy)]
pub(in crate::tiled) struct Portable;

type V = [f32; 4];

/// Lane by lane.
#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Simd for Portable {
    const LANES: usize = 4;
    const ROWS: usize = 4;
    const VECTORS: usize = 2;
    type V = V;
    type M = [bool; 4];

    #[inline]
    fn operate<W: Work>(self, work: W) -> W::Answer {
        work.run(self)
    }

    #[inline(always)]
    fn multiply(self, product: &mut Product<'_>) {
        product::run::<Self, 4, 2>(self, product);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> V {
        // SAFETY: the caller's promise; an array of float32 needs no more alignment than one of them.
        unsafe { from.cast::<V>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn broadcast(self, from: *const f32) -> V {
        // SAFETY: the caller's promise.
        [unsafe { from.read() }; 4]
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: V) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<V>().write_unaligned(v) }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        // Two roundings: without the instruction a fused product is a library call.
        zip(zip(a, b, |a, b| a * b), c, |ab, c| ab + c)
    }

    #[inline(always)]
    fn mul_sub(self, a: V, b: V, c: V) -> V {
        // Double precision holds the product as it is.
        let part = |lane: usize| (f64::from(a[lane]) * f64::from(b[lane]) - f64::from(c[lane])) as f32;
        [part(0), part(1), part(2), part(3)]
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn abs(self, a: V) -> V {
        a.map(f32::abs)
    }

    #[inline(always)]
    fn round(self, a: V) -> V {
        // Adding 1.5 * 2^23 leaves no room for a fraction.
        const SHIFT: f32 = 12_582_912.0;
        a.map(|x| (x + SHIFT) - SHIFT)
    }

    #[inline(always)]
    fn times_power(self, a: V, n: V) -> V {
        zip(a, n, |a, n| a * f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23))
    }

    #[inline(always)]
    fn less(self, a: V, b: V) -> [bool; 4] {
        [a[0] < b[0], a[1] < b[1], a[2] < b[2], a[3] < b[3]]
    }

    #[inline(always)]
    fn both(self, a: [bool; 4], b: [bool; 4]) -> [bool; 4] {
        [a[0] & b[0], a[1] & b[1], a[2] & b[2], a[3] & b[3]]
    }

    #[inline(always)]
    fn either(self, a: [bool; 4], b: [bool; 4]) -> [bool; 4] {
        [a[0] | b[0], a[1] | b[1], a[2] | b[2], a[3] | b[3]]
    }

    #[inline(always)]
    fn select(self, m: [bool; 4], a: V, b: V) -> V {
        let pick = |lane: usize| if m[lane] { a[lane] } else { b[lane] };
        [pick(0), pick(1), pick(2), pick(3)]
    }

    #[inline(always)]
    fn any(self, m: [bool; 4]) -> bool {
        m[0] | m[1] | m[2] | m[3]
    }
}
