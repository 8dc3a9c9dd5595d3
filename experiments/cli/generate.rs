//! `bowline generate`: continue a prompt, greedily or by sampling.

use std::path::PathBuf;

use clap::Args;

use super::options::ModelOptions;
use super::output::print;
use super::score::read_text;
use crate::error::Failure;
use crate::model::Sampler;

/// Continues a prompt.
#[derive(Debug, Args)]
pub struct Generate {
    /// Folder, GGUF file, Hub id in the cache, or `bundled`
    model: String,
    /// Text to continue (this or --file)
    #[arg(long, value_name = "TEXT", conflicts_with = "file", required_unless_present = "file")]
    prompt: Option<String>,
    /// File with the text to continue
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Most tokens to add
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_tokens: usize,
    /// 0 takes the most likely token; larger values sample more freely
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    temperature: f64,
    /// Sample from the fewest tokens that together have this probability; 1 is all of them
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f64,
    /// Seed of sampling
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    options: ModelOptions,
}

impl Generate {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the prompt is empty or the model fails.
    pub fn run(self) -> Result<(), Failure> {
        let sampler = Sampler::new(self.temperature, self.top_p, self.seed)?;
        let model = self.options.load(&self.model)?;
        let text = match (&self.prompt, &self.file) {
            (Some(prompt), _) => prompt.clone(),
            (None, Some(path)) => read_text(path)?,
            (None, None) => return Err(Failure::config("give --prompt or --file")),
        };
        let config = &model.llama.config;
        let ids: Vec<u32> = config.bos.into_iter().chain(model.tokenizer()?.encode(&text)?).collect();
        if ids.is_empty() {
            return Err(Failure::config("the prompt is empty and the model has no beginning-of-text token"));
        }
        let reader = model.reader();
        let mut kept = reader.kept(&ids, ids.len() + self.max_tokens)?;
        let mut added: Vec<u32> = Vec::new();
        print(&text);
        let mut shown = String::new();
        while added.len() < self.max_tokens {
            let next = sampler.pick(&kept.next_logits(), added.len() as u64);
            if config.eos.contains(&next) {
                break;
            }
            added.push(next);
            // Only what decodes whole is shown: a character may take several tokens.
            let decoded = model.tokenizer()?.decode(&added)?;
            if !decoded.ends_with('\u{fffd}') && decoded.len() > shown.len() {
                print(&decoded[shown.len()..]);
                shown = decoded;
            }
            if added.len() < self.max_tokens {
                kept.push(next)?;
            }
        }
        print("\n");
        Ok(())
    }
}
