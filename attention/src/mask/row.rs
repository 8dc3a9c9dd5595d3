//! The mask of one sequence: a pair at a time, and a rectangle at a time.

use std::ops::Range;

use crate::shape::signed;

/// What a mask says about a rectangle of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tile {
    /// Every query sees every key.
    All,
    /// Some pairs are visible, some are not.
    Some,
    /// No query sees any key.
    None,
}

/// The mask of one sequence; the variants are those of [`Mask`](super::Mask).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The fields are those of `Mask`, where they are described.
pub enum RowMask<'a> {
    /// Everything.
    Full,
    /// Up to the query's position.
    Causal { offset: i64 },
    /// The last `size` positions, and the first `sinks`.
    Window { size: usize, sinks: usize, offset: i64 },
    /// The query's document, up to its position.
    Documents { starts: &'a [usize], offset: i64 },
}

impl RowMask<'_> {
    /// Whether `query` sees `key`: the definition.
    #[must_use]
    pub fn visible(self, query: usize, key: usize) -> bool {
        let key_position = signed(key);
        let at = |offset: i64| signed(query) + offset;
        match self {
            Self::Full => true,
            Self::Causal { offset } => key_position <= at(offset),
            Self::Window { size, sinks, offset } => {
                key_position <= at(offset) && (at(offset) - key_position < signed(size) || key < sinks)
            }
            Self::Documents { starts, offset } => {
                key_position <= at(offset) && document(starts, key_position) == document(starts, at(offset))
            }
        }
    }

    /// How many of `key_len` keys `query` sees.
    #[must_use]
    pub fn visible_keys(self, query: usize, key_len: usize) -> usize {
        let keys = signed(key_len);
        // Keys up to a position, as many as there are.
        let upto = |position: i64| position.saturating_add(1).clamp(0, keys);
        let at = |offset: i64| signed(query) + offset;
        let seen = match self {
            Self::Full => keys,
            Self::Causal { offset } => upto(at(offset)),
            Self::Window { size, sinks, offset } => {
                let (last, first) = (upto(at(offset)), upto(at(offset).saturating_sub(signed(size))));
                last - first + first.min(signed(sinks))
            }
            Self::Documents { starts, offset } => {
                let first = match document(starts, at(offset)) {
                    0 => 0,
                    document => signed(starts[document - 1]),
                };
                (upto(at(offset)) - first).max(0)
            }
        };
        usize::try_from(seen).unwrap_or(0)
    }

    /// What [`RowMask::visible`] says of every pair in the rectangle; an empty rectangle is [`Tile::None`].
    #[must_use]
    pub fn tile(self, queries: Range<usize>, keys: Range<usize>) -> Tile {
        if queries.is_empty() || keys.is_empty() {
            return Tile::None;
        }
        let (first_key, last_key) = (signed(keys.start), signed(keys.end - 1));
        let at = |offset: i64| (signed(queries.start) + offset, signed(queries.end - 1) + offset);
        match self {
            Self::Full => Tile::All,
            Self::Causal { offset } => {
                let (first, last) = at(offset);
                classify(last_key <= first, first_key <= last)
            }
            Self::Window { size, sinks, offset } => {
                let (first, last) = at(offset);
                let (size, sinks) = (signed(size), signed(sinks));
                // Keys below `sinks` need no window, so only those from `sinks` on must lie inside the last query's.
                let windowed = first_key.max(sinks);
                let all = last_key <= first && (windowed > last_key || last.saturating_sub(windowed) < size);
                let in_window = first_key <= last && first < last_key.saturating_add(size);
                classify(all, in_window || (first_key < sinks && first_key <= last))
            }
            Self::Documents { starts, offset } => {
                let (first, last) = at(offset);
                let one_document = document(starts, first_key) == document(starts, last);
                classify(
                    last_key <= first && one_document,
                    first_key <= last && first < end_of(starts, document(starts, last_key)),
                )
            }
        }
    }
}

/// From "every pair" and "some pair" to the answer.
fn classify(all: bool, any: bool) -> Tile {
    match (all, any) {
        (true, _) => Tile::All,
        (false, true) => Tile::Some,
        (false, false) => Tile::None,
    }
}

/// Number of the document at a position: how many documents have started, zero before the first.
fn document(starts: &[usize], position: i64) -> usize {
    starts.partition_point(|&start| signed(start) <= position)
}

/// First position after a document; the last has no end.
fn end_of(starts: &[usize], document: usize) -> i64 {
    starts.get(document).map_or(i64::MAX, |&start| signed(start))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows_of(mask: RowMask<'_>, queries: usize, keys: usize) -> Vec<String> {
        let cell = |q, k| if mask.visible(q, k) { 'x' } else { '.' };
        (0..queries).map(|q| (0..keys).map(|k| cell(q, k)).collect()).collect()
    }

    #[test]
    fn causal_with_a_cached_prefix_ends_at_the_last_key() {
        assert_eq!(rows_of(RowMask::Causal { offset: 2 }, 3, 5), ["xxx..", "xxxx.", "xxxxx"]);
    }

    #[test]
    fn more_queries_than_keys_leave_the_first_rows_blind() {
        assert_eq!(rows_of(RowMask::Causal { offset: -2 }, 4, 2), ["..", "..", "x.", "xx"]);
    }

    #[test]
    fn a_window_counts_the_query_itself_and_keeps_its_sinks() {
        let mask = RowMask::Window { size: 2, sinks: 1, offset: 0 };
        assert_eq!(rows_of(mask, 5, 5), ["x....", "xx...", "xxx..", "x.xx.", "x..xx"]);
    }

    #[test]
    fn documents_do_not_see_each_other() {
        let mask = RowMask::Documents { starts: &[0, 2, 3], offset: 0 };
        assert_eq!(rows_of(mask, 5, 5), ["x....", "xx...", "..x..", "...x.", "...xx"]);
    }

    /// The same question by asking for every pair.
    fn tile_by_pairs(mask: RowMask<'_>, queries: Range<usize>, keys: Range<usize>) -> Tile {
        let pairs = queries.flat_map(|q| keys.clone().map(move |k| (q, k)));
        let seen: Vec<bool> = pairs.map(|(q, k)| mask.visible(q, k)).collect();
        classify(!seen.is_empty() && seen.iter().all(|&s| s), seen.iter().any(|&s| s))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn a_tile_says_exactly_what_its_pairs_say(
            kind in 0..4_usize,
            offset in -12..12_i64,
            (size, sinks) in (1..10_usize, 0..6_usize),
            cuts in proptest::collection::btree_set(1..20_usize, 0..6),
            (query, queries) in (0..16_usize, 0..8_usize),
            (key, keys) in (0..16_usize, 0..8_usize),
        ) {
            let starts: Vec<usize> = std::iter::once(0).chain(cuts).collect();
            let mask = match kind {
                0 => RowMask::Full,
                1 => RowMask::Causal { offset },
                2 => RowMask::Window { size, sinks, offset },
                _ => RowMask::Documents { starts: &starts, offset },
            };
            let (queries, keys) = (query..query + queries, key..key + keys);
            prop_assert_eq!(mask.visible_keys(query, keys.end), (0..keys.end).filter(|&k| mask.visible(query, k)).count());
            prop_assert_eq!(mask.tile(queries.clone(), keys.clone()), tile_by_pairs(mask, queries, keys));
        }
    }

    #[test]
    fn huge_windows_do_not_overflow() {
        let mask = RowMask::Window { size: usize::MAX, sinks: usize::MAX, offset: 0 };
        assert_eq!(mask.tile(3..9, 0..4), Tile::All);
        assert!(mask.visible(5, 5));
    }
}
