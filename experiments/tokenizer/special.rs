//! Which tokens begin and end a document; four files may say it.

use std::path::Path;

use serde_json::Value;

use super::TokenizerError;
use crate::json;

/// Size cap of the small files; a chat template makes some of them long.
const MAX_SMALL_JSON: u64 = 16 << 20;

/// The tokens at a document's ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Special {
    /// Begins a document.
    pub bos: Option<u32>,
    /// End a document or a reply; the first is the model's end-of-sequence token.
    pub stops: Vec<u32>,
}

impl Special {
    /// Reads the files beside `tokenizer.json`, those that exist.
    ///
    /// The tokens that `tokenizer_config.json` or else `special_tokens_map.json` name come first; an explicit null
    /// there means none. Where neither speaks, the ids of `config.json` count; its other end tokens, and those of
    /// `generation_config.json`, end generation too.
    ///
    /// # Errors
    ///
    /// A file that is not JSON, or an id without an embedding row.
    pub(super) fn beside(path: &Path, inner: &tokenizers::Tokenizer, rows: usize) -> Result<Self, TokenizerError> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let named = [read(dir, "tokenizer_config.json")?, read(dir, "special_tokens_map.json")?];
        let numbered = [read(dir, "config.json")?, read(dir, "generation_config.json")?];
        let by_name = |key: &str| named.iter().find_map(|file| token_named(file, key));
        let resolve = |name: Option<String>| name.and_then(|name| inner.token_to_id(&name));
        let ids = |key: &str| -> Vec<u32> { numbered.iter().flat_map(|file| ids_of(file, key)).collect() };

        let bos = match by_name("bos_token") {
            Some(said) => resolve(said),
            None => ids("bos_token_id").first().copied(),
        };
        let said_eos = by_name("eos_token").and_then(resolve);
        let mut stops: Vec<u32> = Vec::new();
        for id in said_eos.into_iter().chain(ids("eos_token_id")) {
            if !stops.contains(&id) {
                stops.push(id);
            }
        }
        match bos.iter().chain(&stops).find(|&&id| id as usize >= rows) {
            Some(&id) => {
                let token = inner.id_to_token(id).unwrap_or_default();
                Err(TokenizerError::BeyondRows { path: path.to_path_buf(), token, id, rows })
            }
            None => Ok(Self { bos, stops }),
        }
    }
}

/// The content of a file, null when there is none.
fn read(dir: &Path, name: &str) -> Result<Value, TokenizerError> {
    let path = dir.join(name);
    if path.exists() { Ok(json::read_json(&path, MAX_SMALL_JSON)?) } else { Ok(Value::Null) }
}

/// `Some(None)` for an explicit null. A token is written as text or as an object with `content`.
fn token_named(file: &Value, key: &str) -> Option<Option<String>> {
    match file.get(key)? {
        Value::Null => Some(None),
        Value::String(token) => Some(Some(token.clone())),
        other => other.get("content").and_then(Value::as_str).map(|token| Some(token.to_owned())),
    }
}

/// One id or a list of them; anything else, as the -1 of some exporters, is no id.
fn ids_of(file: &Value, key: &str) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match file.get(key) {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}
