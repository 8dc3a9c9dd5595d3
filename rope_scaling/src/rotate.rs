//! The reference rotation: f64, one head vector, nothing clever.

use crate::error::PositionError;
use crate::real::Real;
use crate::scaling::Frequencies;
use crate::table::Pairing;

/// `head` rotated to `position` (Su et al. 2021, equation 15), attention factor multiplied into the rotated channels.
///
/// Channels beyond the rotated pairs pass unchanged.
///
/// # Errors
///
/// [`PositionError::HeadTooShort`] when `head` has fewer channels than the pairs need.
pub fn rotated(
    head: &[f64],
    position: usize,
    frequencies: &Frequencies,
    pairing: Pairing,
) -> Result<Vec<f64>, PositionError> {
    let pairs = frequencies.inv_freq.len();
    if head.len() < 2 * pairs {
        return Err(PositionError::HeadTooShort { channels: head.len(), pairs });
    }
    let mut result = head.to_vec();
    for (pair, frequency) in frequencies.at(position).iter().enumerate() {
        let (first, second) = match pairing {
            Pairing::HalfSplit => (pair, pair + pairs),
            Pairing::Interleaved => (2 * pair, 2 * pair + 1),
        };
        let (sin, cos) = (f64::count(position) * frequency).sin_cos();
        let (x, y) = (head[first], head[second]);
        result[first] = (x * cos - y * sin) * frequencies.attention_factor;
        result[second] = (x * sin + y * cos) * frequencies.attention_factor;
    }
    Ok(result)
}
