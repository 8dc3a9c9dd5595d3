//! One attention problem: everything that decides the answer apart from q, k and v.
//!
//! For query `i` and key `j` of one head (letters as in Dao et al. 2022, section 2; cap as in Gemma 2, section 2):
//!
//! ```text
//! s_ij = scale * (q_i . k_j)
//! s_ij = soft_cap * tanh(s_ij / soft_cap)            if there is a cap
//! s_ij = s_ij - slope * |position(i) - j|            if there is ALiBi
//! s_ij = -inf                                        if the mask hides j from i
//! o_i  = sum_j softmax(s_i)_j v_j,   lse_i = ln sum_j exp(s_ij)
//! ```
//!
//! A row that sees nothing has `o_i = 0` and `lse_i = -inf`.

use crate::bias::{Alibi, AlibiError};
use crate::mask::{Mask, MaskError, Tile};
use crate::shape::{AttnShape, ShapeError};

/// A checked attention problem. Starts full, with the default scale, no bias and no cap; the `with` functions add.
///
/// ```
/// use attention::{AttnProblem, AttnShape, Mask};
///
/// let shape = AttnShape { batch: 1, query_heads: 8, key_heads: 2, query_len: 16, key_len: 48, head_dim: 64 };
/// let problem = AttnProblem::new(shape)?.with_mask(Mask::causal(&shape))?;
/// assert_eq!(problem.scale(), 0.125);
/// assert_eq!(problem.query_offset(), 32);
/// # Ok::<(), attention::ProblemError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct AttnProblem {
    shape: AttnShape,
    scale: f64,
    mask: Mask,
    alibi: Option<Alibi>,
    soft_cap: Option<f64>,
}

/// Why something is not an attention problem.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProblemError {
    /// The sizes.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The mask.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// The slopes.
    #[error(transparent)]
    Alibi(#[from] AlibiError),
    /// The scale is a positive finite number.
    #[error("the scale of attention scores must be finite and positive, got {scale}")]
    Scale {
        /// The scale asked for.
        scale: f64,
    },
    /// The cap is a positive finite number.
    #[error("the soft cap of attention scores must be finite and positive, got {soft_cap}")]
    SoftCap {
        /// The cap asked for.
        soft_cap: f64,
    },
}

impl AttnProblem {
    /// Full attention at scale `1 / sqrt(head_dim)`.
    ///
    /// # Errors
    ///
    /// [`ProblemError::Shape`].
    pub fn new(shape: AttnShape) -> Result<Self, ProblemError> {
        shape.check()?;
        let scale = (shape.head_dim as f64).sqrt().recip();
        Ok(Self { shape, scale, mask: Mask::Full, alibi: None, soft_cap: None })
    }

    /// With another factor on the scores (YaRN's temperature goes in here).
    ///
    /// # Errors
    ///
    /// [`ProblemError::Scale`].
    pub fn with_scale(self, scale: f64) -> Result<Self, ProblemError> {
        if !(scale.is_finite() && scale > 0.0) {
            return Err(ProblemError::Scale { scale });
        }
        Ok(Self { scale, ..self })
    }

    /// With a mask.
    ///
    /// # Errors
    ///
    /// [`ProblemError::Mask`] when it does not fit the sizes.
    pub fn with_mask(self, mask: Mask) -> Result<Self, ProblemError> {
        mask.check(&self.shape)?;
        Ok(Self { mask, ..self })
    }

    /// With ALiBi.
    ///
    /// # Errors
    ///
    /// [`ProblemError::Alibi`] unless there is one slope for each query head.
    pub fn with_alibi(self, alibi: Alibi) -> Result<Self, ProblemError> {
        alibi.check(self.shape.query_heads)?;
        Ok(Self { alibi: Some(alibi), ..self })
    }

    /// With scores bent to stay within plus and minus `soft_cap`.
    ///
    /// # Errors
    ///
    /// [`ProblemError::SoftCap`].
    pub fn with_soft_cap(self, soft_cap: f64) -> Result<Self, ProblemError> {
        if !(soft_cap.is_finite() && soft_cap > 0.0) {
            return Err(ProblemError::SoftCap { soft_cap });
        }
        Ok(Self { soft_cap: Some(soft_cap), ..self })
    }

