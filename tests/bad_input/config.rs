use std::path::Path;

use serde_json::{Value, json};

use super::super::support::golden::edit_json;
use super::super::support::program::bowline;
use super::{Bad, SCORE, check, ready};

/// Changes the model's `config.json`.
fn config(dir: &Path, edit: impl FnOnce(&mut Value)) {
    edit_json(&dir.join("model/config.json"), edit);
}

fn with(dir: &Path, key: &str, value: Value) {
    config(dir, |config| config[key] = value);
}

/// Writes `config.json` as these bytes.
fn raw(dir: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(dir.join("model/config.json"), bytes).unwrap();
}

/// A wrong value: exit code 2.
const fn wrong(what: &'static str, make: fn(&Path), said: &'static [&'static str]) -> Bad {
    Bad { what, make, run: SCORE, code: 2, said }
}

/// Not readable as JSON: exit code 3.
const fn unreadable(what: &'static str, make: fn(&Path), said: &'static [&'static str]) -> Bad {
    Bad { what, make, run: SCORE, code: 3, said }
}

#[test]
fn shapes_that_cannot_be_are_named_by_pointer_and_value() {
    check(&[
        wrong("no heads", |d| with(d, "num_attention_heads", json!(0)), &["config.json: /num_attention_heads", "is 0"]),
        wrong("layers below zero", |d| with(d, "num_hidden_layers", json!(-1)), &["/num_hidden_layers", "-1"]),
        wrong("half a layer", |d| with(d, "num_hidden_layers", json!(1.5)), &["/num_hidden_layers", "1.5"]),
        wrong("text for a size", |d| with(d, "hidden_size", json!("48")), &["/hidden_size", "\"48\""]),
        wrong("width not divisible", |d| with(d, "hidden_size", json!(50)), &["/hidden_size", "50", "4"]),
        wrong("key heads", |d| with(d, "num_key_value_heads", json!(3)), &["num_key_value_heads 3"]),
        wrong("odd head", |d| with(d, "head_dim", json!(11)), &["/head_dim", "11"]),
        wrong("endless vocabulary", |d| with(d, "vocab_size", json!(1_u64 << 40)), &["/vocab_size", "1099511627776"]),
        wrong("bos outside", |d| with(d, "bos_token_id", json!(256)), &["bos_token_id", "256"]),
        wrong("epsilon zero", |d| with(d, "rms_norm_eps", json!(0)), &["/rms_norm_eps", "0"]),
        wrong("another family", |d| with(d, "model_type", json!("mistral")), &["/model_type", "\"mistral\""]),
        wrong("another activation", |d| with(d, "hidden_act", json!("gelu")), &["/hidden_act", "\"gelu\""]),
        wrong("a flag as text", |d| with(d, "tie_word_embeddings", json!("no")), &["/tie_word_embeddings", "\"no\""]),
        wrong(
            "a key left out",
            |d| config(d, |c| drop(c.as_object_mut().unwrap().remove("hidden_size"))),
            &["/hidden_size"],
        ),
        wrong("a list", |d| raw(d, "[1, 2]"), &["config.json", "not a JSON object"]),
    ]);
}

#[test]
fn position_keys_that_cannot_be_are_named_by_pointer_and_value() {
    check(&[
        wrong(
            "factor zero",
            |d| with(d, "rope_scaling", json!({"type": "linear", "factor": 0})),
            &["/rope_scaling/factor", "is 0"],
        ),
        wrong(
            "factor below zero",
            |d| with(d, "rope_scaling", json!({"type": "linear", "factor": -2.0})),
            &["/rope_scaling/factor", "-2"],
        ),
        wrong(
            "factor as text",
            |d| with(d, "rope_scaling", json!({"rope_type": "dynamic", "factor": "8"})),
            &["/rope_scaling/factor", "\"8\""],
        ),
        wrong("no factor", |d| with(d, "rope_scaling", json!({"rope_type": "linear"})), &["/rope_scaling/factor"]),
        wrong("base zero", |d| with(d, "rope_theta", json!(0)), &["/rope_theta", "0"]),
        wrong("base below zero", |d| with(d, "rope_theta", json!(-10000.0)), &["/rope_theta", "-10000"]),
        wrong(
            "unknown scheme",
            |d| with(d, "rope_scaling", json!({"rope_type": "yarnn", "factor": 4.0})),
            &["/rope_scaling", "yarnn", "yarn"],
        ),
        wrong(
            "two schemes in one object",
            |d| with(d, "rope_scaling", json!({"type": "linear", "rope_type": "dynamic", "factor": 4.0})),
            &["linear", "dynamic"],
        ),
        wrong(
            "two forms that differ",
            |d| {
                config(d, |c| {
                    c["rope_scaling"] = json!({"rope_type": "linear", "factor": 4.0});
                    c["rope_parameters"] = json!({"rope_type": "linear", "factor": 8.0, "rope_theta": 10000.0});
                });
            },
            &["rope_scaling", "rope_parameters", "8", "4"],
        ),
        wrong(
            "two bases that differ",
            |d| with(d, "rope_parameters", json!({"rope_type": "default", "rope_theta": 20000.0})),
            &["rope_theta", "20000", "10000"],
        ),
        wrong(
            "yarn without its original length",
            |d| with(d, "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
            &["original_max_position_embeddings"],
        ),
        wrong(
            "a key that no scheme has",
            |d| with(d, "rope_scaling", json!({"rope_type": "linear", "factor": 4.0, "factr": 2.0})),
            &["/rope_scaling/factr"],
        ),
        wrong(
            "lists of the wrong length",
            |d| {
                let lists = json!({"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0], "long_factor": [1.0],
                                   "original_max_position_embeddings": 64});
                with(d, "rope_scaling", lists);
            },
            &["short_factor", "6"],
        ),
        wrong("no context", |d| with(d, "max_position_embeddings", json!(0)), &["/max_position_embeddings", "0"]),
    ]);
}

#[test]
fn all_findings_come_at_once() {
    check(&[wrong(
        "four faults",
        |d| {
            config(d, |c| {
                c["num_hidden_layers"] = json!(-1);
                c["rms_norm_eps"] = json!("small");
                c["hidden_act"] = json!("relu");
                c["rope_scaling"] = json!({"type": "linear", "factor": 0});
            });
        },
        &["/num_hidden_layers", "/rms_norm_eps", "/hidden_act", "/rope_scaling/factor"],
    )]);
}

#[test]
fn text_that_is_no_config_is_recognised() {
    check(&[
        unreadable("NaN", |d| raw(d, "{\n \"rope_theta\": NaN}"), &["config.json", "NaN", "line 2"]),
        unreadable(
            "a key twice",
            |d| raw(d, r#"{"hidden_size": 48, "hidden_size": 64}"#),
            &["config.json", "/hidden_size", "twice"],
        ),
        unreadable("a million levels", |d| raw(d, "[".repeat(1_000_000)), &["config.json", "127 levels"]),
        unreadable(
            "a gigabyte",
            |d| std::fs::File::create(d.join("model/config.json")).unwrap().set_len(1 << 30).unwrap(),
            &["config.json", "1073741824 bytes"],
        ),
        unreadable(
            "UTF-16",
            |d| raw(d, "{\"a\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()),
            &["config.json", "UTF-16"],
        ),
        unreadable("nothing", |d| raw(d, ""), &["config.json", "empty"]),
        unreadable("a web page", |d| raw(d, "<!doctype html><html>"), &["config.json", "HTML"]),
        unreadable("cut off", |d| raw(d, "{\"hidden_size\": 4"), &["config.json", "line 1"]),
        wrong(
            "a link to itself",
            |d| {
                std::fs::remove_file(d.join("model/config.json")).unwrap();
                std::os::unix::fs::symlink("config.json", d.join("model/config.json")).unwrap();
            },
            &["model", "no config.json"],
        ),
    ]);
}

#[test]
fn what_only_looks_odd_is_read_and_noted() {
    let folder = ready();
    let text = std::fs::read(folder.path().join("model/config.json")).unwrap();
    raw(folder.path(), [b"\xef\xbb\xbf".to_vec(), text].concat());
    bowline(folder.path(), ["score", "model", "--tokens", "ids.json"]).expect(0);

    let folder = ready();
    let remote = json!({"AutoModelForCausalLM": "modeling_evil.EvilForCausalLM"});
    config(folder.path(), |config| config["auto_map"] = remote);
    let found = bowline(folder.path(), ["inspect", "model", "--json"]).expect(0).json();
    assert!(found["notes"].to_string().contains("auto_map"), "{found}");
    bowline(folder.path(), ["export", "model", "out"]).expect(0);
    let exported = std::fs::read_to_string(folder.path().join("out/config.json")).unwrap();
    assert!(!exported.contains("auto_map"), "{exported}");
}
