//! A GGUF file as a checkpoint: its config, its tensors under the names and in the order that the model has them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tch::{Kind, Tensor};

use super::config::{config_of, in_its_own_words};
use super::dequantise::dequantised;
use super::error::{GgufError, Problem};
use super::header::Header;
use super::names::{EMBEDDING, ROPE_FACTORS, Rotated, rotated, stored_name, stored_row};
use super::types::TensorType;
use super::vocabulary::vocabulary;
use crate::error::Failure;
use crate::model::config::ModelConfig;
use crate::model::weights::{Access, Held, WeightsError, compared};
use crate::sniff::{self, Foreign};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// An opened file.
#[derive(Debug)]
pub struct GgufCheckpoint {
    held: Held,
    header: Header,
}

impl GgufCheckpoint {
    /// Opens a file by memory map and checks its header.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        // Asked before opening: opening a pipe would wait for its writer.
        if !path.is_file() {
            return Err(WeightsError::NotAFile { path: path.to_path_buf(), what: "no file, or a special one" });
        }
        let held = Held::open(path.to_path_buf(), Access::Mapped)?;
        let head = &held.bytes()[..held.bytes().len().min(64)];
        if let Some(what) = sniff::foreign(head).filter(|what| *what != Foreign::Gguf) {
            return Err(WeightsError::Foreign { path: path.to_path_buf(), what });
        }
        let header = Header::parse(held.bytes()).map_err(|problem| content(path, problem))?;
        Ok(Self { held, header })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.held.path()
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The config that the metadata amounts to.
    ///
    /// # Errors
    ///
    /// Every finding with its key.
    pub fn config(&self) -> Result<ModelConfig, Failure> {
        let value = config_of(&self.header, self.held.bytes()).map_err(|problem| content(self.path(), problem))?;
        ModelConfig::from_hf(&value).map_err(|failure| {
            let findings = in_its_own_words(&failure.to_string()).lines().map(str::to_owned).collect();
            WeightsError::from(GgufError::Model { path: self.path().to_path_buf(), findings }).into()
        })
    }

    /// The tokenizer in the metadata, for a model with `rows` embedding rows; none when the file has no vocabulary.
    ///
    /// # Errors
    ///
    /// When it is damaged, or of a kind that is not read.
    pub fn tokenizer(&self, rows: usize) -> Result<Option<Tokenizer>, TokenizerError> {
        let malformed = |problem: Problem| TokenizerError::Malformed {
            path: self.path().to_path_buf(),
            problems: vec![problem.to_string()],
        };
        let built = vocabulary(&self.header, self.held.bytes()).map_err(malformed)?;
        built.map(|built| Tokenizer::from_built(self.path(), built, rows)).transpose()
    }

    /// Compares names and shapes with those that a model expects, in the file's own names.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Mismatch`].
    pub fn check(&self, expected: &[(String, Vec<usize>)]) -> Result<(), WeightsError> {
        let expected: Vec<_> = expected.iter().map(|(name, shape)| (stored_name(name), shape.clone())).collect();
        let found: BTreeMap<&str, &[usize]> =
            self.header.tensors().map(|(name, tensor)| (name, tensor.shape.as_slice())).collect();
        compared(self.path(), "its metadata", &found, &expected, |name| ROPE_FACTORS.contains(&name))
    }

    /// The element type that a model is read as when nothing else was asked for: half precision where the file has it,
    /// float32 where it is quantised.
    ///
    /// # Errors
    ///
    /// When there is no embedding.
    pub fn kind(&self) -> Result<Kind, WeightsError> {
        let place = self.header.tensor(EMBEDDING).ok_or_else(|| self.absent(EMBEDDING))?;
        Ok(match place.kind {
            Ok(TensorType::F16) => Kind::Half,
            Ok(TensorType::BF16) => Kind::BFloat16,
            _ => Kind::Float,
        })
    }

    /// A parameter under the model's name: quantised ones as float32, rows in the order of a Hugging Face checkpoint.
    ///
    /// # Errors
    ///
    /// When it is absent or of a type that is not read, or when memory cannot be had.
    pub fn tensor(&self, name: &str, config: &ModelConfig) -> Result<Tensor, Failure> {
        let stored = stored_name(name);
        let place = self.header.tensor(&stored).ok_or_else(|| self.absent(&stored))?;
        let kind = place.read_as(&stored).map_err(|problem| content(self.path(), problem))?;
        self.held.check_length()?;
        let data = &self.held.bytes()[place.range()];
        let heads = match rotated(name) {
            Some(Rotated::Query) => config.heads,
            Some(Rotated::Key) => config.key_heads,
            None => 0,
        };
        let head_dim = config.head_dim;
        // A bias is a column: rows of one weight.
        let columns = if heads > 0 && place.shape.len() == 1 { 1 } else { place.shape[place.shape.len() - 1] };
        let source = |row: usize| if heads > 0 { stored_row(row, head_dim) } else { row };
        let shape: Vec<i64> = place.shape.iter().map(|&n| n as i64).collect();
        let plain = |kind: Kind| -> Result<Tensor, Failure> {
            let row_bytes = columns * if kind == Kind::Float { 4 } else { 2 };
            Ok(Tensor::f_from_data_size(&reordered(data, row_bytes, source), &shape, kind)?)
        };
        match kind {
            TensorType::F32 => plain(Kind::Float),
            TensorType::F16 => plain(Kind::Half),
            TensorType::BF16 => plain(Kind::BFloat16),
            _ => Ok(Tensor::f_from_slice(&dequantised(kind, data, columns, source))?.f_view(shape.as_slice())?),
        }
    }

    fn absent(&self, name: &str) -> WeightsError {
        WeightsError::NotFound { dir: self.path().to_path_buf(), name: name.to_owned() }
    }
}

fn content(path: &Path, problem: Problem) -> WeightsError {
    GgufError::Content { path: PathBuf::from(path), problem }.into()
}

/// Rows of `row_bytes`, row `r` being row `source(r)` of the data.
fn reordered(data: &[u8], row_bytes: usize, source: impl Fn(usize) -> usize + Sync) -> Vec<u8> {
    let mut out = vec![0; data.len()];
    out.par_chunks_mut(row_bytes).enumerate().for_each(|(row, out)| {
        let start = source(row) * row_bytes;
        out.copy_from_slice(&data[start..start + row_bytes]);
    });
    out
}
