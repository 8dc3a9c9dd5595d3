//! Which keys a query sees, as intervals: what a mask looks like to a kernel.
//!
//! Every mask shows a query one run of keys, and perhaps sinks before it. Over rising queries both ends of the run rise, so a
//! block of queries sees nothing outside the run from its first query's start to its last query's end.

use std::ops::Range;

use crate::mask::RowMask;
use crate::shape::signed;

/// Keys `..sinks` and `first..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) sinks: usize,
    pub(super) first: usize,
    pub(super) end: usize,
}

impl Span {
    /// Of one query over `key_len` keys.
    pub(super) fn of(mask: RowMask<'_>, query: usize, key_len: usize) -> Self {
        let clamped = |key: i64| usize::try_from(key.clamp(0, signed(key_len))).unwrap_or(key_len);
        let at = |offset: i64| signed(query) + offset;
        match mask {
            RowMask::Full => Self { sinks: 0, first: 0, end: key_len },
            RowMask::Causal { offset } => Self { sinks: 0, first: 0, end: clamped(at(offset) + 1) },
            RowMask::Window { size, sinks, offset } => {
                let end = clamped(at(offset) + 1);
                let first = clamped((at(offset) + 1).saturating_sub(signed(size)));
                Self { sinks: sinks.min(end), first, end }
            }
            RowMask::Documents { starts, offset } => {
                let started = starts.partition_point(|&start| signed(start) <= at(offset));
                let first = if started == 0 { 0 } else { starts[started - 1] };
                Self { sinks: 0, first, end: clamped(at(offset) + 1) }
            }
        }
    }

    /// The least that holds every span of a block of queries, of which there is at least one.
    pub(super) fn hull(mask: RowMask<'_>, queries: &Range<usize>, key_len: usize) -> Self {
        let first = Self::of(mask, queries.start, key_len);
        let last = Self::of(mask, queries.end - 1, key_len);
        Self { sinks: last.sinks, first: first.first, end: last.end }
    }

    /// What it has of a block of keys, as at most two runs; ends are moved outward to multiples of `align` inside the
    /// block, and an empty run is one of no length.
    pub(super) fn pieces(self, block: &Range<usize>, align: usize) -> [Range<usize>; 2] {
        let part = |keys: Range<usize>| {
            let (start, end) = (keys.start.max(block.start), keys.end.min(block.end));
            if start >= end {
                return block.start..block.start;
            }
            let start = (start / align * align).max(block.start);
            start..end.next_multiple_of(align).min(block.end)
        };
        let (sinks, run) = (part(0..self.sinks), part(self.first..self.end));
        if sinks.is_empty() {
            return [run, sinks];
        }
        if run.is_empty() || run.start > sinks.end {
            return [sinks, run];
        }
        let whole = sinks.start..run.end.max(sinks.end);
        [whole, block.start..block.start]
    }

    /// Numbers of the blocks of `size` keys that it touches, rising.
    pub(super) fn blocks(self, size: usize) -> impl Iterator<Item = usize> + use<> {
        let sinks = self.sinks.div_ceil(size);
        let (first, end) = if self.first < self.end { (self.first / size, self.end.div_ceil(size)) } else { (0, 0) };
        (0..sinks.min(first)).chain(if end == 0 { 0..sinks } else { first..end.max(sinks) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_span_shows_what_the_mask_shows_and_blocks_miss_nothing(
            kind in 0..4_usize,
            offset in -12..12_i64,
            (size, sinks) in (1..10_usize, 0..9_usize),
            cuts in proptest::collection::btree_set(1..20_usize, 0..6),
            (query, queries) in (0..16_usize, 1..8_usize),
            key_len in 20..30_usize,
            (block, align) in (1..9_usize, 1..4_usize),
        ) {
            let starts: Vec<usize> = std::iter::once(0).chain(cuts).collect();
            let mask = match kind {
                0 => RowMask::Full,
                1 => RowMask::Causal { offset },
                2 => RowMask::Window { size, sinks, offset },
                _ => RowMask::Documents { starts: &starts, offset },
            };
            let sees = |span: Span, key: usize| key < span.sinks || (span.first..span.end).contains(&key);
            let hull = Span::hull(mask, &(query..query + queries), key_len);
            let blocks: Vec<usize> = hull.blocks(block).collect();
            prop_assert!(blocks.is_sorted_by(|a, b| a < b), "{blocks:?}");
            for q in query..query + queries {
                let span = Span::of(mask, q, key_len);
                for key in 0..key_len {
                    prop_assert_eq!(sees(span, key), mask.visible(q, key), "query {} key {}", q, key);
                    if sees(span, key) {
                        let number = key / block;
                        prop_assert!(blocks.contains(&number));
                        let keys = number * block..((number + 1) * block).min(key_len);
                        let pieces = hull.pieces(&keys, align);
                        prop_assert_eq!(pieces.iter().filter(|piece| piece.contains(&key)).count(), 1);
                        prop_assert!(pieces.iter().all(|piece| keys.start <= piece.start && piece.end <= keys.end));
                    }
                }
            }
        }
    }
}
