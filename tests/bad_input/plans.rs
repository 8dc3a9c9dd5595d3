use std::path::Path;

use super::super::support::program::bowline;
use super::super::support::{files, golden, tiny};
use super::{Bad, check, ready};

/// A recipe with one thing changed.
fn recipe(dir: &Path, from: &str, to: &str) {
    let text = tiny::one_stage(&tiny::write_text(dir), 2);
    assert!(text.contains(from), "the recipe has no {from}");
    tiny::write(dir, "r.toml", &text.replacen(from, to, 1));
}

const fn wrong(what: &'static str, make: fn(&Path), said: &'static [&'static str]) -> Bad {
    Bad { what, make, run: "train r.toml --out run --device cpu", code: 2, said }
}

#[test]
fn recipes_name_the_line_the_key_and_the_value_that_is_wrong() {
    check(&[
        wrong(
            "an unknown key",
            |d| recipe(d, "learning_rate", "learning_rte"),
            &["r.toml", "line 18", "learning_rte", "did you mean `learning_rate`"],
        ),
        wrong(
            "a table that is none",
            |d| recipe(d, "[optimizer]", "[optimiser]"),
            &["r.toml", "line", "optimiser", "did you mean `optimizer`"],
        ),
        wrong(
            "a wrong unit",
            |d| recipe(d, "learning_rate = 1e-2", "learning_rate = \"1e-2/step\""),
            &["r.toml", "line 18", "1e-2/step"],
        ),
        wrong(
            "not a number",
            |d| recipe(d, "learning_rate = 1e-2", "learning_rate = nan"),
            &["optimizer.learning_rate", "NaN"],
        ),
        wrong(
            "below zero",
            |d| recipe(d, "learning_rate = 1e-2", "learning_rate = -1.0"),
            &["optimizer.learning_rate", "-1"],
        ),
        wrong(
            "clipping to nothing",
            |d| recipe(d, "clip_norm = 1.0", "clip_norm = 0.0"),
            &["optimizer.clip_norm", "0"],
        ),
        wrong("an unknown schedule", |d| recipe(d, "\"cosine\"", "\"cosin\""), &["cosin", "cosine"]),
        wrong("no batch", |d| recipe(d, "batch = 4", "batch = 0"), &["stage 1.batch", "0"]),
        wrong(
            "a part that does not divide",
            |d| recipe(d, "batch = 4", "batch = 4\nmicro_batch = 3"),
            &["stage 1.micro_batch", "3", "4"],
        ),
        wrong("an unknown source", |d| recipe(d, "mix = { text", "mix = { txt"), &["stage 1.mix", "txt"]),
        wrong("a share of nothing", |d| recipe(d, "text = 0.5", "text = 0.0"), &["stage 1.mix", "text", "0"]),
        wrong(
            "two models",
            |d| recipe(d, "tokenizer = \"bundled\"", "tokenizer = \"bundled\"\nfrom = \"tiny\""),
            &["model", "exactly one"],
        ),
        wrong("a name that is a path", |d| recipe(d, "name = \"tiny\"", "name = \"../tiny\""), &["name", "../tiny"]),
        wrong(
            "a stage beyond the context",
            |d| recipe(d, "length = 32", "length = 500"),
            &["stage.length", "500", "128"],
        ),
        wrong("no TOML", |d| drop(tiny::write(d, "r.toml", "name = \n")), &["r.toml", "line 1"]),
        wrong("bytes", |d| std::fs::write(d.join("r.toml"), b"name = \"\xff\"").unwrap(), &["r.toml", "UTF-8"]),
        wrong(
            "no heads",
            |d| recipe(d, "num_attention_heads = 2", "num_attention_heads = 0"),
            &["num_attention_heads", "0"],
        ),
        wrong("no tokenizer there", |d| recipe(d, "tokenizer = \"bundled\"", "tokenizer = \"no such\""), &["no such"]),
    ]);
}

#[test]
fn changes_of_position_that_cannot_be_are_refused() {
    check(&[
        wrong(
            "an unknown method",
            |d| recipe(d, "[optimizer]", "[positions]\nmethod = \"yran\"\nfactor = 2.0\n[optimizer]"),
            &["positions", "yran"],
        ),
        wrong(
            "no factor",
            |d| recipe(d, "[optimizer]", "[positions]\nmethod = \"yarn\"\n[optimizer]"),
            &["positions.factor"],
        ),
        wrong(
            "a factor below one",
            |d| recipe(d, "[optimizer]", "[positions]\nmethod = \"linear\"\nfactor = 0.5\n[optimizer]"),
            &["positions", "0.5"],
        ),
        wrong(
            "no base",
            |d| recipe(d, "[optimizer]", "[positions]\nmethod = \"abf\"\nfactor = 2.0\n[optimizer]"),
            &["positions", "base"],
        ),
        wrong(
            "scaled twice",
            |d| {
                golden::edit_json(&d.join("tiny/config.json"), |config| {
                    config.as_object_mut().unwrap().remove("rope_parameters");
                    config["rope_scaling"] = serde_json::json!({"rope_type": "linear", "factor": 2.0});
                });
                let text = tiny::one_stage(&tiny::write_text(d), 2);
                let (head, rest) = text.split_once("tokenizer = \"bundled\"").unwrap();
                let (_, tail) = rest.split_once("[optimizer]").unwrap();
                let change = "[positions]\nmethod = \"yarn\"\nfactor = 2.0\n";
                tiny::write(d, "r.toml", &format!("{head}from = \"tiny\"\n{change}[optimizer]{tail}"));
            },
            &["positions", "linear"],
        ),
    ]);
}

#[test]
fn recipes_and_settings_that_are_not_there_are_refused() {
    const fn run(what: &'static str, run: &'static str, said: &'static [&'static str]) -> Bad {
        Bad { what, make: |d| recipe(d, "name", "name"), run, code: 2, said }
    }
    check(&[
        run("no such recipe", "train bsae --out run", &["bsae", "no such file", "did you mean base"]),
        run("no such study", "run dmo --out run", &["dmo", "no such file", "did you mean demo"]),
        run("a setting without value", "train r.toml --out run --set seed", &["--set seed", "KEY=VALUE"]),
        run("a setting of nothing", "train r.toml --out run --set stage.7.steps=1", &["stage.7.steps", "7"]),
        run("a setting with a wrong key", "train r.toml --out run --set optimizer.lr=1", &["lr"]),
        run("a setting with a wrong value", "train r.toml --out run --set optimizer.learning_rate=fast", &["fast"]),
        Bad { code: 3, ..run("no checkpoint", "train r.toml --out run --device cpu --resume no-such", &["no-such"]) },
    ]);
}

