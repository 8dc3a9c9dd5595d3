//! What a source of documents is, as a recipe says it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::DataError;

/// Names that are recognised, for messages.
pub(super) const EXTENSIONS: &str = ".txt, .jsonl (each also with .zst or .gz) and .parquet";
/// Largest window that zstd's format allows on 64-bit machines, as a power of two.
const WIDEST_WINDOW_LOG: u32 = 31;

/// A source of documents: files and folders, and how to read them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceSpec {
    /// Name, for messages and shares.
    pub name: String,
    /// Files, and folders that are searched through and through.
    pub paths: Vec<PathBuf>,
    /// What the files are; `auto` goes by their names.
    #[serde(default)]
    pub format: Format,
    /// JSON field or Parquet column that holds the text.
    #[serde(default = "text")]
    pub text_field: String,
    /// Share among the sources; finite and above 0.
    #[serde(default = "one")]
    pub weight: f64,
    /// Documents of fewer tokens are left out of training.
    #[serde(default)]
    pub min_tokens: u64,
    /// What to do about a record that cannot be read.
    #[serde(default)]
    pub on_bad_line: OnBadLine,
    /// Longest line, text file or Parquet value, in bytes after decompression.
    #[serde(default = "quarter_gibibyte")]
    pub max_document_bytes: u64,
    /// Log2 of the largest zstd window that is accepted, 10 to 31; memory in bytes is two to this power.
    #[serde(default = "default_window_log")]
    pub zstd_window_log: u32,
}

/// What files hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// By the name of each file.
    #[default]
    Auto,
    /// Plain text, one document a file.
    Text,
    /// One JSON object a line.
    Jsonl,
    /// Parquet, one document a row.
    Parquet,
}

/// What to do about a record that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadLine {
    /// Stop with its place.
    #[default]
    Error,
    /// Count it and go on.
    Skip,
}

fn text() -> String {
    "text".to_owned()
}

fn one() -> f64 {
    1.0
}

fn quarter_gibibyte() -> u64 {
    256 << 20
}

fn default_window_log() -> u32 {
    27
}

impl SourceSpec {
    /// A source with every option at its default.
    pub fn new<P: AsRef<Path>>(name: impl Into<String>, paths: &[P], text_field: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            paths: paths.iter().map(|path| path.as_ref().to_path_buf()).collect(),
            format: Format::Auto,
            text_field: text_field.into(),
            weight: one(),
            min_tokens: 0,
            on_bad_line: OnBadLine::Error,
            max_document_bytes: quarter_gibibyte(),
            zstd_window_log: default_window_log(),
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] with field and value.
    pub fn checked(&self) -> Result<(), DataError> {
        let wrong = |what: String| Err(DataError::Config { name: self.name.clone(), what });
        if self.paths.is_empty() {
            return wrong("`paths` is empty".to_owned());
        }
        if !(self.weight.is_finite() && self.weight > 0.0) {
            return wrong(format!("`weight` must be finite and above 0, got {}", self.weight));
        }
        if self.max_document_bytes == 0 {
            return wrong("`max_document_bytes` must be above 0".to_owned());
        }
        if !(10..=WIDEST_WINDOW_LOG).contains(&self.zstd_window_log) {
            return wrong(format!("`zstd_window_log` must be 10 to {WIDEST_WINDOW_LOG}, got {}", self.zstd_window_log));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_needs_a_name_and_paths_alone() {
        let spec: SourceSpec = toml::from_str("name = 'a'\npaths = ['x', 'y']").unwrap();
        assert_eq!(spec, SourceSpec::new("a", &["x", "y"], "text"));
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = toml::from_str::<SourceSpec>("name = 'a'\npaths = []\nwieght = 2.0").unwrap_err().to_string();
        assert!(error.contains("wieght"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_named() {
        let good = SourceSpec::new("a", &["x"], "text");
        let cases: [(SourceSpec, &str); 5] = [
            (SourceSpec { weight: f64::NAN, ..good.clone() }, "NaN"),
            (SourceSpec { weight: -1.0, ..good.clone() }, "-1"),
            (SourceSpec { zstd_window_log: 32, ..good.clone() }, "32"),
            (SourceSpec { max_document_bytes: 0, ..good.clone() }, "max_document_bytes"),
            (SourceSpec { paths: vec![], ..good.clone() }, "paths"),
        ];
        good.checked().unwrap();
        for (spec, word) in cases {
            let error = spec.checked().unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("\"a\""), "{error}");
        }
    }
}
