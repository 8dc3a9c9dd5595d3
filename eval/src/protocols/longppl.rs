//! LongPPL (Fang et al. 2024, "What is wrong with perplexity for long-context language modeling?"): perplexity on the tokens
//! that need a long context.
//!
//! A token is a **key token** when an evaluating model predicts it better from the long context than from a short one, and
//! well: `short - long > 2` and `long < 2`, with negative log-likelihoods in nats (the paper's alpha and -beta). Short contexts
//! slide: from every start `0, 1024, 2048, ..` a window of 4096 tokens is the context of the 1024 tokens behind it, so that a
//! token has between 4096 and 5119 tokens before it, and the first 4096 tokens of a document are never key tokens
//! (PKU-ML/LongPPL, `longppl/longppl.py`). The mean loss of the measured model over key tokens, exponentiated, is LongPPL.
//!
//! Where both models share a tokenizer, as here, key tokens are compared by position; the reference compares stretches of
//! text, which is the same then.

use std::ops::Range;

use ndarray::Array1;

use super::windows::{Reader, Reading};
use crate::error::EvalError;
use crate::metrics::{Bootstrap, Estimate};
use crate::model::LanguageModel;
use crate::monitor::{Monitor, Steps};
use crate::report::{Measurement, Row};

/// When a token is a key token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeyRule {
    /// Least gain of the long context over the short one, in nats (alpha).
    pub gain: f64,
    /// Greatest loss in the long context, in nats (-beta).
    pub loss: f64,
}

impl Default for KeyRule {
    fn default() -> Self {
        Self { gain: 2.0, loss: 2.0 }
    }
}

/// Positions of the key tokens of a document: `short` and `long` hold its negative log-likelihoods in nats by position, and a
/// position without a short context holds none.
///
/// ```
/// use eval::protocols::longppl::{KeyRule, key_tokens};
///
/// let (short, long) = ([None, Some(5.0), Some(5.0), Some(1.5)], [0.1, 1.0, 2.5, 0.1]);
/// assert_eq!(key_tokens(&short, &long, KeyRule::default()), [1]);
/// ```
#[must_use]
pub fn key_tokens(short: &[Option<f64>], long: &[f64], rule: KeyRule) -> Vec<usize> {
    let is_key =
        |short: Option<f64>, long: f64| short.is_some_and(|short| short - long > rule.gain && long < rule.loss);
    (0..short.len().min(long.len())).filter(|&position| is_key(short[position], long[position])).collect()
}

/// Mean loss over the positions in `keys`, and over all of `losses`, exponentiated; none where there is nothing to average.
#[must_use]
pub fn long_perplexity(losses: &[f64], keys: &[usize]) -> (Option<f64>, Option<f64>) {
    let mean = |sum: f64, count: usize| (count > 0).then(|| (sum / count as f64).exp());
    let on_keys: Vec<f64> = keys.iter().filter_map(|&key| losses.get(key).copied()).collect();
    (mean(on_keys.iter().sum(), on_keys.len()), mean(losses.iter().sum(), losses.len()))
}

