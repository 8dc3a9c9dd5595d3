//! What every retrieval task offers to the runner.

use std::ops::Range;

use crate::error::TaskError;
use crate::model::{LanguageModel, ModelError, Question, Reply};
use crate::rng::mixed_seed;

/// One prompt and its answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sample {
    /// The prompt, bos included.
    pub tokens: Vec<u32>,
    /// What follows the prompt when the model is right; empty where a protocol has no teacher-forced form.
    pub answer: Vec<u32>,
    /// The answer as text, for example `31337`.
    pub key: String,
    /// What the output is searched for; how many of them count is the protocol's rule.
    pub references: Vec<String>,
    /// Share of the haystack before the first needle that is asked for, from 0 to 1; none where a task has no needle.
    pub depth: Option<f64>,
    /// Tokens of [`Sample::tokens`] that hold the first needle that is asked for; empty where a task does not know.
    pub needle: Range<usize>,
    /// Tokens that the model may write.
    pub budget: usize,
    /// Tokens of the context that the sample takes: prompt and answer, or prompt and budget where the protocol says so.
    pub length: usize,
}

impl Sample {
    /// Prompt and answer in one sequence, as training reads it.
    #[must_use]
    pub fn with_answer(&self) -> Vec<u32> {
        [self.tokens.as_slice(), self.answer.as_slice()].concat()
    }

    /// What a model is asked.
    #[must_use]
    pub fn question(&self) -> Question<'_> {
        Question { prompt: &self.tokens, answer: &self.answer, count: self.budget }
    }

    /// Positions of the answer in [`Sample::with_answer`].
    #[must_use]
    pub fn answer_range(&self) -> Range<usize> {
        self.tokens.len()..self.tokens.len() + self.answer.len()
    }
}

/// How a model did on one sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Graded {
    /// One score from 0 to 1 for each metric, in the order of [`Task::metrics`].
    pub scores: Vec<f64>,
    /// What the model wrote.
    pub output: String,
}

/// A task that can be run at any context length.
pub trait Task {
    /// Name in [`crate::report::Row::task`].
    fn id(&self) -> &'static str;

    /// Variant and version in [`crate::report::Row::protocol`], such as `bowline-2`.
    fn protocol(&self) -> String;

    /// Names of the metrics, in the order in which [`Task::graded`] answers.
    fn metrics(&self) -> &'static [&'static str];

    /// A sample of `length` tokens with its needle at `depth`; none lets the seed choose the depth.
    ///
    /// # Errors
    ///
    /// When the depth is outside `[0, 1]`, the length too short, or the tokenizer fails.
    fn sample(&self, length: usize, depth: Option<f64>, seed: u64) -> Result<Sample, TaskError>;

    /// How good a reply to [`Sample::question`] is, for each metric.
    ///
    /// # Errors
    ///
    /// When the tokenizer fails.
    fn graded(&self, sample: &Sample, reply: &Reply) -> Result<Graded, ModelError>;

    /// How well the model does on the sample, for each metric.
    ///
    /// # Errors
    ///
    /// When the model or the tokenizer fails.
    fn score(&self, model: &dyn LanguageModel, sample: &Sample) -> Result<Graded, ModelError> {
        let replies = model.replies(&[sample.question()])?;
        replies
            .first()
            .map_or_else(|| Err(ModelError("the model gave no reply".to_owned())), |r| self.graded(sample, r))
    }

    /// The seed of one trial: every model sees the same samples. A trial has one seed over all depths, so that it asks for
    /// the same thing in the same haystack at each of them; what comes before the needle is then read once.
    fn trial_seed(&self, seed: u64, length: usize, trial: usize) -> u64 {
        grid_seed(seed, length, trial)
    }
}

/// A seed of its own for every trial at every length.
pub(crate) fn grid_seed(seed: u64, length: usize, trial: usize) -> u64 {
    // The zero stood for the depth when every depth had a seed of its own; samples of drawn depths stay what they were.
    mixed_seed(&[seed, length as u64, 0, trial as u64])
}
