//! Files that strangers write, mutated thousands of times: an answer each time, never a panic; and where a single value
//! was made wrong, the answer names it. What is asked of each reader is what its fuzz target asks.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::SplitMix64;

/// The checks of the fuzz targets.
#[path = "../fuzz/checks.rs"]
mod checks;
/// Bytes and values made wrong.
mod mutate;

use checks::Answer;
use mutate::{bytes, json_value, numbers, toml_value};

use super::support::gguf::{Gguf, Meta};

/// Mutations of bytes for each reader. Readers take 10 to 200 microseconds, so all of this takes seconds.
const BYTES: u64 = 20_000;
/// Mutations of single values for each seed.
const VALUES: u64 = 3000;
/// Longest line that a reader may say; what it read may be megabytes.
const LONGEST_LINE: usize = 1000;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder by name, in order.
fn seeds(folder: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "json" || e == "toml")).collect();
    paths.sort();
    assert!(paths.len() > 1, "{folder} has no seeds");
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    paths.iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}

/// The answer of a reader, which must not panic and must be brief.
#[track_caller]
fn answer(input: &[u8], read: impl Fn(&[u8]) -> Answer) -> Answer {
    let shown = || String::from_utf8_lossy(&input[..input.len().min(4000)]).into_owned();
    let answer =
        catch_unwind(AssertUnwindSafe(|| read(input))).unwrap_or_else(|_| panic!("it panicked on\n{}", shown()));
    if let Err(said) = &answer {
        let longest = said.lines().map(str::len).max().unwrap_or(0);
        assert!((4..=LONGEST_LINE).contains(&longest), "{longest} bytes in a line of {said:.2000}\non\n{}", shown());
    }
    answer
}

/// Mutates the bytes of the seeds, with pieces of one in another.
#[track_caller]
fn survives_bytes(seeds: &[(String, Vec<u8>)], read: impl Fn(&[u8]) -> Answer) {
    let mut random = SplitMix64::new(1);
    let mut refused = 0;
    for _ in 0..BYTES {
        let mut pick = || &seeds[random.below(seeds.len())].1;
        let (seed, other) = (pick(), pick());
        let input = bytes(seed, other, &mut random);
        refused += u64::from(answer(&input, &read).is_err());
    }
    assert!(refused > BYTES / 20, "mutations that spoil nothing test nothing: {refused} of {BYTES} refused");
}

/// Makes one value of a JSON seed wrong at a time; a refusal must name its key.
#[track_caller]
fn names_wrong_values(seed: &[u8], read: impl Fn(&[u8]) -> Answer) {
    let whole: Value = serde_json::from_slice(seed).unwrap();
    assert_eq!(answer(seed, &read), Ok(()));
    let mut random = SplitMix64::new(2);
    let (mut refused, mut silent) = (0, BTreeMap::new());
    for _ in 0..VALUES {
        let (changed, key) = json_value(&whole, &mut random);
        let text = serde_json::to_vec(&changed).unwrap();
        if let Err(said) = answer(&text, &read) {
            refused += 1;
            if !said.contains(&key) {
                silent.insert(key, format!("{said} on {}", changed));
            }
        }
    }
    assert!(silent.is_empty(), "wrong values that were not named: {silent:#?}");
    assert!(refused > VALUES / 20, "{refused} of {VALUES} refused");
}

/// A seed of a folder by its name.
fn seed(folder: &str, name: &str) -> Vec<u8> {
    let all = seeds(folder);
    all.into_iter().find(|(found, _)| found == name).unwrap_or_else(|| panic!("no seed {name}")).1
}

/// A reader of text.
type Reader = fn(&str) -> Answer;

fn as_text(read: Reader) -> impl Fn(&[u8]) -> Answer {
    move |input| read(&String::from_utf8_lossy(input))
}

#[test]
fn any_config_gets_an_answer() {
    survives_bytes(&seeds("fuzz/seeds/config"), checks::config);
}

#[test]
fn a_wrong_value_in_a_config_is_named() {
    names_wrong_values(&seed("fuzz/seeds/config", "llama2_linear"), checks::config);
    names_wrong_values(&seed("fuzz/seeds/config", "yarn_v5"), checks::config);
}

/// A whole GGUF file of a few thousand bytes, and its metadata alone.
fn gguf_seeds() -> Vec<(String, Vec<u8>)> {
    let whole = Gguf::tiny();
    let mut head = whole.clone();
    head.tensors.clear();
    let pieces = |file: &mut Gguf| {
        file.set("tokenizer.ggml.model", Meta::Text("llama".to_owned()));
        file.set("tokenizer.ggml.scores", Meta::Singles((0..22).map(|i| -(i as f32)).collect()));
        file.clone()
    };
    let pieces = pieces(&mut whole.clone());
    [("whole", whole), ("head", head), ("pieces", pieces)].map(|(name, file)| (name.to_owned(), file.bytes())).to_vec()
}

