//! The four perplexity evaluators of the field, which are four different numbers.
//!
//! | | windows | counted | published average |
//! |---|---|---|---|
//! | P1 | slide by S inside a document | the first window's tokens, then the newest of each window | exp of the mean over windows |
//! | P2 | the first N tokens of a document | all | exp of the mean over documents of their means |
//! | P3 | slide by S over all documents as one stream | all tokens of every window | exp of the mean over windows |
//! | P4 | as P1, side by side unless a stride is given | as P1 | exp of the mean over tokens |
//!
//! P1: Press et al. 2022 and Chen et al. 2023 (PI), averaged as `eval/perplexity.py` of the YaRN repository does;
//! P2: the same script with `--truncate`, also LongRoPE; P3: `eval.py` of LongLoRA; P4: `eval_ppl.py` of PoSE. Beside its
//! published average every protocol has the token-weighted one, `exp(sum of losses / count of losses)`; they are equal
//! where all windows count equally many tokens.
//!
//! Where the scripts leave room, this is what is done here:
//!
//! * A window of N tokens includes the bos, which leaves N - 1 tokens of text.
//! * Without a bos the first token of a window has nothing before it and is not counted.
//! * P3 puts a bos before each document of the stream and none before windows; the stream's windows are all full, and
//!   every full window is used (LongLoRA's script leaves out the last one or two).
//! * Intervals are 95 % percentile bootstraps over documents. For P3 a window belongs to the document in which it
//!   begins: its windows overlap so much that resampling them one by one would claim far too much certainty.

mod documents;
pub mod longppl;
mod perplexity;
mod position;
pub mod short_text;
mod truncated;
mod units;
mod windows;

use std::fmt;
use std::str::FromStr;

pub use documents::DocumentLosses;
pub use perplexity::{Perplexity, Point, perplexity};
pub use position::PositionCurve;

use crate::error::EvalError;

/// Which evaluator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Sliding windows, only new tokens counted.
    P1,
    /// One window from the start of each document.
    P2,
    /// A stream of all documents, every token of every window counted.
    P3,
    /// Windows side by side (or at a wide stride), averaged over tokens.
    P4,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 4] = [Self::P1, Self::P2, Self::P3, Self::P4];

    /// Name in a result row.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::P1 => "P1",
            Self::P2 => "P2",
            Self::P3 => "P3",
            Self::P4 => "P4",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Protocol {
    type Err = EvalError;

    fn from_str(name: &str) -> Result<Self, EvalError> {
        let known = Self::ALL.into_iter().find(|protocol| protocol.name() == name);
        known.ok_or_else(|| EvalError::UnknownProtocol(name.to_owned()))
    }
}

/// Whether documents and windows begin with the model's bos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bos {
    /// When the model has one.
    #[default]
    Auto,
    /// Never.
    Omit,
}

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct PerplexityOptions {
    /// Which evaluator.
    pub protocol: Protocol,
    /// Window lengths in tokens, bos included; order and repetition do not matter.
    pub lengths: Vec<usize>,
    /// Tokens from one window's start to the next. None: 256 for P1 and P3 (or the whole window where it is shorter), the
    /// whole window for P4. P2 has none.
    pub stride: Option<usize>,
    /// Whether windows begin with a bos; documents are given without.
    pub bos: Bos,
    /// Documents with fewer tokens of text are left out. None: P1 takes every document that has a token to predict; P2
    /// and P4 take those that fill the largest length, so that every point of a curve has the same documents. P2 never
    /// takes a document at a length that it does not fill. P3 takes all.
    pub min_document_tokens: Option<usize>,
    /// Documents are cut to so many tokens of text (PI cuts to 32768).
    pub max_document_tokens: Option<usize>,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl PerplexityOptions {
    /// The published defaults, 1000 resamples, seed 0.
    #[must_use]
    pub fn new(protocol: Protocol, lengths: Vec<usize>) -> Self {
        Self {
            protocol,
            lengths,
            stride: None,
            bos: Bos::Auto,
            min_document_tokens: None,
            max_document_tokens: None,
            resamples: 1000,
            seed: 0,
        }
    }

    /// Lengths in rising order, once each.
    fn checked_lengths(&self) -> Result<Vec<usize>, EvalError> {
        let mut lengths = self.lengths.clone();
        lengths.sort_unstable();
        lengths.dedup();
        match lengths.first() {
            None => Err(EvalError::NoLengths),
            Some(&length) if length < 2 => Err(EvalError::LengthTooShort(length)),
            Some(_) if self.resamples == 0 => Err(EvalError::NoResamples),
            Some(_) => Ok(lengths),
        }
    }

    /// The stride at one length; `text` is what a window holds beside its bos.
    fn stride_at(&self, length: usize, text: usize) -> Result<usize, EvalError> {
        match (self.stride, self.protocol) {
            (Some(stride), _) if (1..=text).contains(&stride) => Ok(stride),
            (Some(stride), _) => Err(EvalError::Stride { stride, length, most: text }),
            (None, Protocol::P4 | Protocol::P2) => Ok(text),
            (None, Protocol::P1 | Protocol::P3) => Ok(text.min(256)),
        }
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
