//! Why documents could not be read, tokenized or packed, with file, record and value.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fault::Fault;

/// Where a record stands: a file, and a line of it or a row (both counted from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line (JSON lines) or row (Parquet); none where the file is the record.
    pub record: Option<u64>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.record {
            Some(record) => write!(f, "{}:{record}", self.file.display()),
            None => write!(f, "{}", self.file.display()),
        }
    }
}

/// What is wrong with one record; the reader can go on behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// The line is no JSON.
    #[error("this line is not valid JSON: {0}")]
    NotJson(String),
    /// The line is JSON, yet no object.
    #[error("this line is {0}, not a JSON object with a text field")]
    NotObject(&'static str),
    /// The object lacks the field.
    #[error("there is no field {field:?}; the fields are {}", listed(found))]
    MissingField {
        /// The field that was asked for.
        field: String,
        /// Fields that exist.
        found: Vec<String>,
    },
    /// The field holds something else than text.
    #[error("field {field:?} is {what}, not a string")]
    NotText {
        /// The field.
        field: String,
        /// What it holds.
        what: &'static str,
    },
    /// The bytes are not UTF-8.
    #[error("byte {at} is not valid UTF-8{}", if *utf16 { " (the file begins as UTF-16 does; convert it)" } else { "" })]
    NotUtf8 {
        /// Offset within the record of the first bad byte.
        at: usize,
        /// Whether the record opens with the byte order mark of UTF-16.
        utf16: bool,
    },
    /// An entry of a list of token ids is none.
    #[error("entry {at} of the list is {}, not a token id", value.map_or("null".to_owned(), |value| value.to_string()))]
    NotAnId {
        /// Its place in the list, from 0.
        at: usize,
        /// What it is; none for null.
        value: Option<i64>,
    },
    /// The record is longer than the limit.
    #[error("it is longer than the limit of {limit} bytes (max_document_bytes)")]
    TooLong {
        /// The limit, in bytes.
        limit: u64,
    },
}

/// Why a compressed file could not be read to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionFault {
    /// The file ends in the middle of a frame.
    #[error("the compressed file ends too early: it is truncated, fetch it again")]
    Truncated,
    /// The frame asks for a larger window than allowed.
    #[error(
        "its zstd frame needs a window above 2^{limit_log} bytes; allow it with zstd_window_log (31 at most, 2 GiB of memory)"
    )]
    Window {
        /// Log2 of the limit.
        limit_log: u32,
    },
    /// The file is something else.
    #[error("it is not a {format} file, whatever its name says")]
    Foreign {
        /// `zstd` or `gzip`.
        format: &'static str,
    },
    /// The content is damaged.
    #[error("the compressed data is damaged: {0}")]
    Damaged(String),
}

/// Why documents could not be read, tokenized or packed.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A value of the configuration is out of range.
    #[error("source {name:?}: {what}")]
    Config {
        /// The source.
        name: String,
        /// Field, value and range.
        what: String,
    },
    /// A system call failed.
    #[error("could not {doing} {}: {error}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// The extension says nothing about the format.
    #[error("{}: its name does not say what it is; known are {}, or set `format`", path.display(), super::spec::EXTENSIONS)]
    UnknownKind {
        /// The file.
        path: PathBuf,
    },
    /// A device, socket or pipe stands where a file is expected.
    #[error("{}: it is not a regular file", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// Folders hold no file of a known kind.
    #[error("source {name:?}: no documents are in {}; known are {}", listed_paths(paths), super::spec::EXTENSIONS)]
    NoFiles {
        /// The source.
        name: String,
        /// Where it looked.
        paths: Vec<PathBuf>,
    },
    /// One record is bad.
    #[error("{place}: {fault}")]
    Record {
        /// Where it is.
        place: Place,
        /// What is wrong.
        fault: RecordFault,
    },
    /// A compressed file cannot be read.
    #[error("{}: {fault}", path.display())]
    Compression {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        fault: CompressionFault,
    },
    /// A Parquet file lacks the column.
    #[error("{}: there is no column {column:?}; the columns are {}", path.display(), listed(found))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column that was asked for.
        column: String,
        /// Columns that exist.
        found: Vec<String>,
    },
    /// A Parquet column holds neither text nor lists of token ids.
    #[error("{}: column {column:?} is {what}, neither text nor a list of token ids (int32 or int64)", path.display())]
    ColumnKind {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// What it holds.
        what: String,
    },
    /// A Parquet file is damaged.
    #[error("{}: {place} cannot be read: {what}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The footer, or the row group and row.
        place: String,
        /// The library's reason.
        what: String,
    },
    /// Every record was empty or bad.
    #[error("source {name:?}: not one document in {files} file(s): {empty} empty, {bad} bad")]
    NoDocuments {
        /// The source.
        name: String,
        /// Files that were read.
        files: u64,
        /// Records without text.
        empty: u64,
        /// Records that were skipped because they are bad.
        bad: u64,
    },
    /// The tokenizer failed.
    #[error("{place}: it could not be tokenized: {what}")]
    Encode {
        /// The document.
        place: Place,
        /// The tokenizer's reason.
        what: String,
    },
    /// Token ids stand where only text will do.
    #[error("{place}: it holds token ids, but text is needed here")]
    NoText {
        /// The document.
        place: Place,
    },
    /// A document of token ids was made with another tokenizer.
    #[error(
        "{place}: token id {id} is outside the vocabulary of {vocab_size} rows; it was made with another tokenizer"
    )]
    ForeignId {
        /// The document.
        place: Place,
        /// The id.
        id: u32,
        /// Rows of the vocabulary.
        vocab_size: usize,
    },
    /// The tokenizer gave an id outside its vocabulary.
    #[error("{place}: the tokenizer gave id {id}, but the vocabulary has {vocab_size} rows")]
    IdOutOfRange {
        /// The document.
        place: Place,
        /// The id.
        id: u32,
        /// Rows of the vocabulary.
        vocab_size: usize,
    },
    /// Tokenized data on disk are not what was written.
    #[error("{}: {what}; delete its folder and it will be made again", path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// All documents together do not fill one sequence.
    #[error(
        "source {name:?}: its {documents} document(s) hold {tokens} tokens in all, fewer than one sequence of {needed}"
    )]
    TooSmall {
        /// The source.
        name: String,
        /// Documents that are long enough to count.
        documents: u64,
        /// Their tokens, with bos and eos.
        tokens: u64,
        /// Tokens of a sequence.
        needed: u64,
    },
    /// No document alone fills a sequence.
    #[error("source {name:?}: all {documents} document(s) are shorter than {needed} tokens; the longest has {longest}")]
    TooShort {
        /// The source.
        name: String,
        /// Documents in the source.
        documents: u64,
        /// Tokens of the longest.
        longest: u64,
        /// Tokens that are needed.
        needed: u64,
    },
}

impl DataError {
    /// Whether the configuration is to blame, or the data.
    pub fn kind(&self) -> Fault {
        match self {
            Self::Config { .. } | Self::UnknownKind { .. } => Fault::Usage,
            _ => Fault::BadData,
        }
    }

    /// For a failed system call: turns its reason into an error with the path.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |error| Self::Io { doing, path, error }
    }
}

/// Names for a sentence: the first twelve, then how many more.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    if names.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    let rest = names.len().saturating_sub(SHOWN);
    if rest == 0 { shown.join(", ") } else { format!("{} and {rest} more", shown.join(", ")) }
}

fn listed_paths(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    if shown.is_empty() { "the empty list of paths".to_owned() } else { shown.join(", ") }
}
