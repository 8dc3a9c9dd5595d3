//! The retrieval commands on a model that knows nothing: grids, samples, resuming, refusals, and results of other programs.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use eval::report::{Report, Row};
use eval::samples::SampleLog;
use eval::{Retrieval, SampleRecord};

use super::support::program::{Ran, bowline};
use super::support::tiny;

/// A folder with an untrained model in `model` and some files; made once for all tests.
fn home() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let home = tiny::kept("retrieval");
        tiny::write_model(&home.join("model"));
        tiny::write(&home, "hay.txt", &tiny::text(5, 3000));
        tiny::write(&home, "questions.jsonl", QUESTIONS);
        home
    })
}

const QUESTIONS: &str = concat!(
    r#"{"question": "who", "answers": ["Ann"], "ctxs": [{"title": "A", "text": "It was Ann.", "isgold": true}, "#,
    r#"{"title": "B", "text": "It is far."}, {"title": "C", "text": "It is near."}]}"#,
    "\n",
);

const MODEL: &str = "model";

/// `eval TASK MODEL ...` into the folder `out`, and its report.
fn run(task: &str, out: &str, more: &[&str]) -> Report {
    ran(task, out, more).expect(0);
    Report::load(&home().join(out).join("report.json")).unwrap()
}

fn ran(task: &str, out: &str, more: &[&str]) -> Ran {
    let arguments = ["eval", task, MODEL, "--out", out, "--device", "cpu"];
    bowline(home(), arguments.iter().chain(more))
}

fn samples(out: &str) -> Vec<SampleRecord> {
    SampleLog::load(&home().join(out).join("samples.jsonl")).unwrap().1
}

fn rows<'r>(report: &'r Report, metric: &str) -> Vec<&'r Row> {
    report.rows.iter().filter(|row| row.metric == metric).collect()
}

#[test]
fn a_needle_grid_has_every_cell_and_its_samples_give_the_same_rows() {
    let grid =
        ["--lengths", "120,200", "--depths", "3", "--trials", "2", "--haystack", "hay.txt", "--distractors", "1"];
    let report = run("needle", "needle", &grid);
    for length in [120, 200] {
        let found: Vec<_> = rows(&report, "accuracy").into_iter().filter(|row| row.length == length).collect();
        assert_eq!(found.iter().map(|row| row.count).collect::<Vec<_>>(), [6, 2, 2, 2]);
        assert!(found.iter().all(|row| row.task == "needle" && row.low <= row.value && row.value <= row.high));
        assert!(found.iter().all(|row| row.how.is_none()), "every sample has exactly its length");
    }
    // The model's window is 128 tokens.
    assert_eq!(rows(&report, "accuracy_in_window")[0].length, 120);
    assert_eq!(rows(&report, "accuracy_beyond_window")[0].length, 200);
    let kept = samples("needle");
    assert_eq!(kept.len(), 12);
    assert!(kept.iter().all(|sample| sample.tokens == sample.length && sample.prompt_hash.len() == 64));
    let found = Retrieval::from_records(&kept);
    let [read_back] = found.as_slice() else { panic!("{found:?}") };
    let again = read_back.rows(MODEL, "model");
    assert!(again.iter().all(|row| report.rows.contains(row)), "{again:?}");
}

#[test]
fn a_run_goes_on_from_the_samples_that_are_there() {
    let grid = ["--lengths", "100", "--depths", "2", "--trials", "3"];
    let whole = run("multipasskey", "resumed", &[&grid[..], &["--keys", "2"]].concat());
    let path = home().join("resumed/samples.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    // As an interruption leaves it: three samples and half a line.
    let end: usize = text.lines().take(4).map(|line| line.len() + 1).sum();
    std::fs::write(&path, &text[..end + 30]).unwrap();
    let ran = ran("multipasskey", "resumed", &[&grid[..], &["--keys", "2", "--resume"]].concat()).expect(0);
    assert!(ran.err.contains("3 samples are known"), "{ran}");
    let report = Report::load(&home().join("resumed/report.json")).unwrap();
    assert_eq!(report.rows, whole.rows);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "the same lines as without the interruption");
}

#[test]
fn samples_of_other_settings_are_not_gone_on_from() {
    let grid = ["--lengths", "100", "--depths", "1", "--trials", "1"];
    run("needle", "other", &grid);
    let refused = ran("needle", "other", &[&grid[..], &["--resume", "--digits", "5"]].concat()).expect(3);
    assert!(refused.err.contains("digits"), "{refused}");
    let refused = ran("needle", "other", &[&grid[..], &["--resume", "--seed", "9"]].concat()).expect(3);
    assert!(refused.err.contains("seed"), "{refused}");
    let wider = ["--lengths", "100,120", "--depths", "1", "--trials", "2", "--resume"];
    assert_eq!(run("needle", "other", &wider).rows.iter().filter(|row| row.depth.is_some()).count(), 4);
}

