//! Passkey retrieval: a number is hidden in filler text and asked for at the end (Mohtashami and Jaggi 2023,
//! section 4.2; the test of every context extension paper since).
//!
//! | variant | key | depth | length | right when |
//! |---|---|---|---|---|
//! | `bowline` | 10000 to 99999 | grid, exact token | exact, answer included | answer's digits come first |
//! | `pi` | 10000 to 99999 | uniform | largest that fits, answer included | answer's digits come first |
//! | `yarn` | 1 to 50000 | uniform | largest below it | first integer in 10 tokens |
//! | `longlora` | 1 to 49999 | drawn from seeds 0 to 9 | 3.75 characters a token | every answer token is equal |
//!
//! The three published variants share one five-line prompt; its wording is part of their definition. Their filler
//! is cut at characters, so a sample's own [`Sample::length`] says how many tokens it has. `longlora` draws from
//! NumPy's legacy generator, seeded with the trial's number, as its script does: keys and depths are the published
//! ones, and at most lengths the ten keys are the same ten.
//!
//! Chen et al. 2023, "Extending context window of large language models via position interpolation", section 3.4;
//! Peng et al. 2023, YaRN, section 4.3.2 and `eval/passkey.py`; Chen et al. 2023, LongLoRA, section 4.2 and
//! `passkey_retrivial.py`.

mod frame;
mod generator;
mod published;
mod scoring;

use std::fmt;
use std::str::FromStr;

pub use generator::Generator;
pub use scoring::Outcome;

pub use crate::task::Sample;

use crate::error::TaskError;
use crate::model::{ModelError, Reply};
use crate::task::{Graded, Task, grid_seed};

/// Which passkey test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// Ours: short frame, exact token lengths and depths.
    Bowline,
    /// The Position Interpolation paper's.
    Pi,
    /// The YaRN repository's.
    Yarn,
    /// The LongLoRA repository's.
    LongLora,
}

impl Variant {
    /// Every variant.
    pub const ALL: [Self; 4] = [Self::Bowline, Self::Pi, Self::Yarn, Self::LongLora];

    /// Name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bowline => "bowline",
            Self::Pi => "pi",
            Self::Yarn => "yarn",
            Self::LongLora => "longlora",
        }
    }

    /// Name and version in a result row; a change of prompts, scoring or what a seed gives raises the version.
    #[must_use]
    pub fn protocol(self) -> String {
        // Since version 2 of ours a trial has one key and one haystack over all depths.
        let version = if self == Self::Bowline { 2 } else { 1 };
        format!("{}-{version}", self.name())
    }

    /// Trials at each length that the publication used; ours has no such number and takes 10.
    #[must_use]
    pub fn published_trials(self) -> usize {
        match self {
            Self::Yarn => 20,
            Self::Bowline | Self::Pi | Self::LongLora => 10,
        }
    }

    /// Whether the publication draws the depth of every trial, instead of walking a grid.
    #[must_use]
    pub fn draws_depth(self) -> bool {
        self != Self::Bowline
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Variant {
    type Err = TaskError;

    fn from_str(name: &str) -> Result<Self, TaskError> {
        Self::ALL.into_iter().find(|v| v.name() == name).ok_or_else(|| TaskError::UnknownVariant(name.to_owned()))
    }
}

impl Task for Generator<'_> {
    fn id(&self) -> &'static str {
        "passkey"
    }

    fn protocol(&self) -> String {
        self.variant().protocol()
    }

    fn metrics(&self) -> &'static [&'static str] {
        &["accuracy", "accuracy_forced"]
    }

    fn sample(&self, length: usize, depth: Option<f64>, seed: u64) -> Result<Sample, TaskError> {
        match depth {
            Some(depth) => self.sample_of_grid(length, depth, seed),
            None => self.sample_drawn(length, seed),
        }
    }

    fn graded(&self, sample: &Sample, reply: &Reply) -> Result<Graded, ModelError> {
        let outcome = self.outcome(sample, reply)?;
        let scores = vec![f64::from(outcome.generated), f64::from(outcome.forced)];
        Ok(Graded { scores, output: outcome.text })
    }

    /// LongLoRA seeds its trials 0, 1, 2, .. at every length, whatever the seed of the run.
    fn trial_seed(&self, seed: u64, length: usize, trial: usize) -> u64 {
        match self.variant() {
            Variant::LongLora => trial as u64,
            _ => grid_seed(seed, length, trial),
        }
    }
}

#[cfg(test)]
mod tests;
