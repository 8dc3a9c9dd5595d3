//! From a recipe to a report and an exported folder: each command works on what the one before it wrote.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bowline::train::read_metrics;
use eval::report::Report;
use serde_json::Value;
use testkit::{Class, assert_same};

use super::support::program::{Running, bowline, command};
use super::support::{files, json, numbers, tiny};

/// A folder in which the tiny recipe was trained into `run`; trained once for all tests.
fn home() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let home = tiny::kept("pipeline");
        let recipe = tiny::recipe(&tiny::write_text(&home));
        tiny::write(&home, "recipe.toml", &recipe);
        let trained = bowline(&home, ["train", "recipe.toml", "--out", "run", "--device", "cpu"]).expect(0);
        assert_eq!(trained.out, "run\n", "{trained}");
        tiny::write(&home, "held-out.txt", &tiny::text(77, 900));
        tiny::write(&home, "score.txt", &tiny::text(78, 80));
        home
    })
}

/// The checkpoint at the end of the run.
fn checkpoint() -> PathBuf {
    home().join("run/checkpoints/step-8")
}

/// A path as an argument.
fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_run_folder_holds_what_the_map_of_it_says() {
    let run = home().join("run");
    for name in ["resolved.toml", "provenance.json", "metrics.jsonl", "report.json", "checkpoints/latest"] {
        assert!(run.join(name).is_file(), "{name} is missing: {:?}", files(&run));
    }
    let metrics = read_metrics(&run).unwrap();
    assert_eq!(metrics.iter().map(|m| m.step).collect::<Vec<_>>(), (1..=8).collect::<Vec<u64>>());
    assert_eq!(metrics.iter().map(|m| m.length).collect::<Vec<_>>(), [32, 32, 32, 32, 32, 64, 64, 64]);
    assert_eq!(metrics[7].tokens, 5 * 4 * 32 + 3 * 4 * 64);
    assert!(metrics[7].loss < metrics[0].loss, "{metrics:?}");
    let events = files(&run).into_iter().filter(|file| file.starts_with("tensorboard/events.out.tfevents.")).count();
    assert_eq!(events, 1);
    for name in ["config.json", "tokenizer.json", "generation_config.json", "model.safetensors", "manifest.json"] {
        assert!(checkpoint().join(name).is_file(), "{name} is missing");
    }
    assert!(!files(&run).iter().any(|file| file.contains(".tmp-")));
}

/// `eval perplexity` of the trained model by a protocol.
fn perplexity(protocol: &str, more: &[&str]) -> (PathBuf, Value) {
    let out = format!("eval-{protocol}");
    let checkpoint = checkpoint();
    let arguments = ["eval", "perplexity", word(&checkpoint), "--data", "held-out.txt", "--lengths", "32,64,128"];
    let options =
        ["--protocol", protocol, "--out", &out, "--format", "json", "--piece-tokens", "300", "--device", "cpu"];
    let ran = bowline(home(), arguments.iter().chain(&options).chain(more)).expect(0);
    (home().join(&out), ran.json())
}

#[test]
fn every_protocol_reports_every_length_with_all_fields_of_the_schema() {
    for protocol in ["P1", "P2", "P3", "P4"] {
        let stride: &[&str] = if matches!(protocol, "P1" | "P3") { &["--stride", "16"] } else { &[] };
        let (run, printed) = perplexity(protocol, stride);
        assert_eq!(json(&run.join("report.json")), printed);
        let report = Report::load(&run.join("report.json")).unwrap();
        assert_eq!(report.schema_version, 1);
        for length in [32, 64, 128] {
            for metric in ["perplexity", "perplexity_published"] {
                let fits = |row: &&eval::report::Row| row.length == length && row.metric == metric;
                let rows: Vec<_> = report.rows.iter().filter(fits).collect();
                let [row] = rows.as_slice() else { panic!("{protocol} {length} {metric}: {} rows", rows.len()) };
                assert_eq!((row.task.as_str(), row.unit_of_count.as_str()), ("perplexity", "documents"));
                assert!(row.protocol.starts_with(protocol), "{}", row.protocol);
                assert!(row.low <= row.value && row.value <= row.high && row.depth.is_none(), "{row:?}");
                assert!(row.count >= 3 && row.value > 1.0, "{row:?}");
            }
        }
        check_schema(&printed);
        assert!(run.join("report.csv").is_file() && run.join("resolved.json").is_file());
    }
}

