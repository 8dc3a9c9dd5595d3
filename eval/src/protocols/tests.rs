//! The protocols against numbers worked out by hand and against a naive second writing of them.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::fakes::{Fake, Formula, Rule, Uniform};
use crate::model::LanguageModel;
use crate::monitor::Monitor;

/// Loss of a token: a tenth of its id, and a hundredth for each token before it.
fn loss(token: u32, context: usize) -> f64 {
    f64::from(token) / 10.0 + context as f64 / 100.0
}

fn model() -> Fake<impl Rule> {
    Formula::model(|token, context, _| loss(token, context), false, 100, Some(0))
}

/// As [`model`], with losses that grow with the length of the pass.
fn stretching_model() -> Fake<impl Rule> {
    Formula::model(|token, context, total| loss(token, context) + total as f64 / 50.0, true, 100, Some(0))
}

fn three_token_documents() -> Vec<Vec<u32>> {
    vec![vec![1, 2, 3], vec![4, 5, 6]]
}

fn options(protocol: Protocol, lengths: &[usize]) -> PerplexityOptions {
    PerplexityOptions { resamples: 50, ..PerplexityOptions::new(protocol, lengths.to_vec()) }
}

fn run(documents: &[Vec<u32>], options: &PerplexityOptions) -> Result<Perplexity, EvalError> {
    perplexity(&model(), documents, options, &mut Monitor::silent())
}

/// Mean losses (token-weighted, published) of the only point.
fn means(documents: &[Vec<u32>], options: &PerplexityOptions) -> (f64, f64) {
    let found = run(documents, options).unwrap();
    assert_eq!(found.points.len(), 1);
    (found.points[0].token_weighted.value.ln(), found.points[0].published.value.ln())
}

fn close((a, b): (f64, f64), (c, d): (f64, f64)) -> bool {
    (a - c).abs() < 1e-6 && (b - d).abs() < 1e-6
}

#[test]
fn p1_by_hand() {
    // Windows of bos and two tokens, one further each. First document: (0.11, 0.22), then the new token alone: 0.32;
    // second: (0.41, 0.52), 0.62.
    let got = means(&three_token_documents(), &PerplexityOptions { stride: Some(1), ..options(Protocol::P1, &[3]) });
    assert!(close(got, (2.2 / 6.0, (0.165 + 0.32 + 0.465 + 0.62) / 4.0)), "{got:?}");
}

#[test]
fn p2_by_hand() {
    // bos and two tokens: (0.11, 0.22) and (0.41, 0.52).
    let got = means(&three_token_documents(), &options(Protocol::P2, &[3]));
    assert!(close(got, (0.315, 0.315)), "{got:?}");
    // Without a bos the window is all three tokens and the first is not counted: (0.21, 0.32) and (0.51, 0.62).
    let bare = PerplexityOptions { bos: Bos::Omit, ..options(Protocol::P2, &[3]) };
    let got = means(&three_token_documents(), &bare);
    assert!(close(got, (0.415, 0.415)), "{got:?}");
}

#[test]
fn p3_by_hand() {
    // Stream 0 1 2 3 0 4 5 6; windows at 0, 2 and 4: (0.11, 0.22), (0.31, 0.02), (0.41, 0.52).
    let options = PerplexityOptions { stride: Some(2), ..options(Protocol::P3, &[3]) };
    let got = means(&three_token_documents(), &options);
    assert!(close(got, (0.265, 0.265)), "{got:?}");
    let point = &run(&three_token_documents(), &options).unwrap().points[0];
    assert_eq!((point.documents, point.windows, point.tokens), (2, 3, 6));
    // Two of the three windows begin in the first document: resampling gives its mean or the second's at the ends.
    let ends = (point.published.low.ln(), point.published.high.ln());
    assert!(close(ends, (0.165, 0.465)), "{ends:?}");
}

#[test]
fn p4_by_hand() {
    // bos and two tokens side by side: (0.11, 0.22), (0.31); (0.41, 0.52), (0.61). Averaged over tokens.
    let got = means(&three_token_documents(), &options(Protocol::P4, &[3]));
    assert!(close(got, (2.18 / 6.0, 2.18 / 6.0)), "{got:?}");
    let over_windows = (0.165 + 0.31 + 0.465 + 0.61) / 4.0;
    assert!((got.1 - over_windows).abs() > 0.01);
}

