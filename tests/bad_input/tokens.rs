use std::path::Path;

use serde_json::{Value, json};

use super::super::support::golden::edit_json;
use super::super::support::tiny;
use super::{Bad, SCORE, SCORE_TEXT, check};

const fn tokenizer(what: &'static str, make: fn(&Path), said: &'static [&'static str]) -> Bad {
    Bad { what, make, run: SCORE_TEXT, code: 3, said }
}

const fn ids(what: &'static str, make: fn(&Path), said: &'static [&'static str]) -> Bad {
    Bad { what, make, run: SCORE, code: 3, said }
}

fn edited(dir: &Path, edit: impl FnOnce(&mut Value)) {
    edit_json(&dir.join("tiny/tokenizer.json"), edit);
}

/// Adds a token to the list of added ones.
fn added(dir: &Path, content: &str, id: u64) {
    edited(dir, |file| {
        let mut token = file["added_tokens"][0].clone();
        (token["content"], token["id"]) = (json!(content), json!(id));
        file["added_tokens"].as_array_mut().unwrap().push(token);
    });
}

fn template(dir: &Path, special: Value) {
    edited(dir, |file| {
        let sequence = json!({"Sequence": {"id": "A", "type_id": 0}});
        let token = json!({"SpecialToken": {"id": "<x>", "type_id": 0}});
        file["post_processor"] = json!({"type": "TemplateProcessing", "single": [token, sequence], "pair": [sequence],
                                        "special_tokens": special});
    });
}

#[test]
fn tokenizers_that_break_their_own_library_are_refused_before_they_do() {
    check(&[
        tokenizer(
            "a merge longer than every token",
            |d| {
                let long = "a".repeat(500);
                edited(d, |file| file["model"]["merges"].as_array_mut().unwrap().push(json!([long, "b"])));
            },
            &["tokenizer.json", "/model/merges/"],
        ),
        tokenizer(
            "an undefined token in the template",
            |d| template(d, json!({})),
            &["tokenizer.json", "/post_processor", "<x>"],
        ),
        tokenizer(
            "ids and tokens that do not pair up",
            |d| template(d, json!({"<x>": {"id": "<x>", "ids": [1, 2], "tokens": ["<x>"]}})),
            &["tokenizer.json", "<x>"],
        ),
        tokenizer("an added id near 2^32", |d| added(d, "zzz", 4_294_967_290), &["tokenizer.json", "4294967290"]),
        tokenizer(
            "an id near 2^32 in the vocabulary",
            |d| edited(d, |file| file["model"]["vocab"]["zzz"] = json!(4_294_967_290_u64)),
            &["tokenizer.json", "zzz", "4294967290", "2048"],
        ),
        tokenizer(
            "an id given twice",
            |d| edited(d, |file| file["model"]["vocab"]["zzz"] = json!(5)),
            &["tokenizer.json", "zzz", "5"],
        ),
        tokenizer(
            "every text gives nothing",
            |d| {
                edited(d, |file| {
                    file["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "[\\s\\S]"}, "content": ""})
                })
            },
            &["tokenizer.json", "no tokens"],
        ),
        tokenizer(
            "no vocabulary",
            |d| edited(d, |file| file["model"]["vocab"] = json!({})),
            &["tokenizer.json", "/model/vocab"],
        ),
        tokenizer("no model", |d| edited(d, |file| *file = json!({"version": "1.0"})), &["tokenizer.json", "/model"]),
        tokenizer(
            "a model of no known kind",
            |d| edited(d, |file| file["model"]["type"] = json!("Magic")),
            &["tokenizer.json"],
        ),
        tokenizer(
            "a token beyond the embedding, met in a text",
            |d| {
                added(d, "harbour", 2048);
                tiny::write(d, "text.txt", "into the harbour at dawn");
            },
            &["tokenizer.json", "harbour", "2048"],
        ),
        tokenizer(
            "no tokenizer",
            |d| std::fs::remove_file(d.join("tiny/tokenizer.json")).unwrap(),
            &["tiny", "tokenizer.json"],
        ),
        tokenizer(
            "SentencePiece alone",
            |d| std::fs::rename(d.join("tiny/tokenizer.json"), d.join("tiny/tokenizer.model")).unwrap(),
            &["tiny", "tokenizer.model", "convert"],
        ),
        tokenizer(
            "not JSON",
            |d| drop(tiny::write(d, "tiny/tokenizer.json", "{\"model\": ")),
            &["tokenizer.json", "line 1"],
        ),
        tokenizer(
            "a key twice",
            |d| drop(tiny::write(d, "tiny/tokenizer.json", r#"{"a": 1, "a": 2}"#)),
            &["tokenizer.json", "/a"],
        ),
    ]);
}

#[test]
fn ids_and_texts_that_cannot_be_scored_are_named() {
    check(&[
        ids("no list", |d| drop(tiny::write(d, "ids.json", "{}")), &["ids.json", "array of token ids"]),
        ids("below zero", |d| drop(tiny::write(d, "ids.json", "[1, -2]")), &["ids.json", "item 1", "-2"]),
        ids("a fraction", |d| drop(tiny::write(d, "ids.json", "[1.5, 2]")), &["ids.json", "item 0", "1.5"]),
        ids("text", |d| drop(tiny::write(d, "ids.json", "[1, \"2\"]")), &["ids.json", "item 1", "\"2\""]),
        ids("beyond 2^32", |d| drop(tiny::write(d, "ids.json", "[1, 4294967296]")), &["ids.json", "4294967296"]),
        ids("beyond the vocabulary", |d| drop(tiny::write(d, "ids.json", "[1, 256]")), &["256", "vocabulary"]),
        ids("one token", |d| drop(tiny::write(d, "ids.json", "[1]")), &["at least 2 tokens", "got 1"]),
        ids("none", |d| drop(tiny::write(d, "ids.json", "[]")), &["at least 2 tokens", "got 0"]),
        ids("no file", |d| std::fs::remove_file(d.join("ids.json")).unwrap(), &["ids.json", "No such file"]),
        ids(
            "a folder",
            |d| {
                std::fs::remove_file(d.join("ids.json")).unwrap();
                std::fs::create_dir(d.join("ids.json")).unwrap();
            },
            &["ids.json", "not a regular file"],
        ),
        tokenizer("no UTF-8", |d| std::fs::write(d.join("text.txt"), b"caf\xe9").unwrap(), &["text.txt", "UTF-8"]),
        tokenizer("an empty text", |d| drop(tiny::write(d, "text.txt", "")), &["at least 2 tokens"]),
        tokenizer(
            "a pipe",
            |d| {
                std::fs::remove_file(d.join("text.txt")).unwrap();
                assert!(std::process::Command::new("mkfifo").arg(d.join("text.txt")).status().unwrap().success());
            },
            &["text.txt", "not a regular file"],
        ),
    ]);
}

#[test]
fn options_that_name_nothing_are_refused() {
    const fn option(what: &'static str, run: &'static str, said: &'static [&'static str]) -> Bad {
        Bad { what, make: |_| {}, run, code: 2, said }
    }
    check(&[
        option("backend", "score model --tokens ids.json --backend magic", &["magic", "libtorch"]),
        option("device", "score model --tokens ids.json --device tpu", &["tpu", "cuda"]),
        option("device number", "score model --tokens ids.json --device cuda:99", &["cuda:99"]),
        option("threads", "score model --tokens ids.json --threads 0", &["--threads"]),
        option("context", "inspect model --context 0", &["--context"]),
        option("shards", "export model out --shard-mb 0", &["--shard-mb"]),
    ]);
}
