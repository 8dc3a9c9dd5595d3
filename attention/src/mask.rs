//! Which query sees which key.
//!
//! [`RowMask::visible`] is the definition: one line per kind of mask. [`RowMask::tile`] answers the same question for a
//! whole rectangle, so that a kernel may skip what nobody sees and leave alone what everybody sees. A property test ties
//! the two: `tile` is exact, never merely safe.
//!
//! Query `i` stands at position `i + offset` among the keys. With a cached prefix the offset is `key_len - query_len`.

use std::ops::Range;
use std::sync::Arc;

use crate::shape::{AttnShape, MAX_LENGTH, signed};

/// A mask for every sequence of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mask {
    /// Every query sees every key.
    Full,
    /// A query at position `p` sees keys `0..=p`.
    Causal {
        /// Position of query 0.
        offset: i64,
    },
    /// A query at position `p` sees the `size` keys that end with `p`, and the first `sinks` keys up to `p`.
    Window {
        /// Keys in the window, the query's own position included; at least one.
        size: usize,
        /// Keys at the start that stay visible (attention sinks; Xiao et al. 2024, section 3.2); may be zero.
        sinks: usize,
        /// Position of query 0.
        offset: i64,
    },
    /// Causal within the document that holds the query's position.
    Documents {
        /// Where the documents of each sequence start.
        starts: DocumentStarts,
        /// Position of query 0.
        offset: i64,
    },
}

/// Why a mask does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MaskError {
    /// A window holds at least the query's own key.
    #[error("an attention window must hold at least 1 key, got 0")]
    EmptyWindow,
    /// Positions stay far from the ends of `i64`.
    #[error("a query offset of {offset} is out of range: at most {MAX_LENGTH} either way")]
    OffsetOutOfRange {
        /// The offset asked for.
        offset: i64,
    },
    /// The first document starts at key 0.
    #[error("documents of batch row {row} must start at key 0, they start at {first:?}")]
    FirstStart {
        /// Sequence in the batch.
        row: usize,
        /// The first start; none when the list is empty.
        first: Option<usize>,
    },
    /// Starts rise strictly.
    #[error("document starts of batch row {row} must rise, but {next} follows {previous}")]
    StartsNotRising {
        /// Sequence in the batch.
        row: usize,
        /// A start.
        previous: usize,
        /// The one after it.
        next: usize,
    },
    /// A document starts inside the keys.
    #[error("a document of batch row {row} starts at {start}, beyond the {key_len} keys")]
    StartBeyondKeys {
        /// Sequence in the batch.
        row: usize,
        /// The start.
        start: usize,
        /// Keys in the sequence.
        key_len: usize,
    },
    /// One list of starts for each sequence.
    #[error("document starts are given for {rows} batch rows, the problem has {batch}")]
    RowCount {
        /// Lists given.
        rows: usize,
        /// Sequences in the problem.
        batch: usize,
    },
}

/// Where documents start in each sequence of a packed batch: per row, rising, from 0.
///
/// Cheap to clone: layers share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentStarts(Arc<[Box<[usize]>]>);

impl DocumentStarts {
    /// One list of starts for each sequence of the batch.
    ///
    /// # Errors
    ///
    /// [`MaskError::FirstStart`] and [`MaskError::StartsNotRising`].
    pub fn new(rows: Vec<Vec<usize>>) -> Result<Self, MaskError> {
        for (row, starts) in rows.iter().enumerate() {
            if starts.first() != Some(&0) {
                return Err(MaskError::FirstStart { row, first: starts.first().copied() });
            }
            if let Some(pair) = starts.windows(2).find(|pair| pair[0] >= pair[1]) {
                return Err(MaskError::StartsNotRising { row, previous: pair[0], next: pair[1] });
            }
        }
        Ok(Self(rows.into_iter().map(Vec::into_boxed_slice).collect()))
    }

    /// Starts in the sequence `row`.
    ///
    /// # Panics
    ///
    /// When there is no such row: the problem that holds the mask has checked the count.
    #[must_use]
    pub fn row(&self, row: usize) -> &[usize] {
        &self.0[row]
    }

    /// Sequences described.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.0.len()
    }
}

impl Mask {
    /// Causal, with the last query at the last key.
    #[must_use]
    pub fn causal(shape: &AttnShape) -> Self {
        Self::Causal { offset: shape.causal_offset() }
    }

