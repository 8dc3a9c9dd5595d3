//! Several passkeys, one of which is asked for: `What is the 3rd pass key?`
//!
//! After the harder passkey test of the YaRN repository (`eval/passkey_hard.py`): every key line names its ordinal, the
//! ordinals follow the order of appearance, and the question names one of them. As in our own passkey the frame is short,
//! prompt and answer together have exactly the length in tokens, and the line that is asked for begins at exactly
//! `round(depth * haystack)` tokens, between sentences; the other keys are spread over both sides. Keys have five digits. Right
//! when the digits of the key come first in what the model writes (`accuracy`), or when every token of the key is ranked
//! first (`accuracy_forced`).

use super::answer::{answered, forced_share, joint, listed};
use super::needle::sorted_shares;
use super::plant::{Layout, Other};
use crate::error::TaskError;
use crate::haystack::{Haystack, TokenStream};
use crate::model::{ModelError, Reply, TextCodec};
use crate::rng::SplitMix64;
use crate::task::{Graded, Sample, Task};
use crate::words;

/// Most keys in one prompt.
const MOST_KEYS: usize = 64;

/// Makes and scores samples of several passkeys.
pub struct MultiPasskey<'a> {
    codec: &'a dyn TextCodec,
    bos: Option<u32>,
    joint: &'static str,
    stream: TokenStream,
    keys: usize,
}

impl<'a> MultiPasskey<'a> {
    /// `keys` passkeys (2 to 64) in `haystack`; `bos` is put before every prompt when it is given.
    ///
    /// # Errors
    ///
    /// [`TaskError::Count`], or when the tokenizer fails.
    pub fn new(
        codec: &'a dyn TextCodec,
        haystack: &Haystack,
        keys: usize,
        bos: Option<u32>,
    ) -> Result<Self, TaskError> {
        if !(2..=MOST_KEYS).contains(&keys) {
            return Err(TaskError::Count { what: "keys", value: keys, least: 2, most: MOST_KEYS });
        }
        let joint = joint(codec)?;
        Ok(Self { codec, bos, joint, stream: haystack.encoded(codec, joint)?, keys })
    }

    fn made(&self, length: usize, depth: f64, rng: &mut SplitMix64) -> Result<Sample, TaskError> {
        let numbers: Vec<String> =
            words::sampled(90_000, self.keys, rng).into_iter().map(|n| (10_000 + n).to_string()).collect();
        let mut lines = Vec::with_capacity(self.keys);
        for (index, number) in numbers.iter().enumerate() {
            let line = format!("{}The {} pass key is {number}. Remember it.", self.joint, ordinal(index + 1));
            lines.push(self.codec.encode(&line)?);
        }
        // The other keys have their share of the text before them, at every depth the same.
        let shares = sorted_shares(self.keys - 1, rng);
        let wished = shares.partition_point(|&share| share < depth);
        let before = self.before(&lines, wished, length, depth)?;
        let reference = numbers[before].clone();
        let (question, answer) = self.question(before, &reference)?;
        let others: Vec<Other> = (0..self.keys)
            .filter(|&index| index != before)
            .zip(shares)
            .map(|(index, share)| Other {
                tokens: lines[index].clone(),
                share,
                segment: Some(usize::from(index > before)),
            })
            .collect();
        let asked = [lines[before].clone()];
        let planted = self.layout(&asked, &others, &question, answer.len()).planted(length, depth, rng)?;
        Ok(Sample {
            tokens: planted.tokens,
            budget: answer.len(),
            answer,
            key: reference.clone(),
            references: vec![reference],
            depth: Some(depth),
            needle: planted.needles[0].clone(),
            length,
        })
    }

    /// How many keys come before the one that is asked for: as many as were wished, or the nearest number for which both
    /// sides have room.
    fn before(&self, lines: &[Vec<u32>], wished: usize, length: usize, depth: f64) -> Result<usize, TaskError> {
        let mut tried = Vec::new();
        for distance in 0..self.keys {
            for candidate in [wished.checked_sub(distance), Some(wished + distance)].into_iter().flatten() {
                if candidate >= self.keys || tried.contains(&candidate) {
                    continue;
                }
                tried.push(candidate);
                let (question, answer) = self.question(candidate, "10000")?;
                let others: Vec<Other> = lines[1..]
                    .iter()
                    .map(|tokens| Other { tokens: tokens.clone(), share: 0.0, segment: None })
                    .collect();
                let asked = [lines[candidate].clone()];
                let sizes = self.layout(&asked, &others, &question, answer.len()).segments(length, depth)?;
                let used = |lines: &[Vec<u32>]| lines.iter().map(Vec::len).sum::<usize>();
                if used(&lines[..candidate]) <= sizes[0] && used(&lines[candidate + 1..]) <= sizes[1] {
                    return Ok(candidate);
                }
            }
        }
        let least = usize::from(self.bos.is_some()) + 4 * lines.iter().map(Vec::len).sum::<usize>();
        Err(TaskError::TooShort { task: format!("multipasskey {}", self.protocol()), length, least })
    }

