//! Prompts that begin alike are read once: the same words, and the same likelihoods up to the order of float32 sums.

use attention::Backend;
use bowline::config::Method;
use bowline::model::{LoadOptions, ModelFolder};
use eval::haystack::Haystack;
use eval::passkey::{Generator, Variant};
use eval::tasks::needle::{Needle, NeedleOptions};
use eval::{Branching, LanguageModel, Prefix, Question, Reply, SampleLog, Task, TokenScore, reply_alone};
use rope_scaling::Precision;
use tch::{Device, Kind};
use testkit::{Class, assert_same, same};

use super::support::golden::{case, cases};
use super::support::program::bowline;

const SUMS: Class = Class::Close { absolute: 1e-4, relative: 0.0 };

fn log_probs(scores: &[TokenScore]) -> Vec<f32> {
    scores.iter().map(|score| score.log_prob).collect()
}

fn bundled(method: Option<&str>) -> ModelFolder {
    let options = LoadOptions {
        device: Device::Cpu,
        kind: Some(Kind::Float),
        backend: Backend::auto(),
        precision: Precision::HubCompatible,
    };
    let model = ModelFolder::load("bundled", options).unwrap();
    match method {
        Some(method) => model.with_method(&method.parse::<Method>().unwrap()).unwrap(),
        None => model,
    }
}

#[test]
fn a_prefix_that_is_cut_back_and_read_on_is_the_one_of_the_other_prompt() {
    for case in cases() {
        let model = case.load("libtorch");
        let (reader, total) = (model.reader(), case.tokens.len());
        let (prompt, rest) = (&case.tokens[..total / 2], &case.tokens[total / 2..]);
        let mut other = prompt.to_vec();
        other[total / 4..].reverse();
        let mut prefix = reader.prefix(&other, total).unwrap();
        prefix.rewind(total / 4, &prompt[total / 4..]).unwrap();
        let expected = reader.prefix(prompt, total).unwrap();
        let expected = log_probs(&expected.score(rest).unwrap());
        let scores = |prefix: &dyn Prefix| log_probs(&prefix.score(rest).unwrap());
        same(&scores(&*prefix), &expected, SUMS).unwrap_or_else(|it| panic!("{}: {it}", case.name));
        prefix.rewind(0, prompt).unwrap();
        assert_eq!(scores(&*prefix), expected, "{}: nothing kept is a reading like the first", case.name);
        // One token too many kept shows.
        let mut late = reader.prefix(&other, total).unwrap();
        late.rewind(total / 4 + 1, &prompt[total / 4 + 1..]).unwrap();
        assert!(same(&scores(&*late), &expected, SUMS).is_err(), "{}", case.name);
    }
}

#[test]
fn what_is_asked_at_once_is_what_is_asked_one_after_the_other() {
    let case = case("llama3-gqa");
    let model = case.load("libtorch");
    let reader = model.reader();
    let prefix = reader.prefix(&case.tokens[..40], 80).unwrap();
    let greedy = prefix.greedy(12, &[]).unwrap();
    // Answers that are right for 0, 1, 5 and all 8 tokens, and none at all.
    for right in [0, 1, 5, 8] {
        let mut answer = greedy[..8].to_vec();
        answer[right..].iter_mut().for_each(|token| *token = (*token + 1) % 50);
        let scores = prefix.score(&answer).unwrap();
        for count in [0, 1, 4, 8, 12] {
            let (scored, written) = prefix.answered(&answer, count).unwrap();
            assert_eq!(log_probs(&scored), log_probs(&scores), "{right} right, {count} written");
            assert_eq!(written, greedy[..count], "{right} right, {count} written");
        }
    }
    assert_eq!(prefix.answered(&[], 3).unwrap(), (Vec::new(), greedy[..3].to_vec()));
    assert_eq!(prefix.greedy(12, &[]).unwrap(), greedy, "the prefix is as it was");
}

