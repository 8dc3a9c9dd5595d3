//! What a recipe reproduces: whose system, on which device, and the figures that were published for it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose system a recipe reproduces, and on what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct About {
    /// Who made the system, and where its recipe is published.
    pub source: String,
    /// The device that `[memory]` is chosen for, by a name that the planner knows.
    pub device: Option<String>,
}

/// A perplexity published for a model made by a recipe, or by its like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedPerplexity {
    /// Text that it was measured on.
    pub dataset: String,
    /// Protocol, as in reports.
    pub protocol: String,
    /// Tokens of context.
    pub length: usize,
    /// Lowest value that agrees with it.
    pub low: f64,
    /// Highest value that agrees with it.
    pub high: f64,
    /// Who published it, and for what model.
    pub source: String,
}

impl ExpectedPerplexity {
    /// Whether its bounds are perplexities in order.
    pub fn is_a_band(&self) -> bool {
        self.low.is_finite() && self.high.is_finite() && 1.0 <= self.low && self.low <= self.high
    }
}

impl fmt::Display for ExpectedPerplexity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dataset, protocol, length, low, high, source } = self;
        write!(f, "{dataset}, {protocol} at {length}: {low} to {high} ({source})")
    }
}
