//! The command line: its help, its exit codes, and which stream says what.

use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

use super::support::program::{Running, bowline, command};
use super::support::tiny;

/// Every command, with what its help must speak of. A new flag belongs here, and first of all in a recipe.
const COMMANDS: &[(&str, &[&str])] = &[
    ("doctor", &["--json"]),
    ("inspect", &["<MODEL>", "--context", "--json"]),
    ("score", &["<MODEL>", "--text", "--tokens", "--context", "--json", "--device", "--dtype", "--backend"]),
    ("generate", &["<MODEL>", "--prompt", "--file", "--max-tokens", "--temperature", "--top-p", "--seed"]),
    ("fetch", &["<ID>", "--revision"]),
    ("export", &["<FROM>", "<TO>", "--shard-mb", "--dtype", "--method"]),
    (
        "eval",
        &[
            "perplexity",
            "passkey",
            "needle",
            "multipasskey",
            "kv",
            "documents",
            "ruler",
            "longppl",
            "short-text",
            "import",
        ],
    ),
    ("eval perplexity", &["<MODEL>", "--lengths", "--data", "--protocol", "--stride", "--seed", "--out", "--format"]),
    ("eval passkey", &["<MODEL>", "--lengths", "--variant", "--depths", "--trials", "--seed", "--out", "--format"]),
    ("eval needle", &["<MODEL>", "--lengths", "--depths", "--trials", "--haystack", "--resume", "--format"]),
    ("eval multipasskey", &["<MODEL>", "--lengths", "--trials", "--resume"]),
    ("eval kv", &["<MODEL>", "--lengths", "--trials", "--resume"]),
    ("eval documents", &["<MODEL>", "--lengths", "--trials", "--resume"]),
    ("eval ruler", &["<MODEL>", "--lengths", "--resume"]),
    ("eval longppl", &["<MODEL>", "--data"]),
    ("eval short-text", &["<MODEL>", "--data"]),
    ("search", &["longrope"]),
    (
        "search longrope",
        &[
            "--model",
            "--target",
            "--data",
            "--held-out",
            "--out",
            "--population",
            "--iterations",
            "--start-tokens",
            "--seed",
            "--resume",
            "--json",
        ],
    ),
    ("plan", &["<RECIPE>", "--gpu", "--set", "--choose", "--out", "--json"]),
    ("recipes", &["--gpu", "--json"]),
    ("train", &["<RECIPE>", "--set", "--resume", "--allow-change", "--out", "--device", "--dry-run"]),
    ("run", &["<STUDY>", "--set", "--out", "--short", "--device"]),
    ("sweep", &["<STUDY>", "--set", "--out", "--short", "--device"]),
    ("report", &["<RUNS>...", "--out", "diff", "expect"]),
    ("report diff", &["<FIRST>", "<SECOND>", "--json"]),
    ("report expect", &["<RECIPE>", "<RUNS>...", "--dataset", "--variant", "--json"]),
    ("bench attention", &["--device", "--cases", "--lengths", "--head-dims", "--threads", "--json", "--out"]),
    ("bench score", &["<MODEL>", "--random-weights", "--lengths", "--repeats", "--json"]),
    ("bench eval", &["--model", "--cases", "--data", "--curve-length", "--points", "--trials", "--repeats", "--json"]),
    ("bench kernels", &["--device", "--only", "--tokens", "--bar", "--json", "--out"]),
    ("bench optimizer", &["--millions", "--repeats", "--device", "--json"]),
    ("bench loss", &["--tokens", "--hidden", "--vocab", "--piece", "--device", "--json"]),
    (
        "bench train",
        &["[MODEL]", "--model", "--context", "--random-weights", "--policy", "--adapter", "--rank", "--bar", "--json"],
    ),
    ("kernels check", &["--arch", "--only", "--json"]),
    ("kernels list", &["--json"]),
];

/// Flags, arguments and subcommands that a help text lists, with what is said of each on the same or the next line.
fn listed(help: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = help.lines().skip_while(|line| !line.starts_with("Usage")).skip(1).collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let (entry, rest) = line.trim().split_once("  ").unwrap_or((line.trim(), ""));
        if (1..=6).contains(&indent) && !entry.is_empty() {
            let rest = if rest.is_empty() { lines.get(at + 1).map_or("", |next| next.trim()) } else { rest.trim() };
            found.push((entry.to_owned(), rest.to_owned()));
        }
    }
    found
}

#[test]
fn every_command_explains_itself_and_every_flag_of_it() {
    let dir = tempfile::tempdir().unwrap();
    for (name, expected) in COMMANDS {
        let help = bowline(dir.path(), name.split(' ').chain(["--help"])).expect(0);
        assert!(help.err.is_empty() && help.out.contains("Usage: bowline"), "{help}");
        let entries = listed(&help.out);
        for word in *expected {
            let is_it = |entry: &str| entry.split([' ', ',']).any(|part| part == *word);
            assert!(entries.iter().any(|(entry, _)| is_it(entry)), "`{name}` does not list {word}: {entries:?}");
        }
        for (entry, said) in &entries {
            assert!(said.len() > 3, "`{name}` says nothing of {entry}");
        }
    }
}