/// What is read and, in it, what is scored: the short contexts of a document of `tokens` tokens.
#[must_use]
pub fn short_windows(tokens: usize, context: usize, stride: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let starts = (0..tokens.saturating_sub(context)).step_by(stride.max(1));
    starts
        .map(|start| {
            let end = (start + context + stride.max(1)).min(tokens);
            (start..end, start + context..end)
        })
        .collect()
}

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct LongPplOptions {
    /// Tokens of each document, bos included; shorter documents are left out.
    pub length: usize,
    /// Tokens of the short context.
    pub context: usize,
    /// Tokens that share one short context.
    pub stride: usize,
    /// When a token is a key token.
    pub rule: KeyRule,
    /// Resamples of the bootstrap over documents.
    pub resamples: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl LongPplOptions {
    /// The published context, stride and rule at a length; 1000 resamples, seed 0.
    #[must_use]
    pub fn new(length: usize) -> Self {
        Self { length, context: 4096, stride: 1024, rule: KeyRule::default(), resamples: 1000, seed: 0 }
    }
}

/// What a run found.
#[derive(Debug, Clone, PartialEq)]
pub struct LongPpl {
    /// Tokens of each document, bos included.
    pub length: usize,
    /// Perplexity on key tokens; none when no document has any.
    pub on_keys: Option<Estimate>,
    /// Perplexity on all tokens.
    pub on_all: Estimate,
    /// Key tokens of all documents.
    pub keys: u64,
    /// Tokens scored.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
    /// Key tokens were chosen so.
    pub how: String,
}

/// Measures `model` on `documents` (token ids without bos), with key tokens chosen by `evaluator` (the model itself, or a
/// stronger one with the same tokenizer).
///
/// # Errors
///
/// A length not above the short context, no documents of that length, no resamples, or a failing model.
pub fn longppl<D: AsRef<[u32]>>(
    model: &dyn LanguageModel,
    evaluator: &dyn LanguageModel,
    documents: &[D],
    options: &LongPplOptions,
    monitor: &mut Monitor<'_>,
) -> Result<LongPpl, EvalError> {
    let LongPplOptions { length, context, stride, rule, resamples, seed } = *options;
    if context == 0 || stride == 0 || length <= context {
        return Err(EvalError::LengthTooShort(length));
    }
    if resamples == 0 {
        return Err(EvalError::NoResamples);
    }
    let bos = model.bos();
    let needed = length - usize::from(bos.is_some());
    let texts: Vec<(usize, &[u32])> = documents.iter().map(AsRef::as_ref).enumerate().collect();
    let used: Vec<(usize, &[u32])> = texts.iter().copied().filter(|(_, text)| text.len() >= needed).collect();
    if used.is_empty() {
        let longest = texts.iter().map(|(_, text)| text.len()).max().unwrap_or(0);
        return Err(EvalError::AllTooShort { protocol: "LongPPL", documents: texts.len(), needed, longest });
    }
    let (mut key_loss, mut key_count) = (Vec::new(), Vec::new());
    let (mut loss, mut count) = (Vec::new(), Vec::new());
    let mut steps = Steps::new(monitor, used.len());
    for (index, text) in used {
        let sequence: Vec<u32> = bos.into_iter().chain(text[..needed].iter().copied()).collect();
        let (keys, losses) = steps.step(&format!("LongPPL length {length}"), || {
            let losses = bare(model).losses(index, &sequence, length - 1)?;
            let judged = bare(evaluator).losses(index, &sequence, length - 1)?;
            let mut short = vec![None; length - 1];
            let windows = short_windows(length, context, stride);
            let reading = |(read, scored): &(Range<usize>, Range<usize>)| Reading {
                document: index,
                text: &sequence[read.clone()],
                count: scored.len(),
            };
            let readings: Vec<Reading<'_>> = windows.iter().map(reading).collect();
            let mut silent = Monitor::silent();
            let mut uncounted = Steps::new(&mut silent, readings.len());
            let found = bare(evaluator).losses_of_all(&readings, "short contexts", &mut uncounted)?;
            for ((_, scored), found) in windows.into_iter().zip(found) {
                scored.zip(found).for_each(|(position, loss)| short[position - 1] = Some(loss));
            }
            Ok((key_tokens(&short, &judged, rule), losses))
        })?;
        key_loss.push(keys.iter().map(|&key| losses[key]).sum::<f64>());
        key_count.push(keys.len() as f64);
        loss.push(losses.iter().sum::<f64>());
        count.push(losses.len() as f64);
    }
    let documents = loss.len();
    let bootstrap = Bootstrap::new(documents, resamples, seed);
    let ratio = |above: Vec<f64>, below: &[f64]| {
        bootstrap.ratio(Array1::from_vec(above).view(), Array1::from_vec(below.to_vec()).view(), f64::exp)
    };
    let (keys, tokens) = (key_count.iter().sum::<f64>(), count.iter().sum::<f64>());
    Ok(LongPpl {
        length,
        on_keys: (keys > 0.0).then(|| ratio(key_loss, &key_count)),
        on_all: ratio(loss, &count),
        keys: keys as u64,
        tokens: tokens as u64,
        documents: documents as u64,
        how: format!("{keys} key tokens of {tokens}; short context {context}, stride {stride}"),
    })
}

/// A reader of sequences that hold their bos already.
fn bare(model: &dyn LanguageModel) -> Reader<'_> {
    Reader { model, bos: None }
}

