//! Everything that was found wrong with a config, at once.

use std::fmt;

use serde_json::Value;

/// One thing that cannot stand: where, what it holds, and why not.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// JSON pointer into the config (RFC 6901), such as `/rope_scaling/factor`.
    pub pointer: String,
    /// The value there; `None` when the key is absent.
    pub value: Option<Value>,
    /// One sentence without its final stop.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer, self.problem)?;
        match &self.value {
            Some(value) => write!(f, ", is {}", shortened(value)),
            None => Ok(()),
        }
    }
}

/// The value as JSON text, cut where it would flood the message.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 120;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// All findings of one config, in the order of reading; printed one a line.
#[derive(Debug, Clone, PartialEq)]
pub struct HfErrors {
    findings: Vec<Finding>,
}

impl HfErrors {
    /// The findings, at least one.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// A single finding that ends the reading.
    pub(super) fn one(finding: Finding) -> Self {
        Self { findings: vec![finding] }
    }

    /// `value` if nothing was found.
    pub(super) fn unless_empty<T>(findings: Vec<Finding>, value: T) -> Result<T, Self> {
        if findings.is_empty() { Ok(value) } else { Err(Self { findings }) }
    }
}

impl fmt::Display for HfErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.findings.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for HfErrors {}