/// Questions of several lengths about a text, answers right for a while, wrong, and none, and counts that end one after the other.
fn questions<'q>(text: &'q [u32], answers: &'q [Vec<u32>]) -> Vec<Question<'q>> {
    let lengths = [90, 41, 120, 7, 64];
    let counts = [12, 9, 0, 20, 1];
    let of = |((length, answer), count)| Question { prompt: &text[..length], answer, count };
    lengths.into_iter().zip(answers.iter().map(Vec::as_slice)).zip(counts).map(of).collect()
}

/// Replies together and alone to the same questions.
fn both(reader: &dyn LanguageModel, text: &[u32]) -> (Vec<Reply>, Vec<Reply>) {
    let none = vec![Vec::new(); 5];
    let mut answers = Vec::new();
    for (right, question) in questions(text, &none).iter().enumerate() {
        let total = question.prompt.len() + 8;
        let mut answer = reader.prefix(question.prompt, total).unwrap().greedy([8, 8, 8, 0, 5][right], &[]).unwrap();
        answer.iter_mut().skip(right).for_each(|token| *token = (*token + 1) % 50);
        answers.push(answer);
    }
    let asked = questions(text, &answers);
    let alone = asked.iter().map(|question| reply_alone(reader, question).unwrap()).collect();
    (reader.replies(&asked).unwrap(), alone)
}

fn assert_alike(together: &[Reply], alone: &[Reply], name: &str) {
    assert_eq!(together.len(), alone.len());
    for (ours, plain) in together.iter().zip(alone) {
        assert_eq!(ours.written, plain.written, "{name}");
        same(&log_probs(&ours.forced), &log_probs(&plain.forced), SUMS).unwrap_or_else(|it| panic!("{name}: {it}"));
    }
}

#[test]
fn questions_answered_together_have_the_replies_to_each_alone() {
    for case in cases().into_iter().filter(|case| case.tokens.len() >= 150) {
        let model = case.load("libtorch");
        let (together, alone) = both(&model.reader(), &case.tokens);
        assert_alike(&together, &alone, &case.name);
    }
    for method in [
        None,
        Some("yarn:factor=4"),
        Some("dynamic-ntk:factor=4"),
        Some("self-extend:group=8,window=32"),
        Some("dca:chunk=64,local=32"),
        Some("streaming:window=60,sinks=4"),
    ] {
        let model = bundled(method);
        let text =
            bowline::evaluate::Documents::load(&model, &["bundled:heldout".to_owned()], "text", Some(200), Some(1));
        let text = text.unwrap().tokens.swap_remove(0);
        let reader = model.reader();
        assert_eq!(reader.questions_at_once(400) > 1, method != Some("dynamic-ntk:factor=4"));
        let (together, alone) = both(&reader, &text);
        assert_alike(&together, &alone, method.unwrap_or("none"));
        assert_ne!(together[0].written, together[1].written, "questions that changed places would show");
    }
}

/// Every prompt of a grid with branching and without.
fn compare(task: &dyn Task, reader: &dyn LanguageModel, length: usize) {
    let branching = Branching::new(reader, length);
    let mut plain = 0;
    for trial in 0..2 {
        for depth in [1.0, 0.75, 0.5, 0.25, 0.0] {
            let sample = task.sample(length, Some(depth), task.trial_seed(7, length, trial)).unwrap();
            plain += sample.tokens.len() as u64;
            let scores = |model: &dyn LanguageModel| {
                log_probs(&model.prefix(&sample.tokens, length).unwrap().score(&sample.answer).unwrap())
            };
            assert_same(&scores(&branching), &scores(reader), SUMS);
            assert_eq!(task.score(&branching, &sample).unwrap(), task.score(reader, &sample).unwrap(), "{depth}");
        }
    }
    // Each prompt is asked twice, the second time for its last token alone: 1 + 2.5 of 5 prompts.
    assert!(branching.tokens_read() as f64 <= 0.8 * plain as f64, "{} of {plain}", branching.tokens_read());
}

