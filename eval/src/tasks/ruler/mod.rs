//! RULER (Hsieh et al. 2024, "RULER: what's the real context size of your long-context language models?"): thirteen tasks,
//! prompts for base models.
//!
//! | task | haystack | asked for | tokens to write | score |
//! |---|---|---|---:|---|
//! | `niah_single_1` | filler | a number | 128 | all |
//! | `niah_single_2` | text | a number | 128 | all |
//! | `niah_single_3` | text | a UUID | 128 | all |
//! | `niah_multikey_1` | text, 3 more needles | a number | 128 | all |
//! | `niah_multikey_2` | needles alone | a number | 128 | all |
//! | `niah_multikey_3` | needles alone, UUID keys | a UUID | 128 | all |
//! | `niah_multivalue` | text | the 4 numbers of a key | 128 | all |
//! | `niah_multiquery` | text | the numbers of 4 keys | 128 | all |
//! | `vt` | filler | 5 variables of a chain | 30 | all |
//! | `cwe` | a numbered list | the 10 common words | 120 | all |
//! | `fwe` | coded words | the 3 most frequent | 50 | all |
//! | `qa_1` | documents of a SQuAD file | an answer | 32 | part |
//! | `qa_2` | documents of a HotpotQA file | an answer | 32 | part |
//!
//! Wordings, counts, token budgets and scoring are those of the reference (NVIDIA/RULER, `scripts/data/synthetic` and
//! `scripts/eval/synthetic/constants.py`, July 2026): a prompt of the template `base` with its answer prefix, prompt and
//! budget together within the length, greedy writing, and
//!
//! * **all** ([`string_match_all`]): the share of the references that the output holds, whatever their case;
//! * **part** ([`string_match_part`]): 1 when it holds any of them.
//!
//! The harness `lm_eval` scores the two QA tasks otherwise (a found answer of k counts 1/k), so their rows are not to be
//! compared with these.
//!
//! What is different here, and why `ruler-1` is not the reference bit for bit: the text is the user's or a seeded one
//! instead of essays that are not ours to ship; keys and list words come from our own lists; random draws come from our own
//! generator; keys and values are always different from one another (the reference leaves that to chance); the bos counts
//! into the length; a list of coded words is as long as fits (the reference moves in steps of a thirty-second of the length);
//! a QA file with too few documents repeats its other documents and never the right ones; and a length below the frame
//! is refused, where the reference never ends.

mod frequent;
mod lists;
mod niah;
mod questions;
mod score;
mod summary;
mod variables;

use std::fmt;
use std::str::FromStr;

pub use score::{cleaned, string_match_all, string_match_part};
pub use summary::{LLAMA2_7B_CHAT_AT_4K, effective_length, summary_rows};

use super::answer::answered;
use super::fit::{Draft, Fitter, Wanted};
use super::qa::QaSet;
use crate::error::TaskError;
use crate::haystack::Haystack;
use crate::model::{ModelError, Reply, TextCodec};
use crate::rng::mixed_seed;
use crate::task::{Graded, Sample, Task, grid_seed};

/// Context lengths of the publication, in tokens.
pub const LENGTHS: [usize; 6] = [4096, 8192, 16_384, 32_768, 65_536, 131_072];

/// Samples of each task and length in the publication.
pub const SAMPLES: usize = 500;

/// One of the thirteen tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RulerTask {
    /// `niah_single_1`: a number in the published filler.
    NiahSingle1,
    /// `niah_single_2`: a number in text.
    NiahSingle2,
    /// `niah_single_3`: a UUID in text.
    NiahSingle3,
    /// `niah_multikey_1`: one of four numbers in text.
    NiahMultikey1,
    /// `niah_multikey_2`: one of as many numbers as fit.
    NiahMultikey2,
    /// `niah_multikey_3`: one of as many pairs of UUIDs as fit.
    NiahMultikey3,
    /// `niah_multivalue`: four numbers of one key.
    NiahMultivalue,
    /// `niah_multiquery`: the numbers of four keys.
    NiahMultiquery,
    /// `vt`: the variables of a chain of assignments.
    VariableTracking,
    /// `cwe`: the ten words that a list holds most often.
    CommonWords,
    /// `fwe`: the three most frequent coded words.
    FrequentWords,
    /// `qa_1`: a SQuAD question.
    Qa1,
    /// `qa_2`: a HotpotQA question.
    Qa2,
}

impl RulerTask {
    /// Every task, in the order of the publication.
    pub const ALL: [Self; 13] = [
        Self::NiahSingle1,
        Self::NiahSingle2,
        Self::NiahSingle3,
        Self::NiahMultikey1,
        Self::NiahMultikey2,
        Self::NiahMultikey3,
        Self::NiahMultivalue,
        Self::NiahMultiquery,
        Self::VariableTracking,
        Self::CommonWords,
        Self::FrequentWords,
        Self::Qa1,
        Self::Qa2,
    ];