#[test]
fn ruler_tasks_are_run_by_name_and_refused_below_their_frame() {
    let report = run("ruler", "ruler", &["--tasks", "niah_single_1,vt", "--lengths", "1200", "--samples", "2"]);
    let tasks: Vec<&str> = rows(&report, "accuracy").iter().map(|row| row.task.as_str()).collect();
    assert_eq!(tasks, ["niah_single_1", "vt", "ruler"]);
    assert!(report.rows.iter().all(|row| row.protocol == "ruler-1"));
    assert!(samples("ruler").iter().all(|sample| sample.tokens <= 1200));
    let refused = ran("ruler", "short", &["--tasks", "niah_single_1", "--lengths", "64", "--samples", "1"]).expect(2);
    assert!(refused.err.contains("needs at least") && refused.err.contains("64"), "{refused}");
    let refused = ran("ruler", "none", &["--tasks", "qa_1", "--lengths", "4096"]).expect(2);
    assert!(refused.err.contains("SQuAD"), "{refused}");
    let refused = ran("ruler", "unknown", &["--tasks", "niah", "--lengths", "4096"]).expect(2);
    assert!(refused.err.contains("niah_single_1"), "{refused}");
}

#[test]
fn pairs_and_documents_are_asked_for_at_every_depth() {
    let grid = ["--lengths", "600", "--depths", "3", "--trials", "1"];
    let report = run("kv", "kv", &grid);
    assert_eq!(rows(&report, "accuracy").len(), 4);
    let report = run("documents", "documents", &[&grid[..], &["--questions", "questions.jsonl"]].concat());
    assert_eq!(rows(&report, "accuracy").iter().map(|row| row.count).collect::<Vec<_>>(), [3, 1, 1, 1]);
    tiny::write(home(), "broken.json", "{\"data\": 3}");
    let broken = ran("documents", "broken", &["--lengths", "600", "--questions", "broken.json"]).expect(3);
    assert!(broken.err.contains("broken.json"), "{broken}");
}

#[test]
fn an_extension_that_changes_nothing_costs_nothing() {
    let data = ["--data", "hay.txt", "--piece-tokens", "80", "--lengths", "64"];
    let report = run("short-text", "short-text", &[&data[..], &["--base", MODEL]].concat());
    let ratio = rows(&report, "perplexity_ratio")[0];
    assert_eq!((ratio.value, ratio.low, ratio.high), (1.0, 1.0, 1.0));
    assert!(ratio.count > 3 && rows(&report, "perplexity")[0].value > 1.0);
    let long = ["--data", "hay.txt", "--lengths", "128", "--piece-tokens", "128", "--context", "32", "--stride", "16"];
    let report = run("longppl", "longppl", &long);
    assert!(rows(&report, "perplexity")[0].how.as_ref().unwrap().contains("short context 32"));
}

#[test]
fn results_of_other_programs_become_a_run_that_is_drawn() {
    tiny::write(home(), "yarn.csv", ",2048,4096\norg/A,3.9,3.5\norg/B,4.2,3.7\n");
    let import = ["eval", "import", "yarn.csv", "--from", "yarn-perplexity", "--out", "imported"];
    bowline(home(), import).expect(0);
    let report = Report::load(&home().join("imported/report.json")).unwrap();
    assert_eq!(report.rows.len(), 4);
    let page = bowline(home(), ["report", "imported"]).expect(0);
    assert_eq!(page.out, "imported/report.html\n");
    tiny::write(home(), "summary.csv", "Tasks,vt\nScore,50\nNulls,0/500\n");
    let refused = ["eval", "import", "summary.csv", "--from", "ruler", "--out", "imported-ruler"];
    assert!(bowline(home(), refused).expect(2).err.contains("--length"));
    let wrong = bowline(home(), ["eval", "import", "yarn.csv", "--from", "lm-eval", "--out", "wrong"]).expect(3);
    assert!(wrong.err.contains("yarn.csv"), "{wrong}");
}

#[test]
fn rows_come_in_the_schema_of_the_harness_and_go_back() {
    let grid = ["--lengths", "100", "--depths", "2", "--trials", "2", "--format", "lm-eval"];
    let printed = ran("passkey", "harness", &grid).expect(0);
    tiny::write(home(), "results.json", &printed.out);
    let json = printed.json();
    assert_eq!(json["n-samples"]["passkey bowline-2"]["effective"], 4);
    let import = ["eval", "import", "results.json", "--from", "lm-eval", "--out", "back", "--format", "json"];
    let rows = bowline(home(), import).expect(0).json()["rows"].clone();
    let found = rows.as_array().unwrap().iter().find(|row| row["task"] == "passkey bowline-2").unwrap().clone();
    assert_eq!(found["value"], json["results"]["passkey bowline-2"]["100,none"]);
}
