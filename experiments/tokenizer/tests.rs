//! A tiny tokenizer that works, and files that are known to break their reader.

use std::fs;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Byte-fallback BPE in the manner of Llama 2: every byte, a few letters, one chain of merges.
fn tiny() -> Value {
    let mut vocab = serde_json::Map::new();
    for token in ["<unk>", "<s>", "</s>"] {
        vocab.insert(token.into(), vocab.len().into());
    }
    for byte in 0..=255_u8 {
        vocab.insert(format!("<0x{byte:02X}>"), vocab.len().into());
    }
    for token in ["h", "e", "l", "o", "\u{2581}", "he", "ll", "hell", "hello", "\u{2581}hello"] {
        vocab.insert(token.into(), vocab.len().into());
    }
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "\u{2581}" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" } ] },
        "pre_tokenizer": null,
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } } },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
        "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": ["h e", "l l", "he ll", "hell o", "\u{2581} hello"] }
    })
}

const ROWS: usize = 269;

struct Folder(tempfile::TempDir);

impl Folder {
    fn of(tokenizer: &Value) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.put("tokenizer.json", &tokenizer.to_string());
        folder
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn load(&self, rows: usize) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_file(&self.0.path().join("tokenizer.json"), rows)
    }
}

fn edited(edit: impl FnOnce(&mut Value)) -> Value {
    let mut value = tiny();
    edit(&mut value);
    value
}

