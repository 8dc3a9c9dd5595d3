//! Whether a model found the key: by what it writes, and by what it expects.

use super::{Generator, Sample, Variant};
use crate::model::{ModelError, Reply};

/// Tokens that YaRN's script lets the model write.
const YARN_BUDGET: usize = 10;

/// How a model did on one sample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The greedy continuation is right by the rule of the variant.
    pub generated: bool,
    /// Every answer token was the most likely one, given the tokens before it.
    pub forced: bool,
    /// What the model wrote.
    pub text: String,
}

impl Generator<'_> {
    /// Grades what the model wrote, and the true answer token by token.
    ///
    /// # Errors
    ///
    /// When the tokenizer fails.
    pub fn outcome(&self, sample: &Sample, reply: &Reply) -> Result<Outcome, ModelError> {
        let Reply { forced, written } = reply;
        let text = self.codec.decode(written)?;
        Ok(Outcome {
            generated: self.is_right(sample, written, &text),
            forced: forced.len() == sample.answer.len()
                && forced.iter().zip(&sample.answer).all(|(score, &token)| score.top == token),
            text,
        })
    }

    pub(super) fn budget(&self, sample: &Sample) -> usize {
        if self.variant() == Variant::Yarn { YARN_BUDGET } else { sample.answer.len() }
    }

    #[cfg(test)]
    pub(super) fn is_right_for_test(&self, sample: &Sample, text: &str) -> bool {
        self.is_right(sample, &[], text)
    }

    fn is_right(&self, sample: &Sample, written: &[u32], text: &str) -> bool {
        match self.variant() {
            Variant::Bowline | Variant::Pi => leading_digits(text.trim_start()) == sample.key,
            Variant::Yarn => {
                let number = text.trim_start_matches(|c: char| !c.is_ascii_digit());
                let read: Option<u64> = leading_digits(number).parse().ok();
                read.is_some() && read == sample.key.parse().ok()
            }
            Variant::LongLora => written == sample.answer,
        }
    }
}

/// The run of digits that `text` begins with.
fn leading_digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}
