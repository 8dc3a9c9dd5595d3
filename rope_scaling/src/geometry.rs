//! What is rotated: head size, rotary size, base and original context.

use serde::Serialize;

use crate::error::GeometryError;

/// The fixed part of a rotary embedding, checked once.
///
/// The original context lives here and nowhere else, so that it cannot disagree with itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RopeGeometry {
    head_dim: usize,
    rotary_dim: usize,
    base: f64,
    original_context: usize,
}

impl RopeGeometry {
    /// Checks and keeps `head_dim` channels per head, `rotary_dim` of which are rotated with base `base` (`theta`), for
    /// a model pretrained on `original_context` tokens.
    ///
    /// # Errors
    ///
    /// Odd or zero sizes, `rotary_dim > head_dim`, a base that is not finite and positive, a zero context.
    pub fn new(head_dim: usize, rotary_dim: usize, base: f64, original_context: usize) -> Result<Self, GeometryError> {
        if head_dim < 2 || !head_dim.is_multiple_of(2) {
            return Err(GeometryError::HeadDim { head_dim });
        }
        if rotary_dim < 2 || !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim {
            return Err(GeometryError::RotaryDim { rotary_dim, head_dim });
        }
        if !(base.is_finite() && base > 0.0) {
            return Err(GeometryError::Base { base });
        }
        if original_context == 0 {
            return Err(GeometryError::OriginalContext { original_context });
        }
        Ok(Self { head_dim, rotary_dim, base, original_context })
    }

    /// A LLaMA geometry that takes the place of one that was refused while the rest of a config is judged.
    pub(crate) fn stand_in() -> Self {
        Self { head_dim: 128, rotary_dim: 128, base: 10_000.0, original_context: 4096 }
    }

    /// Channels of one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Leading channels of a head that are rotated.
    pub fn rotary_dim(&self) -> usize {
        self.rotary_dim
    }

    /// Rotated pairs of channels, `rotary_dim / 2`.
    pub fn pairs(&self) -> usize {
        self.rotary_dim / 2
    }

    /// Base of the frequencies (`rope_theta`).
    pub fn base(&self) -> f64 {
        self.base
    }

    /// Context of the pretraining, in tokens.
    pub fn original_context(&self) -> usize {
        self.original_context
    }

    /// The same geometry with another base.
    ///
    /// # Errors
    ///
    /// A base that is not finite and positive.
    pub fn with_base(self, base: f64) -> Result<Self, GeometryError> {
        Self::new(self.head_dim, self.rotary_dim, base, self.original_context)
    }

    /// The same geometry with another original context.
    ///
    /// # Errors
    ///
    /// A context of zero tokens.
    pub fn with_original_context(self, original_context: usize) -> Result<Self, GeometryError> {
        Self::new(self.head_dim, self.rotary_dim, self.base, original_context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_geometry_is_kept_as_given() {
        let geometry = RopeGeometry::new(128, 64, 1e6, 8192).unwrap();
        assert_eq!((geometry.head_dim(), geometry.rotary_dim(), geometry.pairs()), (128, 64, 32));
        assert_eq!((geometry.base(), geometry.original_context()), (1e6, 8192));
    }

    #[test]
    fn bad_sizes_are_refused_with_their_values() {
        assert_eq!(RopeGeometry::new(127, 126, 1e4, 1), Err(GeometryError::HeadDim { head_dim: 127 }));
        assert_eq!(RopeGeometry::new(0, 0, 1e4, 1), Err(GeometryError::HeadDim { head_dim: 0 }));
        let refused = Err(GeometryError::RotaryDim { rotary_dim: 66, head_dim: 64 });
        assert_eq!(RopeGeometry::new(64, 66, 1e4, 1), refused);
        assert!(RopeGeometry::new(64, 31, 1e4, 1).is_err());
        assert!(RopeGeometry::new(64, 0, 1e4, 1).is_err());
        assert!(RopeGeometry::new(64, 64, 1e4, 0).is_err());
    }

    #[test]
    fn a_base_that_is_not_a_positive_number_is_refused() {
        for base in [0.0, -1e4, f64::NAN, f64::INFINITY] {
            assert!(matches!(RopeGeometry::new(64, 64, base, 1), Err(GeometryError::Base { .. })), "{base}");
        }
    }
}
