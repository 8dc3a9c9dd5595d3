//! One candidate, and how candidates are changed and mixed.

use eval::SplitMix64;
use serde::{Deserialize, Serialize};

/// Numbers of start tokens that are tried (the paper's table 4).
pub const START_TOKENS: [usize; 14] = [0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256];

/// Least distance between drawn divisors (table 4).
const STEP: f64 = 0.01;
/// The largest divisor over the factor (table 4).
const CEILING: f64 = 1.25;

/// A divisor for each pair, fastest first and never falling, and the first tokens that keep unscaled positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Individual {
    /// Divisors, at least 1.
    pub divisors: Vec<f64>,
    /// Start tokens.
    pub start_tokens: usize,
}

impl Individual {
    /// Whether divisors are at least 1 and never fall.
    pub fn is_monotone(&self) -> bool {
        self.divisors.first().is_none_or(|&first| first >= 1.0)
            && self.divisors.windows(2).all(|pair| pair[0] <= pair[1])
    }

    /// Bits that tell individuals apart.
    pub(super) fn key(&self) -> Vec<u64> {
        let start = self.start_tokens as u64;
        self.divisors.iter().map(|divisor| divisor.to_bits()).chain([start]).collect()
    }
}

/// What may be drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Space {
    /// Largest divisor.
    pub ceiling: f64,
    /// Numbers of start tokens.
    pub start_tokens: Vec<usize>,
    /// Chance of each number to be drawn anew in a mutation.
    pub probability: f64,
}

impl Space {
    /// The paper's space for a factor: divisors up to 1.25 times it.
    pub fn new(factor: f64, probability: f64, start_tokens: Vec<usize>) -> Self {
        Self { ceiling: CEILING * factor, start_tokens, probability }
    }

    /// `parent` with each number drawn anew by chance: a divisor between its neighbours, so that none falls below the one
    /// before it.
    pub fn mutated(&self, parent: &Individual, random: &mut SplitMix64) -> Individual {
        let mut child = parent.clone();
        for pair in 0..child.divisors.len() {
            if random.unit() >= self.probability {
                continue;
            }
            let low = if pair == 0 { 1.0 } else { child.divisors[pair - 1] };
            let high = child.divisors.get(pair + 1).copied().unwrap_or(self.ceiling).max(low);
            let drawn = low + STEP * random.below(((high - low) / STEP) as usize + 1) as f64;
            // Sums of steps round: what is drawn stays between the neighbours.
            child.divisors[pair] = ((drawn / STEP).round() * STEP).clamp(low, high);
        }
        if self.start_tokens.len() > 1 && random.unit() < self.probability {
            child.start_tokens = self.start_tokens[random.below(self.start_tokens.len())];
        }
        child
    }

    /// Each number from one of two parents by chance; where that would fall below the number before it, from the other,
    /// which never does.
    pub fn crossed(&self, one: &Individual, other: &Individual, random: &mut SplitMix64) -> Individual {
        let mut divisors: Vec<f64> = Vec::with_capacity(one.divisors.len());
        for (&a, &b) in one.divisors.iter().zip(&other.divisors) {
            let (first, second) = if random.below(2) == 0 { (a, b) } else { (b, a) };
            let floor = divisors.last().copied().unwrap_or(1.0);
            divisors.push(if first >= floor { first } else { second });
        }
        let start_tokens = if random.below(2) == 0 { one.start_tokens } else { other.start_tokens };
        Individual { divisors, start_tokens }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rising(divisors: &[f64], start_tokens: usize) -> Individual {
        Individual { divisors: divisors.to_vec(), start_tokens }
    }

    #[test]
    fn children_never_fall_and_stay_inside_the_space() {
        let space = Space::new(4.0, 0.5, START_TOKENS.to_vec());
        let mut family = vec![rising(&[4.0; 16], 0), rising(&[1.0; 16], 8)];
        let mut random = SplitMix64::new(3);
        for round in 0..2000 {
            let (a, b) = (random.below(family.len()), random.below(family.len()));
            let child = match round % 2 {
                0 => space.mutated(&family[a], &mut random),
                _ => space.crossed(&family[a], &family[b], &mut random),
            };
            assert!(child.is_monotone(), "{child:?}");
            assert!(child.divisors.iter().all(|divisor| (1.0..=5.0).contains(divisor)), "{child:?}");
            assert!(START_TOKENS.contains(&child.start_tokens));
            family.push(child);
        }
        let differing = family.iter().filter(|one| **one != family[0]).count();
        assert!(differing > 1500, "{differing}");
        let starts: std::collections::BTreeSet<usize> = family.iter().map(|one| one.start_tokens).collect();
        assert_eq!(starts.len(), START_TOKENS.len());
    }

    #[test]
    fn a_crossover_takes_every_number_from_a_parent() {
        let space = Space::new(4.0, 0.3, vec![0]);
        let (one, other) = (rising(&[1.0, 1.5, 2.0, 4.0], 4), rising(&[1.2, 3.0, 3.5, 3.6], 16));
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let child = space.crossed(&one, &other, &mut SplitMix64::new(seed));
            let from_one: Vec<bool> = child.divisors.iter().zip(&one.divisors).map(|(c, a)| c == a).collect();
            let from_any = child.divisors.iter().zip(one.divisors.iter().zip(&other.divisors));
            assert!(from_any.clone().all(|(c, (a, b))| c == a || c == b) && child.is_monotone());
            seen.insert(from_one);
        }
        assert!(seen.len() > 6, "{seen:?}");
    }

    #[test]
    fn nothing_is_changed_without_a_chance() {
        let space = Space::new(4.0, 0.0, START_TOKENS.to_vec());
        let parent = rising(&[1.0, 2.0, 3.0], 2);
        assert_eq!(space.mutated(&parent, &mut SplitMix64::new(1)), parent);
        assert!(!rising(&[2.0, 1.0], 0).is_monotone() && !rising(&[0.5, 1.0], 0).is_monotone());
    }
}
