//! A tokenizer made from what another format says, and the files that would say it.

use serde_json::Value;

/// What a tokenizer is made of.
#[derive(Debug, Clone)]
pub struct Built {
    /// The content of its `tokenizer.json`.
    pub tokenizer: Value,
    /// The content of its `tokenizer_config.json`.
    pub settings: Value,
    /// Begins a document; none when documents begin without a token of their own.
    pub bos: Option<u32>,
    /// End a document or a reply; the first is the model's end-of-sequence token.
    pub stops: Vec<u32>,
}

impl Built {
    /// Its files by name, `tokenizer.json` first.
    pub(super) fn files(&self) -> Vec<(&'static str, String)> {
        vec![
            ("tokenizer.json", format!("{}\n", self.tokenizer)),
            ("tokenizer_config.json", format!("{:#}\n", self.settings)),
        ]
    }
}
