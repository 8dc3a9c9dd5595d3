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
    // Two variants whole; of none a part.
    assert_eq!(again.err.matches(": kept from an earlier run").count(), 2, "{again}");
}

#[test]
fn every_task_is_a_job_of_its_own_and_variants_side_by_side_find_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let tasks = |needle_trials: usize| {
        format!(
            "[[task]]\nkind = \"needle\"\nlengths = [128]\ndepths = 2\ntrials = {needle_trials}\n\
             [[task]]\nkind = \"ruler\"\nlengths = [448]\nsamples = 1\ntasks = [\"niah_single_1\", \"niah_single_2\"]\n\
             [[task]]\nkind = \"short-text\"\nlengths = [48]\n\
             [[task]]\nkind = \"longppl\"\nlengths = [96]\ncontext = 32\nstride = 16\n\
             [[task]]\nkind = \"kv\"\nlengths = [320]\ndepths = 1\ntrials = 1\n\
             [matrix]\nmethods = [\"none\", \"yarn\"]\nfactors = [4]\n"
        )
    };
    let run = |out: &str, more: &[&str]| {
        let arguments = ["sweep", "study.toml", "--out", out, "--device", "cpu"];
        let ran = bowline(dir.path(), arguments.iter().chain(more)).expect(0);
        (Report::load(&dir.path().join(out).join("report.json")).unwrap(), ran)
    };
    study(dir.path(), &tasks(1));
    let (one, _) = run("s", &["--jobs", "1"]);
    let found: Vec<&str> = one.costs.iter().map(|cost| cost.task.as_str()).collect();
    let each = ["perplexity", "passkey", "needle", "ruler", "short-text", "longppl", "kv"];
    assert_eq!(found, [each, each].concat());
    assert!(one.costs.iter().all(|cost| cost.seconds > 0.0 && cost.points > 0), "{:?}", one.costs);
    assert!(one.costs.iter().any(|cost| cost.peak_bytes > Some(0)), "{:?}", one.costs);
    for task in ["needle", "niah_single_2", "ruler", "kv"] {
        assert!(one.rows.iter().any(|row| row.task == task && row.variant == "yarn-4x"), "{task}");
    }
    let cost = one.rows.iter().find(|row| row.metric == "perplexity_ratio" && row.variant == "base").unwrap();
    assert_eq!((cost.value, cost.low, cost.high), (1.0, 1.0, 1.0), "the base beside itself has lost nothing");

    let (two, _) = run("side", &["--jobs", "2"]);
    let numbers = |report: &Report| {
        let row = |r: &eval::report::Row| (r.variant.clone(), r.task.clone(), r.length, r.metric.clone(), r.value);
        report.rows.iter().map(row).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&one).len(), numbers(&two).len());
    for (a, b) in numbers(&one).iter().zip(numbers(&two)) {
        assert_eq!((&a.0, &a.1, a.2, &a.3), (&b.0, &b.1, b.2, &b.3));
        assert!((a.4 - b.4).abs() <= 1e-4 * a.4.abs(), "{a:?} {b:?}");
    }
    assert!(two.costs.iter().all(|cost| cost.peak_bytes.is_none()), "memory of one cannot be told from the other's");

    study(dir.path(), &tasks(2));
    let (_, again) = run("s", &["--jobs", "1"]);
    assert_eq!(again.err.matches(": kept from an earlier run").count(), 12, "all but the needles: {again}");
    let samples = std::fs::read_dir(dir.path().join("s/variants/base")).unwrap();
    let samples = samples.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(".samples.jsonl"));
    assert_eq!(samples.count(), 5, "two of needles, one each of passkey, RULER and kv");
}

#[test]
fn a_task_that_cannot_be_is_named_before_anything_runs() {
    let with = |task: &str| format!("[[task]]\n{task}\n[[variant]]\nname = \"base\"\n");
    refused(&with("kind = \"needel\"\nlengths = [64]"), &["task 1.kind", "needel", "needle"]);
    refused(&with("kind = 1.5\nlengths = [64]"), &["task 1.kind", "1.5"]);
    refused(&with("kind = \"needle\"\nlengths = []"), &["task 1 (needle).lengths", "at least 1"]);
    refused(&with("kind = \"ruler\"\nlengths = [64]\ntasks = [\"vtt\"]"), &["task 1 (ruler).tasks", "vtt"]);
    refused(&with("kind = \"longppl\"\nlengths = [64]"), &["task longppl", "64", "4096"]);
    // Values of the wrong type, too.
    let second = "kind = \"kv\"\nlengths = [64]\n[[task]]\nkind = \"needle\"\nlengths = [64]\n";
    let cases: [(&str, &[&str]); 6] = [
        ("depths = \"many\"", &["task 2 (needle).depths: ", "many"]),
        ("trials = -1", &["task 2 (needle).trials: ", "-1"]),
        ("haystack = \"a.txt\"", &["task 2 (needle).haystack: ", "a.txt"]),
        ("needles = 1.5", &["task 2 (needle).needles: ", "1.5"]),
        ("dephts = 2", &["task 2 (needle)", "dephts"]),
        ("[[task]]\nkind = \"ruler\"\n", &["task 3 (ruler): missing field `lengths`"]),
    ];
    for (line, words) in cases {
        refused(&with(&format!("{second}{line}")), &[words, &["study.toml"]].concat());
    }
    refused(&with("lengths = [64]"), &["task 1: missing field `kind`"]);
}

#[test]
fn the_study_of_all_methods_runs_in_short() {
    let dir = tempfile::tempdir().unwrap();
    bowline(dir.path(), ["run", "methods", "--short", "--device", "cpu"]).expect(0);
    let report = Report::load(&dir.path().join("runs/methods-short/report.json")).unwrap();
    assert_eq!(report.variants.len(), 22);
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
