//! Results of other programs as rows of ours, so that published curves are drawn beside measured ones.
//!
//! What a file does not say is said of it: a number without an interval gets the interval of its count where that is known,
//! and else none (`low` and `high` equal `value`, `count` 0, and [`Row::how`] says so).

mod lm_eval;
mod ruler;
mod yarn;

pub use lm_eval::lm_eval;
pub use ruler::ruler_summary;
pub use yarn::{YarnTable, yarn_csv};

use super::Row;
use crate::metrics::{Estimate, wilson_of_mean};

/// Why a file could not be read as results.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ImportError {
    /// The file has another layout.
    #[error("not {what}: {reason}")]
    Layout {
        /// What it was read as.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A cell holds no number.
    #[error("line {line}, column {column}: `{text}` is not a finite number")]
    Number {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What stands there.
        text: String,
    },
    /// There is nothing in it.
    #[error("the file holds no result")]
    Empty,
}

/// A row of a number that another program published.
fn row(model: &str, task: &str, protocol: &str, length: usize, metric: &str, how: &str) -> Row {
    Row {
        model: model.to_owned(),
        variant: model.to_owned(),
        task: task.to_owned(),
        protocol: protocol.to_owned(),
        length,
        depth: None,
        metric: metric.to_owned(),
        value: 0.0,
        low: 0.0,
        high: 0.0,
        count: 0,
        unit_of_count: "trials".to_owned(),
        how: Some(how.to_owned()),
    }
}

impl Row {
    /// The row with a number of which no interval is known.
    fn without_interval(self, value: f64) -> Self {
        let how = self.how.map_or_else(|| "no interval given".to_owned(), |how| format!("{how}; no interval given"));
        Self { value, low: value, high: value, how: Some(how), ..self }
    }

    /// The row with a share of `count` trials and Wilson's interval.
    fn of_trials(self, share: f64, count: u64) -> Self {
        let Estimate { value, low, high } = wilson_of_mean(share * count as f64, count);
        Self { value, low, high, count, ..self }
    }
}

/// A finite number.
fn number(text: &str, line: usize, column: usize) -> Result<f64, ImportError> {
    let parsed = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    parsed.ok_or_else(|| ImportError::Number { line, column, text: text.to_owned() })
}

/// Records of a CSV file, each with as many fields as it has, and its line.
fn records(text: &str, what: &'static str) -> Result<Vec<(usize, Vec<String>)>, ImportError> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut all = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| ImportError::Layout { what, reason: error.to_string() })?;
        let line = record.position().map_or(0, |position| position.line() as usize);
        all.push((line, record.iter().map(|field| field.trim().to_owned()).collect()));
    }
    if all.is_empty() { Err(ImportError::Empty) } else { Ok(all) }
}
