//! Key-value retrieval (Liu et al. 2023, "Lost in the middle", section 4): a JSON object of random identifiers, the value
//! of one of which is asked for.
//!
//! Layout and scoring are the published ones: version 4 UUIDs, the wording of the prompt, and a substring search for the
//! value in what the model writes. The publication fixes the number of pairs (75, 140, 300); here it is the largest that
//! fits the length, prompt and answer together, and the depth is the place of the pair among the pairs. `accuracy_forced` is
//! ours: every token of the quoted value is ranked first when it is read after the prompt.

use super::answer::answered;
use super::fit::{Draft, Fitter, Wanted};
use crate::error::TaskError;
use crate::haystack::tokens_before;
use crate::model::{ModelError, Reply, TextCodec};
use crate::rng::SplitMix64;
use crate::task::{Graded, Sample, Task};
use crate::words;

/// Least pairs in an object.
const LEAST_PAIRS: usize = 2;

/// Makes and scores key-value samples with one tokenizer.
pub struct KeyValue<'a> {
    fitter: Fitter<'a>,
}

impl<'a> KeyValue<'a> {
    /// Objects for the tokenizer; `bos` is put before every prompt when it is given.
    #[must_use]
    pub fn new(codec: &'a dyn TextCodec, bos: Option<u32>) -> Self {
        Self { fitter: Fitter::new(codec, bos, 0) }
    }
}

/// The prompt of `pairs` pairs with the one that is asked for at `depth`.
fn draft(pairs: usize, depth: f64, seed: u64) -> Result<Draft, TaskError> {
    let mut rng = SplitMix64::new(seed);
    let index = tokens_before(pairs - 1, depth)?;
    let all: Vec<(String, String)> = (0..pairs).map(|_| (words::uuid(&mut rng), words::uuid(&mut rng))).collect();
    let lines: Vec<String> = all.iter().map(|(key, value)| format!("\"{key}\": \"{value}\"")).collect();
    let (key, value) = &all[index];
    let text = format!(
        "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{{{}}}\n\nKey: \
         \"{key}\"\nCorresponding value:",
        lines.join(",\n ")
    );
    let depth = Some(index as f64 / (pairs - 1) as f64);
    Ok(Draft { text, answer: format!(" \"{value}\""), references: vec![value.clone()], depth })
}

impl Task for KeyValue<'_> {
    fn id(&self) -> &'static str {
        "kv"
    }

    /// Since version 2 a trial has the same pairs at every depth, and only the question differs.
    fn protocol(&self) -> String {
        "liu-2".to_owned()
    }

    fn metrics(&self) -> &'static [&'static str] {
        &["accuracy", "accuracy_forced"]
    }

    fn sample(&self, length: usize, depth: Option<f64>, seed: u64) -> Result<Sample, TaskError> {
        let depth = depth.unwrap_or_else(|| SplitMix64::new(seed).unit());
        let wanted = Wanted { task: "kv liu-2", length, least: LEAST_PAIRS };
        self.fitter.fitted(wanted, seed, |pairs, seed| draft(pairs, depth, seed))
    }

    fn graded(&self, sample: &Sample, reply: &Reply) -> Result<Graded, ModelError> {
        let answer = answered(self.fitter.codec, sample, reply)?;
        let written = answer.text.to_lowercase();
        let found = sample.references.iter().all(|value| written.contains(&value.to_lowercase()));
        let forced = !answer.ranked_first.is_empty() && answer.ranked_first.iter().all(|&first| first);
        Ok(Graded { scores: vec![f64::from(found), f64::from(forced)], output: answer.text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::{ByteCodec, Scripted};

    #[test]
    fn the_object_is_json_and_holds_the_key_once() {
        let task = KeyValue::new(&ByteCodec, Some(ByteCodec::BOS));
        for (depth, index) in [(0.0, 0), (0.5, 5), (1.0, 10)] {
            let sample = task.sample(1150, Some(depth), 4).unwrap();
            let text = ByteCodec.decode(&sample.tokens).unwrap();
            let json = &text[text.find('{').unwrap()..=text.rfind('}').unwrap()];
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(json).unwrap();
            assert_eq!(object.len(), 11, "{text}");
            let key = text.rsplit('"').nth(1).unwrap();
            assert_eq!(object[key], serde_json::json!(sample.key));
            assert_eq!(object.keys().position(|k| k == key), Some(index));
            assert_eq!((text.matches(key).count(), text.matches(sample.key.as_str()).count()), (2, 1));
            assert_eq!(sample.depth, Some(depth));
            assert_eq!(sample.length, sample.tokens.len() + sample.answer.len());
            assert!(sample.length <= 1150 && sample.length + 80 > 1150);
            assert_eq!(ByteCodec.decode(&sample.answer).unwrap(), format!(" \"{}\"", sample.key));
        }
    }

    #[test]
    fn a_model_that_looks_the_key_up_is_right_and_one_that_takes_another_value_is_not() {
        let task = KeyValue::new(&ByteCodec, None);
        let sample = task.sample(2000, Some(0.1), 9).unwrap();
        let after = |text: &str, what: &str| text[text.find(what).unwrap() + what.len()..].to_owned();
        let look_up = |prompt: &str| {
            let key = prompt.rsplit('"').nth(1).unwrap().to_owned();
            format!(" \"{}\"", &after(prompt, &format!("\"{key}\": \""))[..36])
        };
        let marker = "Corresponding value:";
        let right = task.score(&Scripted::model(marker, look_up, None), &sample).unwrap();
        assert_eq!(right.scores, [1.0, 1.0], "{}", right.output);
        let upper = task.score(&Scripted::model(marker, |p: &str| look_up(p).to_uppercase(), None), &sample).unwrap();
        assert_eq!(upper.scores, [1.0, 0.0], "case does not count in what is written");
        let first = |prompt: &str| format!(" \"{}\"", &after(prompt, "\": \"")[..36]);
        let wrong = task.score(&Scripted::model(marker, first, None), &sample).unwrap();
        assert_eq!(wrong.scores, [0.0, 0.0]);
    }

    #[test]
    fn two_pairs_are_the_least() {
        let task = KeyValue::new(&ByteCodec, None);
        let Err(TaskError::TooShort { least, .. }) = task.sample(100, Some(0.0), 1) else { panic!("must be refused") };
        assert!(task.sample(least, Some(0.0), 1).is_ok() && task.sample(least - 1, Some(0.0), 1).is_err());
        assert_eq!(task.sample(900, Some(-1.0), 1), Err(TaskError::Depth(-1.0)));
    }
}
