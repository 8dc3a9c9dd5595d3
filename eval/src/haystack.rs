//! Filler of an exact number of tokens, with a needle at an exact token; and the texts that filler comes from.

mod grammar;
mod sentences;
mod source;

use std::ops::Range;

pub use sentences::sentences;
pub use source::Haystack;
pub(crate) use source::{FILLER, Stretch, TokenStream};

use crate::error::TaskError;

/// A needle in its haystack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planted {
    /// Filler, needle, filler.
    pub tokens: Vec<u32>,
    /// Where the needle is.
    pub needle: Range<usize>,
}

/// `count` tokens of `text` from token `start` on, beginning again at its end.
///
/// # Errors
///
/// [`TaskError::EmptyFiller`] when tokens are needed and there are none.
pub fn filled(text: &[u32], start: usize, count: usize) -> Result<Vec<u32>, TaskError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if text.is_empty() {
        return Err(TaskError::EmptyFiller { needed: count });
    }
    Ok((start % text.len()..).take(count).map(|i| text[i % text.len()]).collect())
}

/// Filler tokens before a needle at `depth`: the nearest whole number.
///
/// # Errors
///
/// [`TaskError::Depth`] when `depth` is not in `[0, 1]`.
pub fn tokens_before(filler: usize, depth: f64) -> Result<usize, TaskError> {
    // The comparison is written so that NaN is refused too.
    if !(0.0..=1.0).contains(&depth) {
        return Err(TaskError::Depth(depth));
    }
    Ok((filler as f64 * depth).round() as usize)
}

/// `count` tokens of `text` (from `start`, cyclic) with `needle` put in at `depth`.
///
/// # Errors
///
/// As for [`filled`] and [`tokens_before`].
pub fn planted(text: &[u32], start: usize, count: usize, needle: &[u32], depth: f64) -> Result<Planted, TaskError> {
    let before = tokens_before(count, depth)?;
    let filler = filled(text, start, count)?;
    let tokens = [&filler[..before], needle, &filler[before..]].concat();
    Ok(Planted { tokens, needle: before..before + needle.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needle_sits_at_the_exact_token() {
        let planted = planted(&[1, 2, 3], 1, 4, &[9, 9], 0.5).unwrap();
        assert_eq!(planted.tokens, [2, 3, 9, 9, 1, 2]);
        assert_eq!(planted.needle, 2..4);
    }

    #[test]
    fn depth_zero_is_first_and_depth_one_is_last() {
        assert_eq!(planted(&[1], 0, 3, &[9], 0.0).unwrap().tokens, [9, 1, 1, 1]);
        assert_eq!(planted(&[1], 0, 3, &[9], 1.0).unwrap().tokens, [1, 1, 1, 9]);
    }

    #[test]
    fn depths_outside_the_haystack_are_refused() {
        assert_eq!(planted(&[1], 0, 3, &[9], -0.1), Err(TaskError::Depth(-0.1)));
        assert_eq!(planted(&[1], 0, 3, &[9], 1.5), Err(TaskError::Depth(1.5)));
        assert!(tokens_before(3, f64::NAN).is_err());
    }

    #[test]
    fn filler_without_text_is_refused_only_when_needed() {
        assert_eq!(filled(&[], 0, 0), Ok(Vec::new()));
        assert_eq!(filled(&[], 0, 2), Err(TaskError::EmptyFiller { needed: 2 }));
    }
}
