//! `bowline score`: per-token negative log-likelihood.

use std::path::{Path, PathBuf};

use clap::Args;
use eval::LanguageModel;
use serde::Serialize;

use super::options::ModelOptions;
use super::output::{print, write_json};
use crate::error::Failure;
use crate::json::{read_capped, read_json};
use crate::model::ModelFolder;

/// Largest text or token file read, in bytes.
const INPUT_LIMIT: u64 = 1 << 30;

/// Scores a text or token ids.
#[derive(Debug, Args)]
pub struct Score {
    /// Folder, GGUF file, Hub id in the cache, or `bundled`
    model: String,
    /// Text file to score (this or --tokens); a beginning-of-text token is put first when the model has one
    #[arg(long, value_name = "FILE", conflicts_with = "tokens", required_unless_present = "tokens")]
    text: Option<PathBuf>,
    /// File with a JSON array of token ids to score as they are
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Score only the first N tokens
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// File to write the result to, as JSON; - is standard output [default: a summary in words]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    options: ModelOptions,
}

/// The result.
#[derive(Debug, Serialize)]
struct Scored {
    /// Nats for each predicted token, the first being the second of the input.
    nll: Vec<f64>,
    /// Tokens of the input.
    tokens: usize,
    /// Mean of `nll`.
    mean_nll: f64,
    /// `exp(mean_nll)`.
    perplexity: f64,
    /// Model as named.
    model: String,
    /// Attention backend.
    backend: String,
}

impl Score {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When an input cannot be read, or the model fails.
    pub fn run(self) -> Result<(), Failure> {
        let model = self.options.load(&self.model)?;
        let mut ids = self.ids(&model)?;
        ids.truncate(self.context.unwrap_or(usize::MAX));
        if ids.len() < 2 {
            return Err(Failure::data(format!("at least 2 tokens are needed to score one, got {}", ids.len())));
        }
        let scores = model.reader().score(&ids, 1..ids.len())?;
        let nll: Vec<f64> = scores.iter().map(|score| -f64::from(score.log_prob)).collect();
        if let Some(place) = nll.iter().position(|x| !x.is_finite()) {
            return Err(Failure::data(format!("the model gave {} for token {}", nll[place], place + 1)));
        }
        let mean_nll = nll.iter().sum::<f64>() / nll.len() as f64;
        let backend = model.llama.attention_choice(ids.len() - 1).map_or(model.llama.backend, |choice| choice.backend);
        let backend = backend.name().to_owned();
        let scored =
            Scored { nll, tokens: ids.len(), mean_nll, perplexity: mean_nll.exp(), model: self.model.clone(), backend };
        match &self.json {
            Some(path) => write_json(path, &scored),
            None => {
                print(&format!(
                    "{} tokens, mean NLL {:.4} nats, perplexity {:.3}\n",
                    scored.tokens, scored.mean_nll, scored.perplexity
                ));
                Ok(())
            }
        }
    }

    fn ids(&self, model: &ModelFolder) -> Result<Vec<u32>, Failure> {
        match (&self.text, &self.tokens) {
            (Some(path), _) => {
                let ids = model.tokenizer()?.encode(&read_text(path)?)?;
                Ok(model.llama.config.bos.into_iter().chain(ids).collect())
            }
            (None, Some(path)) => token_ids(path),
            (None, None) => Err(Failure::config("give --text or --tokens")),
        }
    }
}

/// A JSON array of ids.
fn token_ids(path: &Path) -> Result<Vec<u32>, Failure> {
    let value = read_json(path, INPUT_LIMIT)?;
    let Some(items) = value.as_array() else {
        return Err(Failure::data(format!("{}: is not a JSON array of token ids", path.display())));
    };
    let id = |(place, item): (usize, &serde_json::Value)| {
        item.as_u64()
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| Failure::data(format!("{}: item {place} is {item}, not a token id", path.display())))
    };
    items.iter().enumerate().map(id).collect()
}

/// Reads a whole text file.
///
/// # Errors
///
/// When it cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let bytes = read_capped(path, INPUT_LIMIT)?;
    String::from_utf8(bytes).map_err(|error| Failure::data(format!("{}: is not UTF-8: {error}", path.display())))
}
