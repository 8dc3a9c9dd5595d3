//! The most multiplications that a core can do: what a kernel's speed is a fraction of.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::{Isa, Simd, Work, dispatch};

/// Independent sums: more than latency times width of any processor in sight, few enough for sixteen registers.
const SUMS: usize = 12;
/// Steps between two looks at the clock.
const STEPS: usize = 20_000;

/// Rounds of fused multiply-adds on registers alone.
struct Rounds;

impl Work for Rounds {
    /// Operations done.
    type Answer = f64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let start = black_box(1.0_f32);
        let (a, b) = (simd.splat(black_box(0.999_999)), simd.splat(black_box(1e-6)));
        let mut sums = [simd.splat(start); SUMS];
        for _ in 0..STEPS {
            for sum in &mut sums {
                *sum = simd.mul_add(*sum, a, b);
            }
        }
        let mut numbers = [0.0_f32; 64];
        let total = sums.into_iter().fold(simd.splat(0.0), |total, sum| simd.add(total, sum));
        // SAFETY: 64 numbers hold a vector of any set.
        unsafe { simd.store(numbers.as_mut_ptr(), total) };
        black_box(numbers);
        (2 * STEPS * SUMS * S::LANES) as f64
    }
}

struct Operate;

impl Work for Operate {
    type Answer = f64;

    fn run<S: Simd>(self, simd: S) -> f64 {
        simd.operate(Rounds)
    }
}

/// GFLOP/s of one thread by `isa`, the best of rounds over `duration`; zero where the processor lacks it.
pub(in crate::tiled) fn of_this_thread(isa: Isa, duration: Duration) -> f64 {
    let (start, mut best) = (Instant::now(), 0.0_f64);
    while start.elapsed() < duration {
        let round = Instant::now();
        let operations = dispatch(isa, Operate).unwrap_or(0.0);
        best = best.max(operations / round.elapsed().as_secs_f64() / 1e9);
    }
    best
}
