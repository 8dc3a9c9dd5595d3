//! Evaluation of a loaded model: documents and tasks in, rows out.

pub mod retrieval;
pub mod tasks;

use std::path::Path;

use eval::report::{DocumentLoss, PositionLoss, Row};
use eval::tasks::passkey::{Generator, Variant};
use eval::{Depths, EvalError, LanguageModel, Monitor, PerplexityOptions, RetrievalOptions, perplexity, retrieve};

use crate::data::documents;
use crate::error::{Failure, FailureKind};
use crate::model::ModelFolder;
use crate::runtime::progress::Progress;
use crate::runtime::signals::StopFlag;
use crate::train::{encoder_of, spec_at};

/// Documents as token ids, and a hash of them.
#[derive(Debug, Clone)]
pub struct Documents {
    /// Ids of each document, without bos.
    pub tokens: Vec<Vec<u32>>,
    /// BLAKE3 of all ids.
    pub hash: String,
}

impl Documents {
    /// Reads and tokenizes `paths`; `piece` cuts each document into pieces of so many tokens (a shorter rest is left
    /// out), of which at most `most` are kept, evenly spread.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or nothing is left.
    pub fn load(
        model: &ModelFolder,
        paths: &[String],
        text_field: &str,
        piece: Option<usize>,
        most: Option<usize>,
    ) -> Result<Self, Failure> {
        let tokenizer = model.tokenizer()?;
        let mut all = Vec::new();
        let encode = |text: &str| tokenizer.encode(text).map_err(|error| error.to_string());
        let encoder = encoder_of(model, &encode)?;
        for document in documents(&spec_at("evaluation", paths, text_field))? {
            let ids = encoder.ids(document?)?;
            match piece {
                Some(piece) if piece > 0 => all.extend(ids.chunks_exact(piece).map(<[u32]>::to_vec)),
                _ => all.push(ids),
            }
        }
        if all.is_empty() {
            let why = piece.map_or(String::new(), |piece| format!(" of at least {piece} tokens"));
            return Err(Failure::data(format!("{}: no document{why} in them", paths.join(", "))));
        }
        let tokens = spread(all, most.unwrap_or(usize::MAX));
        let mut hasher = blake3::Hasher::new();
        for document in &tokens {
            hasher.update(&(document.len() as u64).to_le_bytes());
            hasher.update(bytemuck::cast_slice(document));
        }
        Ok(Self { tokens, hash: hasher.finalize().to_hex().to_string() })
    }
}

/// At most `most` of `items`, evenly spread, in order.
fn spread<T>(items: Vec<T>, most: usize) -> Vec<T> {
    let count = items.len();
    if count <= most {
        return items;
    }
    let keep = |index: usize| (index + 1) * most / count > index * most / count;
    items.into_iter().enumerate().filter(|(index, _)| keep(*index)).map(|(_, item)| item).collect()
}

/// Names in result rows.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// Model id or folder.
    pub model: &'a str,
    /// Variant.
    pub variant: &'a str,
}

/// What a measurement of perplexity adds to a report.
#[derive(Debug)]
pub struct PerplexityFound {
    /// Two for each length.
    pub rows: Vec<Row>,
    /// Loss by position, where the protocol has it.
    pub position_loss: Option<PositionLoss>,
    /// Loss by document, where the protocol has it.
    pub document_loss: Option<DocumentLoss>,
}

/// Perplexity of `model` at every length.
///
/// # Errors
///
/// As [`eval::perplexity`]; exit code 5 when a signal stopped it.
pub fn perplexity_rows(
    model: &dyn LanguageModel,
    documents: &Documents,
    options: &PerplexityOptions,
    labels: Labels,
    stop: &StopFlag,
) -> Result<PerplexityFound, Failure> {
    let label = format!("{} {}", labels.variant, options.protocol);
    let found = watched(&label, stop, |monitor| perplexity(model, &documents.tokens, options, monitor))?;
    Ok(PerplexityFound {
        rows: found.rows(labels.model, labels.variant),
        position_loss: found.position_loss.as_ref().map(|curve| curve.report(labels.variant)),
        document_loss: found.document_loss.as_ref().map(|d| d.report(labels.variant, found.protocol.name())),
    })
}

/// Passkey accuracy of `model` over a grid.
///
/// # Errors
///
/// As [`eval::retrieve`]; exit code 5 when a signal stopped it.
pub fn passkey_rows(
    model: &ModelFolder,
    reader: &dyn LanguageModel,
    variant: Variant,
    options: &RetrievalOptions,
    labels: Labels,
    stop: &StopFlag,
) -> Result<Vec<Row>, Failure> {
    let task = Generator::new(model.tokenizer()?, variant, model.llama.config.bos)
        .map_err(|error| Failure::config(error.to_string()))?;
    let label = format!("{} passkey", labels.variant);
    let found = watched(&label, stop, |monitor| retrieve(&task, reader, options, monitor))?;
    Ok(found.rows(labels.model, labels.variant))
}

/// The depths of a passkey variant: our own has a grid, the published ones draw them.
pub fn passkey_depths(variant: Variant, count: usize) -> Depths {
    if variant.draws_depth() { Depths::Drawn } else { Depths::even(count) }
}

/// Runs an evaluation with progress on standard error and signals heard.
///
/// # Errors
///
/// Those of the evaluation, with their exit codes.
pub fn watched<T>(
    label: &str,
    stop: &StopFlag,
    run: impl FnOnce(&mut Monitor<'_>) -> Result<T, EvalError>,
) -> Result<T, Failure> {
    let mut progress: Option<Progress> = None;
    let result = {
        let mut monitor = Monitor::silent()
            .with_progress(|p| {
                progress.get_or_insert_with(|| Progress::new(label, p.total as u64)).update(p.done as u64, p.label);
            })
            .with_interrupt(stop.atomic());
        run(&mut monitor)
    };
    if let Some(progress) = progress {
        progress.finish();
    }
    result.map_err(failure)
}

/// The exit code that goes with an evaluation's error.
pub fn failure(error: EvalError) -> Failure {
    let kind = match &error {
        EvalError::Interrupted { .. } => FailureKind::Interrupted,
        EvalError::Model { .. }
        | EvalError::Samples(_)
        | EvalError::BadScore { .. }
        | EvalError::AllTooShort { .. }
        | EvalError::NoDocuments => FailureKind::Data,
        _ => FailureKind::Config,
    };
    Failure::new(kind, error.to_string())
}

/// Hash of a model's weight files, for provenance.
///
/// # Errors
///
/// When a file cannot be read.
pub fn weights_hash(dir: &Path) -> Result<String, Failure> {
    let stored = crate::model::Stored::open(dir)?;
    let mut hasher = blake3::Hasher::new();
    for file in stored.files() {
        let opened = std::fs::File::open(&file).map_err(|error| crate::error::io_failure("read", &file, &error))?;
        hasher.update_reader(opened).map_err(|error| crate::error::io_failure("read", &file, &error))?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_keeps_order_and_count() {
        assert_eq!(spread((0..10).collect(), 4), [2, 4, 7, 9]);
        assert_eq!(spread(vec![1, 2], 5), [1, 2]);
    }
}
