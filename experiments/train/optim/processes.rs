//! What several processes would share of the optimizer: the part of every parameter that one of them owns, and the sums
//! that they make together. Today there is one process, which owns everything and has nothing to add.

use std::ops::Range;

use tch::Tensor;

use super::bytes::BLOCK;

/// The part of every parameter that one of several processes keeps state for and moves (Rajbhandari et al. 2020, ZeRO stages
/// 1 and 2).
///
/// Parts are whole blocks of 8-bit moments, and random bits go by a number's place in the parameter, so that any number of
/// processes leaves the same bits as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    rank: u64,
    processes: u64,
}

impl Shard {
    /// Everything.
    pub const WHOLE: Self = Self { rank: 0, processes: 1 };

    /// The part of process `rank` of `processes`; none unless there is such a process.
    pub fn new(rank: u64, processes: u64) -> Option<Self> {
        (rank < processes).then_some(Self { rank, processes })
    }

    /// The numbers of a parameter of `numel` that it owns; may be none.
    pub fn range(self, numel: u64) -> Range<u64> {
        let share = numel.div_ceil(BLOCK).div_ceil(self.processes) * BLOCK;
        let from = (self.rank * share).min(numel);
        from..(from + share).min(numel)
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self::WHOLE
    }
}

/// Sums over all processes: the one place where gradients are reduced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reduction;

impl Reduction {
    /// The numbers of `gradient` in `owned`, summed over all processes, flat: a reduce-scatter. Of one process, a view.
    pub fn scattered(self, gradient: &Tensor, owned: &Range<u64>) -> Tensor {
        gradient.contiguous().view(-1).narrow(0, owned.start as i64, (owned.end - owned.start) as i64)
    }

    /// A sum of which each process has a part.
    pub fn total(self, part: f64) -> f64 {
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_blocks_that_cover_a_parameter_once() {
        for (numel, processes) in [(1, 1), (256, 2), (1000, 3), (1000, 7), (300_001, 8)] {
            let parts: Vec<Range<u64>> =
                (0..processes).map(|rank| Shard::new(rank, processes).unwrap().range(numel)).collect();
            assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, numel));
            for pair in parts.windows(2) {
                assert_eq!(pair[0].end, pair[1].start);
                assert!(pair[0].end % BLOCK == 0 || pair[0].end == numel, "{pair:?}");
            }
        }
        assert_eq!(Shard::new(2, 2), None);
        assert_eq!(Shard::WHOLE.range(5), 0..5);
    }
}
