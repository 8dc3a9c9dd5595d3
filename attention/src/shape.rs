//! The six sizes of an attention problem and what follows from them.

use std::fmt;

/// Longest length that a problem may have: positions and their differences then fit an `i64` with room to spare.
pub(crate) const MAX_LENGTH: usize = 1 << 40;

/// Sizes of one attention problem: q `[batch, query_heads, query_len, head_dim]`, k and v `[batch, key_heads, key_len,
/// head_dim]`.
///
/// The fields are plain; [`crate::AttnProblem::new`] checks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttnShape {
    /// Sequences side by side.
    pub batch: usize,
    /// Heads of the queries; a multiple of `key_heads`.
    pub query_heads: usize,
    /// Heads of keys and values: as many as query heads (MHA), fewer (GQA) or one (MQA).
    pub key_heads: usize,
    /// Queries in each sequence.
    pub query_len: usize,
    /// Keys in each sequence; more than `query_len` where a cached prefix comes first.
    pub key_len: usize,
    /// Numbers in one query, key or value vector.
    pub head_dim: usize,
}

/// Why sizes do not make a problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// Every size is at least one.
    #[error("{field} of an attention problem must be at least 1, got 0")]
    Zero {
        /// The field of [`AttnShape`].
        field: &'static str,
    },
    /// Query heads share key heads evenly.
    #[error("{query_heads} query heads cannot be shared evenly by {key_heads} key heads")]
    UnevenGroups {
        /// Heads of the queries.
        query_heads: usize,
        /// Heads of keys and values.
        key_heads: usize,
    },
    /// The tensors would hold more elements than can be addressed.
    #[error("attention tensors of shape {shape} are too large to address")]
    TooLarge {
        /// The sizes asked for.
        shape: AttnShape,
    },
}

impl AttnShape {
    /// Query heads that share one key head.
    #[must_use]
    pub fn group(&self) -> usize {
        self.query_heads / self.key_heads
    }

    /// The key head that a query head reads: consecutive query heads share one.
    #[must_use]
    pub fn key_head_of(&self, query_head: usize) -> usize {
        query_head / self.group()
    }

    /// Position of the first query when the last query sits at the last key: `key_len - query_len`.
    ///
    /// Negative when there are more queries than keys; the first rows then see nothing under a causal mask.
    #[must_use]
    pub fn causal_offset(&self) -> i64 {
        signed(self.key_len) - signed(self.query_len)
    }

    /// `[batch, query_heads, query_len, head_dim]`, the shape of q and of the output.
    #[must_use]
    pub fn query_dims(&self) -> [usize; 4] {
        [self.batch, self.query_heads, self.query_len, self.head_dim]
    }

    /// `[batch, key_heads, key_len, head_dim]`, the shape of k and v.
    #[must_use]
    pub fn key_dims(&self) -> [usize; 4] {
        [self.batch, self.key_heads, self.key_len, self.head_dim]
    }

    /// The checks that [`crate::AttnProblem::new`] makes.
    pub(crate) fn check(&self) -> Result<(), ShapeError> {
        let sizes = [
            ("batch", self.batch),
            ("query_heads", self.query_heads),
            ("key_heads", self.key_heads),
            ("query_len", self.query_len),
            ("key_len", self.key_len),
            ("head_dim", self.head_dim),
        ];
        if let Some((field, _)) = sizes.into_iter().find(|&(_, size)| size == 0) {
            return Err(ShapeError::Zero { field });
        }
        if !self.query_heads.is_multiple_of(self.key_heads) {
            let (query_heads, key_heads) = (self.query_heads, self.key_heads);
            return Err(ShapeError::UnevenGroups { query_heads, key_heads });
        }
        let addressable = |dims: [usize; 4]| {
            let elements = dims.into_iter().try_fold(1_usize, usize::checked_mul);
            elements.is_some_and(|n| n <= isize::MAX as usize / size_of::<f64>())
        };
        let lengths_fit = self.query_len <= MAX_LENGTH && self.key_len <= MAX_LENGTH;
        if !lengths_fit || !addressable(self.query_dims()) || !addressable(self.key_dims()) {
            return Err(ShapeError::TooLarge { shape: *self });
        }
        Ok(())
    }
}

impl fmt::Display for AttnShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batch, query_heads, key_heads, query_len, key_len, head_dim } = self;
        write!(f, "batch {batch}, heads {query_heads}/{key_heads}, lengths {query_len}x{key_len}, head {head_dim}")
    }
}

/// A length or index as a position.
pub(crate) fn signed(length: usize) -> i64 {
    // Lengths are at most MAX_LENGTH in a checked problem; saturating keeps unchecked ones from wrapping.
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: AttnShape =
        AttnShape { batch: 1, query_heads: 8, key_heads: 2, query_len: 3, key_len: 5, head_dim: 4 };

    #[test]
    fn consecutive_query_heads_share_a_key_head() {
        let heads: Vec<usize> = (0..8).map(|h| SMALL.key_head_of(h)).collect();
        assert_eq!(heads, [0, 0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn more_queries_than_keys_give_a_negative_offset() {
        assert_eq!(SMALL.causal_offset(), 2);
        assert_eq!(AttnShape { query_len: 7, ..SMALL }.causal_offset(), -2);
    }

    #[test]
    fn every_zero_size_is_named() {
        assert_eq!(SMALL.check(), Ok(()));
        assert_eq!(AttnShape { key_len: 0, ..SMALL }.check(), Err(ShapeError::Zero { field: "key_len" }));
        assert_eq!(AttnShape { key_heads: 0, ..SMALL }.check(), Err(ShapeError::Zero { field: "key_heads" }));
    }

    #[test]
    fn uneven_groups_are_refused_with_both_counts() {
        let shape = AttnShape { key_heads: 3, ..SMALL };
        assert_eq!(shape.check(), Err(ShapeError::UnevenGroups { query_heads: 8, key_heads: 3 }));
    }

    #[test]
    fn sizes_beyond_memory_are_an_error_not_an_overflow() {
        let shape = AttnShape { query_len: usize::MAX / 2, ..SMALL };
        assert_eq!(shape.check(), Err(ShapeError::TooLarge { shape }));
        let shape = AttnShape { batch: 1 << 30, head_dim: 1 << 40, ..SMALL };
        assert_eq!(shape.check(), Err(ShapeError::TooLarge { shape }));
    }
}
