//! What the rows of one measurement have in common.

use super::Row;
use crate::metrics::Estimate;

/// The rows of one model and task: everything but the numbers.
#[derive(Debug, Clone, Copy)]
pub struct Measurement<'a> {
    /// Model id or folder.
    pub model: &'a str,
    /// Name of the variant.
    pub variant: &'a str,
    /// Task, as in [`Row::task`].
    pub task: &'a str,
    /// Protocol or task variant.
    pub protocol: &'a str,
    /// What is counted.
    pub unit_of_count: &'a str,
}

impl<'a> Measurement<'a> {
    /// Perplexity under a protocol, counted in documents.
    #[must_use]
    pub fn perplexity(model: &'a str, variant: &'a str, protocol: &'a str) -> Self {
        Self { model, variant, task: "perplexity", protocol, unit_of_count: "documents" }
    }

    /// A row of all depths together, with nothing said of how it was computed.
    #[must_use]
    pub fn row(&self, length: usize, metric: &str, estimate: Estimate, count: u64) -> Row {
        let Estimate { value, low, high } = estimate;
        Row {
            model: self.model.to_owned(),
            variant: self.variant.to_owned(),
            task: self.task.to_owned(),
            protocol: self.protocol.to_owned(),
            length,
            depth: None,
            metric: metric.to_owned(),
            value,
            low,
            high,
            count,
            unit_of_count: self.unit_of_count.to_owned(),
            how: None,
        }
    }
}
