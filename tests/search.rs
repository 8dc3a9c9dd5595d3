//! The search for LongRoPE's divisors: stopping and going on, and where its file can be used.

use std::path::Path;

use serde_json::Value;

use super::support::program::{Running, bowline, command};
use super::support::tiny;

/// A search of 14 individuals on a model of context 128.
fn search<'a>(model: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["search", "longrope", "--model", model, "--target", "256", "--data", "text", "--out", out];
    arguments.extend(["--max-documents", "2", "--population", "6", "--iterations", "2", "--mutations", "2"]);
    arguments.extend(["--crossovers", "2", "--parents", "3", "--start-tokens", "--device", "cpu", "--json"]);
    arguments.extend(more);
    arguments
}

/// The documents that decide, once more.
const HELD_OUT: [&str; 4] = ["--held-out", "text", "--max-held-out", "2"];

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn a_search_that_was_stopped_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_text(folder.path());
    let model = tiny::model().to_str().unwrap();
    let found = bowline(folder.path(), search(model, "straight.json", &HELD_OUT)).expect(0).json();
    let (factors, history) = (read(folder.path(), "straight.json"), "straight.json.history.jsonl");
    let lines: Vec<String> = read(folder.path(), history).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 1 + found["evaluations"].as_u64().unwrap() as usize);
    let losses: Vec<f64> =
        lines[1..].iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap()).collect();
    let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let file: Value = serde_json::from_str(&factors).unwrap();
    assert_eq!(file["found_by"]["loss"].as_f64().unwrap(), least);
    assert!(least <= losses[0].min(losses[1]).min(losses[2]), "it begins with PI, NTK and YaRN");
    let methods: Vec<&str> =
        found["rows"].as_array().unwrap().iter().map(|row| row["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["pi", "ntk", "yarn", "dynamic-yarn", "longrope"]);
    let perplexity = found["rows"][4]["perplexity"].as_f64().unwrap();
    assert!((perplexity.ln() - least).abs() < 1e-12);
    assert_eq!(found["rows"][4]["perplexity_held_out"].as_f64().unwrap(), perplexity, "the same two pieces");

    // Killed after seven individuals, in the middle of a line.
    let cut = format!("{}\n{}", lines[..8].join("\n"), &lines[8][..20]);
    std::fs::write(folder.path().join("cut.json.history.jsonl"), cut).unwrap();
    let ran = bowline(folder.path(), search(model, "cut.json", &["--resume"])).expect(0);
    assert!(ran.err.contains("7 individuals are known"), "{ran}");
    assert_eq!(read(folder.path(), "cut.json"), factors);
    assert_eq!(read(folder.path(), "cut.json.history.jsonl"), read(folder.path(), history));
    // Another seed is another search.
    let other = bowline(folder.path(), search(model, "cut.json", &["--resume", "--seed", "2"])).expect(2);
    assert!(other.err.contains("settings differ"), "{other}");

    // A signal keeps what was measured.
    let many = ["--iterations", "4000"];
    let long: Vec<&str> = search(model, "long.json", &[]);
    let at = long.iter().position(|word| *word == "--iterations").unwrap();
    let long: Vec<&str> = long[..at].iter().chain(&many).chain(&long[at + 2..]).copied().collect();
    let mut running = Running::start(command(folder.path(), &long));
    running.until_lines(&folder.path().join("long.json.history.jsonl"), 4);
    running.signal("TERM");
    let stopped = running.finished().expect(5);
    assert!(stopped.err.contains("--resume") && !folder.path().join("long.json").exists(), "{stopped}");
}

#[test]
fn the_file_of_a_search_is_taken_by_eval_train_and_export() {
    let folder = tempfile::tempdir().unwrap();
    let text = tiny::write_text(folder.path());
    let model = tiny::model().to_str().unwrap();
    let found = bowline(folder.path(), search(model, "f.json", &[])).expect(0).json();
    let measured = ["--data", "text", "--piece-tokens", "255", "--max-documents", "2", "--lengths", "256"];
    let perplexity = |model: &str, more: &[&str]| {
        let fixed = ["eval", "perplexity", model, "--device", "cpu", "--format", "json", "--out", "run"];
        let report = bowline(folder.path(), fixed.iter().chain(&measured).chain(more)).expect(0).json();
        let row = report["rows"].as_array().unwrap().iter().find(|row| row["metric"] == "perplexity").unwrap().clone();
        (row["value"].as_f64().unwrap(), report["variants"][0]["scheme"].as_str().unwrap().to_owned())
    };
    let (by_method, scheme) = perplexity(model, &["--method", "longrope:factors=f.json"]);
    assert_eq!(scheme, "longrope");
    let expected = found["rows"][4]["perplexity"].as_f64().unwrap();
    assert!((by_method / expected - 1.0).abs() < 1e-9, "{by_method} where the search has {expected}");

    let export = ["export", model, "exported", "--method", "longrope:factors=f.json"];
    bowline(folder.path(), export).expect(0);
    let config: Value = serde_json::from_str(&read(folder.path(), "exported/config.json")).unwrap();
    assert_eq!(config["rope_scaling"]["rope_type"], "longrope");
    assert_eq!(config["max_position_embeddings"], 256);
    let exported = perplexity("exported", &[]).0;
    assert!((exported / expected - 1.0).abs() < 1e-9, "{exported} where the search has {expected}");
    // The exported config holds the factors in Hugging Face's words; start tokens stand beside them.
    let (again, _) = perplexity(model, &["--method", "longrope:factors=exported/config.json,factor=2"]);
    let starts = found["start_tokens"].as_u64().unwrap();
    assert!(starts > 0 || (again / expected - 1.0).abs() < 1e-9, "{again} where the search has {expected}");

    let recipe = tiny::one_stage(&text, 1).replacen(
        "[optimizer]",
        "[positions]\nmethod = \"longrope\"\nfactors = \"f.json\"\n[optimizer]",
        1,
    );
    tiny::write(folder.path(), "r.toml", &recipe);
    bowline(folder.path(), ["train", "r.toml", "--out", "trained", "--device", "cpu"]).expect(0);
    let config: Value = serde_json::from_str(&read(folder.path(), "trained/checkpoints/step-1/config.json")).unwrap();
    assert_eq!(
        config["rope_scaling"]["long_factor"],
        serde_json::from_str::<Value>(&read(folder.path(), "f.json")).unwrap()["long_factor"]
    );
}

#[test]
fn a_search_that_cannot_be_is_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_text(folder.path());
    let model = tiny::model().to_str().unwrap();
    let refused = |more: &[&str], code: i32, words: &str| {
        let fixed = ["search", "longrope", "--model", model, "--data", "text", "--out", "f.json", "--device", "cpu"];
        let ran = bowline(folder.path(), fixed.iter().chain(more)).expect(code);
        assert!(ran.err.contains(words), "{ran}");
    };
    refused(&["--target", "128"], 2, "longer than the model's context of 128");
    refused(&["--target", "256", "--population", "2"], 2, "--population 2");
    refused(&["--target", "256", "--probability", "0"], 2, "--probability 0");
    refused(&["--target", "256", "--method", "yarn:factor=2"], 2, "--method");
    refused(&["--target", "100000"], 3, "no document");
    let wrong = tiny::write(folder.path(), "wrong.json", r#"{"factor": 2.0, "long_factor": [1.0, 2.0, 0.0]}"#);
    let method = format!("longrope:factors={}", wrong.display());
    let ran = bowline(folder.path(), ["score", model, "--text", "text/0.txt", "--method", &method]).expect(2);
    assert!(ran.err.contains("long_factor") && ran.err.contains("3 numbers"), "{ran}");
    let ran = bowline(folder.path(), ["export", model, "out", "--method", "rerope:window=64"]).expect(2);
    assert!(ran.err.contains("no config.json can state"), "{ran}");
}
