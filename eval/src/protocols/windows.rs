//! Which windows a text is cut into, and what a model makes of one of them.

use std::ops::Range;

use crate::error::EvalError;
use crate::model::{LanguageModel, TokenScore};
use crate::monitor::Steps;

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

/// A window to be read: `text` after a bos, of which the last `count` tokens are counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'d> {
    pub(super) document: usize,
    pub(super) text: &'d [u32],
    pub(super) count: usize,
}

impl Reading<'_> {
    fn shape(&self) -> (usize, usize) {
        (self.text.len(), self.count)
    }
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
        let mut found = self.losses_together(&[Reading { document, text, count }])?;
        Ok(found.pop().unwrap_or_default())
    }

    /// The same for every one of `readings`, in their order. Those of one shape go through the model together, as many as it
    /// takes at once; each is a step.
    pub(super) fn losses_of_all(
        &self,
        readings: &[Reading<'_>],
        label: &str,
        steps: &mut Steps<'_, '_>,
    ) -> Result<Vec<Vec<f64>>, EvalError> {
        let mut shapes: Vec<((usize, usize), Vec<usize>)> = Vec::new();
        for (index, reading) in readings.iter().enumerate() {
            match shapes.iter_mut().find(|(shape, _)| *shape == reading.shape()) {
                Some((_, indexes)) => indexes.push(index),
                None => shapes.push((reading.shape(), vec![index])),
            }
        }
        let mut all = vec![Vec::new(); readings.len()];
        for ((length, _), indexes) in shapes {
            let rows = self.model.rows_at_once(length + usize::from(self.bos.is_some())).max(1);
            for indexes in indexes.chunks(rows) {
                let together: Vec<Reading<'_>> = indexes.iter().map(|&index| readings[index]).collect();
                let found = steps.steps(label, together.len(), || self.losses_together(&together))?;
                indexes.iter().zip(found).for_each(|(&index, losses)| all[index] = losses);
            }
        }
        Ok(all)
    }

    /// Losses of readings of one shape, from one pass.
    fn losses_together(&self, readings: &[Reading<'_>]) -> Result<Vec<Vec<f64>>, EvalError> {
        let Some(first) = readings.first() else { return Ok(Vec::new()) };
        let with_bos = |text: &[u32]| self.bos.into_iter().chain(text.iter().copied()).collect::<Vec<u32>>();
        let inputs: Vec<Vec<u32>> = readings.iter().map(|reading| with_bos(reading.text)).collect();
        let length = inputs[0].len();
        let scored = length - first.count.min(length.saturating_sub(1))..length;
        if scored.is_empty() {
            return Ok(vec![Vec::new(); readings.len()]);
        }
        let during = || format!("window of {length} tokens in document {}", first.document);
        let found = match inputs.as_slice() {
            [one] => self.model.score(one, scored.clone()).map(|scores| vec![scores]),
            several => {
                let rows: Vec<&[u32]> = several.iter().map(Vec::as_slice).collect();
                self.model.score_rows(&rows, scored.clone())
            }
        };
        let found = found.map_err(|source| EvalError::Model { during: during(), source })?;
        if found.len() != readings.len() {
            return Err(EvalError::ScoreCount { got: found.len(), asked: readings.len(), during: during() });
        }
        found.iter().zip(readings).map(|(scores, reading)| checked(scores, &scored, reading.document)).collect()
    }
}

/// Losses of the scores of the tokens `scored` of a window that ends with them.
fn checked(scores: &[TokenScore], scored: &Range<usize>, document: usize) -> Result<Vec<f64>, EvalError> {
    let length = scored.end;
    if scores.len() != scored.len() {
        let during = format!("window of {length} tokens in document {document}");
        return Err(EvalError::ScoreCount { got: scores.len(), asked: scored.len(), during });
    }
    let loss = |(i, log_prob): (usize, f32)| {
        if log_prob.is_finite() && log_prob <= ROUNDING {
            return Ok(-f64::from(log_prob));
        }
        Err(EvalError::BadScore { document, position: scored.start + i, length, log_prob })
    };
    scores.iter().map(|score| score.log_prob).enumerate().map(loss).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::Formula;
    use crate::model::{ModelError, Prefix};
    use crate::monitor::Monitor;

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
    fn readings_of_one_shape_go_together_and_come_back_in_order() {
        let model = Rowed(Formula::model(|token, context, _| f64::from(token) + context as f64, false, 20, Some(0)));
        let reader = Reader { model: &model, bos: Some(0) };
        let texts: [&[u32]; 6] = [&[1, 2, 3], &[4, 5], &[6, 7, 8], &[9, 10, 11], &[12, 13], &[14, 15, 16]];
        let readings: Vec<Reading<'_>> =
            texts.iter().enumerate().map(|(document, text)| Reading { document, text, count: 2 }).collect();
        let mut told = Vec::new();
        let found = {
            let mut monitor = Monitor::silent().with_progress(|p| told.push((p.done, p.total)));
            reader.losses_of_all(&readings, "rows", &mut Steps::new(&mut monitor, 6)).unwrap()
        };
        let alone: Vec<Vec<f64>> = readings.iter().map(|r| reader.losses(r.document, r.text, 2).unwrap()).collect();
        assert_eq!(found, alone);
        // Three of the four of length 3, the fourth, and the two of length 2.
        assert_eq!(told, [(3, 6), (4, 6), (6, 6)]);
        let bad = [Reading { document: 7, text: &[1, 2], count: 2 }, Reading { document: 8, text: &[1, 99], count: 2 }];
        let failed = reader.losses_of_all(&bad, "rows", &mut Steps::new(&mut Monitor::silent(), 2)).unwrap_err();
        assert!(matches!(failed, EvalError::Model { .. }), "{failed}");
    }

    /// Takes three rows at once.
    struct Rowed<M>(M);

    impl<M: LanguageModel> LanguageModel for Rowed<M> {
        fn vocab_size(&self) -> usize {
            self.0.vocab_size()
        }
        fn bos(&self) -> Option<u32> {
            self.0.bos()
        }
        fn depends_on_length(&self) -> bool {
            self.0.depends_on_length()
        }
        fn rows_at_once(&self, _: usize) -> usize {
            3
        }
        fn score(&self, tokens: &[u32], scored: Range<usize>) -> Result<Vec<TokenScore>, ModelError> {
            self.0.score(tokens, scored)
        }
        fn score_rows(&self, inputs: &[&[u32]], scored: Range<usize>) -> Result<Vec<Vec<TokenScore>>, ModelError> {
            assert!((2..=3).contains(&inputs.len()) && inputs.iter().all(|input| input.len() == inputs[0].len()));
            inputs.iter().map(|tokens| self.0.score(tokens, scored.clone())).collect()
        }
        fn prefix(&self, tokens: &[u32], total: usize) -> Result<Box<dyn Prefix + '_>, ModelError> {
            self.0.prefix(tokens, total)
        }
    }

    #[test]
    fn the_first_window_is_new_and_later_ones_add_a_stride() {
        let windows = sliding(7, 4, 2);
        let expected = [(0..4, 4), (2..6, 2), (4..7, 1)];
        assert_eq!(windows, expected.map(|(text, new)| Window { text, new }));
    }
}