    fn layout<'l>(
        &'l self,
        asked: &'l [Vec<u32>],
        others: &'l [Other],
        question: &'l [u32],
        answer: usize,
    ) -> Layout<'l> {
        let task = format!("multipasskey {}", self.protocol());
        Layout { task, bos: self.bos, stream: &self.stream, asked, others, question, answer }
    }

    fn question(&self, index: usize, key: &str) -> Result<(Vec<u32>, Vec<u32>), TaskError> {
        let nth = ordinal(index + 1);
        let stem = format!("{}What is the {nth} pass key? The {nth} pass key is", self.joint);
        listed(self.codec, &stem, &[key.to_owned()])
    }
}

/// `1st`, `2nd`, `3rd`, `4th`, `11th`, `21st`.
fn ordinal(number: usize) -> String {
    let ending = match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

impl Task for MultiPasskey<'_> {
    fn id(&self) -> &'static str {
        "multipasskey"
    }

    fn protocol(&self) -> String {
        format!("bowline-2 keys {}", self.keys)
    }

    fn metrics(&self) -> &'static [&'static str] {
        &["accuracy", "accuracy_forced"]
    }

    fn sample(&self, length: usize, depth: Option<f64>, seed: u64) -> Result<Sample, TaskError> {
        let mut rng = SplitMix64::new(seed);
        let depth = depth.unwrap_or_else(|| rng.unit());
        self.made(length, depth, &mut rng)
    }

    fn graded(&self, sample: &Sample, reply: &Reply) -> Result<Graded, ModelError> {
        let answer = answered(self.codec, sample, reply)?;
        let forced = forced_share(self.codec, sample, &answer.ranked_first)?;
        let text = answer.text.trim_start();
        let digits = &text[..text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())];
        let scores = vec![f64::from(digits == sample.key), forced];
        Ok(Graded { scores, output: answer.text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::{ByteCodec, Induction, WordCodec};

    #[test]
    fn ordinals_follow_english() {
        let shown: Vec<String> = [1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 101, 111].map(ordinal).into();
        assert_eq!(shown.join(" "), "1st 2nd 3rd 4th 11th 12th 13th 21st 22nd 23rd 101st 111th");
    }

    #[test]
    fn keys_are_numbered_in_order_of_appearance_and_the_one_asked_for_is_at_its_depth() {
        let codec = WordCodec::default();
        let task = MultiPasskey::new(&codec, &Haystack::filler(), 5, Some(0)).unwrap();
        for (seed, depth) in (0..60).zip([0.0, 0.1, 0.5, 0.9, 1.0].into_iter().cycle()) {
            let sample = task.sample(700, Some(depth), seed).unwrap();
            assert_eq!(sample.tokens.len() + sample.answer.len(), 700);
            let text = codec.decode(&sample.tokens).unwrap();
            let places: Vec<usize> =
                (1..=5).map(|n| text.find(&format!("The {} pass key is", ordinal(n))).unwrap()).collect();
            assert!(places.is_sorted(), "{text}");
            assert_eq!(text.matches(sample.key.as_str()).count(), 1);
            let line = codec.decode(&sample.tokens[sample.needle.clone()]).unwrap();
            let nth = text.trim_end().rsplit(' ').nth(3).unwrap();
            assert_eq!(line.trim(), format!("The {nth} pass key is {}. Remember it.", sample.key));
            let body = 700 - 1 - sample.needle.len() - sample.answer.len();
            let question = sample.tokens.len() - text_end_of_haystack(&codec, &sample);
            let haystack = body - question;
            assert_eq!(sample.needle.start, 1 + (depth * haystack as f64).round() as usize);
            assert_eq!(sample, task.sample(700, Some(depth), seed).unwrap());
        }
    }

    /// Tokens before the question.
    fn text_end_of_haystack(codec: &WordCodec, sample: &Sample) -> usize {
        (0..sample.tokens.len())
            .rev()
            .find(|&i| codec.decode(&sample.tokens[i..]).unwrap().starts_with(" What is the"))
            .unwrap()
    }

    #[test]
    fn a_copying_model_finds_the_right_one_of_several() {
        let task = MultiPasskey::new(&ByteCodec, &Haystack::generated(1, 100), 3, None).unwrap();
        let sample = task.sample(900, Some(0.3), 5).unwrap();
        let all = task.score(&Induction::model(900, 257, None), &sample).unwrap();
        assert_eq!(all.scores, [1.0, 1.0], "{}", all.output);
        let near = task.score(&Induction::model(300, 257, None), &sample).unwrap();
        assert_eq!(near.scores[0], 0.0);
    }

    #[test]
    fn too_short_lengths_and_too_few_keys_are_refused() {
        let task = MultiPasskey::new(&ByteCodec, &Haystack::filler(), 4, None).unwrap();
        let least = match task.sample(50, Some(0.5), 1) {
            Err(TaskError::TooShort { least, .. }) => least,
            other => panic!("{other:?}"),
        };
        for depth in (0..=20).map(|n| f64::from(n) / 20.0) {
            assert!(task.sample(least, Some(depth), 1).is_ok(), "{depth}");
        }
        assert!(matches!(MultiPasskey::new(&ByteCodec, &Haystack::filler(), 1, None), Err(TaskError::Count { .. })));
    }
}
