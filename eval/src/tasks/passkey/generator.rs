//! Samples of every variant from one type.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::frame::{self, FILLER, Frame};
use super::{Sample, Variant};
use crate::error::TaskError;
use crate::haystack;
use crate::model::TextCodec;
use crate::rng::{SplitMix64, mixed_seed};

/// Makes passkey samples with one tokenizer.
pub struct Generator<'a> {
    pub(super) codec: &'a dyn TextCodec,
    pub(super) bos: Option<u32>,
    pub(super) filler_chars: Mutex<BTreeMap<usize, usize>>,
    variant: Variant,
    joint: &'static str,
    filler: Vec<u32>,
}

impl<'a> Generator<'a> {
    /// A generator of `variant`; `bos` is put before every prompt when it is given.
    ///
    /// # Errors
    ///
    /// When the tokenizer fails.
    pub fn new(codec: &'a dyn TextCodec, variant: Variant, bos: Option<u32>) -> Result<Self, TaskError> {
        let joint = frame::joint(codec)?;
        let filler = codec.encode(&format!("{joint}{FILLER}"))?;
        Ok(Self { codec, bos, filler_chars: Mutex::new(BTreeMap::new()), variant, joint, filler })
    }

    /// The variant that it makes.
    #[must_use]
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// Shortest length in tokens that [`Generator::sample`] accepts. With a tokenizer that merges digits the frame of
    /// another key may differ by a token or two.
    ///
    /// # Errors
    ///
    /// When the tokenizer fails or joins question and answer.
    pub fn least_length(&self) -> Result<usize, TaskError> {
        match self.variant {
            Variant::Bowline => Ok(self.frame("10000")?.len() + usize::from(self.bos.is_some())),
            _ => self.least_published(),
        }
    }

    /// A sample whose needle lies at `depth` of the haystack (0: first, 1: last).
    ///
    /// The same arguments give the same sample. For [`Variant::Bowline`] prompt and answer together have exactly
    /// `length` tokens, and the needle has exactly `round(depth * filler)` tokens of filler before it. The published
    /// variants cut their filler at characters and place the needle at that share of the characters.
    ///
    /// # Errors
    ///
    /// [`TaskError::Depth`], [`TaskError::TooShort`] with the least length, or a failure of the tokenizer.
    pub fn sample(&self, length: usize, depth: f64, seed: u64) -> Result<Sample, TaskError> {
        match self.variant {
            Variant::Bowline => self.planted(&self.filler, length, depth, &mut SplitMix64::new(seed)),
            _ => self.published_at(length, depth, seed),
        }
    }

    /// As [`Generator::sample`] for one cell of a grid: over the depths of a seed the haystack is the same, the key is not, so
    /// that the haystack is read once and the trials stay apart.
    ///
    /// # Errors
    ///
    /// As for [`Generator::sample`].
    pub fn sample_of_grid(&self, length: usize, depth: f64, seed: u64) -> Result<Sample, TaskError> {
        match self.variant {
            Variant::Bowline => {
                let mut own = SplitMix64::new(mixed_seed(&[seed, depth.to_bits()]));
                self.planted_key(&self.filler, length, depth, drawn_key(&mut own), &mut SplitMix64::new(seed))
            }
            _ => self.published_at(length, depth, seed),
        }
    }

    /// A sample at a depth that the seed chooses, by the rule of the variant.
    ///
    /// # Errors
    ///
    /// As for [`Generator::sample`].
    pub fn sample_drawn(&self, length: usize, seed: u64) -> Result<Sample, TaskError> {
        match self.variant {
            Variant::Bowline => {
                let mut rng = SplitMix64::new(seed);
                let depth = rng.unit();
                self.planted(&self.filler, length, depth, &mut rng)
            }
            _ => self.published_drawn(length, seed),
        }
    }

    /// As [`Generator::sample`], with `text` (tokens of anything, read in a circle from a place that the seed chooses)
    /// as the haystack.
    ///
    /// # Errors
    ///
    /// As for [`Generator::sample`]; [`TaskError::EmptyFiller`] when `text` is empty and needed, and
    /// [`TaskError::OwnFiller`] for a published variant.
    pub fn sample_in(&self, text: &[u32], length: usize, depth: f64, seed: u64) -> Result<Sample, TaskError> {
        match self.variant {
            Variant::Bowline => self.planted(text, length, depth, &mut SplitMix64::new(seed)),
            _ => Err(TaskError::OwnFiller(self.variant.protocol())),
        }
    }

    fn planted(&self, text: &[u32], length: usize, depth: f64, rng: &mut SplitMix64) -> Result<Sample, TaskError> {
        let key = drawn_key(rng);
        self.planted_key(text, length, depth, key, rng)
    }

    fn planted_key(
        &self,
        text: &[u32],
        length: usize,
        depth: f64,
        key: String,
        rng: &mut SplitMix64,
    ) -> Result<Sample, TaskError> {
        let frame = self.frame(&key)?;
        let start = rng.below(text.len());
        let count = self.filler_tokens(length, &frame)?;
        let planted = haystack::planted(text, start, count, &frame.key_line, depth)?;
        let before = usize::from(self.bos.is_some());
        let mut tokens: Vec<u32> = self.bos.into_iter().collect();
        tokens.extend(planted.tokens);
        tokens.extend(frame.question);
        let needle = planted.needle.start + before..planted.needle.end + before;
        Ok(self.finished(Sample {
            tokens,
            answer: frame.answer,
            key,
            depth: Some(depth),
            needle,
            length,
            ..Sample::default()
        }))
    }

    /// What is the same for every variant: the key is what is looked for, and how many tokens the model may write.
    pub(super) fn finished(&self, sample: Sample) -> Sample {
        Sample { references: vec![sample.key.clone()], budget: self.budget(&sample), ..sample }
    }

    fn filler_tokens(&self, length: usize, frame: &Frame) -> Result<usize, TaskError> {
        let least = frame.len() + usize::from(self.bos.is_some());
        length.checked_sub(least).ok_or_else(|| TaskError::TooShort { task: self.variant.protocol(), length, least })
    }

    fn frame(&self, key: &str) -> Result<Frame, TaskError> {
        Frame::new(self.codec, self.joint, key)
    }
}

/// Five digits, the first not 0.
fn drawn_key(rng: &mut SplitMix64) -> String {
    (10_000 + rng.below(90_000)).to_string()
}
