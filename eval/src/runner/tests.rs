#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::fakes::{ByteCodec, Fake, Induction};
use crate::model::{Prefix, Reply, TokenScore, reply_alone};
use crate::passkey::{Generator, Variant};

fn options() -> RetrievalOptions {
    RetrievalOptions { lengths: vec![150, 600], depths: Depths::even(3), trials: 4, seed: 1 }
}

fn model() -> Fake<Induction> {
    Induction::model(250, 257, Some(ByteCodec::BOS))
}

fn run(options: &RetrievalOptions) -> Result<Retrieval, EvalError> {
    let task = Generator::new(&ByteCodec, Variant::Bowline, Some(ByteCodec::BOS)).unwrap();
    retrieve(&task, &model(), options, &mut Monitor::silent())
}

#[test]
fn rows_hold_all_depths_together_and_each_depth() {
    let rows = run(&options()).unwrap().rows("m", "v");
    assert_eq!(rows.len(), 2 * 2 * 4);
    let find = |length, depth, metric: &str| {
        rows.iter().find(|r| r.length == length && r.depth == depth && r.metric == metric).unwrap()
    };
    for metric in ["accuracy", "accuracy_forced"] {
        let near = find(150, None, metric);
        assert_eq!((near.value, near.count, near.high), (1.0, 12, 1.0));
        // Beyond the window of 250 only the needle at the end is seen.
        let far = find(600, None, metric);
        assert!((far.value - 1.0 / 3.0).abs() < 1e-12 && far.count == 12);
        assert_eq!((find(600, Some(0.0), metric).value, find(600, Some(1.0), metric).value), (0.0, 1.0));
        assert_eq!(find(600, Some(0.5), metric).count, 4);
    }
    assert_eq!((rows[0].protocol.as_str(), rows[0].unit_of_count.as_str()), ("bowline-2", "trials"));
    assert_eq!(rows[0].how, None);
}

#[test]
fn drawn_depths_have_one_row_a_metric() {
    let task = Generator::new(&ByteCodec, Variant::Yarn, None).unwrap();
    let options = RetrievalOptions { lengths: vec![700], depths: Depths::Drawn, trials: 3, seed: 0 };
    let rows = retrieve(&task, &model(), &options, &mut Monitor::silent()).unwrap().rows("m", "v");
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| row.depth.is_none() && row.how.is_some()));
}

/// A model that takes three questions at a time and notes how many it was given.
struct Together {
    model: Fake<Induction>,
    given: RefCell<Vec<usize>>,
    lost: bool,
}

impl LanguageModel for Together {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn bos(&self) -> Option<u32> {
        self.model.bos()
    }

    fn depends_on_length(&self) -> bool {
        false
    }

    fn score(&self, tokens: &[u32], scored: std::ops::Range<usize>) -> Result<Vec<TokenScore>, ModelError> {
        self.model.score(tokens, scored)
    }

    fn questions_at_once(&self, _: usize) -> usize {
        3
    }

    fn replies(&self, questions: &[Question<'_>]) -> Result<Vec<Reply>, ModelError> {
        self.given.borrow_mut().push(questions.len());
        let asked = &questions[..questions.len() - usize::from(self.lost)];
        asked.iter().map(|question| reply_alone(&self.model, question)).collect()
    }

    fn prefix(&self, tokens: &[u32], total: usize) -> Result<Box<dyn Prefix + '_>, ModelError> {
        self.model.prefix(tokens, total)
    }
}

#[test]
fn trials_of_drawn_depths_are_asked_together_and_those_that_are_known_not_at_all() {
    let task = Generator::new(&ByteCodec, Variant::Yarn, None).unwrap();
    let options = RetrievalOptions { lengths: vec![700], depths: Depths::Drawn, trials: 7, seed: 0 };
    let (folder, run) = (tempfile::tempdir().unwrap(), serde_json::json!({"run": 1}));
    let path = folder.path().join("samples.jsonl");
    let together = |lost| Together { model: model(), given: RefCell::new(Vec::new()), lost };
    let alone = {
        let mut log = SampleLog::create(&path, &run).unwrap();
        retrieve_logged(&task, &model(), &options, &mut Monitor::silent(), &mut log).unwrap().rows("m", "v")
    };
    let all = together(false);
    assert_eq!(retrieve(&task, &all, &options, &mut Monitor::silent()).unwrap().rows("m", "v"), alone);
    // The seventh is asked on its own, behind what was read before.
    assert_eq!(*all.given.borrow(), [3, 3]);
    // Trials 0, 1 and 3 are known.
    let lines = std::fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> =
        lines.lines().enumerate().filter(|(line, _)| [0, 1, 2, 4].contains(line)).map(|it| it.1).collect();
    std::fs::write(&path, kept.join("\n") + "\n").unwrap();
    let (rest, mut log) = (together(false), SampleLog::resume(&path, &run).unwrap());
    let resumed = retrieve_logged(&task, &rest, &options, &mut Monitor::silent(), &mut log).unwrap();
    assert_eq!(resumed.rows("m", "v"), alone);
    assert_eq!(*rest.given.borrow(), [2]);
    let error = retrieve(&task, &together(true), &options, &mut Monitor::silent()).unwrap_err().to_string();
    assert!(error.contains("2 replies to 3 questions") && error.contains("trial 0; "), "{error}");
}