#[test]
fn the_list_of_commands_is_the_one_above() {
    let dir = tempfile::tempdir().unwrap();
    let help = bowline(dir.path(), ["--help"]).expect(0);
    let (_, commands) = help.out.split_once("Commands:\n").unwrap();
    let (commands, rest) = commands.split_once("\n\n").unwrap();
    let names: Vec<&str> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let mut expected: Vec<&str> = COMMANDS.iter().map(|(name, _)| name.split(' ').next().unwrap()).collect();
    expected.dedup();
    expected.push("help");
    assert_eq!(names, expected);
    let prose = rest.split_whitespace().collect::<Vec<_>>().join(" ");
    for code in ["0 ok", "1 a threshold", "2 usage", "3 bad data", "4 out of memory", "5 interrupted"] {
        assert!(prose.contains(code), "the help does not say what exit code {code} means");
    }
    let version = bowline(dir.path(), ["--version"]).expect(0);
    assert_eq!(version.out, format!("bowline {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_use_exits_2_with_words_on_standard_error_alone() {
    let dir = tempfile::tempdir().unwrap();
    let wrong: [&[&str]; 9] = [
        &[],
        &["frobnicate"],
        &["score"],
        &["score", "bundled"],
        &["score", "bundled", "--text", "a", "--tokens", "b"],
        &["inspect", "bundled", "--contxt", "5"],
        &["eval", "passkey", "bundled"],
        &["eval", "passkey", "bundled", "--lengths", "12x"],
        &["eval", "passkey", "bundled", "--lengths", "-5"],
    ];
    for arguments in wrong {
        let ran = bowline(dir.path(), arguments).expect(2);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{arguments:?}: {ran}");
        assert!(!ran.err.contains("panicked"), "{arguments:?}: {ran}");
    }
}

#[test]
fn a_model_that_is_not_there_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write(dir.path(), "a-file", "x");
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let cases = [
        ("no such model", "there is no folder no such model, and it is no Hub id (ORG/NAME)"),
        ("old-id", "old-id is neither a folder nor in the Hub cache"),
        ("/no/such/model", "there is no folder /no/such/model"),
        ("org/name", "org/name is neither a folder nor in the Hub cache"),
        ("a-file", "a-file is a file; give the folder"),
        ("empty", "empty holds no config.json"),
        ("../up/and/away", "there is no folder ../up/and/away"),
    ];
    for (model, said) in cases {
        for arguments in [vec!["inspect", model], vec!["score", model, "--text", "a-file"]] {
            let ran = bowline(dir.path(), arguments).expect(2);
            assert!(ran.err.starts_with(&format!("bowline: {said}")), "{ran}");
            assert_eq!((ran.err.lines().count(), ran.out.as_str()), (1, ""), "{ran}");
        }
    }
}

#[test]
fn fetching_offline_is_refused_without_a_question_to_the_network() {
    let dir = tempfile::tempdir().unwrap();
    let ran = bowline(dir.path(), ["fetch", "org/name"]).expect(2);
    assert!(ran.err.contains("HF_HUB_OFFLINE") && ran.err.contains("org/name"), "{ran}");
    for name in ["../../etc", "org/../x", "a b/c", "https://example.org/x"] {
        bowline(dir.path(), ["fetch", name]).expect(2);
    }
}

#[test]
fn results_go_to_standard_output_in_the_form_asked_for_and_progress_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny::model().to_str().unwrap();
    let run = |format: &str, out: &str| {
        let arguments = ["eval", "passkey", model, "--lengths", "64,96", "--depths", "2", "--trials", "1"];
        let more = ["--format", format, "--out", out, "--device", "cpu"];
        bowline(dir.path(), arguments.iter().chain(&more)).expect(0)
    };
    let (json, csv, md) = (run("json", "a"), run("csv", "b"), run("md", "c"));
    for ran in [&json, &csv, &md] {
        assert!(ran.err.contains("passkey") && ran.err.contains("results in"), "progress is told: {ran}");
    }
    let report: Value = json.json();
    let rows = report["rows"].as_array().unwrap();
    let saved = std::fs::read_to_string(dir.path().join("a/report.json")).unwrap();
    assert_eq!(saved, json.out, "what is printed is what is kept");
    assert_eq!(std::fs::read_to_string(dir.path().join("b/report.csv")).unwrap(), csv.out);
    let mut lines = csv.out.lines();
    assert_eq!(
        lines.next(),
        Some("model,variant,task,protocol,length,depth,metric,value,low,high,count,unit_of_count,how")
    );
    assert_eq!(lines.count(), rows.len());
    assert!(md.out.lines().all(|line| line.starts_with('|') && line.ends_with('|')), "{md}");
    assert_eq!(md.out.lines().count(), rows.len() + 2, "{md}");
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let running = Running::start_into(command(dir.path(), ["doctor", "--json"]), writer);
    let ran = running.finished().expect(0);
    assert_eq!(ran.err, "");
}