/// The finding that refuses a file before the crate sees it.
fn finding(value: &Value) -> String {
    match Folder::of(value).load(ROWS) {
        Err(TokenizerError::Malformed { problems, .. }) => problems.join("\n"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn text_comes_back_and_no_special_tokens_are_added() {
    let tokenizer = Folder::of(&tiny()).load(ROWS).unwrap();
    assert_eq!(tokenizer.encode("hello").unwrap(), [268]);
    assert_eq!(tokenizer.encode("hello hello").unwrap(), [268, 268]);
    for text in ["hello", "he said: \u{e9}\n\t12", "\u{1f600}", " spaces  kept"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
    }
    assert!(tokenizer.encode("").unwrap().is_empty());
    assert_eq!(tokenizer.encode("<s>").unwrap(), [1], "a special token in the text is one");
    assert_eq!((tokenizer.vocab_size(), tokenizer.id_of("hello")), (ROWS, Some(267)));
    assert_eq!(tokenizer.token_of(268).unwrap(), "\u{2581}hello");
    assert_eq!(
        tokenizer.hash(),
        blake3::hash(&fs::read(Folder::of(&tiny()).0.path().join("tokenizer.json")).unwrap()).to_hex().as_str()
    );
}

#[test]
fn a_longer_merge_than_any_token_is_refused_where_the_crate_panics() {
    let bad = edited(|v| {
        v["model"]["merges"] = json!([["hello", "hello"]]);
    });
    assert!(finding(&bad).contains("token \"hellohello\" is not in the vocabulary"));
    let crash = edited(|v| {
        v["model"]["vocab"] = json!({ "aaa": 0, "bbb": 1 });
        v["model"]["merges"] = json!([["aaa", "bbb"]]);
    });
    let text = crash.to_string();
    let fence = fenced(Path::new("t"), "loading", || tokenizers::Tokenizer::from_str(&text));
    assert!(fence.unwrap_err().to_string().contains("broke down"), "the crate itself panics, and the fence holds");
}

#[test]
fn merges_that_do_not_fit_are_named() {
    for (merges, expected) in [
        (json!(["h x"]), "/model/merges/0: token \"x\""),
        (json!(["h e", "l o"]), "/model/merges/1: token \"lo\""),
        (json!(["he"]), "/model/merges/0 is not a pair"),
        (json!([["h", "e", "l"]]), "/model/merges/0 is not a pair"),
        (json!([7]), "/model/merges/0 is not a pair"),
    ] {
        let text = finding(&edited(|v| v["model"]["merges"] = merges.clone()));
        assert!(text.contains(expected), "{merges}: {text}");
    }
    let prefixed = edited(|v| v["model"]["continuing_subword_prefix"] = json!("######"));
    assert!(finding(&prefixed).contains("shorter than the prefix"));
    let split = edited(|v| {
        v["model"]["continuing_subword_prefix"] = json!("##");
        v["model"]["vocab"]["\u{2581}x"] = json!(200);
        v["model"]["merges"] = json!([["h", "\u{2581}x"]]);
    });
    assert!(finding(&split).contains("shorter than the prefix"), "a cut inside a character");
}

#[test]
fn a_template_that_names_an_undefined_token_is_refused() {
    let bad = edited(|v| v["post_processor"]["special_tokens"] = json!({}));
    assert!(finding(&bad).contains("/post_processor/single/0 names \"<s>\""));
    let nested = edited(|v| {
        let template = v["post_processor"].take();
        v["post_processor"] = json!({ "type": "Sequence", "processors": [template] });
        v["post_processor"]["processors"][0]["special_tokens"] = json!({});
    });
    assert!(finding(&nested).contains("/post_processor/processors/0/single/0"));
    let second = edited(|v| v["post_processor"]["single"][1]["Sequence"]["id"] = json!("B"));
    assert!(finding(&second).contains("names a second sequence"));
    let uneven = edited(|v| v["post_processor"]["special_tokens"]["<s>"]["tokens"] = json!([]));
    assert!(finding(&uneven).contains("1 ids and 0 tokens"));
}

#[test]
fn ids_beyond_the_model_are_refused() {
    let far = edited(|v| v["model"]["vocab"]["hello"] = json!(4_294_967_290_u64));
    assert!(finding(&far).contains("\"hello\" has id 4294967290"));
    let far = edited(|v| v["added_tokens"][0]["id"] = json!(4_294_967_290_u64));
    assert!(finding(&far).contains("/added_tokens/0/id is 4294967290"));
    let far = edited(|v| v["post_processor"]["special_tokens"]["<s>"]["ids"] = json!([4_294_967_290_u64]));
    assert!(finding(&far).contains("far beyond"));
    let wrong = edited(|v| v["model"]["vocab"]["hello"] = json!(-1));
    assert!(finding(&wrong).contains("not a whole number"));
    let twice = edited(|v| v["model"]["vocab"]["hello"] = json!(3));
    assert!(finding(&twice).contains("id 3 is given twice"));
    match Folder::of(&tiny()).load(ROWS - 1) {
        Err(TokenizerError::Malformed { problems, .. }) => assert!(problems[0].contains("268 embedding rows")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_added_token_that_would_get_another_id_is_refused() {
    let moved = edited(|v| v["added_tokens"][1]["id"] = json!(2));
    assert!(finding(&moved).contains("\"<s>\" should have id 2, but its place gives it 1"));
}

#[test]
fn an_added_token_without_a_row_is_an_error_when_it_is_used() {
    let mut value = tiny();
    let mut pad = value["added_tokens"][0].clone();
    pad["id"] = json!(ROWS);
    pad["content"] = json!("<pad>");
    value["added_tokens"].as_array_mut().unwrap().push(pad);
    let tokenizer = Folder::of(&value).load(ROWS).unwrap();
    assert_eq!(tokenizer.encode("hello").unwrap(), [268]);
    match tokenizer.encode("hello<pad>") {
        Err(TokenizerError::BeyondRows { id, rows, token, .. }) => {
            assert_eq!((id, rows, token.as_str()), (269, 269, "<pad>"))
        }
        other => panic!("{other:?}"),
    }
    assert!(Folder::of(&value).load(ROWS + 1).unwrap().encode("<pad>").is_ok());
}

#[test]
fn stored_truncation_padding_and_dropout_are_dropped() {
    let value = edited(|v| {
        v["truncation"] = json!({ "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 });
        v["padding"] = json!({ "strategy": { "Fixed": 10_000_000 }, "direction": "Right", "pad_to_multiple_of": null,
                               "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>" });
        v["model"]["dropout"] = json!(0.9);
    });
    let tokenizer = Folder::of(&value).load(ROWS).unwrap();
    assert_eq!(tokenizer.encode("hello hello hello").unwrap(), [268; 3]);
}

#[test]
fn a_tokenizer_that_loses_ordinary_text_is_refused() {
    let value = edited(|v| {
        v["normalizer"] = json!({ "type": "Replace", "pattern": { "Regex": "[^~]" }, "content": "" });
    });
    assert!(matches!(Folder::of(&value).load(ROWS), Err(TokenizerError::NoTokens { .. })));
}

#[test]
fn special_tokens_come_from_the_files_beside_it() {
    let ends = |folder: &Folder| {
        let t = folder.load(ROWS).unwrap();
        (t.bos(), t.eos(), t.stops().to_vec())
    };
    let folder = Folder::of(&tiny());
    assert_eq!(ends(&folder), (None, None, vec![]));
    folder.put("config.json", r#"{"bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": -1}"#);
    assert_eq!(ends(&folder), (Some(1), Some(2), vec![2, 5]));
    folder.put("special_tokens_map.json", r#"{"eos_token": {"content": "</s>"}, "bos_token": "<unk>"}"#);
    assert_eq!(ends(&folder), (Some(0), Some(2), vec![2, 5]));
    folder.put("tokenizer_config.json", r#"{"bos_token": null, "eos_token": "<s>"}"#);
    assert_eq!(ends(&folder), (None, Some(1), vec![1, 2, 5]));
    folder.put("config.json", r#"{"eos_token_id": 5000}"#);
    assert!(matches!(folder.load(ROWS), Err(TokenizerError::BeyondRows { id: 5000, .. })));
    folder.put("config.json", "{");
    assert!(matches!(folder.load(ROWS), Err(TokenizerError::Json(_))));
}

#[test]
fn an_absent_or_foreign_file_is_named() {
    let folder = Folder(tempfile::tempdir().unwrap());
    assert!(matches!(folder.load(ROWS), Err(TokenizerError::Missing { .. })));
    folder.put("tokenizer.model", "x");
    assert!(matches!(folder.load(ROWS), Err(TokenizerError::SentencePieceOnly { .. })));
    folder.put("tokenizer.json", "version https://git-lfs.github.com/spec/v1\n");
    assert!(folder.load(ROWS).unwrap_err().to_string().contains("Git LFS pointer"));
    for (text, expected) in [
        ("[]", "no object /model"),
        (r#"{"model": {}}"#, "/model/vocab is neither"),
        (r#"{"model": {"vocab": {}}}"#, "/model/vocab is empty"),
        (r#"{"model": {"vocab": [["a"], 3]}}"#, "/model/vocab/1 is not"),
        (r#"{"model": {"type": "Magic", "vocab": {"a": 0}}}"#, "loading"),
        (r#"{"version": "2.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#, "version"),
    ] {
        folder.put("tokenizer.json", text);
        let error = folder.load(ROWS).unwrap_err();
        assert!(error.to_string().contains(expected), "{text}: {error}");
        assert_eq!(error.kind().exit_code(), 3);
    }
}

#[test]
fn a_whole_word_vocabulary_works_too() {
    let words = json!({ "version": "1.0", "added_tokens": [], "pre_tokenizer": { "type": "Whitespace" },
        "model": { "type": "WordLevel", "vocab": { "[UNK]": 0, "hello": 1 }, "unk_token": "[UNK]" } });
    assert_eq!(Folder::of(&words).load(2).unwrap().encode("hello there").unwrap(), [1, 0]);
}

/// Places in the tiny tokenizer that a mutation may hit, and what it may put there.
fn mutation() -> impl Strategy<Value = (&'static str, Value)> {
    let place = prop::sample::select(vec![
        "/model/vocab/hello",
        "/model/merges/0",
        "/model/merges",
        "/model/type",
        "/model/unk_token",
        "/model/vocab",
        "/model/continuing_subword_prefix",
        "/model/end_of_word_suffix",
        "/model/byte_fallback",
        "/post_processor/single/0",
        "/post_processor/single",
        "/post_processor/special_tokens/<s>/ids",
        "/post_processor/pair/1/Sequence/id",
        "/added_tokens/1/content",
        "/added_tokens/1/id",
        "/normalizer/normalizers/0",
        "/normalizer",
        "/decoder/decoders",
        "/decoder/decoders/3/start",
        "/truncation",
        "/padding",
        "/version",
        "/pre_tokenizer",
    ]);
    let value = prop::sample::select(vec![
        json!(null),
        json!(0),
        json!(-1),
        json!(1e30),
        json!(4_294_967_295_u64),
        json!(u64::MAX),
        json!(""),
        json!("h e"),
        json!("hello hello"),
        json!("B"),
        json!("##"),
        json!([]),
        json!({}),
        json!([[]]),
        json!(["", ""]),
        json!([["h", "e"]]),
        json!({ "SpecialToken": { "id": "x", "type_id": 0 } }),
        json!({ "type": "ByteLevel" }),
        json!({ "type": "Metaspace" }),
        json!({ "type": "FixedLength", "length": 0 }),
        json!({ "type": "Split", "pattern": { "String": "" }, "behavior": "Isolated", "invert": false }),
        json!("WordPiece"),
        json!("Unigram"),
        json!("WordLevel"),
        json!(true),
        json!({ "a": 0, "b": 0 }),
        json!([["a", 0.0], ["b", -1.0]]),
    ]);
    (place, value)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_mutated_file_never_panics(mutations in prop::collection::vec(mutation(), 1..4), rows in 1_usize..600) {
        let mut value = tiny();
        for (place, replacement) in mutations {
            if let Some(spot) = value.pointer_mut(place) {
                *spot = replacement;
            }
        }
        let folder = Folder::of(&value);
        if let Ok(tokenizer) = folder.load(rows)
            && let Ok(ids) = tokenizer.encode("hello \u{e9} 12")
        {
            prop_assert!(ids.iter().all(|&id| (id as usize) < rows));
        }
    }
}
