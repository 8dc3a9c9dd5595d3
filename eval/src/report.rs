//! The result file: what was measured, with what, and how sure it is.
//!
//! `plots` reads this type and no other, so that every figure can be drawn again from `report.json` alone.

mod diff;
mod file;
pub mod import;
mod lm_eval;
mod row;
mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use diff::{Basis, Difference, ReportDiff, Verdict, diff};
pub use file::ReportError;
pub use lm_eval::lm_eval_results;
pub use row::Measurement;
pub use table::{RowQuery, csv, markdown};

/// Version of the layout below; a reader refuses a newer one.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything one run measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`] at the time of writing.
    pub schema_version: u32,
    /// What produced the numbers.
    pub provenance: Provenance,
    /// The models compared, in the order in which they are listed and drawn.
    pub variants: Vec<Variant>,
    /// One number each, with its interval and count.
    pub rows: Vec<Row>,
    /// Loss by position in the context.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub position_loss: Vec<PositionLoss>,
    /// Loss of every document, for comparisons over the same documents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub document_loss: Vec<DocumentLoss>,
    /// Rotation frequencies of the variants.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spectra: Vec<Spectrum>,
    /// Training curves of the variants that were trained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub training: Vec<TrainingCurve>,
    /// What measurements took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<Cost>,
}

/// What produced a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Program and version, such as `bowline 0.1.0`.
    pub program: String,
    /// Command line, as given.
    pub command: Vec<String>,
    /// Commit of the source tree, when known.
    pub commit: Option<String>,
    /// Whether the source tree differed from that commit.
    pub dirty: Option<bool>,
    /// Start of the run, RFC 3339 in UTC.
    pub started_at: String,
    /// Seconds from start to end.
    pub duration_s: f64,
    /// Device, such as `cpu` or `cuda:0 NVIDIA H100`.
    pub device: String,
    /// Threads of tensor operations.
    pub threads: usize,
    /// Element type of the weights, such as `float32`.
    pub dtype: String,
    /// Attention backend: `auto`, with the one that it takes at the longest length behind it, or the name asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Every seed by its name.
    pub seeds: BTreeMap<String, u64>,
    /// Library name to version.
    pub versions: BTreeMap<String, String>,
    /// Input name to hash (weights, tokenizer, evaluation documents).
    pub hashes: BTreeMap<String, String>,
    /// The resolved configuration, as written to `resolved.toml`.
    pub config: serde_json::Value,
}

/// One model as it was evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Short name, such as `yarn-trained`.
    pub name: String,
    /// One sentence for a reader.
    pub description: String,
    /// Model id or folder that it came from.
    pub model: String,
    /// Position scheme, such as `yarn`.
    pub scheme: String,
    /// Parameters of the scheme, such as `factor = 4`.
    pub parameters: String,
    /// Context of the original pretraining, in tokens.
    pub original_context: usize,
    /// Context that it was trained at last, in tokens; equal to the original one when it was not extended.
    pub trained_context: usize,
    /// Tokens of continued pretraining; 0 when none.
    pub trained_tokens: u64,
}

/// One measured number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Model id or folder.
    pub model: String,
    /// Name of the variant in [`Report::variants`].
    pub variant: String,
    /// `perplexity`, `passkey`, `needle`, a task of RULER by its own name, ...
    pub task: String,
    /// Protocol or task variant, such as `P2` or `bowline-1`.
    pub protocol: String,
    /// Context length in tokens.
    pub length: usize,
    /// Depth of the needle as a fraction of the haystack, 0 first; none means all depths together.
    pub depth: Option<f64>,
    /// `perplexity`, `perplexity_published`, `accuracy`, `accuracy_forced`; the latter with `_in_window` or `_beyond_window`
    /// where several lengths are pooled.
    pub metric: String,
    /// The number.
    pub value: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end of its 95 % interval.
    pub high: f64,
    /// How many things were counted.
    pub count: u64,
    /// What was counted: `documents` or `trials`.
    pub unit_of_count: String,
    /// How it was computed, where that is a choice: `one pass`, `a pass per length`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
}

/// Mean negative log-likelihood by position, in nats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PositionLoss {
    /// Name of the variant.
    pub variant: String,
    /// Length of the passes in tokens.
    pub length: usize,
    /// First position of each bucket; the last bucket ends at `length`.
    pub positions: Vec<usize>,
    /// Mean loss in each bucket.
    pub loss: Vec<f64>,
    /// Lower end of the 95 % bootstrap interval over documents.
    pub low: Vec<f64>,
    /// Upper end of it.
    pub high: Vec<f64>,
    /// Documents behind it.
    pub documents: u64,
}