/// Evaluation arguments: exit code 2.
const fn asked(what: &'static str, run: &'static str, said: &'static [&'static str]) -> Bad {
    Bad { what, make: |_| {}, run, code: 2, said }
}

#[test]
fn evaluations_that_measure_nothing_are_refused() {
    check(&[
        asked("a length of one", "eval perplexity tiny --lengths 1 --out run --data text.txt", &["length of 1"]),
        asked("a length of none", "eval perplexity tiny --lengths 0 --out run --data text.txt", &["length of 0"]),
        asked(
            "an unknown protocol",
            "eval perplexity tiny --lengths 32 --protocol P9 --out run --data text.txt",
            &["P9", "P1, P2, P3, P4"],
        ),
        asked(
            "a stride of none",
            "eval perplexity tiny --lengths 32 --protocol P1 --stride 0 --out run --data text.txt",
            &["stride of 0"],
        ),
        asked(
            "a stride beyond the window",
            "eval perplexity tiny --lengths 32 --protocol P1 --stride 99 --out run --data text.txt",
            &["stride of 99"],
        ),
        asked(
            "a stride for P2",
            "eval perplexity tiny --lengths 32 --stride 8 --out run --data text.txt",
            &["P2", "8"],
        ),
        asked("shorter than its frame", "eval passkey tiny --lengths 5 --out run", &["at least", "5"]),
        asked("no trials", "eval passkey tiny --lengths 64 --trials 0 --out run", &["trials"]),
        asked("no depths", "eval passkey tiny --lengths 64 --depths 0 --out run", &["depths"]),
        asked("an unknown variant", "eval passkey tiny --lengths 64 --variant maze --out run", &["maze", "longlora"]),
        Bad {
            what: "documents shorter than the length",
            make: |_| {},
            run: "eval perplexity tiny --lengths 4000 --out run --data text.txt",
            code: 3,
            said: &["too short", "3999", "longest"],
        },
        Bad {
            what: "pieces longer than the documents",
            make: |_| {},
            run: "eval perplexity tiny --lengths 32 --piece-tokens 4000 --out run --data text.txt",
            code: 3,
            said: &["text.txt", "4000"],
        },
        Bad {
            what: "no text to be had",
            make: |d| std::fs::remove_file(d.join("tiny/tokenizer.json")).unwrap(),
            run: "eval passkey tiny --lengths 64 --out run",
            code: 3,
            said: &["tokenizer.json"],
        },
    ]);
}

