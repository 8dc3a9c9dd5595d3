//! Needle in a haystack: facts hidden between the sentences of a text, asked for at its end.
//!
//! The shape is Kamradt's test (2023) as extended by later users: a grid of depths by lengths, several needles, distractors
//! that differ from the needles in their key alone. What differs here: the haystack is the user's text or made from a seed;
//! prompt and answer together have exactly the length in tokens and the first needle begins at exactly
//! `round(depth * haystack)` tokens, between two sentences; a trial has the same text, needles and distractors at every depth
//! (since version 2); the answer is a number, so that neither a judge nor the wording
//! of the model decides; and every rate has an interval.
//!
//! Each needle reads `The code of KEY is NUMBER.` With several needles the first stands at the depth and the others at
//! equal distances from there to the end; all of them are asked for in one question, in order of appearance. Two scores:
//! `accuracy`, the share of the numbers that the model writes (as whole numbers) in as many tokens as the right answer has,
//! and `accuracy_forced`, the share of the numbers of which every token is ranked first when the answer is read after the
//! prompt.

use std::collections::HashSet;

use super::answer::{answered, forced_share, joint, listed, numbers_found};
use super::plant::{Layout, Other};
use crate::error::TaskError;
use crate::haystack::{Haystack, TokenStream};
use crate::model::{ModelError, Reply, TextCodec};
use crate::rng::{SplitMix64, mixed_seed};
use crate::task::{Graded, Sample, Task};
use crate::words;

/// What is hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedleOptions {
    /// Needles that are asked for, 1 to 16.
    pub needles: usize,
    /// Sentences of the same form with other keys that are not asked for, up to 64.
    pub distractors: usize,
    /// Digits of each number, 1 to 18.
    pub digits: u32,
}

impl Default for NeedleOptions {
    /// One needle of seven digits, no distractors.
    fn default() -> Self {
        Self { needles: 1, distractors: 0, digits: 7 }
    }
}

impl NeedleOptions {
    fn checked(self) -> Result<Self, TaskError> {
        let within = |what, value: usize, least, most| {
            if (least..=most).contains(&value) { Ok(()) } else { Err(TaskError::Count { what, value, least, most }) }
        };
        within("needles", self.needles, 1, 16)?;
        within("distractors", self.distractors, 0, 64)?;
        within("digits", self.digits as usize, 1, 18)?;
        // Every number must be another one.
        let numbers = 9 * 10_usize.pow(self.digits.saturating_sub(1).min(9));
        within("needles and distractors together", self.needles + self.distractors, 1, numbers / 2 + 1)?;
        Ok(self)
    }
}

/// Makes and scores needle samples with one tokenizer and one haystack.
pub struct Needle<'a> {
    codec: &'a dyn TextCodec,
    bos: Option<u32>,
    joint: &'static str,
    stream: TokenStream,
    /// Numbers that the haystack holds already.
    taken: HashSet<String>,
    options: NeedleOptions,
}

impl<'a> Needle<'a> {
    /// Needles in `haystack`; `bos` is put before every prompt when it is given.
    ///
    /// # Errors
    ///
    /// [`TaskError::Count`] for numbers of needles, distractors or digits that cannot be, or when the tokenizer fails.
    pub fn new(
        codec: &'a dyn TextCodec,
        haystack: &Haystack,
        options: NeedleOptions,
        bos: Option<u32>,
    ) -> Result<Self, TaskError> {
        let options = options.checked()?;
        let joint = joint(codec)?;
        let stream = haystack.encoded(codec, joint)?;
        let digits = options.digits as usize;
        let runs = haystack.sentences().iter().flat_map(|s| s.split(|c: char| !c.is_ascii_digit()));
        let taken = runs.filter(|run| run.len() == digits).map(str::to_owned).collect();
        Ok(Self { codec, bos, joint, stream, taken, options })
    }

    /// A sample whose first needle lies at `depth` of the haystack (0: first, 1: last).
    ///
    /// The same arguments give the same sample. Prompt and answer together have exactly `length` tokens, and before the
    /// first needle are exactly `round(depth * h)` tokens, where `h` counts all tokens but bos, needles, question and answer.
    ///
    /// # Errors
    ///
    /// [`TaskError::Depth`], [`TaskError::TooShort`] with the least length, or a failure of the tokenizer.
    pub fn sample_at(&self, length: usize, depth: f64, seed: u64) -> Result<Sample, TaskError> {
        self.made(length, depth, &mut SplitMix64::new(seed))
    }

