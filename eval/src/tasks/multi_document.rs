//! Question answering over several documents with the answer at a chosen place (Liu et al. 2023, "Lost in the middle",
//! section 3), over a file of questions that the user gives.
//!
//! Wording, order and scoring are the published ones ([`best_subspan`] on the first line of at most 100 tokens). As many
//! documents as fit the length surround the ones that hold the answer; documents that hold an answer without being meant
//! to are left out, since they would make every place a right one. Depth 0 puts the right document first.

use super::answer::answered;
use super::fit::{Draft, Fitter, Wanted};
use super::qa::{QaSet, Question, best_subspan, normalized};
use crate::error::TaskError;
use crate::haystack::tokens_before;
use crate::model::{ModelError, Reply, TextCodec};
use crate::rng::SplitMix64;
use crate::task::{Graded, Sample, Task};
use crate::words;

/// Tokens that the model may write.
const BUDGET: usize = 100;

/// Makes and scores samples over one file of questions.
pub struct MultiDocument<'a> {
    fitter: Fitter<'a>,
    set: &'a QaSet,
    /// Normalized text of every document.
    plain: Vec<String>,
}

impl<'a> MultiDocument<'a> {
    /// Questions of `set`; `bos` is put before every prompt when it is given.
    #[must_use]
    pub fn new(codec: &'a dyn TextCodec, set: &'a QaSet, bos: Option<u32>) -> Self {
        let plain = set.documents.iter().map(|d| normalized(&d.text)).collect();
        Self { fitter: Fitter::new(codec, bos, BUDGET), set, plain }
    }

    /// The question of a seed: its low half is the trial, so that every length and depth asks the same questions.
    fn question(&self, seed: u64) -> &Question {
        &self.set.questions[(seed & 0xffff_ffff) as usize % self.set.questions.len()]
    }

    /// Documents that may surround the right ones, the question's own first, in the order of the seed.
    fn surroundings(&self, question: &Question, seed: u64) -> Vec<usize> {
        let answers: Vec<String> = question.answers.iter().map(|answer| normalized(answer)).collect();
        let innocent = |&index: &usize| {
            !question.gold.contains(&index)
                && !answers.iter().any(|answer| !answer.is_empty() && self.plain[index].contains(answer))
        };
        let mut own: Vec<usize> = question.context.iter().chain(&question.near).copied().filter(innocent).collect();
        let known: std::collections::HashSet<usize> = own.iter().copied().collect();
        let mut rest: Vec<usize> =
            (0..self.set.documents.len()).filter(|index| !known.contains(index)).filter(innocent).collect();
        let mut rng = SplitMix64::new(seed);
        words::shuffle(&mut own, &mut rng);
        words::shuffle(&mut rest, &mut rng);
        own.extend(rest);
        own
    }

    fn draft(&self, around: &[usize], question: &Question, units: usize, depth: f64) -> Result<Draft, TaskError> {
        // A file with few documents gives them again.
        let count = units - 1;
        let chosen: Vec<usize> =
            around.iter().copied().cycle().take(if around.is_empty() { 0 } else { count }).collect();
        let place = tokens_before(chosen.len(), depth)?;
        let order = chosen[..place].iter().chain(&question.gold).chain(&chosen[place..]);
        let documents: Vec<String> = order
            .enumerate()
            .map(|(index, &document)| {
                let document = &self.set.documents[document];
                format!("Document [{}](Title: {}) {}", index + 1, document.title, document.text)
            })
            .collect();
        let text = format!(
            "Write a high-quality answer for the given question using only the provided search results (some of which \
             might be irrelevant).\n\n{}\n\nQuestion: {}\nAnswer:",
            documents.join("\n"),
            question.text
        );
        let depth = Some(place as f64 / chosen.len().max(1) as f64);
        Ok(Draft { text, answer: String::new(), references: question.answers.clone(), depth })
    }
}