#[test]
fn any_gguf_file_gets_an_answer() {
    let seeds = gguf_seeds();
    survives_bytes(&seeds, checks::gguf);
    let mut random = SplitMix64::new(4);
    let mut refused = 0;
    for _ in 0..BYTES {
        // Mostly where counts, types and offsets are, which is before the data.
        let (_, seed) = &seeds[random.below(seeds.len())];
        let (head, tail) = seed.split_at(seed.len().min(if random.below(4) == 0 { usize::MAX } else { 2400 }));
        let input = [numbers(head, &mut random), tail.to_vec()].concat();
        refused += u64::from(answer(&input, checks::gguf).is_err());
    }
    assert!(refused > BYTES / 4, "{refused} of {BYTES} refused");
}

#[test]
fn a_wrong_value_in_a_gguf_file_is_named() {
    assert_eq!(answer(&Gguf::tiny().bytes(), checks::gguf), Ok(()));
    let odd = [
        Meta::Number(0),
        Meta::Number(u32::MAX),
        Meta::Signed(-1),
        Meta::Signed(i64::MIN),
        Meta::Single(f32::NAN),
        Meta::Single(-1.5),
        Meta::Flag(true),
        Meta::Text(String::new()),
        Meta::Text("words ".repeat(2000)),
        Meta::Texts(vec!["a".to_owned(); 3]),
        Meta::Numbers(vec![-1; 5]),
        Meta::Singles(vec![f32::INFINITY]),
    ];
    let (mut refused, mut silent) = (0, Vec::new());
    for (key, _) in Gguf::tiny().pairs {
        for value in &odd {
            let mut file = Gguf::tiny();
            file.set(&key, value.clone());
            if let Err(said) = answer(&file.bytes(), checks::gguf) {
                refused += 1;
                if !said.contains(&key) {
                    silent.push(format!("{key} = {value:?}: {said}"));
                }
            }
        }
    }
    assert!(silent.is_empty(), "wrong values that were not named: {silent:#?}");
    assert!(refused > 150, "{refused} refused");
}

#[test]
fn any_index_gets_an_answer_and_no_name_leaves_the_folder() {
    survives_bytes(&seeds("fuzz/seeds/safetensors_index"), checks::safetensors_index);
    names_wrong_values(&seed("fuzz/seeds/safetensors_index", "two_shards"), checks::safetensors_index);
    let escape = checks::safetensors_index(&seed("fuzz/seeds/safetensors_index", "escape")).unwrap_err();
    assert_eq!(escape.lines().count(), 3, "{escape}");
}

#[test]
fn any_tokenizer_gets_an_answer_before_it_is_loaded() {
    survives_bytes(&seeds("fuzz/seeds/tokenizer_precheck"), checks::tokenizer_precheck);
    assert_eq!(checks::tokenizer_precheck(&seed("fuzz/seeds/tokenizer_precheck", "bpe")), Ok(()));
    let merge = checks::tokenizer_precheck(&seed("fuzz/seeds/tokenizer_precheck", "long_merge")).unwrap_err();
    assert!(merge.contains("/model/merges/0") && merge.contains("4294967290"), "{merge}");
}

#[test]
fn any_recipe_and_any_study_get_an_answer() {
    let recipes = seeds("experiments/recipes");
    survives_bytes(&recipes, as_text(checks::recipe));
    survives_bytes(&recipes, as_text(checks::study));
}

#[test]
fn a_wrong_value_in_a_recipe_is_named() {
    let readers: [(&str, Reader); 7] = [
        ("base", checks::recipe),
        ("extend-4x", checks::recipe),
        ("demo", checks::study),
        ("demo-8x", checks::study),
        ("methods", checks::study),
        ("smollm2-zero-shot", checks::study),
        ("smollm2-32k", checks::recipe),
    ];
    for (name, read) in readers {
        let text = String::from_utf8(seed("experiments/recipes", name)).unwrap();
        assert_eq!(read(&text), Ok(()), "{name}");
        let whole: toml::Table = text.parse().unwrap();
        let mut random = SplitMix64::new(3);
        let (mut refused, mut silent) = (0, BTreeMap::new());
        for _ in 0..VALUES {
            let (changed, key) = toml_value(&whole, &mut random);
            let text = toml::to_string(&changed).unwrap();
            if let Err(said) = answer(text.as_bytes(), as_text(read)) {
                refused += 1;
                if !said.contains(&key) {
                    silent.insert(key, said);
                }
            }
        }
        assert!(silent.is_empty(), "{name}: wrong values that were not named: {silent:#?}");
        assert!(refused > VALUES / 4, "{name}: {refused} of {VALUES} refused");
    }
}

#[test]
fn a_reader_that_panics_or_names_nothing_is_found() {
    let panics = |input: &[u8]| if input.len() % 7 == 3 { panic!("planted") } else { Err("refused".to_owned()) };
    let silent = |_: &[u8]| Err("something is wrong".to_owned());
    let seeds = seeds("fuzz/seeds/config");
    assert!(catch_unwind(|| survives_bytes(&seeds, panics)).is_err());
    assert!(catch_unwind(|| survives_bytes(&seeds, |_: &[u8]| Ok(()))).is_err());
    assert!(catch_unwind(|| names_wrong_values(&seeds[0].1, silent)).is_err());
}
