//! Random numbers by counter: draw `n` of a stream is a function of (seed, stream, n) alone.
//!
//! Everything that must replay (data order, made text, initial weights, sampling) draws from here, so that neither the
//! number of threads nor an interruption changes what is drawn. The mixer is SplitMix64's finaliser (Steele et al. 2014,
//! figure 17), applied twice over key and counter.

/// A stream of random numbers addressed by counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterRng {
    key: u64,
}

/// SplitMix64's increment: the golden ratio in 64 bits.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl CounterRng {
    /// The root stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { key: mixed(seed ^ GOLDEN) }
    }

    /// The stream of this name below this one; other names give unrelated numbers.
    #[must_use]
    pub fn stream(&self, name: &str) -> Self {
        let key = name.bytes().fold(self.key, |key, byte| mixed(key ^ u64::from(byte).wrapping_mul(GOLDEN)));
        Self { key: mixed(key ^ name.len() as u64) }
    }

    /// Draw `n`: 64 random bits.
    #[must_use]
    pub fn bits(&self, n: u64) -> u64 {
        mixed(mixed(n.wrapping_mul(GOLDEN) ^ self.key).wrapping_add(self.key))
    }

    /// Draw `n` from 0 to below 1, in steps of 2^-53.
    #[must_use]
    pub fn uniform(&self, n: u64) -> f64 {
        (self.bits(n) >> 11) as f64 * (-53.0_f64).exp2()
    }

    /// Draw `n` below `bound` (0 when `bound` is 0). The bias of the high product is below `bound / 2^64`.
    #[must_use]
    pub fn below(&self, n: u64, bound: u64) -> u64 {
        ((u128::from(self.bits(n)) * u128::from(bound)) >> 64) as u64
    }

    /// Draw `n` of the standard normal distribution (Box and Muller 1958, one of the pair).
    #[must_use]
    pub fn normal(&self, n: u64) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform(2 * n)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(2 * n + 1)).cos()
    }
}

/// SplitMix64's finaliser.
pub(super) fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_seed_stream_and_number_alone() {
        let rng = CounterRng::new(7).stream("data");
        assert_eq!(rng.bits(3), CounterRng::new(7).stream("data").bits(3));
        assert_ne!(rng.bits(3), rng.bits(4));
        assert_ne!(rng.bits(3), CounterRng::new(8).stream("data").bits(3));
        assert_ne!(rng.bits(3), CounterRng::new(7).stream("atad").bits(3));
    }

    #[test]
    fn bounded_draws_are_even() {
        let rng = CounterRng::new(1);
        let mut seen = [0_u32; 10];
        (0..100_000).for_each(|n| seen[rng.below(n, 10) as usize] += 1);
        assert!(seen.iter().all(|count| (9_600..10_400).contains(count)), "{seen:?}");
    }

    #[test]
    fn normal_draws_have_mean_zero_and_deviation_one() {
        let rng = CounterRng::new(1);
        let draws: Vec<f64> = (0..100_000).map(|n| rng.normal(n)).collect();
        let mean = draws.iter().sum::<f64>() / 1e5;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