    /// The name of the publication, which is the task of a result row.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NiahSingle1 => "niah_single_1",
            Self::NiahSingle2 => "niah_single_2",
            Self::NiahSingle3 => "niah_single_3",
            Self::NiahMultikey1 => "niah_multikey_1",
            Self::NiahMultikey2 => "niah_multikey_2",
            Self::NiahMultikey3 => "niah_multikey_3",
            Self::NiahMultivalue => "niah_multivalue",
            Self::NiahMultiquery => "niah_multiquery",
            Self::VariableTracking => "vt",
            Self::CommonWords => "cwe",
            Self::FrequentWords => "fwe",
            Self::Qa1 => "qa_1",
            Self::Qa2 => "qa_2",
        }
    }

    /// Tokens that the model may write.
    #[must_use]
    pub fn budget(self) -> usize {
        match self {
            Self::VariableTracking => 30,
            Self::CommonWords => 120,
            Self::FrequentWords => 50,
            Self::Qa1 | Self::Qa2 => 32,
            _ => 128,
        }
    }

    /// Whether one reference is enough.
    #[must_use]
    pub fn any_reference(self) -> bool {
        matches!(self, Self::Qa1 | Self::Qa2)
    }
}

impl fmt::Display for RulerTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RulerTask {
    type Err = TaskError;

    fn from_str(name: &str) -> Result<Self, TaskError> {
        Self::ALL.into_iter().find(|t| t.name() == name).ok_or_else(|| TaskError::UnknownRuler(name.to_owned()))
    }
}

/// What prompts are made of.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The text of the haystacks that are text.
    pub text: &'a Haystack,
    /// Questions of `qa_1`, from a SQuAD file.
    pub squad: Option<&'a QaSet>,
    /// Questions of `qa_2`, from a HotpotQA file.
    pub hotpot: Option<&'a QaSet>,
}

/// Makes and scores the samples of one task.
pub struct Ruler<'a> {
    task: RulerTask,
    sources: Sources<'a>,
    fitter: Fitter<'a>,
    variables: variables::Example,
}

impl<'a> Ruler<'a> {
    /// The samples of `task`; `bos` is put before every prompt when it is given.
    ///
    /// # Errors
    ///
    /// [`TaskError::NoQuestionFile`] for a QA task without its file, or when the tokenizer fails.
    pub fn new(
        codec: &'a dyn TextCodec,
        task: RulerTask,
        sources: Sources<'a>,
        bos: Option<u32>,
    ) -> Result<Self, TaskError> {
        let ruler = Self {
            task,
            sources,
            fitter: Fitter::new(codec, bos, task.budget()),
            variables: variables::Example::fitted(codec, task)?,
        };
        if task.any_reference() && ruler.questions().is_none() {
            return Err(TaskError::NoQuestionFile(task.name()));
        }
        Ok(ruler)
    }

    /// The task.
    #[must_use]
    pub fn task(&self) -> RulerTask {
        self.task
    }

    fn questions(&self) -> Option<&'a QaSet> {
        match self.task {
            RulerTask::Qa1 => self.sources.squad,
            RulerTask::Qa2 => self.sources.hotpot,
            _ => None,
        }
    }

    /// Least units of haystack that a sample can have.
    fn least_units(&self, seed: u64) -> usize {
        match (self.task, self.questions()) {
            (RulerTask::VariableTracking, _) => variables::LINES,
            (RulerTask::CommonWords, _) => lists::LEAST_WORDS,
            (RulerTask::FrequentWords, _) => frequent::LEAST_WORDS,
            (_, Some(set)) => questions::question(set, seed).context.len().max(1),
            _ => niah::Shape::of(self.task).map_or(1, |shape| shape.least_units()),
        }
    }

    fn draft(&self, length: usize, units: usize, seed: u64) -> Result<Draft, TaskError> {
        match self.task {
            RulerTask::VariableTracking => Ok(variables::draft(&self.variables, units, seed)),
            RulerTask::CommonWords => Ok(lists::draft(length, units, seed)),
            RulerTask::FrequentWords => Ok(frequent::draft(length, self.task.budget(), units, seed)),
            RulerTask::Qa1 | RulerTask::Qa2 => self
                .questions()
                .map(|set| questions::draft(set, units, seed))
                .ok_or(TaskError::NoQuestionFile(self.task.name())),
            _ => Ok(niah::draft(self.task, self.sources.text, units, seed)),
        }
    }
}

impl Task for Ruler<'_> {
    fn id(&self) -> &'static str {
        self.task.name()
    }

    fn protocol(&self) -> String {
        "ruler-1".to_owned()
    }

    fn metrics(&self) -> &'static [&'static str] {
        &["accuracy"]
    }

    /// RULER draws its depths itself; a depth given is not used.
    fn sample(&self, length: usize, _: Option<f64>, seed: u64) -> Result<Sample, TaskError> {
        let wanted = Wanted { task: self.task.name(), length, least: self.least_units(seed) };
        self.fitter.fitted(wanted, seed, |units, seed| self.draft(length, units, seed))
    }

    fn graded(&self, sample: &Sample, reply: &Reply) -> Result<Graded, ModelError> {
        let answer = answered(self.fitter.codec, sample, reply)?;
        let output = cleaned(&answer.text);
        let score = if self.task.any_reference() {
            string_match_part(&output, &sample.references)
        } else {
            string_match_all(&output, &sample.references)
        };
        Ok(Graded { scores: vec![score], output })
    }

    /// The QA tasks ask the questions of the file in order, the same ones at every length.
    fn trial_seed(&self, seed: u64, length: usize, trial: usize) -> u64 {
        if self.task.any_reference() {
            (mixed_seed(&[seed]) & !0xffff_ffff) | (trial as u64 & 0xffff_ffff)
        } else {
            grid_seed(mixed_seed(&[seed, self.task as u64]), length, trial)
        }
    }
}

#[cfg(test)]
mod tests;