impl Task for MultiDocument<'_> {
    fn id(&self) -> &'static str {
        "multi_document"
    }

    fn protocol(&self) -> String {
        "liu-1".to_owned()
    }

    fn metrics(&self) -> &'static [&'static str] {
        &["accuracy"]
    }

    fn sample(&self, length: usize, depth: Option<f64>, seed: u64) -> Result<Sample, TaskError> {
        let depth = depth.unwrap_or_else(|| SplitMix64::new(seed).unit());
        let wanted = Wanted { task: "multi_document liu-1", length, least: 1 };
        let question = self.question(seed);
        let around = self.surroundings(question, seed);
        self.fitter.fitted(wanted, seed, |units, asked| {
            if asked == seed {
                return self.draft(&around, question, units, depth);
            }
            let probe = self.question(asked);
            self.draft(&self.surroundings(probe, asked), probe, units, depth)
        })
    }

    fn graded(&self, sample: &Sample, reply: &Reply) -> Result<Graded, ModelError> {
        let answer = answered(self.fitter.codec, sample, reply)?;
        let found = best_subspan(answer.text.trim_start(), &sample.references);
        Ok(Graded { scores: vec![f64::from(found)], output: answer.text })
    }

    fn trial_seed(&self, seed: u64, _: usize, trial: usize) -> u64 {
        (crate::rng::mixed_seed(&[seed]) & !0xffff_ffff) | (trial as u64 & 0xffff_ffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::{ByteCodec, Induction};
    use crate::tasks::qa::tests::{LINES, SQUAD};

    fn big() -> QaSet {
        let documents: Vec<String> = (0..30)
            .map(|n| format!(r#"{{"title": "T{n}", "text": "Thing {n} is made of clay.", "isgold": false}}"#))
            .collect();
        let line = |n: usize| {
            let gold = format!(r#"{{"title": "G{n}", "text": "The maker of {n} was Ann{n} Lee.", "isgold": true}}"#);
            format!(
                r#"{{"question": "who made {n}", "answers": ["Ann{n} Lee"], "ctxs": [{gold}, {}]}}"#,
                documents.join(", ")
            )
        };
        QaSet::parse(&(0..4).map(line).collect::<Vec<_>>().join("\n")).unwrap()
    }

    #[test]
    fn the_right_document_is_at_its_place_and_the_answer_there_once() {
        let set = big();
        let task = MultiDocument::new(&ByteCodec, &set, None);
        for (depth, place) in [(0.0, "first"), (1.0, "last"), (0.5, "middle")] {
            for trial in 0..4 {
                let sample = task.sample(1200, Some(depth), task.trial_seed(1, 1200, trial)).unwrap();
                let text = ByteCodec.decode(&sample.tokens).unwrap();
                let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Document [")).collect();
                let right: Vec<usize> = (0..lines.len()).filter(|&i| lines[i].contains(&sample.key)).collect();
                let expected = (depth * (lines.len() - 1) as f64).round() as usize;
                assert_eq!(right, [expected], "{place}: {text}");
                assert_eq!(sample.key, format!("Ann{trial} Lee"));
                assert!(lines.iter().enumerate().all(|(i, l)| l.starts_with(&format!("Document [{}](Title: ", i + 1))));
                assert!(sample.length <= 1200 && sample.length + 60 > 1200, "{}", sample.length);
            }
        }
    }

    #[test]
    fn documents_that_hold_the_answer_by_chance_are_left_out() {
        let set = QaSet::parse(SQUAD).unwrap();
        let task = MultiDocument::new(&ByteCodec, &set, None);
        let sample = task.sample(700, Some(0.0), task.trial_seed(1, 700, 0)).unwrap();
        let text = ByteCodec.decode(&sample.tokens).unwrap();
        assert_eq!(text.matches("Morn").count(), 1, "{text}");
        assert_eq!(sample.references, ["near Morn", "Morn"]);
    }

    #[test]
    fn scoring_and_refusal() {
        let set = QaSet::parse(LINES).unwrap();
        let task = MultiDocument::new(&ByteCodec, &set, None);
        let sample = task.sample(500, None, 0).unwrap();
        let graded = task.score(&Induction::model(500, 257, None), &sample).unwrap();
        assert_eq!(graded.scores.len(), 1);
        assert!(matches!(task.sample(150, None, 0), Err(TaskError::TooShort { length: 150, .. })));
    }
}
