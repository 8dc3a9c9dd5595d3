//! Which query sees which key.
//!
//! [`RowMask::visible`] is the definition: one line per kind of mask. [`RowMask::tile`] answers the same question for a
//! whole rectangle, so that a kernel may skip what nobody sees and leave alone what everybody sees. A property test ties
//! the two: `tile` is exact, never merely safe.
//!
//! Query `i` stands at position `i + offset` among the keys. With a cached prefix the offset is `key_len - query_len`.

use std::sync::Arc;

use crate::shape::{AttnShape, MAX_LENGTH};

mod row;

pub use row::{RowMask, Tile};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
