#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::fakes::{ByteCodec, Induction, Scripted, Uniform, WordCodec};
use crate::runner::{Depths, RetrievalOptions, retrieve};
use crate::tasks::qa::tests::{HOTPOT, SQUAD};
use crate::{EvalError, Monitor};

struct Material {
    text: Haystack,
    squad: QaSet,
    hotpot: QaSet,
}

impl Material {
    fn new() -> Self {
        let (squad, hotpot) = (QaSet::parse(SQUAD).unwrap(), QaSet::parse(HOTPOT).unwrap());
        Self { text: Haystack::generated(3, 400), squad, hotpot }
    }

    fn sources(&self) -> Sources<'_> {
        Sources { text: &self.text, squad: Some(&self.squad), hotpot: Some(&self.hotpot) }
    }

    fn ruler<'a>(&'a self, codec: &'a dyn TextCodec, task: RulerTask) -> Ruler<'a> {
        Ruler::new(codec, task, self.sources(), None).unwrap()
    }
}

fn text_of(codec: &dyn TextCodec, sample: &Sample) -> String {
    codec.decode(&sample.tokens).unwrap()
}

#[test]
fn prompt_and_budget_fill_the_length_and_never_pass_it() {
    let material = Material::new();
    let codecs: [&dyn TextCodec; 2] = [&ByteCodec, &WordCodec::default()];
    for codec in codecs {
        for task in RulerTask::ALL {
            let ruler = material.ruler(codec, task);
            for (length, seed) in [(7000, 1), (7000, 2), (9000, 3)] {
                let sample = ruler.sample(length, None, seed).unwrap();
                assert_eq!(sample.length, sample.tokens.len() + task.budget());
                assert!(sample.length <= length, "{task}: {}", sample.length);
                // A unit is a word, a line or a document; one more would not have fitted the probe.
                assert!(sample.length * 100 > length * 93, "{task}: {} of {length}", sample.length);
                assert_eq!(sample, ruler.sample(length, None, seed).unwrap(), "{task}: the seed decides");
                assert_ne!(sample.tokens, ruler.sample(length, None, seed + 10).unwrap().tokens, "{task}");
            }
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_the_samples_before_it() {
    let material = Material::new();
    for task in RulerTask::ALL {
        let (fresh, used) = (material.ruler(&ByteCodec, task), material.ruler(&ByteCodec, task));
        (20..24).for_each(|seed| drop(used.sample(7000, None, seed).unwrap()));
        assert_eq!(fresh.sample(7000, None, 7).unwrap(), used.sample(7000, None, 7).unwrap(), "{task}");
    }
}

#[test]
fn every_value_is_in_its_needle_and_nowhere_else() {
    let material = Material::new();
    for task in RulerTask::ALL.into_iter().take(8) {
        let ruler = material.ruler(&ByteCodec, task);
        for seed in 0..20 {
            let sample = ruler.sample(5000, None, seed).unwrap();
            let text = text_of(&ByteCodec, &sample);
            for value in &sample.references {
                assert_eq!(text.matches(value.as_str()).count(), 1, "{task} {value}");
                assert!(text.contains(&format!(" is: {value}.")), "{task} {value}");
            }
            let values = match task {
                RulerTask::NiahMultivalue | RulerTask::NiahMultiquery => 4,
                _ => 1,
            };
            assert_eq!(sample.references.len(), values);
            let needles = text.matches("One of the special magic ").count();
            match task {
                RulerTask::NiahMultikey2 | RulerTask::NiahMultikey3 => assert!(needles > 30, "{task}: {needles}"),
                RulerTask::NiahMultikey1 | RulerTask::NiahMultivalue | RulerTask::NiahMultiquery => {
                    assert_eq!(needles, 4, "{task}");
                }
                _ => assert_eq!(needles, 1, "{task}"),
            }
            let uuid = sample.references[0].len() == 36;
            assert_eq!(uuid, matches!(task, RulerTask::NiahSingle3 | RulerTask::NiahMultikey3), "{task}");
            assert!(sample.depth.is_some_and(|depth| (0.0..=1.0).contains(&depth)));
        }
    }
}

#[test]
fn the_frame_of_one_needle_is_singular_and_of_several_plural() {
    let material = Material::new();
    let text = |task| text_of(&ByteCodec, &material.ruler(&ByteCodec, task).sample(5000, None, 1).unwrap());
    let one = text(RulerTask::NiahSingle1);
    assert!(one.starts_with("A special magic number is hidden within the following text. Make sure to memorize it."));
    assert!(one.contains("One of the special magic numbers for "), "{one}");
    let key = one.rsplit(" for ").next().unwrap().split(' ').next().unwrap();
    let stem = format!("The special magic number for {key} mentioned in the provided text is");
    assert!(one.ends_with(&stem), "{one}");
    assert!(
        one.contains(&format!("What is the special magic number for {key} mentioned in the provided text? {stem}"))
    );
    let several = text(RulerTask::NiahMultiquery);
    assert!(several.starts_with("Some special magic numbers are hidden within"));
    assert!(several.contains("What are all the special magic numbers for "));
    assert!(several.contains(", and ") && several.ends_with(" mentioned in the provided text are"));
    assert!(text(RulerTask::NiahSingle3).contains("What is the special magic uuid for "));
}

#[test]
fn a_chain_of_variables_leads_from_its_value_to_every_answer() {
    let material = Material::new();
    let codec = WordCodec::default();
    let ruler = material.ruler(&codec, RulerTask::VariableTracking);
    for seed in 0..10 {
        let sample = ruler.sample(5000, None, seed).unwrap();
        let text = text_of(&codec, &sample);
        let problems: Vec<&str> = text.split("Memorize and track").skip(1).collect();
        assert_eq!(problems.len(), 2, "a solved example comes first");
        let value = problems[1].split("assigned the value ").nth(1).unwrap().split(' ').next().unwrap();
        let mut known = Vec::new();
        for line in problems[1].lines().filter(|line| line.starts_with("VAR ")) {
            let (name, from) = line[4..].trim().split_once(" = ").unwrap();
            let source = from.strip_prefix("VAR ").unwrap_or(from);
            assert!(source == value || known.contains(&source), "assignments stand in order: {line}");
            known.push(name);
        }
        assert_eq!(known, sample.references);
        assert!(text.ends_with(&format!("5 variables are assigned the value {value}, they are: ")), "{text}");
        let example = codec.encode(&format!("Memorize and track{}", problems[0])).unwrap().len();
        assert!((440..=530).contains(&example), "the example and its answer: {example}");
    }
}

#[test]
fn common_words_are_more_frequent_than_all_others() {
    let material = Material::new();
    let codec = WordCodec::default();
    for (length, often, rarely) in [(3000, 6, 1), (6000, 30, 3)] {
        let ruler = material.ruler(&codec, RulerTask::CommonWords);
        let sample = ruler.sample(length, None, 5).unwrap();
        let text = text_of(&codec, &sample);
        let list = text.rsplit("most often.\n").next().unwrap().split("\nQuestion").next().unwrap();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let words: Vec<&str> = list.split(' ').collect();
        for (index, pair) in words.chunks(2).enumerate() {
            assert_eq!(pair[0], format!("{}.", index + 1));
            *counts.entry(pair[1]).or_default() += 1;
        }
        let frequent: Vec<&str> = counts.iter().filter(|(_, n)| **n == often).map(|(word, _)| *word).collect();
        let mut references: Vec<&str> = sample.references.iter().map(String::as_str).collect();
        references.sort_unstable();
        assert_eq!(frequent, references);
        assert!(counts.values().all(|&n| n == often || n == rarely), "{counts:?}");
        assert!(text.contains("in the list are: 1. "), "a solved example comes first: {text}");
    }
}

#[test]
fn the_three_most_frequent_coded_words_are_the_answer() {
    let material = Material::new();
    let ruler = material.ruler(&ByteCodec, RulerTask::FrequentWords);
    for seed in 0..10 {
        let sample = ruler.sample(4096, None, seed).unwrap();
        let text = text_of(&ByteCodec, &sample);
        let list = text.split("coded words. ").nth(1).unwrap().split("\nQuestion").next().unwrap();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        list.split(' ').for_each(|word| *counts.entry(word).or_default() += 1);
        let mut ranked: Vec<(usize, &str)> = counts.into_iter().map(|(word, n)| (n, word)).collect();
        ranked.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(ranked[0].1, "...");
        assert_eq!(ranked[1..4].iter().map(|(_, word)| *word).collect::<Vec<_>>(), sample.references);
        assert!(ranked[3].0 > ranked[4].0, "{ranked:?}");
    }
}

#[test]
fn the_right_documents_are_among_the_others_once() {
    let material = Material::new();
    let squad = material.ruler(&ByteCodec, RulerTask::Qa1);
    for trial in 0..6 {
        let sample = squad.sample(3000, None, squad.trial_seed(1, 3000, trial)).unwrap();
        let text = text_of(&ByteCodec, &sample);
        let right = ["The Avel rises near Morn.", "Mount Cor is high."][trial % 2];
        assert_eq!(text.matches(right).count(), 1, "{text}");
        assert_eq!(sample.references[0], ["near Morn", "Mount Cor"][trial % 2]);
        assert!(text.contains("Document 1:\n") && text.contains("\n\nDocument 2:\n"));
        assert!(text.ends_with(" Answer:"));
    }
    let hotpot = material.ruler(&ByteCodec, RulerTask::Qa2);
    let text = text_of(&ByteCodec, &hotpot.sample(3000, None, hotpot.trial_seed(1, 3000, 0)).unwrap());
    assert!(text.contains(":\nDusk\nDusk is a film of 1990. It is long."), "{text}");
    // Every length asks the same question at the same trial.
    assert_eq!(squad.trial_seed(1, 3000, 1), squad.trial_seed(1, 9000, 1));
}

#[test]
fn lengths_below_the_frame_are_refused_with_the_least_and_never_loop() {
    let material = Material::new();
    for task in RulerTask::ALL {
        let ruler = material.ruler(&ByteCodec, task);
        for length in [0, 1, 40, 128, 200] {
            match ruler.sample(length, None, 3) {
                Err(TaskError::TooShort { task: name, length: asked, least }) => {
                    assert_eq!((name.as_str(), asked), (task.name(), length));
                    assert!(least > length, "{task}: {least}");
                    assert!(ruler.sample(least, None, 3).is_ok(), "{task} at its least length {least}");
                }
                other => panic!("{task} at {length}: {other:?}"),
            }
        }
    }
    let options = RetrievalOptions { lengths: vec![100], depths: Depths::Drawn, trials: 1, seed: 1 };
    let ruler = material.ruler(&ByteCodec, RulerTask::NiahSingle1);
    let refused = retrieve(&ruler, &Uniform::model(257, None), &options, &mut Monitor::silent()).unwrap_err();
    assert!(matches!(refused, EvalError::Task(TaskError::TooShort { length: 100, .. })), "{refused}");
}

#[test]
fn question_tasks_without_a_file_are_refused() {
    let text = Haystack::filler();
    let sources = Sources { text: &text, squad: None, hotpot: None };
    let refused = |task| Ruler::new(&ByteCodec, task, sources, None).err();
    assert_eq!(refused(RulerTask::Qa1), Some(TaskError::NoQuestionFile("qa_1")));
    assert_eq!(refused(RulerTask::Qa2), Some(TaskError::NoQuestionFile("qa_2")));
    assert_eq!(refused(RulerTask::CommonWords), None);
    assert_eq!("niah".parse::<RulerTask>(), Err(TaskError::UnknownRuler("niah".into())));
    assert!(RulerTask::ALL.into_iter().all(|task| task.name().parse() == Ok(task)));
}

#[test]
fn budgets_are_the_published_ones() {
    let budgets: Vec<usize> = RulerTask::ALL.iter().map(|task| task.budget()).collect();
    assert_eq!(budgets, [128, 128, 128, 128, 128, 128, 128, 128, 30, 120, 50, 32, 32]);
}

#[test]
fn a_copying_model_finds_one_needle_in_its_window_and_not_beyond() {
    let material = Material::new();
    let ruler = material.ruler(&ByteCodec, RulerTask::NiahSingle1);
    let options = RetrievalOptions { lengths: vec![700, 4000], depths: Depths::Drawn, trials: 8, seed: 4 };
    let model = Induction::model(800, 257, None);
    let found = retrieve(&ruler, &model, &options, &mut Monitor::silent()).unwrap();
    assert_eq!((found.task.as_str(), found.protocol.as_str()), ("niah_single_1", "ruler-1"));
    let rows = found.rows("m", "v");
    assert!(rows[0].length == 700 && rows[1].length == 4000 && rows.len() == 2);
    assert!(rows[1].value < 0.5, "{}", rows[1].value);
}

#[test]
fn scores_count_each_reference_and_any_answer() {
    let material = Material::new();
    let score = |task: RulerTask, marker: &'static str, reply: &dyn Fn(&Sample) -> String| {
        let ruler = material.ruler(&ByteCodec, task);
        let sample = ruler.sample(3000, None, ruler.trial_seed(1, 3000, 0)).unwrap();
        let reply = reply(&sample);
        ruler.score(&Scripted::model(marker, move |_: &str| reply.clone(), None), &sample).unwrap().scores[0]
    };
    let stem = "mentioned in the provided text are";
    let some = |count: usize| move |s: &Sample| format!(" {}", s.references[..count].join(", "));
    assert_eq!(score(RulerTask::NiahMultivalue, stem, &some(4)), 1.0);
    assert_eq!(score(RulerTask::NiahMultivalue, stem, &some(3)), 0.75);
    assert_eq!(score(RulerTask::NiahMultiquery, stem, &some(1)), 0.25);
    assert_eq!(score(RulerTask::VariableTracking, "they are: ", &|s| s.references[..2].join(" ").to_lowercase()), 0.4);
    // One of two right answers is enough; a mean over answers, as in another harness, would say one half.
    assert_eq!(score(RulerTask::Qa1, " Answer:", &|s| format!(" {}", s.references[1])), 1.0);
    assert_eq!(score(RulerTask::Qa1, " Answer:", &|_| " I do not know".to_owned()), 0.0);
}