    /// Position of query 0; none for the full mask, which has no order.
    #[must_use]
    pub fn offset(&self) -> Option<i64> {
        match *self {
            Self::Full => None,
            Self::Causal { offset } | Self::Window { offset, .. } | Self::Documents { offset, .. } => Some(offset),
        }
    }

    /// The mask of one sequence.
    ///
    /// # Panics
    ///
    /// When documents were not given for `batch`: the problem that holds the mask has checked the count.
    #[must_use]
    pub fn row(&self, batch: usize) -> RowMask<'_> {
        match self {
            Self::Full => RowMask::Full,
            Self::Causal { offset } => RowMask::Causal { offset: *offset },
            Self::Window { size, sinks, offset } => RowMask::Window { size: *size, sinks: *sinks, offset: *offset },
            Self::Documents { starts, offset } => RowMask::Documents { starts: starts.row(batch), offset: *offset },
        }
    }

    /// Whether the sequences of a batch may have different masks.
    #[must_use]
    pub fn varies_by_row(&self) -> bool {
        matches!(self, Self::Documents { starts, .. } if starts.rows() > 1)
    }

    /// One word for messages: `full`, `causal`, `window`, `documents`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Causal { .. } => "causal",
            Self::Window { .. } => "window",
            Self::Documents { .. } => "documents",
        }
    }

    /// The checks that a problem makes.
    pub(crate) fn check(&self, shape: &AttnShape) -> Result<(), MaskError> {
        if let Some(offset) = self.offset()
            && offset.unsigned_abs() > MAX_LENGTH as u64
        {
            return Err(MaskError::OffsetOutOfRange { offset });
        }
        match self {
            Self::Full | Self::Causal { .. } => Ok(()),
            Self::Window { size: 0, .. } => Err(MaskError::EmptyWindow),
            Self::Window { .. } => Ok(()),
            Self::Documents { starts, .. } => check_starts(starts, shape),
        }
    }
}

/// Documents against the sizes of the problem.
fn check_starts(starts: &DocumentStarts, shape: &AttnShape) -> Result<(), MaskError> {
    if starts.rows() != shape.batch {
        return Err(MaskError::RowCount { rows: starts.rows(), batch: shape.batch });
    }
    for row in 0..starts.rows() {
        // Starts rise, so the last is the largest.
        if let Some(&start) = starts.row(row).last()
            && start >= shape.key_len
        {
            return Err(MaskError::StartBeyondKeys { row, start, key_len: shape.key_len });
        }
    }
    Ok(())
}

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

/// The mask of one sequence; the variants are those of [`Mask`].
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

    #[test]
    fn documents_may_differ_by_row() {
        let starts = DocumentStarts::new(vec![vec![0], vec![0, 1]]).unwrap();
        let mask = Mask::Documents { starts, offset: 0 };
        assert!(mask.varies_by_row());
        assert!(mask.row(0).visible(1, 0));
        assert!(!mask.row(1).visible(1, 0));
    }

    #[test]
    fn bad_masks_name_row_and_values() {
        let shape = AttnShape { batch: 2, query_heads: 1, key_heads: 1, query_len: 4, key_len: 4, head_dim: 2 };
        let starts = |rows| DocumentStarts::new(rows);
        assert_eq!(starts(vec![vec![]]), Err(MaskError::FirstStart { row: 0, first: None }));
        assert_eq!(starts(vec![vec![0], vec![1]]), Err(MaskError::FirstStart { row: 1, first: Some(1) }));
        let twice = MaskError::StartsNotRising { row: 0, previous: 2, next: 2 };
        assert_eq!(starts(vec![vec![0, 2, 2]]), Err(twice));
        let check = |rows| Mask::Documents { starts: starts(rows).unwrap(), offset: 0 }.check(&shape);
        assert_eq!(check(vec![vec![0]]), Err(MaskError::RowCount { rows: 1, batch: 2 }));
        let beyond = MaskError::StartBeyondKeys { row: 1, start: 4, key_len: 4 };
        assert_eq!(check(vec![vec![0], vec![0, 4]]), Err(beyond));
        let window = Mask::Window { size: 0, sinks: 3, offset: 0 };
        assert_eq!(window.check(&shape), Err(MaskError::EmptyWindow));
        let far = Mask::Causal { offset: i64::MIN };
        assert_eq!(far.check(&shape), Err(MaskError::OffsetOutOfRange { offset: i64::MIN }));
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
