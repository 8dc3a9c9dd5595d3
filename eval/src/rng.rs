//! Seeded random numbers: the same on every machine, in every version.

/// SplitMix64 (Steele, Lea and Flood 2014, figure 15): 64 bits of state, every seed is a good one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// A generator that starts at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `0..bound` without bias; 0 when `bound` is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            return 0;
        }
        let bound = bound as u64;
        // Draws at or above the last multiple of the bound would favour small numbers.
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let drawn = self.next_u64();
            if drawn < limit {
                return (drawn % bound) as usize;
            }
        }
    }

    /// A number from `[0, 1)` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// One seed from several numbers: a change in any of them changes all bits.
#[must_use]
pub fn mixed_seed(parts: &[u64]) -> u64 {
    parts.iter().fold(0x5851_f42d_4c95_7f2d, |seed, &part| SplitMix64::new(seed ^ part.rotate_left(17)).next_u64())
}

/// MT19937 as NumPy's legacy `random.seed(n)` and `random.randint` use it, for published protocols whose keys and
/// depths come from there (Matsumoto and Nishimura 1998).
#[derive(Debug, Clone)]
pub(crate) struct NumpyLegacy {
    state: [u32; STATE],
    next: usize,
}

const STATE: usize = 624;
const SHIFT: usize = 397;

impl NumpyLegacy {
    /// The generator after `numpy.random.seed(seed)`.
    pub(crate) fn new(seed: u32) -> Self {
        let mut state = [seed; STATE];
        for i in 1..STATE {
            let before = state[i - 1];
            state[i] = (before ^ (before >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { state, next: STATE }
    }

    /// `numpy.random.randint(low, high)`: `high` is excluded. Draws under a mask are rejected until one fits.
    pub(crate) fn randint(&mut self, low: u32, high: u32) -> u32 {
        let span = high.saturating_sub(low).saturating_sub(1);
        if span == 0 {
            return low;
        }
        let mask = u32::MAX >> span.leading_zeros();
        loop {
            let drawn = self.next_u32() & mask;
            if drawn <= span {
                return low + drawn;
            }
        }
    }

    fn next_u32(&mut self) -> u32 {
        if self.next == STATE {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..STATE {
            let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + SHIFT) % STATE] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix_gives_the_published_first_numbers() {
        // First outputs of Vigna's splitmix64.c at seed 1234567.
        let mut rng = SplitMix64::new(1_234_567);
        assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn numbers_below_a_bound_cover_it_evenly() {
        let mut rng = SplitMix64::new(7);
        let mut seen = [0_u32; 5];
        (0..10_000).for_each(|_| seen[rng.below(5)] += 1);
        assert!(seen.iter().all(|&n| (1_800..2_200).contains(&n)), "{seen:?}");
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn numpy_draws_are_those_of_numpy() {
        // numpy.random.seed(0); [numpy.random.randint(0, 10) for _ in range(6)]
        let mut rng = NumpyLegacy::new(0);
        let drawn: Vec<u32> = (0..6).map(|_| rng.randint(0, 10)).collect();
        assert_eq!(drawn, [5, 0, 3, 3, 7, 9]);
    }

    #[test]
    fn every_part_of_a_mixed_seed_counts() {
        let seeds = [mixed_seed(&[1, 2, 3]), mixed_seed(&[1, 3, 2]), mixed_seed(&[1, 2, 4]), mixed_seed(&[1, 2])];
        for (i, a) in seeds.iter().enumerate() {
            assert!(seeds[i + 1..].iter().all(|b| a != b));
        }
    }
}
