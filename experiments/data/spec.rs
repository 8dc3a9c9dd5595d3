//! What a source of documents is, as a recipe says it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::DataError;

/// Names that are recognised, for messages.
pub(super) const EXTENSIONS: &str = ".txt, .jsonl (each also with .zst or .gz) and .parquet";
/// Smallest window that zstd's format knows, as a power of two.
const NARROWEST_WINDOW_LOG: u32 = 10;
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
    /// What the files hold; `auto` goes by their names. Anything else goes for every file of the source.
    #[serde(default)]
    pub format: Format,
    /// JSON field or Parquet column that holds the text; a Parquet column of integer lists holds token ids.
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
    #[serde(default = "largest_document")]
    pub max_document_bytes: u64,
    /// Log2 of the largest zstd window that is accepted, 10 to 31; memory in bytes is two to this power.
    #[serde(default = "widest_window")]
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
    #[serde(rename = "txt", alias = "text")]
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

/// Default of [`SourceSpec::max_document_bytes`].
pub fn largest_document() -> u64 {
    256 << 20
}

/// Default of [`SourceSpec::zstd_window_log`].
pub fn widest_window() -> u32 {
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
            max_document_bytes: largest_document(),
            zstd_window_log: widest_window(),
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`DataError::Config`] with field and value of the first that is wrong.
    pub fn checked(&self) -> Result<(), DataError> {
        match self.findings().into_iter().next() {
            None => Ok(()),
            Some((field, what)) => {
                Err(DataError::Config { name: self.name.clone(), what: format!("`{field}` {what}") })
            }
        }
    }

    /// Whether two sources give the same documents: all is equal but what concerns their use.
    pub fn reads_as(&self, other: &Self) -> bool {
        let used =
            Self { name: other.name.clone(), weight: other.weight, min_tokens: other.min_tokens, ..self.clone() };
        used == *other
    }

    /// Every field that is wrong, with what it must be and what it is.
    pub fn findings(&self) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        if self.paths.is_empty() {
            all.push(("paths", "is empty".to_owned()));
        }
        if self.text_field.is_empty() {
            all.push(("text_field", "must name a field or column, is \"\"".to_owned()));
        }
        if !(self.weight.is_finite() && self.weight > 0.0) {
            all.push(("weight", format!("must be finite and above 0, is {}", self.weight)));
        }
        if self.max_document_bytes == 0 {
            all.push(("max_document_bytes", "must be above 0, is 0".to_owned()));
        }
        if !(NARROWEST_WINDOW_LOG..=WIDEST_WINDOW_LOG).contains(&self.zstd_window_log) {
            let range = format!("{NARROWEST_WINDOW_LOG} to {WIDEST_WINDOW_LOG}");
            all.push(("zstd_window_log", format!("must be {range}, is {}", self.zstd_window_log)));
        }
        all
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
    fn formats_go_by_the_extensions_that_they_stand_for() {
        let read = |word: &str| {
            toml::from_str::<SourceSpec>(&format!("name = 'a'\npaths = ['x']\nformat = '{word}'")).map(|s| s.format)
        };
        assert_eq!(read("txt"), Ok(Format::Text));
        assert_eq!(read("jsonl"), Ok(Format::Jsonl));
        assert_eq!(read("parquet"), Ok(Format::Parquet));
        assert!(read("csv").unwrap_err().to_string().contains("`txt`"));
    }

    #[test]
    fn an_unknown_field_is_named() {
        let error = toml::from_str::<SourceSpec>("name = 'a'\npaths = []\nwieght = 2.0").unwrap_err().to_string();
        assert!(error.contains("wieght"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_named() {
        let good = SourceSpec::new("a", &["x"], "text");
        let cases: [(SourceSpec, &str); 7] = [
            (SourceSpec { weight: f64::NAN, ..good.clone() }, "NaN"),
            (SourceSpec { weight: -1.0, ..good.clone() }, "-1"),
            (SourceSpec { zstd_window_log: 32, ..good.clone() }, "32"),
            (SourceSpec { zstd_window_log: 9, ..good.clone() }, "is 9"),
            (SourceSpec { text_field: String::new(), ..good.clone() }, "text_field"),
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