    fn made(&self, length: usize, depth: f64, rng: &mut SplitMix64) -> Result<Sample, TaskError> {
        let count = self.options.needles + self.options.distractors;
        // Over the depths of a trial the haystack is the same, what is looked for is not; distractors are haystack.
        let apart = if self.options.distractors == 0 { depth.to_bits() } else { 0 };
        let own = &mut SplitMix64::new(mixed_seed(&[rng.next_u64(), apart]));
        let (keys, numbers) = (words::nouns(own, count), self.numbers(count, own));
        let mut sentences = Vec::with_capacity(count);
        for (key, number) in keys.iter().zip(&numbers) {
            sentences.push(self.codec.encode(&format!("{}The code of {key} is {number}.", self.joint))?);
        }
        let (asked, distractors) = sentences.split_at(self.options.needles);
        let references = numbers[..self.options.needles].to_vec();
        let (question, answer) = listed(self.codec, &self.question(&keys[..self.options.needles]), &references)?;
        let others: Vec<Other> = distractors
            .iter()
            .zip(sorted_shares(distractors.len(), rng))
            .map(|(tokens, share)| Other { tokens: tokens.clone(), share, segment: None })
            .collect();
        let layout = Layout {
            task: format!("needle {}", self.protocol()),
            bos: self.bos,
            stream: &self.stream,
            asked,
            others: &others,
            question: &question,
            answer: answer.len(),
        };
        let planted = layout.planted(length, depth, rng)?;
        Ok(Sample {
            tokens: planted.tokens,
            budget: answer.len(),
            answer,
            key: references.join(", "),
            references,
            depth: Some(depth),
            needle: planted.needles[0].clone(),
            length,
        })
    }

    fn question(&self, keys: &[&str]) -> String {
        let joint = self.joint;
        match keys {
            [key] => format!("{joint}What is the code of {key}? The code of {key} is"),
            _ => {
                let list = listing(keys);
                format!("{joint}What are the codes of {list}? The codes of {list}, in this order, are")
            }
        }
    }

    /// Different numbers that the haystack does not hold.
    fn numbers(&self, count: usize, rng: &mut SplitMix64) -> Vec<String> {
        let least = 10_usize.pow(self.options.digits - 1);
        let mut numbers: Vec<String> = Vec::with_capacity(count);
        // A haystack may hold every short number; then one that it holds is better than none.
        let mut patience = 1000;
        while numbers.len() < count {
            let number = (least + rng.below(9 * least)).to_string();
            patience -= i32::from(patience > 0);
            if !numbers.contains(&number) && (patience == 0 || !self.taken.contains(&number)) {
                numbers.push(number);
            }
        }
        numbers
    }
}

