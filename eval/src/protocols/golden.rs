//! The protocols against `tests/golden/protocols.json`, which `scripts/reference_protocols.py` computes with numpy.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::*;
use crate::model::{LanguageModel, ModelError, Prefix, TokenScore};
use crate::monitor::Monitor;

/// The toy model of the golden file; it keeps a list of the windows that it was shown.
struct Toy {
    bos: Option<u32>,
    depends_on_length: bool,
    /// Tokens in the window and how many of them were scored.
    seen: RefCell<Vec<(usize, usize)>>,
}

impl LanguageModel for Toy {
    fn vocab_size(&self) -> usize {
        97
    }

    fn bos(&self) -> Option<u32> {
        self.bos
    }

    fn depends_on_length(&self) -> bool {
        self.depends_on_length
    }

    fn score(&self, tokens: &[u32], scored: Range<usize>) -> Result<Vec<TokenScore>, ModelError> {
        self.seen.borrow_mut().push((scored.end, scored.len()));
        let stretch = if self.depends_on_length { scored.end as f64 / 200.0 } else { 0.0 };
        let nll = |i: usize| f64::from((31 * tokens[i] + 17 * i as u32) % 101) / 50.0 + 0.5 / i as f64 + stretch;
        Ok(scored.map(|i| TokenScore { log_prob: -nll(i) as f32, top: 0 }).collect())
    }

    fn prefix(&self, _: &[u32], _: usize) -> Result<Box<dyn Prefix + '_>, ModelError> {
        Err(ModelError("perplexity needs no prefix".to_owned()))
    }
}

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/protocols.json");
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

fn integer(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn options(case: &Value, stride: Option<usize>) -> PerplexityOptions {
    let (length, bos) = (integer(&case["length"]), case["bos"].as_bool().unwrap());
    let protocol: Protocol = case["protocol"].as_str().unwrap().parse().unwrap();
    let least = if case["short_documents"] == "kept" { 1 } else { length - usize::from(bos) };
    let min_document_tokens = (protocol != Protocol::P3).then_some(least);
    let bos = if bos { Bos::Auto } else { Bos::Omit };
    PerplexityOptions {
        stride,
        bos,
        min_document_tokens,
        resamples: 20,
        ..PerplexityOptions::new(protocol, vec![length])
    }
}

fn measured(golden: &Value, case: &Value, options: &PerplexityOptions) -> (Point, Vec<(usize, usize)>) {
    let (found, seen) = run(golden, case, options);
    (found.points[0].clone(), seen)
}

fn run(golden: &Value, case: &Value, options: &PerplexityOptions) -> (Perplexity, Vec<(usize, usize)>) {
    let documents: Vec<Vec<u32>> = serde_json::from_value(golden["documents"].clone()).unwrap();
    let depends_on_length = case["model"] == "nll_length_dependent";
    let toy = Toy { bos: Some(96), depends_on_length, seen: RefCell::default() };
    let found = perplexity(&toy, &documents, options, &mut Monitor::silent()).unwrap();
    (found, toy.seen.into_inner())
}

/// Single-precision scores are rounded by up to 6e-8 of their value; averages of a few nats stay within this.
fn close(got: f64, expected: &Value) -> bool {
    (got / expected.as_f64().unwrap() - 1.0).abs() < 1e-6
}

fn agrees(case: &Value, point: &Point) -> bool {
    close(point.token_weighted.value, &case["perplexity"])
        && close(point.published.value, &case["perplexity_published"])
        && point.windows == case["window_count"].as_u64().unwrap()
        && point.tokens == case["tokens_scored"].as_u64().unwrap()
}

#[test]
fn every_case_agrees_in_averages_and_windows() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 17);
    for case in cases {
        let (point, seen) = measured(&golden, case, &options(case, case["stride"].as_u64().map(|s| s as usize)));
        let name = format!("{} {} {}", case["protocol"], case["length"], case["stride"]);
        assert!(agrees(case, &point), "{name}: {point:?}");
        if case["protocol"] != "P3" {
            assert_eq!(point.documents as usize, case["documents_used"].as_array().unwrap().len(), "{name}");
        }
        let lead = usize::from(case["bos"].as_bool().unwrap());
        let window = |w: &Value| (integer(&w[2]) - integer(&w[1]) + lead, integer(&w[2]) - integer(&w[3]));
        let expected: Vec<_> = case["windows"].as_array().unwrap().iter().map(window).collect();
        // Windows of one shape are read together, so that their order is another; each is read once.
        let sorted = |mut windows: Vec<(usize, usize)>| {
            windows.sort_unstable();
            windows
        };
        assert_eq!(sorted(seen), sorted(expected), "{name}");
    }
}

#[test]
fn a_stride_off_by_one_and_a_forgotten_bos_disagree() {
    let golden = golden();
    for case in golden["cases"].as_array().unwrap() {
        let stride = case["stride"].as_u64().map(|s| s as usize);
        let right = options(case, stride);
        let flipped = if right.bos == Bos::Auto { Bos::Omit } else { Bos::Auto };
        let (point, _) = measured(&golden, case, &PerplexityOptions { bos: flipped, ..right.clone() });
        assert!(!agrees(case, &point), "bos goes unseen: {} {}", case["protocol"], case["length"]);
        if let Some(stride) = stride.filter(|&stride| stride > 1) {
            let (point, _) = measured(&golden, case, &PerplexityOptions { stride: Some(stride - 1), ..right });
            assert!(!agrees(case, &point), "stride goes unseen: {} {}", case["protocol"], case["length"]);
        }
    }
}

#[test]
fn loss_by_position_agrees_where_buckets_are_one_position_wide() {
    let golden = golden();
    let truncated = golden["cases"].as_array().unwrap().iter().filter(|case| case["protocol"] == "P2");
    for case in truncated {
        let curve = run(&golden, case, &options(case, None)).0.position_loss.unwrap();
        for (context, mean) in case["by_context"]["mean_nll"].as_array().unwrap().iter().take(6).enumerate() {
            assert_eq!(curve.positions[context], context + 1);
            assert!(close(curve.loss[context].value, mean), "{context}: {:?} {mean}", curve.loss[context]);
        }
    }
}
