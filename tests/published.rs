//! Reports held against the figures that were published for a recipe's model.

use std::path::Path;

use serde_json::{Value, json};

use super::support::program::bowline;
use super::support::tiny;

/// A report of the variants, with these rows of the first: metric, protocol, length, value.
fn report(dir: &Path, name: &str, variants: &[&str], rows: &[(&str, &str, usize, f64)]) {
    let variant = |name: &&str| {
        json!({
            "name": name, "description": "", "model": "m", "scheme": "yarn", "parameters": "factor = 16",
            "original_context": 4096, "trained_context": 65_536, "trained_tokens": 1
        })
    };
    let row = |(metric, protocol, length, value): &(&str, &str, usize, f64)| {
        json!({
            "model": "m", "variant": variants[0], "task": "perplexity", "protocol": protocol, "length": length,
            "depth": null, "metric": metric, "value": value, "low": value - 0.01, "high": value + 0.01, "count": 10,
            "unit_of_count": "documents"
        })
    };
    let report = json!({
        "schema_version": 1,
        "provenance": {
            "program": "bowline", "command": [], "commit": null, "dirty": null, "started_at": "2026-01-01T00:00:00Z",
            "duration_s": 1.0, "device": "cpu", "threads": 1, "dtype": "float32", "seeds": {}, "versions": {},
            "hashes": {}, "config": null
        },
        "variants": variants.iter().map(variant).collect::<Vec<_>>(),
        "rows": rows.iter().map(row).collect::<Vec<_>>(),
    });
    std::fs::create_dir_all(dir.join(name)).unwrap();
    tiny::write(&dir.join(name), "report.json", &report.to_string());
}

/// What was printed, and the exit code that was expected.
fn held(dir: &Path, arguments: &[&str], code: i32) -> (String, String) {
    let ran = bowline(dir, ["report", "expect"].iter().chain(arguments)).expect(code);
    (ran.out, ran.err)
}

/// Published for it: Proof-pile by P2, 3.61 to 3.77 at 4096, 2.60 to 2.71 at 32768, 2.37 to 2.47 at 65536; GovReport by P1,
/// 3.52 to 3.67 at 32768.
const RECIPE: &str = "yarn-llama-2-7b-64k";

#[test]
fn figures_inside_their_bands_pass_and_one_outside_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let proof_pile = |at_64k: f64| {
        // Averaged as in print goes before the mean over tokens.
        let rows = [
            ("perplexity", "P2", 4096, 9.0),
            ("perplexity_published", "P2", 4096, 3.7),
            ("perplexity", "P2", 32_768, 2.65),
            ("perplexity", "P2", 65_536, at_64k),
        ];
        report(dir.path(), "proof-pile", &["yarn"], &rows);
    };
    proof_pile(2.47);
    report(dir.path(), "reports", &["yarn"], &[("perplexity", "P1", 32_768, 3.52)]);
    let both = [RECIPE, "proof-pile", "reports", "--dataset", "Proof-pile", "--dataset", "GovReport"];
    let (page, _) = held(dir.path(), &both, 0);
    assert_eq!(page.matches("  inside").count(), 4, "{page}");
    assert!(page.contains("3.61 to 3.77") && page.contains("3.7000") && page.contains("YaRN's repository"), "{page}");

    proof_pile(2.48);
    let (page, error) = held(dir.path(), &both, 1);
    assert!(page.contains("2.4800") && page.matches("OUTSIDE").count() == 1, "{page}");
    assert!(error.contains("3 inside their bands, 1 outside, 0 not measured"), "{error}");
    let (found, _) = held(dir.path(), &[&both[..], &["--json"]].concat(), 1);
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!((&found["inside"], &found["outside"], &found["not_measured"]), (&json!(3), &json!(1), &json!(0)));
    let outside = &found["bands"][2];
    assert_eq!((&outside["verdict"], &outside["measured"]["value"]), (&json!("outside"), &json!(2.48)));
    assert_eq!((&outside["high"], &outside["dataset"]), (&json!(2.47), &json!("Proof-pile")));
}

#[test]
fn what_was_not_measured_is_told_and_does_not_pass() {
    let dir = tempfile::tempdir().unwrap();
    // By another protocol, at another length, on another data set: none of them is the figure that was published.
    let rows = [("perplexity", "P1", 4096, 3.7), ("perplexity", "P2", 8192, 3.7), ("perplexity", "P2", 32_768, 2.65)];
    report(dir.path(), "run", &["yarn"], &rows);
    let (page, error) = held(dir.path(), &[RECIPE, "run", "--dataset", "Proof-pile"], 1);
    assert_eq!(page.matches("not measured").count(), 3, "{page}");
    assert!(error.contains("1 inside their bands, 0 outside, 3 not measured"), "{error}");
    let (page, _) = held(dir.path(), &[RECIPE, "run", "--dataset", "GovReport"], 1);
    assert_eq!(page.matches("not measured").count(), 4, "{page}");
}

#[test]
fn a_comparison_that_cannot_be_made_is_refused_in_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    report(dir.path(), "run", &["yarn", "plain"], &[("perplexity", "P2", 4096, 3.7)]);
    let cases: [(&[&str], &[&str], i32); 6] = [
        (&[RECIPE, "run", "--dataset", "PG-19"], &["PG-19", "GovReport, Proof-pile"], 2),
        (&[RECIPE, "run", "run", "--dataset", "Proof-pile"], &["once for each run", "1 for 2 runs"], 2),
        (&[RECIPE, "run", "--dataset", "Proof-pile"], &["run: holds 2 variants", "--variant: yarn, plain"], 2),
        (&[RECIPE, "run", "--dataset", "Proof-pile", "--variant", "pi"], &["--variant pi", "yarn, plain"], 2),
        (&["base", "run", "--dataset", "Proof-pile"], &["base", "[[expected]]"], 2),
        (&[RECIPE, "nowhere", "--dataset", "Proof-pile"], &["nowhere"], 3),
    ];
    for (arguments, words, code) in cases {
        let (page, error) = held(dir.path(), arguments, code);
        assert!(page.is_empty() && words.iter().all(|word| error.contains(word)), "{arguments:?}: {page}{error}");
    }
    let chosen = [RECIPE, "run", "--dataset", "Proof-pile", "--variant", "yarn"];
    assert!(held(dir.path(), &chosen, 1).0.contains("inside"));
}
