//! What each fuzz target asks of a reader. `tests/fuzzed.rs` asks the same of mutated seeds on a stable compiler, in
//! every run of the tests.

use std::path::Path;

use bowline::config::{Recipe, Study};
use bowline::json::parse_json;
use bowline::model::gguf::{self, Header};
use bowline::model::weights::parse_index;
use bowline::model::{ModelConfig, Positions};
use bowline::tokenizer::precheck;
use rope_scaling::hf::HfPositions;

/// Embedding rows of the model that a tokenizer is checked for.
const ROWS: usize = 300;

/// Accepted, or refused with these words.
pub type Answer = Result<(), String>;

/// Any bytes as a `config.json`: what is accepted has a shape that can be counted, and can be written and read again.
pub fn config(data: &[u8]) -> Answer {
    let value = parse_json(data).map_err(|error| error.to_string())?;
    let config = ModelConfig::from_hf(&value).map_err(|failure| failure.to_string())?;
    let rotates = matches!(config.positions, Positions::Rope(_));
    assert!(config.heads.is_multiple_of(config.key_heads) && (!rotates || config.head_dim.is_multiple_of(2)));
    assert!(config.parameter_count() > 0);
    let again = ModelConfig::from_hf(&config.to_hf("float32")).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!((again.hidden, again.layers, again.vocab), (config.hidden, config.layers, config.vocab));
    // Notes tell what the file left out, and the written one leaves out nothing.
    let quiet = |config: &ModelConfig| match &config.positions {
        Positions::Rope(rope) => Positions::Rope(HfPositions { notes: Vec::new(), ..rope.clone() }),
        alibi => alibi.clone(),
    };
    assert_eq!(quiet(&again), quiet(&config));
    Ok(())
}

/// Any bytes as a `model.safetensors.index.json`: whatever name is accepted stays in its folder.
pub fn safetensors_index(data: &[u8]) -> Answer {
    let value = parse_json(data).map_err(|error| error.to_string())?;
    let index = parse_index(&value).map_err(|problems| problems.join("\n"))?;
    for name in index.shards() {
        assert_eq!(Path::new("dir").join(name).parent(), Some(Path::new("dir")), "{name:?}");
        assert_eq!(Path::new(name).file_name().and_then(|n| n.to_str()), Some(name));
        assert!(name.ends_with(".safetensors"));
    }
    Ok(())
}

/// Any bytes as a GGUF file: what is accepted lies within it, its weights can be read, and its metadata amount to a config
/// and a tokenizer, or to a sentence.
pub fn gguf(data: &[u8]) -> Answer {
    let header = Header::parse(data).map_err(|problem| problem.to_string())?;
    for (_, tensor) in header.tensors() {
        let range = tensor.range();
        assert!(range.end <= data.len() && tensor.elements() > 0);
        if let Ok(kind) = tensor.kind {
            let weights = gguf::dequantised(kind, &data[range], tensor.shape[tensor.shape.len() - 1], |row| row);
            assert_eq!(weights.len() as u64, tensor.elements());
        }
    }
    let config = gguf::config_of(&header, data).map_err(|problem| problem.to_string())?;
    let config = ModelConfig::from_hf(&config).map_err(|failure| gguf::in_its_own_words(&failure.to_string()))?;
    assert!(config.parameter_count() > 0);
    if let Some(built) = gguf::vocabulary(&header, data).map_err(|problem| problem.to_string())? {
        precheck(&built.tokenizer, config.vocab).map_err(|problems| problems.join("\n"))?;
    }
    Ok(())
}

/// Any bytes as a `tokenizer.json`, checked as it is before the tokenizers crate sees it.
pub fn tokenizer_precheck(data: &[u8]) -> Answer {
    let value = parse_json(data).map_err(|error| error.to_string())?;
    precheck(&value, ROWS).map_err(|problems| problems.join("\n"))
}

/// Any text as a training recipe: what is accepted can be counted, and can be written and read again.
pub fn recipe(text: &str) -> Answer {
    let recipe = Recipe::parse(text).map_err(|failure| failure.to_string())?;
    assert!(recipe.steps() >= 1 && recipe.tokens() >= 2);
    let written = toml::to_string(&recipe).unwrap_or_else(|error| panic!("{error}"));
    let again = Recipe::parse(&written).unwrap_or_else(|failure| panic!("{failure}\n{written}"));
    assert_eq!(format!("{again:?}"), format!("{recipe:?}"));
    Ok(())
}

/// Any text as a study.
pub fn study(text: &str) -> Answer {
    let study = Study::layered(text, &[]).map_err(|failure| failure.to_string())?;
    assert!(!study.variants.is_empty());
    Ok(())
}