/// Every field that the layout of `report.json` promises.
fn check_schema(report: &Value) {
    for row in report["rows"].as_array().unwrap() {
        let fields = [
            "model",
            "variant",
            "task",
            "protocol",
            "length",
            "depth",
            "metric",
            "value",
            "low",
            "high",
            "count",
            "unit_of_count",
        ];
        for field in fields {
            assert!(row.get(field).is_some(), "a row has no {field}: {row}");
        }
    }
    let provenance = [
        "program",
        "command",
        "commit",
        "dirty",
        "started_at",
        "duration_s",
        "device",
        "threads",
        "dtype",
        "seeds",
        "versions",
        "hashes",
        "config",
    ];
    for field in provenance {
        assert!(report["provenance"].get(field).is_some(), "the provenance has no {field}");
    }
    for hash in ["weights", "tokenizer"] {
        assert_eq!(report["provenance"]["hashes"][hash].as_str().map(str::len), Some(64), "{hash}");
    }
    assert_eq!(report["provenance"]["versions"]["bowline"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn a_whole_document_in_one_window_has_the_perplexity_that_score_gives() {
    let checkpoint = checkpoint();
    let scored = bowline(home(), ["score", word(&checkpoint), "--text", "score.txt", "--json", "-"]).expect(0).json();
    let tokens = scored["tokens"].as_u64().unwrap().to_string();
    let arguments = ["eval", "perplexity", word(&checkpoint), "--data", "score.txt", "--protocol", "P2", "--lengths"];
    let more = [&tokens, "--out", "eval-whole", "--format", "json", "--device", "cpu"];
    let report = bowline(home(), arguments.iter().chain(&more)).expect(0).json();
    let row = report["rows"].as_array().unwrap().iter().find(|row| row["metric"] == "perplexity").unwrap().clone();
    let ratio = row["value"].as_f64().unwrap() / scored["perplexity"].as_f64().unwrap();
    assert!((ratio - 1.0).abs() < 1e-5, "{ratio}");
}

#[test]
fn passkey_reports_the_grid_and_the_published_variants() {
    let checkpoint = checkpoint();
    let run = |variant: &str, lengths: &str| {
        let arguments = ["eval", "passkey", word(&checkpoint), "--lengths", lengths, "--depths", "3", "--trials", "2"];
        let out = format!("passkey-{variant}");
        let more = ["--variant", variant, "--out", &out, "--format", "json", "--device", "cpu"];
        bowline(home(), arguments.iter().chain(&more)).expect(0).json()
    };
    let report = run("bowline", "64,128");
    check_schema(&report);
    let rows = report["rows"].as_array().unwrap();
    for length in [64, 128] {
        let of_length = || rows.iter().filter(move |row| row["length"] == length && row["metric"] == "accuracy");
        let cells: Vec<_> = of_length().filter(|row| !row["depth"].is_null()).collect();
        let all: Vec<_> = of_length().filter(|row| row["depth"].is_null()).collect();
        assert_eq!((cells.len(), all.len()), (3, 1), "{length}");
        assert!(cells.iter().all(|row| row["count"] == 2 && row["unit_of_count"] == "trials"), "{cells:?}");
        assert_eq!(all[0]["count"], 6);
    }
    assert_eq!(run("bowline", "64,128")["rows"], report["rows"], "the same seed gives the same rows");
    for variant in ["pi", "yarn", "longlora"] {
        let report = run(variant, "300");
        let row = &report["rows"][0];
        assert!(row["protocol"].as_str().unwrap().contains(variant), "{row}");
    }
}

#[test]
fn figures_and_page_come_back_byte_for_byte_from_the_results_alone() {
    let (run, _) = perplexity("P2", &[]);
    let home = tempfile::tempdir().unwrap();
    let alone = home.path().join("run");
    std::fs::create_dir(&alone).unwrap();
    std::fs::copy(run.join("report.json"), alone.join("report.json")).unwrap();
    let drawn = |dir: &Path| {
        let ran = bowline(dir, ["report", "run"]).expect(0);
        assert_eq!(ran.out, "run/report.html\n", "{ran}");
        let names = files(&dir.join("run"));
        let bytes = |name: &String| std::fs::read(dir.join("run").join(name)).unwrap();
        names.iter().map(|name| (name.clone(), bytes(name))).collect::<Vec<_>>()
    };
    let first = drawn(home.path());
    let ends = |ending: &str| first.iter().filter(|(name, _)| name.ends_with(ending)).count();
    assert!(ends(".svg") >= 2 && ends(".png") >= 2 && ends(".html") == 1, "{:?}", files(&alone));
    std::fs::remove_dir_all(alone.join("figures")).unwrap();
    std::fs::remove_file(alone.join("report.html")).unwrap();
    let second = drawn(home.path());
    assert!(first == second, "other bytes the second time");
    let page = std::fs::read_to_string(alone.join("report.html")).unwrap();
    for needed in ["src=\"http", "url(http", "url(\"http", "<link", "@import"] {
        assert!(!page.contains(needed), "the page needs something from elsewhere: {needed}");
    }
}

#[test]
fn several_runs_are_laid_over_one_another() {
    let (one, _) = perplexity("P1", &["--stride", "16"]);
    let out = tempfile::tempdir().unwrap();
    let arguments = ["report", word(&one), "run", "--out", word(out.path())];
    bowline(home(), arguments).expect(0);
    let page = std::fs::read_to_string(out.path().join("report.html")).unwrap();
    assert!(page.contains("eval-P1") && page.contains("run"), "both runs are named");
}

#[test]
fn an_exported_folder_scores_the_same_and_states_its_positions_in_both_spellings() {
    let dir = tempfile::tempdir().unwrap();
    let extended = home().join("extended.toml");
    let recipe = std::fs::read_to_string(home().join("recipe.toml")).unwrap();
    let (head, rest) = recipe.split_once("tokenizer = \"bundled\"").unwrap();
    let (_, tail) = rest.split_once("[optimizer]").unwrap();
    let positions = "[positions]\nmethod = \"yarn\"\nfactor = 4.0\n";
    std::fs::write(&extended, format!("{head}from = {:?}\n{positions}[optimizer]{tail}", checkpoint())).unwrap();
    let run = dir.path().join("extended");
    bowline(home(), ["train", "extended.toml", "--out", word(&run), "--device", "cpu"]).expect(0);

    let folder = dir.path().join("exported");
    let exported = bowline(home(), ["export", word(&run), word(&folder)]).expect(0);
    assert_eq!(exported.out.trim(), word(&folder));
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md"] {
        assert!(folder.join(name).is_file(), "{name} is missing");
    }
    let config = json(&folder.join("config.json"));
    let (old, new) = (&config["rope_scaling"], &config["rope_parameters"]);
    for (key, value) in
        [("rope_type", "yarn".into()), ("factor", 4.0.into()), ("original_max_position_embeddings", 128.into())]
    {
        assert_eq!((&old[key], &new[key]), (&value, &value), "{key}: {config}");
    }
    assert_eq!((&config["rope_theta"], &new["rope_theta"]), (&10000.0.into(), &10000.0.into()));
    assert_eq!(config["max_position_embeddings"], 512);
    assert_eq!(json(&folder.join("generation_config.json"))["max_length"], 512);
    let card = std::fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(card.contains("yarn") && card.contains("512") && card.starts_with("---\n"), "{card}");

    let score = |model: &Path| {
        bowline(home(), ["score", word(model), "--text", "held-out.txt", "--context", "400", "--json", "-"])
            .expect(0)
            .json()
    };
    let (of_run, of_export) = (score(&run.join("checkpoints/step-8")), score(&folder));
    assert_eq!(of_run["nll"], of_export["nll"]);
    let again = bowline(home(), ["export", word(&run), word(&folder)]);
    assert!(again.code != Some(0) && again.err.contains("exists"), "an export is never written over: {again}");

    let half = dir.path().join("half");
    bowline(home(), ["export", word(&run), word(&half), "--dtype", "bfloat16"]).expect(0);
    assert_eq!(json(&half.join("config.json"))["torch_dtype"], "bfloat16");
    let close = Class::Close { absolute: 0.1, relative: 0.0 };
    assert_same(&numbers(&score(&half)["nll"]), &numbers(&of_run["nll"]), close);
}

#[test]
fn inspect_shows_what_was_exported() {
    let checkpoint = checkpoint();
    let found = bowline(home(), ["inspect", word(&checkpoint), "--context", "256", "--json"]).expect(0).json();
    assert_eq!((found["scheme"].as_str(), found["attention_factor"].as_f64()), (Some("default"), Some(1.0)));
    let inv_freq = numbers(&found["inv_freq"]);
    assert_eq!(inv_freq.len(), 8);
    let expected: Vec<f64> = (0..8).map(|pair| 10_000.0_f64.powf(-f64::from(pair) / 8.0)).collect();
    assert_same(&inv_freq, &expected, Class::Close { absolute: 0.0, relative: 1e-6 });
    assert!(found["parameters"].is_object() && found["wavelengths"].as_array().unwrap().len() == 8);
    let warnings = found["warnings"].as_array().unwrap();
    assert!(warnings.iter().any(|it| it.as_str().unwrap().contains("beyond max_position_embeddings 128")), "{found}");
    let page = bowline(home(), ["inspect", word(&checkpoint)]).expect(0).out;
    assert!(page.contains("scheme") && page.contains("inv_freq"), "{page}");
}

/// A study of three variants, one of them trained.
fn study(dir: &Path) {
    let text = tiny::write_text(dir);
    tiny::write(dir, "held-out.txt", &tiny::text(77, 600));
    let recipe = tiny::one_stage(&text, 3);
    let (head, tail) = recipe.split_once("tokenizer = \"bundled\"").unwrap();
    let (_, tail) = tail.split_once("[optimizer]").unwrap();
    tiny::write(dir, "recipe.toml", &format!("{head}from = \"replaced\"\n[optimizer]{tail}"));
    let study = format!(
        r#"name = "small"
base = {:?}
seed = 3

[evaluation]
documents = [{:?}]
piece_tokens = 256
lengths = [64, 128, 256]
passkey_lengths = [64, 128]
depths = 2
trials = 2

[training]
recipe = {:?}

[[variant]]
name = "base"

[[variant]]
name = "pi"
positions = {{ method = "linear", factor = 2.0 }}

[[variant]]
name = "pi-trained"
positions = {{ method = "linear", factor = 2.0 }}
train = true

[[expect]]
variant = "base"
metric = "perplexity"
length = 64
at_least = 1.0
"#,
        tiny::model(),
        dir.join("held-out.txt"),
        dir.join("recipe.toml"),
    );
    tiny::write(dir, "study.toml", &study);
}

#[test]
fn a_study_runs_from_variants_to_report_and_keeps_what_is_done() {
    let dir = tempfile::tempdir().unwrap();
    study(dir.path());
    let arguments = ["run", "study.toml", "--out", "s", "--device", "cpu"];
    let first = bowline(dir.path(), arguments).expect(0);
    assert!(first.out.contains("ok  ") && first.out.trim_end().ends_with("report.html"), "{first}");
    let report = Report::load(&dir.path().join("s/report.json")).unwrap();
    let names: Vec<&str> = report.variants.iter().map(|variant| variant.name.as_str()).collect();
    assert_eq!(names, ["base", "pi", "pi-trained"]);
    assert_eq!(report.variants[2].trained_tokens, 3 * 4 * 32);
    for name in names {
        for (task, metric, lengths) in
            [("perplexity", "perplexity", vec![64, 128, 256]), ("passkey", "accuracy", vec![64, 128])]
        {
            for length in lengths {
                let rows = report.rows.iter().filter(|row| {
                    row.variant == name && row.task == task && row.metric == metric && row.length == length
                });
                assert_eq!(rows.filter(|row| row.depth.is_none()).count(), 1, "{name} {task} {length}");
            }
        }
    }
    // As if it had been stopped before its last variant: what is done is kept, and nothing of it changes.
    std::fs::remove_dir_all(dir.path().join("s/variants/pi-trained")).unwrap();
    std::fs::remove_file(dir.path().join("s/report.json")).unwrap();
    let second = bowline(dir.path(), arguments).expect(0);
    assert_eq!(second.err.matches("kept from an earlier run").count(), 2, "{second}");
    assert_eq!(Report::load(&dir.path().join("s/report.json")).unwrap().rows, report.rows);
    // Other trials decide other keys, and no perplexity.
    let other = bowline(dir.path(), arguments.iter().chain(&["--set", "evaluation.trials=1"])).expect(0);
    assert_eq!(other.err.matches("kept from an earlier run").count(), 3, "{other}");
    assert_eq!(other.err.matches(" perplexity: kept from an earlier run").count(), 3, "{other}");
}

#[test]
fn a_study_that_is_stopped_exits_5_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    study(dir.path());
    let settings = ["--set", "training.settings=[\"stage.0.steps=150\"]"];
    let arguments = || ["run", "study.toml", "--out", "s", "--device", "cpu"].into_iter().chain(settings);
    let mut running = Running::start(command(dir.path(), arguments()));
    running.until_lines(&dir.path().join("s/train/pi-trained/metrics.jsonl"), 2);
    running.signal("TERM");
    let stopped = running.finished().expect(5);
    assert!(!dir.path().join("s/report.json").exists(), "no report of half a study: {stopped}");
    let finished = bowline(dir.path(), arguments()).expect(0);
    assert_eq!(finished.err.matches("kept from an earlier run").count(), 2, "{finished}");
    assert!(finished.err.contains("goes on from"), "{finished}");
    assert_eq!(read_metrics(&dir.path().join("s/train/pi-trained")).unwrap().len(), 150);
}

#[test]
fn an_expectation_that_does_not_hold_exits_1_with_the_report_written() {
    let dir = tempfile::tempdir().unwrap();
    study(dir.path());
    let only_base = std::fs::read_to_string(dir.path().join("study.toml")).unwrap();
    let (head, tail) = only_base.split_once("[[variant]]\nname = \"pi\"").unwrap();
    let (_, expect) = tail.split_once("[[expect]]").unwrap();
    let expect = expect.replace("at_least = 1.0", "at_most = 1.0");
    tiny::write(dir.path(), "study.toml", &format!("{head}[[expect]]{expect}"));
    let ran = bowline(dir.path(), ["run", "study.toml", "--out", "s", "--device", "cpu"]).expect(1);
    assert!(ran.out.contains("FAIL") && ran.err.contains("1 of 1 expectations"), "{ran}");
    assert!(dir.path().join("s/report.json").exists());
}

#[test]
fn a_dry_run_tells_the_plan_and_writes_no_result() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write(dir.path(), "r.toml", &tiny::recipe(&tiny::write_text(dir.path())));
    let ran = bowline(dir.path(), ["train", "r.toml", "--out", "run", "--dry-run", "--device", "cpu"]).expect(0);
    assert!(ran.err.contains("8 steps") && ran.err.contains("source text: 3 documents"), "{ran}");
    for name in ["metrics.jsonl", "checkpoints", "report.json"] {
        assert!(!dir.path().join("run").join(name).exists(), "{name}");
    }
}
