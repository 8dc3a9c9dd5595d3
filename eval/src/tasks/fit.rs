//! As many units of haystack as fit a length: prompts that are written as text and tokenized whole.
//!
//! How many units fit is found once for each length, by bisection on a probe sample; another sample that comes out longer
//! gives up units until it fits. A frame that does not fit is refused with the least length. Every loop here ends, also
//! with a tokenizer that makes no tokens at all.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::error::TaskError;
use crate::model::{ModelError, TextCodec};
use crate::task::Sample;

/// A prompt as text.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    pub(super) text: String,
    /// What a teacher-forced model reads next; empty where the protocol has no such form.
    pub(super) answer: String,
    pub(super) references: Vec<String>,
    pub(super) depth: Option<f64>,
}

/// What stays the same for every sample of a task.
pub(super) struct Fitter<'a> {
    pub(super) codec: &'a dyn TextCodec,
    pub(super) bos: Option<u32>,
    /// Tokens kept free for the model's words where the draft has no answer of its own.
    pub(super) budget: usize,
    sizes: Mutex<BTreeMap<usize, usize>>,
}

/// Names a sample in an error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'w> {
    pub(super) task: &'w str,
    pub(super) length: usize,
    /// Least units that a sample can have.
    pub(super) least: usize,
}

/// The seed of the sample on which sizes are found, whatever the seed of the run.
const PROBE: u64 = 42;

impl<'a> Fitter<'a> {
    pub(super) fn new(codec: &'a dyn TextCodec, bos: Option<u32>, budget: usize) -> Self {
        Self { codec, bos, budget, sizes: Mutex::new(BTreeMap::new()) }
    }

    /// The largest sample of `draft(units, seed)` that fits, starting from the size that fits the probe.
    pub(super) fn fitted(
        &self,
        wanted: Wanted<'_>,
        seed: u64,
        draft: impl Fn(usize, u64) -> Result<Draft, TaskError>,
    ) -> Result<Sample, TaskError> {
        let Wanted { task, length, least } = wanted;
        let mut units = self.probed(wanted, &draft)?;
        loop {
            let sample = self.sample(draft(units, seed)?)?;
            if sample.length <= length {
                return Ok(sample);
            }
            if units <= least {
                return Err(TaskError::TooShort { task: task.to_owned(), length, least: sample.length });
            }
            let per_unit = (sample.length / units).max(1);
            units = units.saturating_sub(((sample.length - length) / per_unit).max(1)).max(least);
        }
    }

    fn sample(&self, draft: Draft) -> Result<Sample, TaskError> {
        let mut tokens: Vec<u32> = self.bos.into_iter().collect();
        let (text, answer) = if draft.answer.is_empty() {
            (self.codec.encode(&draft.text)?, Vec::new())
        } else {
            split(self.codec, &draft.text, &draft.answer)?
        };
        tokens.extend(text);
        let budget = if answer.is_empty() { self.budget } else { answer.len() };
        Ok(Sample {
            length: tokens.len() + budget,
            tokens,
            answer,
            key: draft.references.join(", "),
            references: draft.references,
            depth: draft.depth,
            budget,
            ..Sample::default()
        })
    }

    fn used(&self, draft: &Draft) -> Result<usize, ModelError> {
        let text = self.codec.encode(&format!("{}{}", draft.text, draft.answer))?.len();
        let budget = if draft.answer.is_empty() { self.budget } else { 0 };
        Ok(text + budget + usize::from(self.bos.is_some()))
    }

    /// Units that fit the probe at a length; the least ones where none fit.
    fn probed(
        &self,
        wanted: Wanted<'_>,
        draft: &impl Fn(usize, u64) -> Result<Draft, TaskError>,
    ) -> Result<usize, TaskError> {
        let Wanted { length, least, .. } = wanted;
        // A poisoned map still holds only finished entries.
        let known = self.sizes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&length).copied();
        if let Some(units) = known {
            return Ok(units);
        }
        let fits = |units: usize| -> Result<bool, TaskError> { Ok(self.used(&draft(units, PROBE)?)? <= length) };
        // A unit is at least a word, and a word at least a token, unless the tokenizer is broken.
        let most = least + 4 * length + 64;
        let mut fitting = least;
        if fits(least)? {
            let mut step = 1;
            while fitting + step <= most && fits(fitting + step)? {
                fitting += step;
                step *= 2;
            }
            let mut too_many = (fitting + step).min(most + 1);
            while too_many - fitting > 1 {
                let middle = fitting + (too_many - fitting) / 2;
                if fits(middle)? { fitting = middle } else { too_many = middle }
            }
        }
        self.sizes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(length, fitting);
        Ok(fitting)
    }
}

/// Prompt and answer tokens of `text` followed by `answer`, tokenized in one go.
fn split(codec: &dyn TextCodec, text: &str, answer: &str) -> Result<(Vec<u32>, Vec<u32>), TaskError> {
    let head = codec.encode(text)?;
    let whole = codec.encode(&format!("{text}{answer}"))?;
    match whole.strip_prefix(head.as_slice()) {
        Some(tail) if codec.decode(tail)?.trim() == answer.trim() => {
            let tail = tail.to_vec();
            Ok((head, tail))
        }
        _ => Err(TaskError::AnswerNotSeparable { key: answer.trim().to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::ByteCodec;

    fn draft(units: usize, _: u64) -> Result<Draft, TaskError> {
        Ok(Draft { text: "x".repeat(10 + 7 * units), ..Draft::default() })
    }

    #[test]
    fn the_most_units_that_fit_are_taken() {
        let fitter = Fitter::new(&ByteCodec, Some(256), 5);
        for length in 23..400 {
            let sample = fitter.fitted(Wanted { task: "t", length, least: 1 }, 1, draft).unwrap();
            assert!(sample.length <= length && sample.length + 7 > length, "{length}: {}", sample.length);
        }
    }

    #[test]
    fn a_length_below_the_frame_is_refused_with_the_least() {
        let fitter = Fitter::new(&ByteCodec, None, 5);
        let wanted = Wanted { task: "t", length: 21, least: 1 };
        let error = fitter.fitted(wanted, 1, draft).unwrap_err();
        assert_eq!(error, TaskError::TooShort { task: "t".into(), length: 21, least: 22 });
        assert!(fitter.fitted(Wanted { length: 22, ..wanted }, 1, draft).is_ok());
    }

    #[test]
    fn samples_longer_than_the_probe_give_up_units() {
        let fitter = Fitter::new(&ByteCodec, None, 0);
        let wider = |units: usize, seed: u64| {
            let width = if seed == PROBE { 7 } else { 9 };
            Ok(Draft { text: "x".repeat(10 + width * units), ..Draft::default() })
        };
        let sample = fitter.fitted(Wanted { task: "t", length: 200, least: 1 }, 1, wider).unwrap();
        assert!(sample.length <= 200 && sample.length > 200 - 9, "{}", sample.length);
    }

    #[test]
    fn a_tokenizer_without_tokens_ends_in_a_sample_and_not_in_a_loop() {
        struct Mute;
        impl TextCodec for Mute {
            fn encode(&self, _: &str) -> Result<Vec<u32>, ModelError> {
                Ok(Vec::new())
            }
            fn decode(&self, _: &[u32]) -> Result<String, ModelError> {
                Ok(String::new())
            }
        }
        let fitter = Fitter::new(&Mute, None, 1);
        assert!(fitter.fitted(Wanted { task: "t", length: 10, least: 1 }, 1, draft).is_ok());
    }
}
