//! Which source a training sequence comes from, as a pure function of its number.
//!
//! Sequences are dealt in blocks: each block holds every source in proportion to its weight (to within one sequence a
//! block), in an order drawn from the seed. So a cursor is one integer, and a run that is resumed deals as before.

use crate::data::rng::CounterRng;

/// Sequences in a block.
const BLOCK: u64 = 240;

/// Shares of the sources, dealt in blocks.
#[derive(Debug, Clone)]
pub struct Mix {
    counts: Vec<u64>,
    rng: CounterRng,
}

/// A source and the number of the sequence within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dealt {
    /// Index of the source.
    pub source: usize,
    /// Number of the sequence within the source.
    pub index: u64,
}

impl Mix {
    /// Shares proportional to `weights`, which are finite, not negative, and not all zero.
    pub fn new(weights: &[f64], seed: u64) -> Self {
        let total: f64 = weights.iter().sum();
        let mut edges = 0.0;
        let mut dealt = 0;
        let counts = weights
            .iter()
            .map(|weight| {
                edges += weight / total * BLOCK as f64;
                let upto = edges.round() as u64;
                let count = upto - dealt;
                dealt = upto;
                count
            })
            .collect();
        Self { counts, rng: CounterRng::new(seed).stream("mix") }
    }

    /// The source of sequence `number`.
    pub fn deal(&self, number: u64) -> Dealt {
        let (block, place) = (number / BLOCK, (number % BLOCK) as usize);
        let order = self.order(block);
        let source = order[place];
        let before = order[..place].iter().filter(|&&other| other == source).count() as u64;
        Dealt { source, index: block * self.counts[source] + before }
    }

    /// Sources of one block, shuffled (Fisher and Yates).
    fn order(&self, block: u64) -> Vec<usize> {
        let mut order: Vec<usize> =
            self.counts.iter().enumerate().flat_map(|(source, &n)| std::iter::repeat_n(source, n as usize)).collect();
        for place in (1..order.len()).rev() {
            let other = self.rng.below(block * BLOCK + place as u64, place as u64 + 1) as usize;
            order.swap(place, other);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_holds_every_source_in_proportion() {
        let mix = Mix::new(&[0.6, 0.3, 0.1], 7);
        let mut seen = [0; 3];
        (0..BLOCK).for_each(|n| seen[mix.deal(n).source] += 1);
        assert_eq!(seen, [144, 72, 24]);
    }

    #[test]
    fn numbers_within_a_source_run_without_gap_or_repeat() {
        let mix = Mix::new(&[2.0, 1.0], 3);
        let mut next = [0; 2];
        for number in 0..3 * BLOCK {
            let Dealt { source, index } = mix.deal(number);
            assert_eq!(index, next[source], "sequence {number}");
            next[source] += 1;
        }
    }

    #[test]
    fn another_seed_deals_another_order() {
        let sources = |seed| (0..BLOCK).map(|n| Mix::new(&[1.0, 1.0], seed).deal(n).source).collect::<Vec<_>>();
        assert_ne!(sources(1), sources(2));
    }
}
