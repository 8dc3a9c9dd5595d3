//! ALiBi (Press et al. 2022, section 3): head `h` adds `-slope[h] * distance` to its scores.
//!
//! The distance is `|query position - key position|`, so that the bias is also defined where no mask orders queries and
//! keys. Where the slopes come from (head count, position scaling) is the business of `rope_scaling`; this is what
//! attention needs of them.

use std::sync::Arc;

use crate::shape::signed;

/// One slope for each query head, per position of distance. Cheap to clone: layers share one.
#[derive(Debug, Clone, PartialEq)]
pub struct Alibi(Arc<[f64]>);

/// Why slopes are not usable.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AlibiError {
    /// A slope is a finite number, at least zero: a negative one would reward distance.
    #[error("the ALiBi slope of head {head} must be finite and at least 0, got {slope}")]
    BadSlope {
        /// Query head.
        head: usize,
        /// Its slope.
        slope: f64,
    },
    /// One slope for each query head.
    #[error("{slopes} ALiBi slopes were given for {query_heads} query heads")]
    HeadCount {
        /// Slopes given.
        slopes: usize,
        /// Query heads of the problem.
        query_heads: usize,
    },
}

impl Alibi {
    /// Slopes in the order of the query heads.
    ///
    /// # Errors
    ///
    /// [`AlibiError::BadSlope`] for a slope that is negative or not finite.
    pub fn new(slopes: &[f64]) -> Result<Self, AlibiError> {
        let bad = slopes.iter().enumerate().find(|(_, slope)| !slope.is_finite() || **slope < 0.0);
        match bad {
            Some((head, &slope)) => Err(AlibiError::BadSlope { head, slope }),
            None => Ok(Self(slopes.into())),
        }
    }

    /// The slopes, in the order of the query heads.
    #[must_use]
    pub fn slopes(&self) -> &[f64] {
        &self.0
    }

    /// What head `head` adds to the score of a query at `query_position` and key `key`.
    ///
    /// # Panics
    ///
    /// When there is no such head: the problem that holds the slopes has checked the count.
    #[must_use]
    pub fn bias(&self, head: usize, query_position: i64, key: usize) -> f64 {
        -self.0[head] * (query_position - signed(key)).unsigned_abs() as f64
    }

    /// The check that a problem makes.
    pub(crate) fn check(&self, query_heads: usize) -> Result<(), AlibiError> {
        if self.0.len() == query_heads {
            return Ok(());
        }
        Err(AlibiError::HeadCount { slopes: self.0.len(), query_heads })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bias_falls_with_distance_on_both_sides() {
        let alibi = Alibi::new(&[0.5, 0.25]).unwrap();
        assert_eq!(alibi.bias(0, 3, 1), -1.0);
        assert_eq!(alibi.bias(1, 3, 7), -1.0);
        assert_eq!(alibi.bias(1, -2, 0), -0.5);
    }

    #[test]
    fn bad_slopes_name_head_and_value() {
        assert_eq!(Alibi::new(&[0.5, -1.0]), Err(AlibiError::BadSlope { head: 1, slope: -1.0 }));
        assert!(matches!(Alibi::new(&[f64::NAN]), Err(AlibiError::BadSlope { head: 0, .. })));
        let two = Alibi::new(&[0.5, 0.25]).unwrap();
        assert_eq!(two.check(4), Err(AlibiError::HeadCount { slopes: 2, query_heads: 4 }));
    }
}