#[test]
fn progress_counts_every_trial_and_the_flag_stops_between_trials() {
    let task = Generator::new(&ByteCodec, Variant::Bowline, None).unwrap();
    let (seen, flag) = (RefCell::new(Vec::new()), AtomicBool::new(false));
    let mut monitor = Monitor::silent().with_interrupt(&flag).with_progress(|p| {
        seen.borrow_mut().push((p.done, p.total));
        flag.store(p.done == 5, Ordering::Relaxed);
    });
    let error = retrieve(&task, &model(), &options(), &mut monitor).unwrap_err();
    let label = "passkey bowline-2 length 150".to_owned();
    assert_eq!(error, EvalError::Interrupted { done: 5, total: 24, label });
    drop(monitor);
    assert_eq!(seen.into_inner(), (1..=5).map(|done| (done, 24)).collect::<Vec<_>>());
}

#[test]
fn impossible_grids_are_refused_with_their_values() {
    let with = |change: fn(&mut RetrievalOptions)| {
        let mut options = options();
        change(&mut options);
        run(&options).unwrap_err()
    };
    assert_eq!(with(|o| o.lengths.clear()), EvalError::NoLengths);
    assert_eq!(with(|o| o.trials = 0), EvalError::NoTrials);
    assert_eq!(with(|o| o.depths = Depths::even(0)), EvalError::NoDepths);
    assert_eq!(with(|o| o.depths = Depths::Grid(vec![0.5, -0.5])), TaskError::Depth(-0.5).into());
    assert_eq!(with(|o| o.depths = Depths::Grid(vec![1.01])), TaskError::Depth(1.01).into());
    let short = with(|o| o.lengths.push(20));
    assert!(matches!(short, EvalError::Task(TaskError::TooShort { length: 20, least, .. }) if least > 20), "{short}");
}

#[test]
fn a_failing_model_is_named_with_its_sample() {
    let task = Generator::new(&ByteCodec, Variant::Bowline, None).unwrap();
    let small = Induction::model(10, 100, None);
    let error = retrieve(&task, &small, &options(), &mut Monitor::silent()).unwrap_err();
    assert!(error.to_string().contains("length 150, depth 1.00, trial 0"), "{error}");
}

#[test]
fn every_model_sees_the_same_samples() {
    assert_eq!(run(&options()), run(&options()));
    assert_eq!(Depths::even(3), Depths::Grid(vec![0.0, 0.5, 1.0]));
    assert_eq!(Depths::even(1), Depths::Grid(vec![0.5]));
}

#[test]
fn lengths_inside_and_beyond_a_window_are_pooled_apart() {
    let rows = run(&options()).unwrap().window_rows("m", "v", 250);
    let find = |metric: &str| rows.iter().find(|row| row.metric == metric).unwrap();
    let (inside, beyond) = (find("accuracy_in_window"), find("accuracy_beyond_window"));
    assert_eq!((inside.value, inside.count, inside.length), (1.0, 12, 150));
    assert!((beyond.value - 1.0 / 3.0).abs() < 1e-12 && beyond.count == 12 && beyond.length == 600);
    assert!(inside.how.as_ref().unwrap().contains("window of 250"));
    // The mean over both, which is what is usually published, says neither.
    let all_inside = run(&options()).unwrap().window_rows("m", "v", 600);
    assert_eq!(all_inside.len(), 2);
    assert!((all_inside[0].value - 2.0 / 3.0).abs() < 1e-12);
}

fn logged(log: &mut SampleLog, monitor: &mut Monitor<'_>) -> Result<Retrieval, EvalError> {
    let task = Generator::new(&ByteCodec, Variant::Bowline, Some(ByteCodec::BOS)).unwrap();
    retrieve_logged(&task, &model(), &options(), monitor, log)
}

#[test]
fn an_interrupted_run_goes_on_and_ends_as_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole.jsonl"), folder.path().join("broken.jsonl"));
    let run = serde_json::json!({"model": "m"});
    let expected = logged(&mut SampleLog::create(&whole, &run).unwrap(), &mut Monitor::silent()).unwrap();
    let flag = AtomicBool::new(false);
    let mut monitor =
        Monitor::silent().with_interrupt(&flag).with_progress(|p| flag.store(p.done == 7, Ordering::Relaxed));
    logged(&mut SampleLog::create(&broken, &run).unwrap(), &mut monitor).unwrap_err();
    assert_eq!(SampleLog::load(&broken).unwrap().1.len(), 7);
    let mut log = SampleLog::resume(&broken, &run).unwrap();
    assert_eq!(logged(&mut log, &mut Monitor::silent()).unwrap(), expected);
    assert_eq!(std::fs::read(&whole).unwrap(), std::fs::read(&broken).unwrap());
    assert_eq!(Retrieval::from_records(&SampleLog::load(&whole).unwrap().1), [expected]);
}

#[test]
fn a_known_sample_is_not_asked_for_again_and_another_prompt_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("samples.jsonl");
    let run = serde_json::json!({});
    let expected = logged(&mut SampleLog::create(&path, &run).unwrap(), &mut Monitor::silent()).unwrap();
    // A model that can answer nothing still gives the kept scores.
    let task = Generator::new(&ByteCodec, Variant::Bowline, Some(ByteCodec::BOS)).unwrap();
    let mut log = SampleLog::resume(&path, &run).unwrap();
    let refusing = Induction::model(1, 1, None);
    let again = retrieve_logged(&task, &refusing, &options(), &mut Monitor::silent(), &mut log).unwrap();
    assert_eq!(again, expected);
    let other = Generator::new(&ByteCodec, Variant::Bowline, None).unwrap();
    let error = retrieve_logged(&other, &model(), &options(), &mut Monitor::silent(), &mut log).unwrap_err();
    assert!(matches!(error, EvalError::Samples(SamplesError::OtherPrompt { length: 150, trial: 0, .. })), "{error}");
}