/// A study with one thing changed, whose first variant is trained.
fn study(dir: &Path, from: &str, to: &str) {
    let recipe = tiny::one_stage(&tiny::write_text(dir), 2);
    let (head, tail) = recipe.split_once("tokenizer = \"bundled\"").unwrap();
    let (_, tail) = tail.split_once("[optimizer]").unwrap();
    tiny::write(dir, "r.toml", &format!("{head}from = \"replaced\"\n[optimizer]{tail}"));
    let text = r#"name = "small"
base = "tiny"
[evaluation]
documents = ["text.txt"]
lengths = [32]
passkey_lengths = [64]
depths = 1
trials = 1
[training]
recipe = "r.toml"
[[variant]]
name = "trained"
train = true
[[variant]]
name = "pi"
positions = { method = "linear", factor = 2.0 }
[[expect]]
variant = "pi"
metric = "perplexity"
length = 32
at_least = 1.0
"#;
    assert!(text.contains(from), "the study has no {from}");
    tiny::write(dir, "s.toml", &text.replacen(from, to, 1));
}

#[test]
fn studies_that_cannot_end_well_are_refused_before_anything_is_trained() {
    let changes: [(&str, &str, &str, &[&str]); 15] = [
        ("no trials", "trials = 1", "trials = 0", &["evaluation.trials"]),
        ("a length of one", "lengths = [32]", "lengths = [1]", &["length of 1"]),
        ("a passkey shorter than its frame", "passkey_lengths = [64]", "passkey_lengths = [5]", &["at least", "5"]),
        ("an unknown protocol", "lengths = [32]", "protocol = \"P9\"\nlengths = [32]", &["P9"]),
        ("an unknown method", "\"linear\"", "\"linaer\"", &["pi", "linaer"]),
        ("a factor below one", "factor = 2.0", "factor = 0.1", &["pi", "0.1"]),
        ("two of a name", "name = \"pi\"", "name = \"trained\"", &["trained", "two variants"]),
        ("a name that is a path", "name = \"pi\"", "name = \"../pi\"", &["../pi"]),
        ("training without training", "[training]\nrecipe = \"r.toml\"\n", "", &["trained", "[training]"]),
        ("no such recipe", "\"r.toml\"", "\"none.toml\"", &["none.toml"]),
        (
            "a wrong setting",
            "recipe = \"r.toml\"",
            "recipe = \"r.toml\"\nsettings = [\"stage.0.length=500\"]",
            &["500"],
        ),
        ("an unknown metric", "metric = \"perplexity\"", "metric = \"perplexty\"", &["perplexty"]),
        ("an expectation of nobody", "variant = \"pi\"", "variant = \"pie\"", &["pie"]),
        ("an unknown key", "depths", "depth", &["s.toml", "line 7", "did you mean `depths`"]),
        ("no such base", "base = \"tiny\"", "base = \"tinny/x\"", &["tinny/x"]),
    ];
    let mut wrong = Vec::new();
    for (what, from, to, said) in changes {
        let folder = ready();
        study(folder.path(), from, to);
        let ran = bowline(folder.path(), ["run", "s.toml", "--out", "run", "--device", "cpu"]);
        let names_all = said.iter().all(|word| ran.err.contains(word));
        let trained = files(folder.path()).iter().any(|file| file.starts_with("run/train"));
        if ran.code != Some(2) || !names_all || trained || ran.err.contains("panicked") {
            wrong.push(format!("{what} (trained: {trained}): {ran}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let folder = ready();
    study(folder.path(), "pi", "pi");
    bowline(folder.path(), ["run", "s.toml", "--out", "run", "--device", "cpu"]).expect(0);
}