    /// The sizes.
    #[must_use]
    pub fn shape(&self) -> &AttnShape {
        &self.shape
    }

    /// The factor on `q . k`.
    #[must_use]
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Who sees whom.
    #[must_use]
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// The slopes, if any.
    #[must_use]
    pub fn alibi(&self) -> Option<&Alibi> {
        self.alibi.as_ref()
    }

    /// The cap, if any.
    #[must_use]
    pub fn soft_cap(&self) -> Option<f64> {
        self.soft_cap
    }

    /// Position of query 0 among the keys: the mask's offset; under the full mask the last query sits at the last key.
    #[must_use]
    pub fn query_offset(&self) -> i64 {
        self.mask.offset().unwrap_or_else(|| self.shape.causal_offset())
    }

    /// What the mask says of the whole problem, every sequence together.
    #[must_use]
    pub fn visibility(&self) -> Tile {
        let AttnShape { batch, query_len, key_len, .. } = self.shape;
        let rows = if self.mask.varies_by_row() { batch } else { 1 };
        let first = self.mask.row(0).tile(0..query_len, 0..key_len);
        let same = (1..rows).all(|row| self.mask.row(row).tile(0..query_len, 0..key_len) == first);
        if same { first } else { Tile::Some }
    }

    /// Pairs of a query and a key that it sees, over all sequences and query heads: the work that cannot be avoided.
    /// A forward pass spends `4 * head_dim` operations on each, a backward pass 2.5 times as many (Dao et al. 2022).
    #[must_use]
    pub fn visible_pairs(&self) -> u64 {
        let AttnShape { batch, query_heads, query_len, key_len, .. } = self.shape;
        let row = |b: usize| -> u64 {
            let mask = self.mask.row(b);
            (0..query_len).map(|query| mask.visible_keys(query, key_len) as u64).sum()
        };
        let pairs = if self.mask.varies_by_row() { (0..batch).map(row).sum() } else { row(0) * batch as u64 };
        pairs * query_heads as u64
    }

    /// Whether query `query` of sequence `batch` sees no key at all.
    #[must_use]
    pub fn is_blind(&self, batch: usize, query: usize) -> bool {
        self.mask.row(batch).tile(query..query + 1, 0..self.shape.key_len) == Tile::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> AttnShape {
        AttnShape { batch: 1, query_heads: 2, key_heads: 1, query_len: 2, key_len: 3, head_dim: 16 }
    }

    #[test]
    fn unusable_numbers_are_refused_with_their_value() {
        let problem = || AttnProblem::new(shape()).unwrap();
        assert_eq!(problem().with_scale(0.0), Err(ProblemError::Scale { scale: 0.0 }));
        assert!(matches!(problem().with_scale(f64::NAN), Err(ProblemError::Scale { .. })));
        assert_eq!(problem().with_soft_cap(-1.0), Err(ProblemError::SoftCap { soft_cap: -1.0 }));
        let one = Alibi::new(&[0.5]).unwrap();
        let short = AlibiError::HeadCount { slopes: 1, query_heads: 2 };
        assert_eq!(problem().with_alibi(one), Err(ProblemError::Alibi(short)));
    }

    #[test]
    fn one_query_over_a_cache_sees_everything() {
        let shape = AttnShape { query_len: 1, key_len: 300, ..shape() };
        let problem = AttnProblem::new(shape).unwrap().with_mask(Mask::causal(&shape)).unwrap();
        assert_eq!(problem.visibility(), Tile::All);
        assert!(!problem.is_blind(0, 0));
        assert_eq!(problem.visible_pairs(), 2 * 300);
    }

    #[test]
    fn rows_before_the_first_key_are_blind() {
        let shape = AttnShape { query_len: 5, ..shape() };
        let problem = AttnProblem::new(shape).unwrap().with_mask(Mask::causal(&shape)).unwrap();
        assert_eq!(problem.visibility(), Tile::Some);
        let blind: Vec<bool> = (0..5).map(|query| problem.is_blind(0, query)).collect();
        assert_eq!(blind, [true, true, false, false, false]);
    }
}