impl LongPpl {
    /// The result rows: `perplexity_key_tokens` and `perplexity`, both of the protocol `LongPPL`.
    #[must_use]
    pub fn rows(&self, model: &str, variant: &str) -> Vec<Row> {
        let measured = Measurement::perplexity(model, variant, "LongPPL");
        let row = |metric: &str, estimate: Estimate| Row {
            how: Some(self.how.clone()),
            ..measured.row(self.length, metric, estimate, self.documents)
        };
        let keys = self.on_keys.map(|estimate| row("perplexity_key_tokens", estimate));
        std::iter::once(row("perplexity", self.on_all)).chain(keys).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::{Formula, Uniform};

    #[test]
    fn both_conditions_make_a_key_token() {
        let long = [1.0, 1.9, 2.1, 1.0, 0.0];
        let short = [Some(3.1), Some(4.0), Some(9.0), Some(2.9), None];
        assert_eq!(key_tokens(&short, &long, KeyRule::default()), [0, 1]);
        // Either condition alone would take more.
        assert_eq!(key_tokens(&short, &long, KeyRule { loss: 9.0, ..KeyRule::default() }), [0, 1, 2]);
        assert_eq!(key_tokens(&short, &long, KeyRule { gain: 1.0, ..KeyRule::default() }), [0, 1, 3]);
        assert_eq!(long_perplexity(&[0.0, 1.0, 2.0], &[1, 2]), (Some(1.5_f64.exp()), Some(1.0_f64.exp())));
        assert_eq!(long_perplexity(&[1.0], &[]).0, None);
    }

    #[test]
    fn short_contexts_cover_every_token_behind_the_first_ones_once() {
        for (tokens, context, stride) in [(40, 16, 4), (41, 16, 4), (17, 16, 4), (16, 16, 4), (100, 7, 30)] {
            let windows = short_windows(tokens, context, stride);
            let scored: Vec<usize> = windows.iter().flat_map(|(_, scored)| scored.clone()).collect();
            assert_eq!(scored, (context..tokens).collect::<Vec<_>>());
            for (read, scored) in windows {
                assert_eq!((read.start + context, read.end), (scored.start, scored.end));
                assert!(scored.len() <= stride);
            }
        }
    }

    #[test]
    fn a_model_that_needs_its_context_has_the_losses_worked_out_by_hand() {
        // A token of id 7 costs 1 nat with more than 14 tokens before it and 4 nats with fewer; every other token costs 3.
        let nll = |token: u32, context: usize, _: usize| match token {
            7 if context > 14 => 1.0,
            7 => 4.0,
            _ => 3.0,
        };
        let model = Formula::model(nll, false, 10, None);
        let mut document = vec![1_u32; 20];
        (document[3], document[15], document[18]) = (7, 7, 7);
        let options = LongPplOptions { context: 8, stride: 4, ..LongPplOptions::new(20) };
        let found = longppl(&model, &model, &[document], &options, &mut Monitor::silent()).unwrap();
        // Position 3 has no short context; 15 and 18 have 8 to 11 tokens before them there.
        assert_eq!((found.keys, found.tokens, found.documents), (2, 19, 1));
        assert!((found.on_keys.unwrap().value - 1.0_f64.exp()).abs() < 1e-6);
        let all = (16.0 * 3.0 + 4.0 + 2.0) / 19.0;
        assert!((found.on_all.value - f64::exp(all)).abs() < 1e-5, "{}", found.on_all.value);
        let rows = found.rows("m", "v");
        assert_eq!((rows.len(), rows[1].metric.as_str(), rows[1].length), (2, "perplexity_key_tokens", 20));
    }

    #[test]
    fn a_model_without_context_has_no_key_tokens_and_short_lengths_are_refused() {
        let model = Uniform::model(8, Some(0));
        let options = LongPplOptions { context: 8, stride: 4, ..LongPplOptions::new(16) };
        let found = longppl(&model, &model, &[vec![1; 40]], &options, &mut Monitor::silent()).unwrap();
        assert_eq!((found.on_keys, found.keys, found.rows("m", "v").len()), (None, 0, 1));
        assert!((found.on_all.value - 8.0).abs() < 1e-5);
        let run = |options: &LongPplOptions| longppl(&model, &model, &[vec![1; 40]], options, &mut Monitor::silent());
        assert_eq!(run(&LongPplOptions::new(16)), Err(EvalError::LengthTooShort(16)));
        let long = LongPplOptions { length: 64, ..options };
        assert!(matches!(run(&long), Err(EvalError::AllTooShort { needed: 63, longest: 40, .. })));
    }
}
