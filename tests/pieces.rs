//! Texts in pieces, and windows that go together: the likelihoods of one pass, of one window after another.

use attention::Backend;
use bowline::config::Method;
use bowline::model::{LoadOptions, ModelFolder};
use eval::{LanguageModel, TokenScore};
use rope_scaling::Precision;
use tch::{Device, Kind};
use testkit::{Class, assert_same, same};

use super::support::golden::cases;
use super::support::program::bowline;

const SUMS: Class = Class::Close { absolute: 1e-4, relative: 0.0 };

fn log_probs(scores: &[TokenScore]) -> Vec<f32> {
    scores.iter().map(|score| score.log_prob).collect()
}

fn bundled(method: Option<&str>) -> ModelFolder {
    let (kind, backend, precision) = (Some(Kind::Float), Backend::auto(), Precision::HubCompatible);
    let model = ModelFolder::load("bundled", LoadOptions { device: Device::Cpu, kind, backend, precision }).unwrap();
    match method {
        Some(method) => model.with_method(&method.parse::<Method>().unwrap()).unwrap(),
        None => model,
    }
}

#[test]
fn a_text_in_pieces_of_any_length_has_the_scores_of_one_pass() {
    for case in cases() {
        let model = case.load("libtorch");
        let total = case.tokens.len();
        let scored = [1..total, total / 3..total, total - 1..total];
        for scored in scored {
            let whole = log_probs(&model.reader().score(&case.tokens, scored.clone()).unwrap());
            for piece in [1, 3, 16, total - 2, total] {
                let reader = model.reader().with_chunk(Some(piece));
                let parts = log_probs(&reader.score(&case.tokens, scored.clone()).unwrap());
                same(&parts, &whole, SUMS).unwrap_or_else(|it| panic!("{}, pieces of {piece}: {it}", case.name));
            }
        }
        // A cache that is read into by pieces, and behind it.
        let (prompt, rest) = case.tokens.split_at(total / 2);
        let answers = |chunk: Option<usize>| {
            let reader = model.reader().with_chunk(chunk);
            let prefix = reader.prefix(prompt, total).unwrap();
            log_probs(&prefix.score(rest).unwrap())
        };
        for piece in [1, 5, total / 2 - 1] {
            same(&answers(Some(piece)), &answers(None), SUMS)
                .unwrap_or_else(|it| panic!("{} {piece}: {it}", case.name));
        }
    }
}

#[test]
fn windows_together_have_the_scores_of_each_alone_under_every_kind_of_method() {
    let longrope = "dynamic-yarn:factor=4";
    for method in [
        None,
        Some("dynamic-ntk:factor=4"),
        Some(longrope),
        Some("self-extend:group=8,window=64"),
        Some("dca:chunk=64,local=32"),
    ] {
        let model = bundled(method);
        let reader = model.reader();
        let text =
            bowline::evaluate::Documents::load(&model, &["bundled:heldout".to_owned()], "text", Some(300), Some(5));
        let rows: Vec<Vec<u32>> = text.unwrap().tokens;
        let together: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        for (scored, chunk) in [(1..300, None), (200..300, None), (290..300, Some(77))] {
            let reading = model.reader().with_chunk(chunk);
            let found = reading.score_rows(&together, scored.clone()).unwrap();
            assert_eq!(found.len(), 5);
            for (row, found) in rows.iter().zip(&found) {
                assert_same(&log_probs(found), &log_probs(&reader.score(row, scored.clone()).unwrap()), SUMS);
            }
        }
        // Rows that changed places would show.
        let found = reader.score_rows(&[&rows[1], &rows[0]], 1..300).unwrap();
        assert!(same(&log_probs(&found[0]), &log_probs(&reader.score(&rows[0], 1..300).unwrap()), SUMS).is_err());
        assert!(reader.score_rows(&[&rows[0], &rows[1][..200]], 1..300).is_err());
        assert!(reader.score_rows(&[], 1..300).is_err());
    }
}

#[test]
fn a_chunk_is_an_option_of_every_command_that_reads_a_model() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("text.txt"), "It is a truth universally acknowledged. ".repeat(60)).unwrap();
    let scores = |more: &[&str]| {
        let fixed = ["score", "bundled", "--text", "text.txt", "--device", "cpu", "--json", "-"];
        let found = bowline(folder.path(), fixed.iter().chain(more)).expect(0).json();
        found["nll"].as_array().unwrap().iter().map(|nll| nll.as_f64().unwrap()).collect::<Vec<_>>()
    };
    assert_same(&scores(&["--chunk", "50"]), &scores(&[]), Class::Close { absolute: 1e-4, relative: 0.0 });
    bowline(folder.path(), ["score", "bundled", "--text", "text.txt", "--chunk", "0"]).expect(2);
}
