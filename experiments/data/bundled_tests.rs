//! The bundled text and tokenizer are what their provenance says.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use super::*;

fn assets() -> PathBuf {
    // Beside this file: the tests run in the source tree.
    PathBuf::from(file!()).parent().unwrap().join("../assets")
}

fn source(name: &str) -> SourceSpec {
    SourceSpec::new(name, &[assets().join("text").join(name)], "text")
}

#[test]
fn provenance_lists_every_bundled_text_with_its_size_and_hash() {
    let page = fs::read_to_string(assets().join("text/PROVENANCE.md")).unwrap();
    let tokenizer: tokenizers::Tokenizer =
        fs::read_to_string(assets().join("tokenizer/tokenizer.json")).unwrap().parse().unwrap();
    let mut seen = 0;
    for name in ["train", "heldout"] {
        for document in documents(&source(name)).unwrap() {
            let document = document.unwrap();
            let (text, place) = (document.text().unwrap(), &document.place);
            let file = place.file.file_stem().unwrap().to_str().unwrap().to_owned();
            let line = page.lines().find(|line| line.contains(&format!("| {name}/{file} "))).unwrap();
            // One small book stands for the counts of tokens; all of them would take a minute.
            if file == "canterbury-alice29.txt" {
                let tokens = tokenizer.encode_fast(text, false).unwrap().len();
                assert!(line.contains(&format!("| {} | {tokens} |", text.len())), "{file}: {tokens}");
            }
            assert!(line.contains(&format!("| {} |", text.len())), "{file}");
            assert!(line.contains(blake3::hash(text.as_bytes()).to_hex().as_str()), "{file}");
            assert!(!text.contains(['\r', '\u{1a}', '\u{feff}']), "{file}");
            seen += 1;
        }
    }
    assert_eq!(seen, page.lines().filter(|line| line.contains(".txt | ")).count());
}

#[test]
fn held_out_books_are_not_in_the_training_books() {
    let found = text_overlap(&[source("train")], &source("heldout"), WORDS).unwrap();
    assert_eq!(found.overlaps.len(), 2);
    assert!(found.overlaps.iter().all(|overlap| overlap.ngrams > 20_000 && overlap.fraction() < 5e-4), "{found:?}");
    let itself = text_overlap(&[source("heldout")], &source("heldout"), WORDS).unwrap();
    assert!(itself.overlaps.iter().all(|overlap| overlap.fraction() == 1.0));
}

#[test]
fn the_bundled_tokenizer_is_trained_on_the_bundled_text() {
    let texts: Vec<String> =
        documents(&source("train")).unwrap().map(|document| document.unwrap().text().unwrap().to_owned()).collect();
    let trained = bpe::train_bpe(texts.iter().map(String::as_str), 2048, 256).unwrap();
    let bundled = |name: &str| fs::read_to_string(assets().join("tokenizer").join(name)).unwrap();
    assert!(trained.tokenizer_json == bundled("tokenizer.json"), "tokenizer.json differs from what the text gives");
    assert_eq!(trained.tokenizer_config_json, bundled("tokenizer_config.json"));
}