/// Ways to get P1 wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bug {
    None,
    StrideOffByOne,
    WindowsAveragedAsTokens,
    MissingBos,
    FirstWindowNewestOnly,
    AllTokensOfEveryWindow,
}

/// P1 written as loops over positions, with a bug at choice.
fn naive_p1(documents: &[Vec<u32>], length: usize, stride: usize, bug: Bug) -> (f64, f64) {
    let bos = bug != Bug::MissingBos;
    let capacity = if bos { length - 1 } else { length };
    let stride = stride + usize::from(bug == Bug::StrideOffByOne);
    let (mut tokens, mut windows) = (Vec::new(), Vec::new());
    for document in documents {
        let (mut start, mut next) = (0, if bug == Bug::FirstWindowNewestOnly { capacity - stride } else { 0 });
        loop {
            let end = document.len().min(start + capacity);
            let from = if bug == Bug::AllTokensOfEveryWindow { start } else { next };
            let scored: Vec<f64> = (from..end)
                .filter(|&i| bos || i > start)
                .map(|i| loss(document[i], i - start + usize::from(bos)))
                .collect();
            windows.push(scored.iter().sum::<f64>() / scored.len() as f64);
            tokens.extend(scored);
            (start, next) = (start + stride, end);
            if end == document.len() {
                break;
            }
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let published = if bug == Bug::WindowsAveragedAsTokens { mean(&tokens) } else { mean(&windows) };
    (mean(&tokens), published)
}

#[test]
fn p1_equals_its_naive_form_and_rejects_every_planted_bug() {
    let documents: Vec<Vec<u32>> = [23, 17, 40].map(|n| (0..n).map(|i| (i * 7 + n) % 90 + 1).collect()).to_vec();
    let options = PerplexityOptions { stride: Some(3), ..options(Protocol::P1, &[9]) };
    let got = means(&documents, &options);
    assert!(close(got, naive_p1(&documents, 9, 3, Bug::None)), "{got:?}");
    for bug in [
        Bug::StrideOffByOne,
        Bug::WindowsAveragedAsTokens,
        Bug::MissingBos,
        Bug::FirstWindowNewestOnly,
        Bug::AllTokensOfEveryWindow,
    ] {
        assert!(!close(got, naive_p1(&documents, 9, 3, bug)), "{bug:?} goes unseen");
    }
    let bare = PerplexityOptions { bos: Bos::Omit, ..options };
    assert!(close(means(&documents, &bare), naive_p1(&documents, 9, 3, Bug::MissingBos)));
}

#[test]
fn one_pass_gives_the_curve_of_separate_passes_when_positions_do_not_depend_on_length() {
    let documents: Vec<Vec<u32>> = (1..5).map(|d| (0..40).map(|i| (i * d) % 99 + 1).collect()).collect();
    let lengths = [4, 9, 16, 33];
    // min_document_tokens is set because a point alone would choose by its own length.
    let with =
        |lengths: &[usize]| PerplexityOptions { min_document_tokens: Some(32), ..options(Protocol::P2, lengths) };
    let once = run(&documents, &with(&lengths)).unwrap();
    for (i, &length) in lengths.iter().enumerate() {
        let alone = run(&documents, &with(&[length])).unwrap();
        assert_eq!(once.points[i], alone.points[0]);
    }
    assert!(once.points.iter().all(|point| point.how == "one pass"));
}

#[test]
fn a_length_dependent_model_is_read_once_a_length() {
    let documents = vec![(1..40).collect::<Vec<u32>>(); 3];
    let lengths = [4, 9, 33];
    let stretching = stretching_model();
    let found = perplexity(&stretching, &documents, &options(Protocol::P2, &lengths), &mut Monitor::silent()).unwrap();
    let alone = |length| {
        let options = PerplexityOptions { min_document_tokens: Some(32), ..options(Protocol::P2, &[length]) };
        perplexity(&stretching, &documents, &options, &mut Monitor::silent()).unwrap().points.remove(0)
    };
    for (point, &length) in found.points.iter().zip(&lengths) {
        assert_eq!(point, &alone(length));
        assert_eq!(point.how, "a pass per length");
    }
    // The same formula read in one pass would be wrong at every length but the last.
    let denies = Formula::model(|t, c, total| loss(t, c) + total as f64 / 50.0, false, 100, Some(0));
    let once = perplexity(&denies, &documents, &options(Protocol::P2, &lengths), &mut Monitor::silent()).unwrap();
    let differs = |i: usize| (once.points[i].token_weighted.value - found.points[i].token_weighted.value).abs() > 0.1;
    assert!(differs(0) && differs(1) && !differs(2));
}

#[test]
fn every_protocol_gives_a_uniform_model_its_vocabulary_size() {
    let documents: Vec<Vec<u32>> = (20..26).map(|n| vec![7; n]).collect();
    for protocol in Protocol::ALL {
        for bos in [Bos::Auto, Bos::Omit] {
            let options = PerplexityOptions { bos, ..options(protocol, &[5, 20]) };
            let found = perplexity(&Uniform::model(50, Some(0)), &documents, &options, &mut Monitor::silent()).unwrap();
            for row in found.rows("m", "v") {
                assert!([row.value, row.low, row.high].iter().all(|v| (v - 50.0).abs() < 1e-4), "{row:?}");
                assert_eq!(row.protocol, protocol.name());
                // In P3 no window may begin in the last document, which is near the end of the stream.
                assert!(row.count == 6 || protocol == Protocol::P3 && row.count == 5, "{row:?}");
            }
        }
    }
}

#[test]
fn short_documents_are_counted_as_the_protocol_says() {
    let documents: Vec<Vec<u32>> = [3, 10, 20].map(|n| (1..=n).collect()).to_vec();
    let counts = |options: PerplexityOptions| -> Vec<u64> {
        run(&documents, &options).unwrap().points.iter().map(|point| point.documents).collect()
    };
    assert_eq!(counts(options(Protocol::P1, &[5, 17])), [3, 3]);
    assert_eq!(counts(options(Protocol::P2, &[5, 17])), [1, 1]);
    assert_eq!(counts(options(Protocol::P4, &[5, 11])), [2, 2]);
    let some = |protocol| PerplexityOptions { min_document_tokens: Some(4), ..options(protocol, &[5, 17]) };
    assert_eq!(counts(some(Protocol::P2)), [2, 1]);
    assert_eq!(counts(some(Protocol::P1)), [2, 2]);
    let cut = PerplexityOptions { max_document_tokens: Some(12), ..options(Protocol::P1, &[5]) };
    assert_eq!(run(&documents, &cut).unwrap().points[0].tokens, 3 + 10 + 12);
}

#[test]
fn p2_tells_loss_by_position_and_one_document_claims_no_interval() {
    let documents = vec![(1..40).collect::<Vec<u32>>()];
    let found = run(&documents, &options(Protocol::P2, &[33])).unwrap();
    let curve = found.position_loss.as_ref().unwrap().report("v");
    assert_eq!((curve.positions[0], curve.length, curve.documents), (1, 33, 1));
    assert!((curve.loss[0] - loss(1, 1)).abs() < 1e-6);
    let point = &found.points[0];
    assert_eq!(point.how, "one pass; one document, no interval");
    assert_eq!((point.published.low, point.published.high), (point.published.value, point.published.value));
    assert!(run(&documents, &options(Protocol::P1, &[33])).unwrap().position_loss.is_none());
}

#[test]
fn lengths_are_put_in_order_and_default_strides_fit_short_windows() {
    let documents = vec![(1..40).collect::<Vec<u32>>(); 2];
    let found = run(&documents, &options(Protocol::P1, &[33, 5, 33])).unwrap();
    assert_eq!(found.points.iter().map(|p| p.length).collect::<Vec<_>>(), [5, 33]);
    assert_eq!(found.points.iter().map(|p| p.how.as_str()).collect::<Vec<_>>(), ["stride 4", "stride 32"]);
}

#[test]
fn impossible_runs_are_refused_with_their_values() {
    let documents = three_token_documents();
    let fails = |options: PerplexityOptions| run(&documents, &options).unwrap_err();
    assert_eq!(fails(options(Protocol::P1, &[])), EvalError::NoLengths);
    assert_eq!(fails(options(Protocol::P1, &[8, 1])), EvalError::LengthTooShort(1));
    assert_eq!(run(&[], &options(Protocol::P1, &[8])), Err(EvalError::NoDocuments));
    assert_eq!(fails(PerplexityOptions { resamples: 0, ..options(Protocol::P1, &[8]) }), EvalError::NoResamples);
    for stride in [0, 8] {
        let error = fails(PerplexityOptions { stride: Some(stride), ..options(Protocol::P1, &[8]) });
        assert_eq!(error, EvalError::Stride { stride, length: 8, most: 7 });
    }
    let error = fails(PerplexityOptions { stride: Some(2), ..options(Protocol::P2, &[3]) });
    assert_eq!(error, EvalError::NeedlessStride(2));
    let short = |protocol, documents, needed, longest| EvalError::AllTooShort { protocol, documents, needed, longest };
    assert_eq!(fails(options(Protocol::P2, &[9])), short("P2", 2, 8, 3));
    assert_eq!(fails(options(Protocol::P4, &[9])), short("P4", 2, 8, 3));
    assert_eq!(fails(options(Protocol::P3, &[9])), short("P3", 2, 9, 8));
    let some = PerplexityOptions { min_document_tokens: Some(2), ..options(Protocol::P2, &[3, 9]) };
    assert_eq!(fails(some), short("P2", 2, 8, 3));
    assert_eq!(run(&[Vec::new()], &options(Protocol::P1, &[9])), Err(short("P1", 1, 1, 0)));
    assert_eq!("P5".parse::<Protocol>(), Err(EvalError::UnknownProtocol("P5".into())));
    assert_eq!("P3".parse::<Protocol>(), Ok(Protocol::P3));
}

#[test]
fn a_score_that_is_no_probability_stops_the_run_and_is_named() {
    for bad in [f64::NAN, f64::INFINITY, -0.5] {
        let broken = Formula::model(move |t, _, _| if t == 5 { bad } else { 1.0 }, false, 100, Some(0));
        for protocol in Protocol::ALL {
            let stride = (protocol == Protocol::P3).then_some(1);
            let options = PerplexityOptions { stride, ..options(protocol, &[3]) };
            let found = perplexity(&broken, &three_token_documents(), &options, &mut Monitor::silent());
            let Err(EvalError::BadScore { document: 1, position: 2, length: 3, .. }) = found else {
                panic!("{protocol}: {found:?}")
            };
        }
    }
}

#[test]
fn a_model_that_answers_too_little_or_not_at_all_is_an_error() {
    let small = Uniform::model(3, Some(0));
    let error = perplexity(&small, &three_token_documents(), &options(Protocol::P2, &[3]), &mut Monitor::silent());
    assert!(error.unwrap_err().to_string().contains("window of 3 tokens in document 1"));

    struct Mute;
    impl LanguageModel for Mute {
        fn vocab_size(&self) -> usize {
            9
        }
        fn bos(&self) -> Option<u32> {
            None
        }
        fn depends_on_length(&self) -> bool {
            false
        }
        fn score(&self, _: &[u32], _: std::ops::Range<usize>) -> Result<Vec<crate::TokenScore>, crate::ModelError> {
            Ok(Vec::new())
        }
        fn prefix(&self, _: &[u32], _: usize) -> Result<Box<dyn crate::Prefix + '_>, crate::ModelError> {
            Err(crate::ModelError("mute".into()))
        }
    }
    let error = perplexity(&Mute, &three_token_documents(), &options(Protocol::P2, &[3]), &mut Monitor::silent());
    assert!(matches!(error, Err(EvalError::ScoreCount { got: 0, asked: 2, .. })));
}

#[test]
fn an_interrupted_run_says_how_far_it_came() {
    let (flag, mut last) = (AtomicBool::new(false), (0, 0));
    let mut monitor = Monitor::silent().with_interrupt(&flag).with_progress(|p| {
        last = (p.done, p.total);
        flag.store(p.done == 3, std::sync::atomic::Ordering::Relaxed);
    });
    let error = perplexity(&model(), &three_token_documents(), &options(Protocol::P4, &[3]), &mut monitor);
    let label = "P4 length 3".to_owned();
    assert_eq!(error, Err(EvalError::Interrupted { done: 3, total: 4, label }));
    drop(monitor);
    assert_eq!(last, (3, 4));
}

#[test]
fn intervals_are_seeded_and_hold_their_value() {
    let documents: Vec<Vec<u32>> = (1..9).map(|d| vec![d * 3; 20]).collect();
    let with = |seed| run(&documents, &PerplexityOptions { seed, ..options(Protocol::P2, &[16]) }).unwrap();
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
    let point = &with(1).points[0];
    assert!(point.published.low < point.published.value && point.published.value < point.published.high);
}
