//! `bowline eval short-text` and `bowline eval longppl`: what an extension costs at short context, and what it gains at long.

use clap::Args;
use eval::protocols::longppl::{LongPplOptions, longppl};
use eval::protocols::short_text::{document_losses, short_text};
use serde_json::json;

use super::{Common, DocumentArgs, Session};
use crate::error::Failure;
use crate::evaluate::watched;
use crate::model::ModelFolder;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct ShortTextArgs {
    #[command(flatten)]
    common: Common,
    /// The model before its extension: folder, Hub id in the cache, or `bundled`
    #[arg(long, value_name = "MODEL")]
    base: String,
    #[command(flatten)]
    documents: DocumentArgs,
}

#[derive(Debug, Args)]
pub(super) struct LongPplArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    documents: DocumentArgs,
    /// Model that chooses the key tokens, with the same tokenizer [default: the measured one]
    #[arg(long, value_name = "MODEL")]
    evaluator: Option<String>,
    /// Tokens of the short context
    #[arg(long, default_value_t = 4096)]
    context: usize,
    /// Tokens that share one short context
    #[arg(long, default_value_t = 1024)]
    stride: usize,
}

/// Another model, read without a method, which must have the tokenizer of the first.
fn beside(session: &Session, common: &Common, id: &str) -> Result<ModelFolder, Failure> {
    let other = ModelFolder::load(id, common.options.load_options()?)?;
    if other.tokenizer()?.hash() != session.model.tokenizer()?.hash() {
        return Err(Failure::config(format!(
            "{id} has another tokenizer than {}; losses would not compare",
            common.model
        )));
    }
    Ok(other)
}

impl ShortTextArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let session = Session::open(&self.common, "short-text")?;
        let base = beside(&session, &self.common, &self.base)?;
        let documents = self.documents.load(&session.model)?;
        let (before, after) = (base.reader(), session.model.reader());
        let mut rows = Vec::new();
        for &length in &self.common.lengths {
            let mut losses = Vec::new();
            for (label, reader) in [("before", &before), ("after", &after)] {
                losses.push(watched(label, &session.stop, |monitor| {
                    document_losses(reader, &documents.tokens, length, monitor)
                })?);
            }
            let found = short_text(&losses[0], &losses[1], RESAMPLES, self.common.seed);
            let found =
                found.ok_or_else(|| Failure::data(format!("no document has {length} tokens for both models")))?;
            let labels = session.labels(&self.common);
            rows.extend(found.rows(labels.model, labels.variant, length, &self.base));
        }
        let config = json!({
            "task": "short-text", "model": self.common.model, "base": self.base, "data": self.documents.data,
            "method": self.common.options.method, "lengths": self.common.lengths,
            "piece_tokens": self.documents.piece_tokens, "max_documents": self.documents.max_documents,
        });
        let report = session.report(&self.common, rows, config, Some(documents.hash))?;
        session.finish(&self.common, &report)
    }
}

impl LongPplArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let session = Session::open(&self.common, "longppl")?;
        let judge = self.evaluator.as_deref().map(|id| beside(&session, &self.common, id)).transpose()?;
        let documents = self.documents.load(&session.model)?;
        let reader = session.model.reader();
        let judge = judge.as_ref().unwrap_or(&session.model).reader();
        let labels = session.labels(&self.common);
        let mut rows = Vec::new();
        for &length in &self.common.lengths {
            let options = LongPplOptions {
                context: self.context,
                stride: self.stride,
                seed: self.common.seed,
                resamples: RESAMPLES,
                ..LongPplOptions::new(length)
            };
            let found = watched("longppl", &session.stop, |monitor| {
                longppl(&reader, &judge, &documents.tokens, &options, monitor)
            })?;
            rows.extend(found.rows(labels.model, labels.variant));
        }
        let config = json!({
            "task": "longppl", "model": self.common.model, "evaluator": self.evaluator, "data": self.documents.data,
            "method": self.common.options.method, "lengths": self.common.lengths, "context": self.context,
            "stride": self.stride, "piece_tokens": self.documents.piece_tokens,
            "max_documents": self.documents.max_documents,
        });
        let report = session.report(&self.common, rows, config, Some(documents.hash))?;
        session.finish(&self.common, &report)
    }
}
