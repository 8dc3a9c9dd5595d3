//! A checkpoint in either format: a Hugging Face folder, or one GGUF file.

use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

use super::btlm;
use super::config::{Family, ModelConfig};
use super::folder::read_config;
use super::gguf::GgufCheckpoint;
use super::load::{ignorable, kind_of};
use super::weights::Checkpoint;
use crate::error::Failure;
use crate::tokenizer::Tokenizer;

/// An opened checkpoint.
#[derive(Debug)]
pub enum Stored {
    /// Config, safetensors and tokenizer.
    Folder(Checkpoint),
    /// All in one file.
    Gguf(GgufCheckpoint),
}

impl Stored {
    /// Opens a folder, or a GGUF file.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn open(place: &Path) -> Result<Self, Failure> {
        if place.is_file() {
            return Ok(Self::Gguf(GgufCheckpoint::open(place)?));
        }
        Ok(Self::Folder(Checkpoint::open(place)?))
    }

    /// The model's config.
    ///
    /// # Errors
    ///
    /// Every finding with the file's name.
    pub fn config(&self) -> Result<ModelConfig, Failure> {
        match self {
            Self::Folder(checkpoint) => read_config(checkpoint.dir()),
            Self::Gguf(file) => file.config(),
        }
    }

    /// The tokenizer for a model with `rows` embedding rows; none when there is none.
    ///
    /// # Errors
    ///
    /// When it is damaged, or of a kind that is not read.
    pub fn tokenizer(&self, rows: usize) -> Result<Option<Tokenizer>, Failure> {
        match self {
            Self::Folder(checkpoint) => {
                let path = checkpoint.dir().join("tokenizer.json");
                let there = path.exists() || checkpoint.dir().join("tokenizer.model").exists();
                Ok(if there { Some(Tokenizer::from_file(&path, rows)?) } else { None })
            }
            Self::Gguf(file) => Ok(file.tokenizer(rows)?),
        }
    }

    /// The files that hold the weights.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Folder(checkpoint) => checkpoint.files().map(Path::to_path_buf).collect(),
            Self::Gguf(file) => vec![file.path().to_path_buf()],
        }
    }

    /// The element type that a model is read as when nothing else was asked for: that of its embedding, float32 where it
    /// is quantised.
    ///
    /// # Errors
    ///
    /// When there is no embedding.
    pub fn kind(&self) -> Result<Kind, Failure> {
        match self {
            Self::Folder(checkpoint) => {
                let family = read_config(checkpoint.dir())?.family;
                Ok(of_folder(checkpoint, "model.embed_tokens.weight", family)?.kind())
            }
            Self::Gguf(file) => Ok(file.kind()?),
        }
    }

    /// Compares names and shapes with those that the config asks for.
    ///
    /// # Errors
    ///
    /// Missing, unexpected and misshapen tensors, all named together.
    pub fn check(&self, config: &ModelConfig) -> Result<(), Failure> {
        match self {
            Self::Folder(checkpoint) => {
                checkpoint.check(&config.stored_tensors(), |name| ignorable(name, config.tied, config.family))?;
            }
            Self::Gguf(file) => file.check(&config.expected_tensors())?,
        }
        Ok(())
    }

    /// A parameter by its name in a LLaMA checkpoint, on the CPU, as it is stored; quantised ones are float32.
    ///
    /// # Errors
    ///
    /// When it is absent, of a type that is not read, or memory cannot be had.
    pub fn tensor(&self, name: &str, config: &ModelConfig) -> Result<Tensor, Failure> {
        match self {
            Self::Folder(checkpoint) => of_folder(checkpoint, name, config.family),
            Self::Gguf(file) => file.tensor(name, config),
        }
    }
}

/// A tensor of a folder by LLaMA's name, on the CPU and as it is stored.
///
/// # Errors
///
/// When it is not there.
pub(super) fn of_folder(checkpoint: &Checkpoint, name: &str, family: Family) -> Result<Tensor, Failure> {
    let whole = |name: &str| -> Result<Tensor, Failure> {
        let view = checkpoint.tensor(name)?;
        let shape: Vec<i64> = view.shape.iter().map(|&n| n as i64).collect();
        Ok(Tensor::f_from_data_size(view.data, &shape, kind_of(view.dtype))?)
    };
    match family {
        Family::Llama => whole(name),
        Family::Btlm => {
            let place =
                btlm::place(name).ok_or_else(|| Failure::data(format!("{name}: is no tensor of the family")))?;
            Ok(place.taken(&whole(&place.name)?))
        }
    }
}