#[test]
fn a_result_that_could_not_be_written_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ran = Running::start_into(command(dir.path(), ["doctor", "--json"]), full).finished().expect(3);
    assert!(ran.err.starts_with("bowline: could not write to standard output"), "{ran}");
}

#[test]
fn generation_is_the_same_for_the_same_seed_and_greedy_without_temperature() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny::model().to_str().unwrap();
    let run = |more: &[&str]| {
        let arguments = ["generate", model, "--prompt", "The ship came", "--max-tokens", "12"];
        bowline(dir.path(), arguments.iter().chain(more)).expect(0).out
    };
    let (greedy, again) = (run(&[]), run(&["--seed", "9"]));
    assert!(greedy.starts_with("The ship came") && greedy.ends_with('\n'), "{greedy}");
    assert_eq!(greedy, again, "greedy asks for no seed");
    let sampled = |seed: &str| run(&["--temperature", "2", "--seed", seed]);
    assert_eq!(sampled("5"), sampled("5"));
    assert_ne!(sampled("5"), sampled("6"));
    for wrong in [["--temperature", "-1"], ["--temperature", "nan"], ["--top-p", "0"], ["--top-p", "1.5"]] {
        let name = wrong[0];
        let value = format!("{}={}", wrong[0], wrong[1]);
        let ran = bowline(dir.path(), ["generate", model, "--prompt", "x", &value]).expect(2);
        assert!(ran.err.contains(name), "{ran}");
    }
}

#[test]
fn doctor_tells_what_the_machine_can_do() {
    let dir = tempfile::tempdir().unwrap();
    let found = bowline(dir.path(), ["doctor", "--json"]).expect(0).json();
    assert!(found["libtorch"]["version"].as_str().unwrap().starts_with("2.11"), "{found}");
    assert!(found["cpu"]["cores"].as_u64().unwrap() >= 1 && found["cpu"]["threads"] == 1, "{found}");
    assert!(!found["cuda"]["explanation"].as_str().unwrap().is_empty());
    let backends: Vec<&str> =
        found["backends"].as_array().unwrap().iter().map(|backend| backend["name"].as_str().unwrap()).collect();
    assert!(backends.contains(&"libtorch") && backends.contains(&"reference"), "{backends:?}");
    let page = bowline(dir.path(), ["doctor"]).expect(0).out;
    assert!(page.contains("libtorch") && page.contains("cuda"), "{page}");
    // Two threads may meet other programs on their cores; what they wait by is the user's.
    let with = |policy: &str| {
        let mut doctor = command(dir.path(), ["doctor"]);
        doctor.env("OMP_NUM_THREADS", "2").env("OMP_WAIT_POLICY", policy).env_remove("GOMP_SPINCOUNT");
        Running::start(doctor).finished().expect(0).out
    };
    assert!(with("active").contains("OMP_WAIT_POLICY=passive") && !with("passive").contains("spinning"));
}

#[test]
fn the_fused_loss_takes_at_most_a_tenth_of_what_the_plain_one_takes_beside_its_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let bench = |tokens: &str| {
        let small =
            ["bench", "loss", "--hidden", "8", "--vocab", "2000", "--repeats", "1", "--device", "cpu", "--json"];
        bowline(dir.path(), small.iter().chain(&["--tokens", tokens]))
    };
    let rows = bench("4096,5000").expect(0).json();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    for row in rows.as_array().unwrap() {
        assert!(row["speedup"].as_f64().unwrap() > 0.0, "{row}");
        // Logits, their log-softmax, and the gradient by either.
        assert!(row["plain_extra_bytes"].as_f64().unwrap() > 2.5 * 4.0 * 2000.0 * 4096.0, "{row}");
        assert!(row["extra_ratio"].as_f64().unwrap() < 0.1, "{row}");
    }
    let wrong = bench("0").expect(2);
    assert!(wrong.err.contains("--tokens"), "{wrong}");
}

#[test]
fn paths_need_not_be_utf8() {
    let dir = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"na\xefve.txt");
    std::fs::write(dir.path().join(name), tiny::text(1, 30)).unwrap();
    let model = tiny::model().as_os_str();
    let arguments = [std::ffi::OsStr::new("score"), model, std::ffi::OsStr::new("--text"), name];
    let ran = bowline(dir.path(), arguments).expect(0);
    assert!(ran.out.contains("perplexity"), "{ran}");
}

#[test]
fn scoring_speed_is_that_of_a_shape_where_weights_are_drawn() {
    let home = tempfile::tempdir().unwrap();
    let drawn =
        ["bench", "score", "bundled", "--random-weights", "--lengths", "48", "--repeats", "1", "--device", "cpu"];
    let row = bowline(home.path(), drawn.iter().chain(&["--dtype", "float32", "--json"])).expect(0).json();
    assert!(row[0]["length"] == 48 && row[0]["tokens_per_second"].as_f64().unwrap() > 0.0, "{row}");
    let refused = bowline(home.path(), drawn.iter().chain(&["--method", "yarn:factor=4"])).expect(2);
    assert!(refused.err.contains("--method yarn:factor=4"), "{refused}");
}
