//! Orders that need no memory: a permutation of any size, and the dealing of sources by weight.
//!
//! Both are pure functions of seed and number, so a cursor is one integer, and neither threads nor an interruption can
//! change what comes next.

use super::error::DataError;
use super::rng::CounterRng;

/// Feistel rounds; four suffice for a pseudo-random permutation (Luby and Rackoff 1988), the rest is for small halves.
const ROUNDS: u64 = 8;

/// A permutation of `0..len` drawn from a stream of random numbers.
///
/// A Feistel network permutes the smallest even power of two that is not below `len`; what falls beyond `len` is sent
/// round again (cycle walking, Black and Rogaway 2002), four times a number at most on average.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    rng: CounterRng,
}

impl Permutation {
    /// A permutation of `0..len`; `len` is at most 2^62.
    pub fn new(len: u64, rng: CounterRng) -> Self {
        let bits = len.max(2).next_power_of_two().trailing_zeros();
        Self { len, half_bits: bits.div_ceil(2), rng }
    }

    /// Where `index` goes; `index` is below the length.
    pub fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.len, "{index} is not below {}", self.len);
        let mut value = self.mixed(index);
        while value >= self.len {
            value = self.mixed(value);
        }
        value
    }

    fn mixed(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (self.rng.bits(round << 32 | right) & mask));
        }
        left << self.half_bits | right
    }
}

/// Sequences in a block; each source gets its share of every block.
const BLOCK: u64 = 1024;

/// A sequence of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dealt {
    /// Index of the source.
    pub source: usize,
    /// Number of the sequence within the source, counted over all epochs.
    pub index: u64,
}

/// Deals sequences to sources by weight. Within every block of 1024, source `s` comes up the same number of times, and
/// its own numbers come up in ascending order, none left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    counts: Vec<u64>,
    rng: CounterRng,
}

impl Mixture {
    /// Shares proportional to the weights of the named sources.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] when a weight is not finite and above 0, or too small to come up in a block.
    pub fn new(weights: &[(&str, f64)], rng: CounterRng) -> Result<Self, DataError> {
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        for (name, weight) in weights {
            let what = if !(weight.is_finite() && *weight > 0.0) {
                format!("`weight` must be finite and above 0, got {weight}")
            } else if weight / total * (BLOCK as f64) < 0.5 {
                format!("`weight` {weight} is below one in {} of the total {total}", 2 * BLOCK)
            } else {
                continue;
            };
            return Err(DataError::Config { name: (*name).to_owned(), what });
        }
        let shares: Vec<f64> = weights.iter().map(|(_, weight)| weight / total * BLOCK as f64).collect();
        Ok(Self { counts: rounded(&shares), rng })
    }

    /// The source of sequence `number`.
    pub fn deal(&self, number: u64) -> Dealt {
        if self.counts.len() == 1 {
            return Dealt { source: 0, index: number };
        }
        let (block, place) = (number / BLOCK, number % BLOCK);
        let order = Permutation::new(BLOCK, self.rng.stream(&block.to_string()));
        let source = self.owner(order.at(place));
        let before = (0..place).filter(|&other| self.owner(order.at(other)) == source).count() as u64;
        Dealt { source, index: block * self.counts[source] + before }
    }

    /// The source to which a ticket of a block belongs.
    fn owner(&self, ticket: u64) -> usize {
        let mut left = ticket;
        self.counts
            .iter()
            .position(|&count| {
                left < count || {
                    left -= count;
                    false
                }
            })
            .unwrap_or(self.counts.len() - 1)
    }
}

/// Whole numbers of at least 1 with the sum of `shares`, near them (largest remainder; the largest gives what is lacking).
fn rounded(shares: &[f64]) -> Vec<u64> {
    let mut counts: Vec<u64> = shares.iter().map(|share| (share.floor() as u64).max(1)).collect();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|&a, &b| shares[b].fract().total_cmp(&shares[a].fract()).then(a.cmp(&b)));
    for &source in order.iter().cycle() {
        let dealt: u64 = counts.iter().sum();
        if dealt == BLOCK {
            break;
        } else if dealt < BLOCK {
            counts[source] += 1;
        } else if let Some(largest) = counts.iter_mut().max() {
            *largest -= 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_permutation(len: u64, at: impl Fn(u64) -> u64) -> bool {
        let mut seen = vec![false; len as usize];
        (0..len).all(|index| at(index) < len && !std::mem::replace(&mut seen[at(index) as usize], true))
    }

    proptest! {
        #[test]
        fn every_number_comes_up_once(len in 1_u64..3000, seed: u64) {
            let order = Permutation::new(len, CounterRng::new(seed));
            prop_assert!(is_permutation(len, |index| order.at(index)));
        }

        #[test]
        fn a_source_deals_its_numbers_in_order_and_by_weight(weights in prop::collection::vec(0.01_f64..1.0, 1..6), seed: u64) {
            let named: Vec<(&str, f64)> = weights.iter().map(|&weight| ("s", weight)).collect();
            let mixture = Mixture::new(&named, CounterRng::new(seed)).unwrap();
            let mut next = vec![0_u64; weights.len()];
            for number in 0..2 * BLOCK {
                let Dealt { source, index } = mixture.deal(number);
                prop_assert_eq!(index, next[source]);
                next[source] += 1;
            }
            let total: f64 = weights.iter().sum();
            for (count, weight) in next.iter().zip(&weights) {
                prop_assert!((*count as f64 / 2.0 - weight / total * BLOCK as f64).abs() <= 2.0 * weights.len() as f64);
            }
        }
    }

    #[test]
    fn a_draw_with_repeats_is_no_permutation() {
        let rng = CounterRng::new(1);
        assert!(!is_permutation(1000, |index| rng.below(index, 1000)));
        assert!(!is_permutation(10, |index| index + 1));
    }

    #[test]
    fn orders_differ_by_seed_and_neighbours_part() {
        let (a, b) = (Permutation::new(1000, CounterRng::new(1)), Permutation::new(1000, CounterRng::new(2)));
        let same = (0..1000).filter(|&index| a.at(index) == b.at(index)).count();
        let stayed = (0..999).filter(|&index| a.at(index).abs_diff(a.at(index + 1)) == 1).count();
        assert!(same < 10 && stayed < 10, "{same} {stayed}");
    }

    #[test]
    fn sources_are_mixed_within_a_block() {
        let mixture = Mixture::new(&[("a", 1.0), ("b", 1.0)], CounterRng::new(3)).unwrap();
        let changes = (1..1024).filter(|&n| mixture.deal(n).source != mixture.deal(n - 1).source).count();
        assert!((450..575).contains(&changes), "{changes}");
    }

    #[test]
    fn a_weight_that_never_comes_up_is_an_error() {
        let error = Mixture::new(&[("a", 1.0), ("b", 1e-5)], CounterRng::new(3)).unwrap_err().to_string();
        assert!(error.contains("\"b\"") && error.contains("0.00001"), "{error}");
        assert!(Mixture::new(&[("a", f64::INFINITY)], CounterRng::new(3)).is_err());
    }
}