/// `count` shares of the text, in rising order.
pub(super) fn sorted_shares(count: usize, rng: &mut SplitMix64) -> Vec<f64> {
    let mut shares: Vec<f64> = (0..count).map(|_| rng.unit()).collect();
    shares.sort_by(f64::total_cmp);
    shares
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn listing(words: &[&str]) -> String {
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

impl Task for Needle<'_> {
    fn id(&self) -> &'static str {
        "needle"
    }

    /// `bowline-2`, with the numbers of needles and distractors where they are not one and none.
    fn protocol(&self) -> String {
        let NeedleOptions { needles, distractors, digits } = self.options;
        let mut name = "bowline-2".to_owned();
        let usual = NeedleOptions::default();
        if needles != usual.needles {
            name.push_str(&format!(" needles {needles}"));
        }
        if distractors != usual.distractors {
            name.push_str(&format!(" distractors {distractors}"));
        }
        if digits != usual.digits {
            name.push_str(&format!(" digits {digits}"));
        }
        name
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
        let scores = vec![numbers_found(&answer.text, &sample.references), forced];
        Ok(Graded { scores, output: answer.text })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fakes::{ByteCodec, Induction, Uniform, WordCodec};
    use crate::runner::{Depths, RetrievalOptions, retrieve};
    use crate::{EvalError, Monitor};

    fn haystack() -> Haystack {
        Haystack::generated(4, 300)
    }

    fn needle(codec: &dyn TextCodec, needles: usize, distractors: usize) -> Needle<'_> {
        let options = NeedleOptions { needles, distractors, digits: 7 };
        Needle::new(codec, &haystack(), options, Some(ByteCodec::BOS)).unwrap()
    }

    #[test]
    fn the_needle_reads_as_a_sentence_between_sentences() {
        let task = needle(&ByteCodec, 1, 0);
        let sample = task.sample_at(600, 0.4, 3).unwrap();
        let text = |range: std::ops::Range<usize>| ByteCodec.decode(&sample.tokens[range]).unwrap();
        let needle = text(sample.needle.clone());
        assert!(needle.starts_with(" The code of ") && needle.ends_with(&format!(" is {}.", sample.key)), "{needle}");
        assert!(text(0..sample.needle.start).ends_with('.'));
        let key = needle.split(' ').nth(4).unwrap();
        let after = text(sample.needle.end..sample.tokens.len());
        assert!(after.starts_with(' '), "{after}");
        assert!(after.ends_with(&format!(" What is the code of {key}? The code of {key} is ")), "{after}");
        assert_eq!(sample.tokens.len() + sample.answer.len(), 600);
        assert_eq!((sample.budget, sample.answer_range()), (sample.answer.len(), sample.tokens.len()..600));
    }

    #[test]
    fn several_needles_are_asked_for_in_order_and_each_is_there_once() {
        let task = needle(&ByteCodec, 3, 4);
        let sample = task.sample_at(1500, 0.2, 8).unwrap();
        let text = ByteCodec.decode(&sample.tokens).unwrap();
        assert_eq!(text.matches("The code of ").count(), 7);
        assert_eq!(sample.references.len(), 3);
        let places: Vec<usize> = sample.references.iter().map(|number| text.find(number.as_str()).unwrap()).collect();
        assert!(places.is_sorted());
        assert!(sample.references.iter().all(|number| text.matches(number.as_str()).count() == 1));
        assert_eq!(ByteCodec.decode(&sample.answer).unwrap(), sample.references.join(", "));
        assert_eq!(task.protocol(), "bowline-2 needles 3 distractors 4");
    }

    #[test]
    fn a_copying_model_finds_needles_in_its_window_and_not_beyond() {
        let codec = ByteCodec;
        for distractors in [0, 3] {
            let task = needle(&codec, 1, distractors);
            let options = RetrievalOptions { lengths: vec![400, 1600], depths: Depths::even(3), trials: 5, seed: 2 };
            let model = Induction::model(500, 257, Some(ByteCodec::BOS));
            let rows = retrieve(&task, &model, &options, &mut Monitor::silent()).unwrap().rows("m", "v");
            let find = |length, depth, metric: &str| {
                rows.iter().find(|r| r.length == length && r.depth == depth && r.metric == metric).unwrap().value
            };
            for metric in ["accuracy", "accuracy_forced"] {
                assert_eq!(find(400, None, metric), 1.0, "{metric}");
                assert_eq!((find(1600, Some(0.0), metric), find(1600, Some(1.0), metric)), (0.0, 1.0), "{metric}");
            }
            let blind = retrieve(&task, &Uniform::model(257, None), &options, &mut Monitor::silent()).unwrap();
            assert!(blind.cells.iter().all(|cell| cell.sums == [0.0, 0.0]));
        }
    }

    #[test]
    fn lengths_below_the_frame_and_impossible_numbers_are_refused() {
        let task = needle(&ByteCodec, 1, 2);
        let least = match task.sample_at(20, 0.5, 1) {
            Err(TaskError::TooShort { length: 20, least, .. }) => least,
            other => panic!("{other:?}"),
        };
        assert!(task.sample_at(least, 0.5, 1).is_ok());
        assert!(matches!(task.sample_at(least - 1, 0.5, 1), Err(TaskError::TooShort { .. })));
        assert_eq!(task.sample_at(500, 1.5, 1), Err(TaskError::Depth(1.5)));
        let with = |options| Needle::new(&ByteCodec, &haystack(), options, None).err().unwrap();
        let usual = NeedleOptions::default();
        assert!(matches!(with(NeedleOptions { needles: 0, ..usual }), TaskError::Count { what: "needles", .. }));
        assert!(matches!(with(NeedleOptions { distractors: 65, ..usual }), TaskError::Count { value: 65, .. }));
        assert!(matches!(with(NeedleOptions { digits: 0, ..usual }), TaskError::Count { .. }));
        assert!(matches!(with(NeedleOptions { distractors: 9, digits: 1, ..usual }), TaskError::Count { .. }));
        let short = RetrievalOptions { lengths: vec![30], depths: Depths::Drawn, trials: 1, seed: 0 };
        let refused = retrieve(&task, &Uniform::model(257, None), &short, &mut Monitor::silent()).unwrap_err();
        assert!(matches!(refused, EvalError::Task(TaskError::TooShort { length: 30, .. })), "{refused}");
    }

    #[test]
    fn a_number_of_the_users_text_is_never_an_answer() {
        let text: String = (10..90).map(|n| format!("There are {n} of them. ")).collect();
        let options = NeedleOptions { digits: 2, ..NeedleOptions::default() };
        let task = Needle::new(&ByteCodec, &Haystack::from_texts([text]).unwrap(), options, None).unwrap();
        for seed in 0..200 {
            let sample = task.sample_at(300, 0.5, seed).unwrap();
            assert!(sample.key.parse::<u32>().unwrap() >= 90, "{}", sample.key);
        }
    }

    proptest! {
        #[test]
        fn length_depth_and_answer_are_exact_with_any_tokenizer(
            length in 260_usize..700, depth in 0.0_f64..=1.0, seed: u64, space_first: bool, needles in 1_usize..4,
            distractors in 0_usize..3,
        ) {
            let codec = if space_first { WordCodec::with_space_first() } else { WordCodec::default() };
            let options = NeedleOptions { needles, distractors, digits: 7 };
            let task = Needle::new(&codec, &Haystack::generated(1, 40), options, Some(WordCodec::BOS)).unwrap();
            let sample = task.sample_at(length, depth, seed).unwrap();
            prop_assert_eq!(sample.tokens.len() + sample.answer.len(), length);
            prop_assert_eq!(sample.tokens[0], WordCodec::BOS);
            let text = codec.decode(&sample.tokens).unwrap();
            prop_assert!(!text.contains("  "), "{}", text);
            for number in &sample.references {
                prop_assert_eq!(text.matches(number.as_str()).count(), 1);
            }
            let line = codec.decode(&sample.tokens[sample.needle.clone()]).unwrap();
            prop_assert!(line.trim().starts_with("The code of ") && line.contains(&sample.references[0]));
            prop_assert_eq!(&sample, &task.sample_at(length, depth, seed).unwrap());
        }
    }
}