#[test]
fn a_grid_on_the_bundled_model_is_answered_as_without_branching_under_every_kind_of_method() {
    for method in
        [None, Some("dynamic-ntk:factor=4"), Some("self-extend:group=8,window=128"), Some("dca:chunk=128,local=64")]
    {
        let model = bundled(method);
        let (reader, codec, bos) = (model.reader(), model.tokenizer().unwrap(), model.llama.config.bos);
        compare(&Generator::new(codec, Variant::Bowline, bos).unwrap(), &reader, 400);
        let haystack = Haystack::generated(3, 2000);
        compare(&Needle::new(codec, &haystack, NeedleOptions::default(), bos).unwrap(), &reader, 600);
    }
}

#[test]
fn a_text_longer_than_what_goes_through_an_mlp_at_once_is_scored_as_in_two_parts() {
    let case = case("abf-gqa");
    let model = case.load("libtorch");
    let reader = model.reader();
    let tokens: Vec<u32> = case.tokens.iter().copied().cycle().take(8500).collect();
    let whole = reader.score(&tokens, 8100..8500).unwrap();
    let kept = reader.prefix(&tokens[..8100], 8500).unwrap();
    assert_same(&log_probs(&kept.score(&tokens[8100..]).unwrap()), &log_probs(&whole), SUMS);
}

#[test]
fn samples_are_kept_with_one_seed_over_the_depths_of_a_trial_and_a_key_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let grid = ["--lengths", "128", "--depths", "3", "--trials", "2", "--device", "cpu", "--out", "run"];
    bowline(folder.path(), ["eval", "passkey", "bundled"].iter().chain(&grid)).expect(0);
    let (_, samples) = SampleLog::load(&folder.path().join("run/samples.jsonl")).unwrap();
    assert_eq!(samples.iter().map(|sample| sample.depth).collect::<Vec<_>>(), [1.0, 0.5, 0.0, 1.0, 0.5, 0.0].map(Some));
    assert!(samples.iter().all(|sample| sample.protocol == "bowline-2"));
    for trial in samples.chunks(3) {
        assert!(trial.iter().all(|sample| sample.seed == trial[0].seed));
    }
    assert_ne!(samples[0].seed, samples[3].seed);
    let mut answers: Vec<_> = samples.iter().map(|sample| sample.answer.clone()).collect();
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), samples.len());
}

#[test]
fn the_bench_of_evaluation_has_a_row_a_case_and_its_ways_agree() {
    let folder = tempfile::tempdir().unwrap();
    let small = [
        "--curve-length",
        "128",
        "--points",
        "8",
        "--passkey-length",
        "128",
        "--depths",
        "3",
        "--trials",
        "1",
        "--window",
        "64",
        "--stride",
        "16",
        "--windows",
        "3",
        "--short-window",
        "32",
        "--short-windows",
        "5",
        "--pieces-length",
        "96",
        "--piece",
        "20",
        "--questions",
        "3",
        "--question-length",
        "40",
        "--written",
        "8",
        "--repeats",
        "1",
        "--device",
        "cpu",
        "--json",
    ];
    let rows = bowline(folder.path(), ["bench", "eval"].iter().chain(&small)).expect(0).json();
    let rows = rows.as_array().unwrap();
    let cases: Vec<&str> = rows.iter().map(|row| row["case"].as_str().unwrap()).collect();
    assert_eq!(cases, ["curve", "passkey_grid", "sliding", "short_windows", "pieces", "questions"]);
    for row in rows {
        assert!(row["ratio"].as_f64().unwrap() > 0.0 && row["tokens_per_second"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["max_nll_difference"].as_f64().unwrap() < 1e-3, "{row}");
        assert!(row["peak_bytes"].is_null() || row["peak_bytes"].as_u64().unwrap() > 1 << 20, "{row}");
    }
    assert_eq!(rows[0]["ratio_of_tokens"].as_f64().unwrap(), 4.5, "8 points of 16 tokens: 36 sixteenths of 8");
    bowline(folder.path(), ["bench", "eval", "--points", "0"]).expect(2);
}
