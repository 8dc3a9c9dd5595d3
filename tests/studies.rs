//! Studies of methods without training: what their reports hold, how two reports are told apart, and what is refused.

use std::path::Path;

use eval::report::Report;

use super::support::program::bowline;
use super::support::tiny;

/// A study of the tiny model with these variants.
fn study(dir: &Path, variants: &str) {
    tiny::write(dir, "held-out.txt", &tiny::text(77, 600));
    let text = format!(
        "name = \"methods\"\nbase = {:?}\nseed = 3\n\n[evaluation]\ndocuments = [{:?}]\npiece_tokens = 128\n\
         lengths = [32, 64, 128]\npasskey_lengths = [64]\ndepths = 2\ntrials = 1\n\n{variants}",
        tiny::model(),
        dir.join("held-out.txt"),
    );
    tiny::write(dir, "study.toml", &text);
}

fn refused(variants: &str, words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    study(dir.path(), variants);
    let ran = bowline(dir.path(), ["run", "study.toml", "--out", "s", "--device", "cpu"]).expect(2);
    for word in words {
        assert!(ran.err.contains(word), "{word}: {ran}");
    }
    assert!(!dir.path().join("s").exists(), "nothing is begun");
}

#[test]
fn variants_are_read_by_methods_and_two_reports_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let variants =
        |reads: &str| format!("[[variant]]\nname = \"base\"\n[[variant]]\nname = \"read\"\nmethod = \"{reads}\"\n");
    let run = |out: &str, reads: &str| {
        study(dir.path(), &variants(reads));
        bowline(dir.path(), ["run", "study.toml", "--out", out, "--device", "cpu"]).expect(0);
        Report::load(&dir.path().join(out).join("report.json")).unwrap()
    };
    let inside = run("inside", "self-extend:group=4,window=8");
    let read = &inside.variants[1];
    assert_eq!((read.scheme.as_str(), read.parameters.as_str()), ("self-extend", "group = 4, window = 8"));
    let value = |report: &Report, variant: &str, length: usize| {
        let found = report.rows.iter().find(|r| r.variant == variant && r.metric == "perplexity" && r.length == length);
        found.unwrap().value
    };
    assert!(
        (value(&inside, "read", 128) / value(&inside, "base", 128) - 1.0).abs() > 1e-6,
        "the method does something"
    );
    assert_eq!(inside.document_loss.len(), 2);
    let stretched = run("stretched", "pi:factor=4");
    assert_eq!(stretched.variants[1].scheme, "linear");

    let ran = bowline(dir.path(), ["report", "diff", "inside", "stretched", "--json"]).expect(0).json();
    let rows = ran["rows"].as_array().unwrap();
    assert_eq!(
        (rows.len(), &ran["only_first"], &ran["unpaired"]),
        (inside.rows.len(), &0.into(), &serde_json::Value::Null)
    );
    let base: Vec<_> = rows.iter().filter(|row| row["variant"] == "base").collect();
    assert!(!base.is_empty() && base.iter().all(|row| row["verdict"] == "not-apart" && row["difference"] == 0.0));
    let paired = rows.iter().filter(|row| row["basis"]["paired"]["documents"].as_u64() > Some(1)).count();
    assert_eq!(paired, 6, "two variants at three lengths: {ran}");
    let page = bowline(dir.path(), ["report", "diff", "inside", "stretched"]).expect(0);
    assert!(page.out.contains("rows in both") && page.out.contains("documents in pairs: ratio"), "{page}");
    bowline(dir.path(), ["report", "diff", "inside", "nowhere"]).expect(3);
}

#[test]
fn a_matrix_becomes_variants_and_is_kept_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    study(dir.path(), "[matrix]\nmethods = [\"ntk\", \"rerope:window=16\"]\nfactors = [2, 4.5]\n");
    let arguments = ["sweep", "study.toml", "--out", "s", "--device", "cpu"];
    bowline(dir.path(), arguments).expect(0);
    let report = Report::load(&dir.path().join("s/report.json")).unwrap();
    let names: Vec<&str> = report.variants.iter().map(|variant| variant.name.as_str()).collect();
    assert_eq!(names, ["ntk-2x", "ntk-4.5x", "rerope-window-16"]);
    let more = ["--set", "matrix.factors=[2, 8]"];
    let again = bowline(dir.path(), arguments.iter().chain(&more)).expect(0);
    assert_eq!(again.err.matches("kept from an earlier run").count(), 2, "{again}");
}

#[test]
fn the_study_of_all_methods_runs_in_short() {
    let dir = tempfile::tempdir().unwrap();
    bowline(dir.path(), ["run", "methods", "--short", "--device", "cpu"]).expect(0);
    let report = Report::load(&dir.path().join("runs/methods-short/report.json")).unwrap();
    assert_eq!(report.variants.len(), 11);
}

#[test]
fn a_method_that_cannot_be_is_named_with_its_variant_before_anything_runs() {
    let spec = |more: &str| format!("[[variant]]\nname = \"odd\"\n{more}\n");
    refused(&spec("method = \"yarn\""), &["variant \"odd\": method: yarn: factor is missing"]);
    refused(&spec("method = \"self-extend:group=2\""), &["variant \"odd\": method: ", "window is missing"]);
    refused(&spec("method = \"rerope:window=8\"\ntrain = true"), &["variant \"odd\": method: ", "train must be false"]);
    let twice = "positions = { method = \"linear\", factor = 2.0 }\nmethod = \"yarn:factor=2\"";
    refused(&spec(twice), &["variant \"odd\": method: yarn:factor=2"]);
    refused("[matrix]\nmethods = [\"yarn\"]\n", &["matrix.factors", "yarn"]);
    refused("[matrix]\nmethods = []\n", &["matrix.methods"]);
}
