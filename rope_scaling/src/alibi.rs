//! ALiBi slopes (Press et al. 2022, section 3): head `h` adds `-slope[h] * distance` to its scores.
//!
//! For a power-of-two head count the slopes are the geometric sequence starting at, and with ratio, `2^(-8 / heads)`. Any
//! other count takes the sequence of the power of two below it, then every second slope of the power of two above; the
//! closed form alone would be wrong there. Longer contexts divide the slopes by a scale (position interpolation for
//! ALiBi, Al-Khateeb et al. 2023; BTLM's `alibi_scaling`), fixed or growing with the length.

use serde::Serialize;

use crate::real::Real;

/// Why slopes could not be computed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AlibiError {
    /// A model has at least one head.
    #[error("ALiBi needs at least one head, got 0")]
    NoHeads,
    /// A fixed scale shrinks slopes, never grows them.
    #[error("ALiBi scaling factor must be a finite number of at least 1, got {factor}")]
    Factor {
        /// Factor as given.
        factor: f64,
    },
    /// Length-dependent scaling is relative to a trained context.
    #[error("ALiBi training context must be at least 1 token, got 0")]
    NoTrainContext,
}

/// How slopes shrink for contexts longer than the trained one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlibiScaling {
    /// Slopes as pretrained.
    None,
    /// Slopes divided by `factor` at every length.
    Fixed {
        /// At least 1.
        factor: f64,
    },
    /// Slopes divided by `length / train_context` when that is above 1.
    Dynamic {
        /// Context of the training, in tokens.
        train_context: usize,
    },
}

impl AlibiScaling {
    /// What slopes are divided by at a total length of `length` tokens.
    pub fn scale(&self, length: usize) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Fixed { factor } => *factor,
            Self::Dynamic { train_context } => (f64::count(length) / f64::count(*train_context)).max(1.0),
        }
    }

    /// Whether the same distance may be biased differently at another length.
    pub fn depends_on_length(&self) -> bool {
        matches!(self, Self::Dynamic { .. })
    }

    /// The scaling's name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "alibi",
            Self::Fixed { .. } => "alibi-fixed",
            Self::Dynamic { .. } => "alibi-dynamic",
        }
    }

    fn validate(&self) -> Result<(), AlibiError> {
        match *self {
            Self::Fixed { factor } if !(factor.is_finite() && factor >= 1.0) => Err(AlibiError::Factor { factor }),
            Self::Dynamic { train_context: 0 } => Err(AlibiError::NoTrainContext),
            _ => Ok(()),
        }
    }
}

/// Slopes for `heads` heads, in head order.
///
/// ```
/// assert_eq!(rope_scaling::alibi::slopes(2)?, [1.0 / 16.0, 1.0 / 256.0]);
/// # Ok::<(), rope_scaling::alibi::AlibiError>(())
/// ```
///
/// # Errors
///
/// [`AlibiError::NoHeads`] when `heads` is zero.
pub fn slopes(heads: u16) -> Result<Vec<f64>, AlibiError> {
    if heads == 0 {
        return Err(AlibiError::NoHeads);
    }
    let below = 1_u32 << heads.ilog2();
    let missing = u32::from(heads) - below;
    let between = geometric(2 * below).step_by(2).take(missing as usize);
    Ok(geometric(below).chain(between).collect())
}

/// Slopes for `heads` heads at a total length of `length` tokens, divided by the scaling's [`scale`](AlibiScaling::scale).
///
/// # Errors
///
/// No heads, or a scaling whose parameter cannot stand.
pub fn scaled_slopes(heads: u16, scaling: &AlibiScaling, length: usize) -> Result<Vec<f64>, AlibiError> {
    scaling.validate()?;
    let scale = scaling.scale(length);
    Ok(slopes(heads)?.into_iter().map(|slope| slope / scale).collect())
}

/// The sequence for a power-of-two count.
fn geometric(count: u32) -> impl Iterator<Item = f64> {
    (1..=count).map(move |h| (-8.0 * f64::from(h) / f64::from(count)).exp2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_heads_halve_from_one_half() {
        let expected: Vec<f64> = (1..=8).map(|h| 0.5_f64.powi(h)).collect();
        assert_eq!(slopes(8), Ok(expected));
    }

    #[test]
    fn twelve_heads_append_every_second_slope_of_sixteen() {
        let (eight, sixteen) = (slopes(8).unwrap(), slopes(16).unwrap());
        let twelve = slopes(12).unwrap();
        assert_eq!(twelve[..8], eight);
        assert_eq!(twelve[8..], [sixteen[0], sixteen[2], sixteen[4], sixteen[6]]);
    }

    #[test]
    fn btlm_and_forty_heads_have_their_published_slopes() {
        let close = |got: f64, wanted: f64| assert!((got - wanted).abs() < 5e-5, "{got} against {wanted}");
        let (btlm, forty) = (slopes(32).unwrap(), slopes(40).unwrap());
        close(btlm[0], 0.8409);
        close(btlm[31], 0.0039);
        close(forty[32], 0.9170);
        close(forty[33], 0.7711);
    }

    #[test]
    fn closed_form_is_rejected_at_twelve_and_forty_heads() {
        for heads in [12_u16, 40] {
            let closed_form: Vec<f64> = geometric(u32::from(heads)).collect();
            assert_ne!(slopes(heads).unwrap(), closed_form, "{heads} heads");
        }
    }

    #[test]
    fn zero_heads_is_an_error() {
        assert_eq!(slopes(0), Err(AlibiError::NoHeads));
    }

    #[test]
    fn the_largest_head_count_has_as_many_slopes() {
        assert_eq!(slopes(u16::MAX).unwrap().len(), usize::from(u16::MAX));
    }

    #[test]
    fn fixed_scaling_divides_at_every_length() {
        let scaling = AlibiScaling::Fixed { factor: 2.0 };
        for length in [1, 8192, 100_000] {
            assert_eq!(scaled_slopes(2, &scaling, length).unwrap(), [1.0 / 32.0, 1.0 / 512.0]);
        }
    }

    #[test]
    fn dynamic_scaling_starts_beyond_the_trained_context() {
        let scaling = AlibiScaling::Dynamic { train_context: 8192 };
        assert_eq!(scaled_slopes(2, &scaling, 4096), slopes(2));
        assert_eq!(scaled_slopes(2, &scaling, 8192), slopes(2));
        assert_eq!(scaled_slopes(2, &scaling, 16_384).unwrap(), [1.0 / 32.0, 1.0 / 512.0]);
        assert!(scaled_slopes(2, &scaling, 8193).unwrap()[0] < 1.0 / 16.0);
    }

    #[test]
    fn scalings_that_cannot_stand_are_errors() {
        for factor in [0.5, 0.0, f64::NAN, f64::INFINITY] {
            let error = scaled_slopes(8, &AlibiScaling::Fixed { factor }, 1);
            assert!(matches!(error, Err(AlibiError::Factor { .. })), "{factor}");
        }
        let error = scaled_slopes(8, &AlibiScaling::Dynamic { train_context: 0 }, 1);
        assert_eq!(error, Err(AlibiError::NoTrainContext));
    }
}
