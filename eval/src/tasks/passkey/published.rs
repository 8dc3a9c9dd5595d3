//! The five-line prompt of the published tests, sized and seeded as each of them does it.

use super::frame::{FILLER, QUESTION, split_answer};
use super::generator::Generator;
use super::{Sample, Variant};
use crate::error::TaskError;
use crate::haystack::tokens_before;
use crate::rng::{NumpyLegacy, SplitMix64};

/// First line of the published prompt.
const TASK: &str = "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. \
                    I will quiz you about the important information there.";

/// YaRN's script grows the filler by so many characters at a time.
const STEP: usize = 25;

/// LongLoRA's filler comes in blocks of so many characters.
const BLOCK: usize = 1024;

impl Generator<'_> {
    pub(super) fn published_at(&self, length: usize, depth: f64, seed: u64) -> Result<Sample, TaskError> {
        let chars = self.filler_chars(length)?;
        let before = tokens_before(chars, depth)?;
        let (_, key) = self.draw(chars, seed);
        self.rendered(chars, before, key, depth)
    }

    pub(super) fn published_drawn(&self, length: usize, seed: u64) -> Result<Sample, TaskError> {
        let chars = self.filler_chars(length)?;
        let (before, key) = self.draw(chars, seed);
        self.rendered(chars, before, key, before as f64 / chars.max(1) as f64)
    }

    /// Least length in tokens of a published prompt.
    pub(super) fn least_published(&self) -> Result<usize, TaskError> {
        match self.variant() {
            // The shortest length that has one block of filler.
            Variant::LongLora => Ok((BLOCK as f64 / 3.75).ceil() as usize),
            Variant::Yarn => Ok(self.prompt_tokens(0)? + 1),
            Variant::Pi | Variant::Bowline => self.with_answer_tokens(0),
        }
    }

    /// Characters of filler at `length`; the same for every sample of that length, found once.
    fn filler_chars(&self, length: usize) -> Result<usize, TaskError> {
        if self.variant() == Variant::LongLora {
            let chars = (3.75 * length as f64 / BLOCK as f64).floor() as usize * BLOCK;
            return if chars == 0 { Err(self.too_short(length)?) } else { Ok(chars) };
        }
        // A poisoned map still holds only finished entries.
        let mut known = self.filler_chars.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(&chars) = known.get(&length) {
            return Ok(chars);
        }
        let chars = self.largest_that_fits(length)?;
        known.insert(length, chars);
        Ok(chars)
    }

    /// Bisection for the most steps of filler that fit, with the needle in the middle.
    fn largest_that_fits(&self, length: usize) -> Result<usize, TaskError> {
        if !self.fits(0, length)? {
            return Err(self.too_short(length)?);
        }
        let (mut fits, mut too_many) = (0, 1);
        while self.fits(too_many * STEP, length)? {
            (fits, too_many) = (too_many, too_many * 2);
        }
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            if self.fits(middle * STEP, length)? { fits = middle } else { too_many = middle }
        }
        Ok(fits * STEP)
    }

    fn fits(&self, chars: usize, length: usize) -> Result<bool, TaskError> {
        Ok(match self.variant() {
            Variant::Yarn => self.prompt_tokens(chars)? < length,
            _ => self.with_answer_tokens(chars)? <= length,
        })
    }

    fn prompt_tokens(&self, chars: usize) -> Result<usize, TaskError> {
        let text = prompt(chars, chars / 2, "31337").text;
        Ok(self.codec.encode(&text)?.len() + usize::from(self.bos.is_some()))
    }

    fn with_answer_tokens(&self, chars: usize) -> Result<usize, TaskError> {
        let text = prompt(chars, chars / 2, "31337").text + " 31337";
        Ok(self.codec.encode(&text)?.len() + usize::from(self.bos.is_some()))
    }

    fn too_short(&self, length: usize) -> Result<TaskError, TaskError> {
        Ok(TaskError::TooShort { task: self.variant().protocol(), length, least: self.least_published()? })
    }

    /// Characters before the needle and the key, in the order in which the scripts draw them.
    fn draw(&self, chars: usize, seed: u64) -> (usize, usize) {
        match self.variant() {
            Variant::LongLora => {
                // NumPy takes 32-bit seeds; a trial's number always fits, any other seed keeps its low half.
                let mut rng = NumpyLegacy::new(seed as u32);
                let before = rng.randint(0, u32::try_from(chars).unwrap_or(u32::MAX)) as usize;
                (before, rng.randint(1, 50_000) as usize)
            }
            Variant::Yarn => {
                let mut rng = SplitMix64::new(seed);
                (rng.below(chars + 1), 1 + rng.below(50_000))
            }
            Variant::Pi | Variant::Bowline => {
                let mut rng = SplitMix64::new(seed);
                (rng.below(chars + 1), 10_000 + rng.below(90_000))
            }
        }
    }

    fn rendered(&self, chars: usize, before: usize, key: usize, depth: f64) -> Result<Sample, TaskError> {
        let key = key.to_string();
        let prompt = prompt(chars, before, &key);
        let (text, answer) = split_answer(self.codec, &prompt.text, &key)?;
        let mut tokens: Vec<u32> = self.bos.into_iter().collect();
        let start = tokens.len() + self.codec.encode(&prompt.text[..prompt.key_line.start])?.len();
        let end = tokens.len() + self.codec.encode(&prompt.text[..prompt.key_line.end])?.len();
        tokens.extend(text);
        let length = tokens.len() + answer.len();
        let depth = Some(depth);
        Ok(self.finished(Sample { tokens, answer, key, depth, needle: start..end, length, ..Sample::default() }))
    }
}

/// The prompt as text.
struct Prompt {
    text: String,
    /// Bytes of the key line.
    key_line: std::ops::Range<usize>,
}

/// Task, filler, key line, filler, question; both stretches of filler begin with its first sentence.
fn prompt(chars: usize, before: usize, key: &str) -> Prompt {
    let head = format!("{TASK}\n{}\n", filler(before));
    let key_line = format!("The pass key is {key}. Remember it. {key} is the pass key.");
    let text = format!("{head}{key_line}\n{}\n{QUESTION}", filler(chars - before));
    Prompt { text, key_line: head.len()..head.len() + key_line.len() }
}

/// The first `chars` characters of the endless filler.
fn filler(chars: usize) -> String {
    FILLER.chars().chain([' ']).cycle().take(chars).collect()
}