/// Mean negative log-likelihood of every document, in nats per token. Documents stand in the order of the evaluation, and
/// all have as many tokens at a length; which documents they are, the provenance says by their hash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DocumentLoss {
    /// Name of the variant.
    pub variant: String,
    /// Protocol of the perplexity that it belongs to.
    pub protocol: String,
    /// Context lengths in tokens.
    pub lengths: Vec<usize>,
    /// `[documents][lengths]`.
    pub loss: Vec<Vec<f64>>,
}

/// The rotation frequencies of a variant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spectrum {
    /// Name of the variant.
    pub variant: String,
    /// Length for which they hold, in tokens.
    pub length: usize,
    /// Radians per token for each rotated pair.
    pub inv_freq: Vec<f64>,
    /// Factor on cos and sin.
    pub attention_factor: f64,
}

/// Loss against training tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingCurve {
    /// Name of the variant.
    pub variant: String,
    /// Optimizer steps.
    pub steps: Vec<u64>,
    /// Tokens seen at each step.
    pub tokens: Vec<u64>,
    /// Training loss in nats.
    pub loss: Vec<f64>,
    /// Learning rate at each step.
    pub learning_rate: Vec<f64>,
}

/// What one task on one variant took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Name of the variant.
    pub variant: String,
    /// What was measured, in the words of a study: `perplexity`, `ruler`.
    pub task: String,
    /// Places of the plane of lengths and depths that it has numbers for.
    pub points: u64,
    /// Longest context in tokens.
    pub longest: usize,
    /// Seconds by the clock.
    pub seconds: f64,
    /// Most bytes that the process held above what it held before, the model's weights among the latter; none when other work
    /// went on beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_bytes: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report with a bit of everything.
    pub(super) fn example() -> Report {
        let perplexity = Row {
            model: "bundled".to_owned(),
            variant: "yarn".to_owned(),
            task: "perplexity".to_owned(),
            protocol: "P2".to_owned(),
            length: 256,
            depth: None,
            metric: "perplexity".to_owned(),
            value: 60.5,
            low: 55.25,
            high: 66.0,
            count: 12,
            unit_of_count: "documents".to_owned(),
            how: Some("one pass".to_owned()),
        };
        let passkey = Row {
            task: "passkey".to_owned(),
            protocol: "bowline-1".to_owned(),
            length: 1024,
            depth: Some(0.3),
            metric: "accuracy".to_owned(),
            value: 0.95,
            low: 0.9,
            high: 0.98,
            count: 40,
            unit_of_count: "trials".to_owned(),
            how: None,
            ..perplexity.clone()
        };
        Report {
            schema_version: SCHEMA_VERSION,
            provenance: Provenance {
                program: "bowline 0.1.0".to_owned(),
                command: vec!["bowline".to_owned(), "eval".to_owned()],
                commit: None,
                dirty: None,
                started_at: "2026-01-02T03:04:05Z".to_owned(),
                duration_s: 1.5,
                device: "cpu".to_owned(),
                threads: 2,
                dtype: "float32".to_owned(),
                backend: None,
                seeds: BTreeMap::from([("samples".to_owned(), u64::MAX)]),
                versions: BTreeMap::new(),
                hashes: BTreeMap::new(),
                config: serde_json::json!({"lengths": [256, 1024]}),
            },
            variants: Vec::new(),
            rows: vec![perplexity, passkey],
            position_loss: vec![PositionLoss {
                variant: "yarn".to_owned(),
                length: 256,
                positions: vec![1, 16],
                loss: vec![5.0, 4.0],
                low: vec![4.5, 3.5],
                high: vec![5.5, 4.5],
                documents: 12,
            }],
            document_loss: vec![DocumentLoss {
                variant: "yarn".to_owned(),
                protocol: "P2".to_owned(),
                lengths: vec![64, 256],
                loss: vec![vec![4.5, 4.25], vec![4.0, 3.75]],
            }],
            spectra: Vec::new(),
            training: Vec::new(),
            costs: vec![Cost { variant: "yarn".to_owned(), seconds: 2.5, ..Cost::default() }],
        }
    }
}
