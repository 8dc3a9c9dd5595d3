//! Which windows a text is cut into, and what a model makes of one of them.

use std::ops::Range;

use crate::error::EvalError;
use crate::model::LanguageModel;

/// A log-probability may exceed 0 by the rounding of a log-sum-exp in single precision, not by more.
const ROUNDING: f32 = 1e-3;

/// Part of a text, of which the last tokens are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    /// Tokens of text, bos not among them.
    pub(super) text: Range<usize>,
    /// How many tokens at its end no earlier window has counted.
    pub(super) new: usize,
}

/// Windows of up to `capacity` tokens that begin every `stride` tokens and stop with the one that reaches the end.
pub(super) fn sliding(tokens: usize, capacity: usize, stride: usize) -> Vec<Window> {
    let mut windows = Vec::new();
    let mut counted = 0;
    for start in (0..tokens).step_by(stride) {
        let end = tokens.min(start + capacity);
        windows.push(Window { text: start..end, new: end - counted });
        counted = end;
        if end == tokens {
            break;
        }
    }
    windows
}

/// A model at work on the documents.
#[derive(Clone, Copy)]
pub(super) struct Reader<'m> {
    pub(super) model: &'m dyn LanguageModel,
    pub(super) bos: Option<u32>,
}

impl Reader<'_> {
    /// Tokens of text in a window of `length` tokens.
    pub(super) fn capacity(&self, length: usize) -> usize {
        length - usize::from(self.bos.is_some())
    }

    /// Fewest tokens of text with one to predict.
    pub(super) fn least_text(&self) -> usize {
        2 - usize::from(self.bos.is_some())
    }

    /// Negative log-likelihoods in nats of the last `count` tokens of `text`, which the model reads after a bos. A first
    /// token that has nothing before it is not among them.
    pub(super) fn losses(&self, document: usize, text: &[u32], count: usize) -> Result<Vec<f64>, EvalError> {
        let input: Vec<u32> = self.bos.into_iter().chain(text.iter().copied()).collect();
        let first = input.len() - count.min(input.len().saturating_sub(1));
        if first >= input.len() {
            return Ok(Vec::new());
        }
        let during = || format!("window of {} tokens in document {document}", input.len());
        let scores = self
            .model
            .score(&input, first..input.len())
            .map_err(|source| EvalError::Model { during: during(), source })?;
        if scores.len() != input.len() - first {
            return Err(EvalError::ScoreCount { got: scores.len(), asked: input.len() - first, during: during() });
        }
        let loss = |(i, log_prob): (usize, f32)| {
            if log_prob.is_finite() && log_prob <= ROUNDING {
                return Ok(-f64::from(log_prob));
            }
            Err(EvalError::BadScore { document, position: first + i, length: input.len(), log_prob })
        };
        scores.iter().map(|score| score.log_prob).enumerate().map(loss).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sliding_windows_count_every_token_once() {
        for tokens in 1..40 {
            for capacity in 1..12 {
                for stride in 1..=capacity {
                    let windows = sliding(tokens, capacity, stride);
                    assert_eq!(windows.iter().map(|w| w.new).sum::<usize>(), tokens);
                    assert!(windows.iter().all(|w| w.new >= 1 && w.new <= w.text.len() && w.text.len() <= capacity));
                    assert_eq!(windows.last().unwrap().text.end, tokens);
                }
            }
        }
    }

    #[test]
    fn the_first_window_is_new_and_later_ones_add_a_stride() {
        let windows = sliding(7, 4, 2);
        let expected = [(0..4, 4), (2..6, 2), (4..7, 1)];
        assert_eq!(windows, expected.map(|(text, new)| Window { text, new }));
    }
}
