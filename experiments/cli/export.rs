//! `bowline export`: a run or checkpoint as a model folder for other tools.

use std::path::{Path, PathBuf};

use attention::Backend;
use clap::Args;
use rope_scaling::Precision;
use tch::Device;

use super::output::print;
use crate::config::Method;
use crate::error::{Failure, io_failure};
use crate::model::{LoadOptions, ModelFolder, Positions, peft};
use crate::train::{Store, restore_masters};

/// Writes sharded safetensors, config in both rope spellings, generation config, tokenizer and a model card; adapters are
/// merged into the weights.
#[derive(Debug, Args)]
pub struct Export {
    /// A run folder (its newest checkpoint is taken), a checkpoint, a model folder, a GGUF file, or `bundled`
    from: PathBuf,
    /// Folder to write; it must not exist yet
    to: PathBuf,
    /// Largest weight file in megabytes
    #[arg(long, default_value_t = 5000, value_name = "MB")]
    shard_mb: u64,
    /// Element type of the weights [default: as trained]. Of a bfloat16 run, float32 writes the weights that its
    /// optimizer kept, bfloat16 those rounded
    #[arg(long)]
    dtype: Option<super::options::DtypeName>,
    /// Change the positions first: `yarn:factor=4`, `longrope:factors=FILE`, any method that a config can state
    #[arg(long, value_name = "NAME:OPTIONS")]
    method: Option<String>,
}

impl Export {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When nothing is there to export, or the target exists.
    pub fn run(self) -> Result<(), Failure> {
        if self.shard_mb == 0 {
            return Err(Failure::config("--shard-mb 0: at least 1 is needed"));
        }
        let source = checkpoint_in(&self.from)?;
        let kind = self.dtype.map(super::options::DtypeName::kind);
        let backend = Backend::auto();
        let options = LoadOptions { device: Device::Cpu, kind, backend, precision: Precision::HubCompatible };
        let model = ModelFolder::load(&source.to_string_lossy(), options)?;
        if self.dtype.is_some() {
            restore_masters(&source, &model)?;
        }
        let mut model = match &self.method {
            Some(method) => model.with_method(&exported(method)?)?,
            None => model,
        };
        model.llama.merge();
        let pending =
            crate::atomic::PendingFolder::create(&self.to).map_err(|error| io_failure("make", &self.to, &error))?;
        model.write_sharded(pending.path(), self.shard_mb << 20)?;
        let card = pending.path().join("README.md");
        std::fs::write(&card, model_card(&model, &self.to)).map_err(|error| io_failure("write", &card, &error))?;
        pending.commit().map_err(|error| io_failure("finish", &self.to, &error))?;
        print(&format!("{}\n", self.to.display()));
        Ok(())
    }
}

/// A method that a config can state.
fn exported(text: &str) -> Result<Method, Failure> {
    match text.parse()? {
        Method::Inside(method) => Err(Failure::config(format!(
            "--method {method}: it decides positions inside attention, which no config.json can state"
        ))),
        method => Ok(method),
    }
}

/// The folder or file itself if it is a model, the bundled model by its name, else the newest checkpoint of the run in it.
///
/// # Errors
///
/// When there is neither.
pub fn checkpoint_in(path: &Path) -> Result<PathBuf, Failure> {
    if path.is_file() || path.join("config.json").is_file() || peft::is_adapter(path) {
        return Ok(path.to_owned());
    }
    if path == Path::new(crate::hub::BUNDLED) && !path.exists() {
        return Ok(crate::hub::resolve(crate::hub::BUNDLED)?.dir);
    }
    Store::new(path.join("checkpoints"), 1).newest().ok_or_else(|| {
        Failure::data(format!(
            "{}: neither a model folder (no config.json) nor a run with a complete checkpoint under checkpoints/",
            path.display()
        ))
    })
}

/// Where `config.json` says the positions.
fn spelling(positions: &Positions) -> &'static str {
    match positions {
        Positions::Rope(_) => {
            "`config.json` states it in both spellings: `rope_scaling` with `rope_theta` (transformers 4) and \
             `rope_parameters` (transformers 5)."
        }
        Positions::Alibi(_) => "`config.json` states it as the BTLM family does: `alibi_scaling` and `n_positions`.",
    }
}

/// A card that says what the model is and how its positions are encoded, with the Hub's front matter.
fn model_card(model: &ModelFolder, to: &Path) -> String {
    let config = &model.llama.config;
    let description = config.positions.describe(None);
    let name = to.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy());
    let mut rows = vec![("scheme".to_owned(), description.scheme.clone())];
    rows.extend(description.parameters.iter().map(|(name, value)| (name.clone(), value.to_string())));
    if let Positions::Rope(rope) = &config.positions {
        rows.push(("rope_theta".to_owned(), rope.geometry.base().to_string()));
    }
    rows.push(("original context".to_owned(), description.original_context.to_string()));
    rows.push(("max_position_embeddings".to_owned(), description.max_position_embeddings.to_string()));
    let rows: Vec<String> = rows.into_iter().map(|(field, value)| format!("| {field} | {value} |")).collect();
    format!(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- llama\n- long-context\n---\n\n\
         # {name}\n\n\
         A LLaMA-architecture model of {:.1} M parameters with a context of {} tokens.\n\n\
         ## Position encoding\n\n| field | value |\n|---|---|\n{}\n\n\
         {}\n\nWritten by Bowline {}.\n",
        config.parameter_count() as f64 / 1e6,
        description.max_position_embeddings,
        rows.join("\n"),
        spelling(&config.positions),
        env!("CARGO_PKG_VERSION"),
    )
}
