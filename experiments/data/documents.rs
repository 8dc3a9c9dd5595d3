//! Documents of a source, one after another, without holding more than one in memory.

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::{DataError, Place, RecordFault};
use super::files::{Holds, SourceFile, source_files};
use super::jsonl::JsonLines;
use super::parquet::ParquetRows;
use super::plain::PlainText;
use super::spec::{OnBadLine, SourceSpec};

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it says, never empty.
    pub content: Content,
    /// Where it was read.
    pub place: Place,
}

/// What a document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Text, to be tokenized.
    Text(String),
    /// Token ids, as another program's tokenizer gave them; not yet held against a vocabulary.
    Ids(Vec<u32>),
}

impl Content {
    /// Bytes that it takes up; an id takes four.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Ids(ids) => size_of_val(ids.as_slice()),
        }
    }
}

impl Document {
    /// Its text.
    ///
    /// # Errors
    ///
    /// [`DataError::NoText`] when it holds token ids.
    pub fn text(&self) -> Result<&str, DataError> {
        match &self.content {
            Content::Text(text) => Ok(text),
            Content::Ids(_) => Err(DataError::NoText { place: self.place.clone() }),
        }
    }
}

/// What was met on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Files read to their end.
    pub files: u64,
    /// Documents given out.
    pub documents: u64,
    /// Bytes of their text; four for each token id.
    pub bytes: u64,
    /// Records without text, left out.
    pub empty: u64,
    /// Records that could not be read, left out because the source says so.
    pub bad: u64,
}

/// A reader of one file. After a [`DataError::Record`] it can be asked for the next record; after any other error not.
pub(super) trait Records: Send {
    /// The next record; empty content is a record without text.
    fn next_record(&mut self) -> Option<Result<Document, DataError>>;
}

/// The documents of a source, in the order of [`source_files`] and, within a file, in its own.
///
/// # Errors
///
/// As [`source_files`]. The iterator itself gives an error for a file or record that cannot be read and then ends,
/// but for records with [`OnBadLine::Skip`], which are counted; and one at its end when there was no document at all.
pub fn documents(spec: &SourceSpec) -> Result<Documents, DataError> {
    let files = source_files(spec)?;
    Ok(Documents { spec: spec.clone(), files, next_file: 0, open: None, tally: Tally::default(), done: false })
}

/// See [`documents`].
pub struct Documents {
    spec: SourceSpec,
    files: Vec<SourceFile>,
    next_file: usize,
    open: Option<Box<dyn Records>>,
    tally: Tally,
    done: bool,
}

impl Documents {
    /// What was met so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The files that are read.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// The next document; an error is final.
    fn advance(&mut self) -> Result<Option<Document>, DataError> {
        loop {
            let Some(reader) = &mut self.open else {
                let Some(file) = self.files.get(self.next_file) else {
                    return self.end();
                };
                self.open = Some(reader(&self.spec, file)?);
                self.next_file += 1;
                continue;
            };
            match reader.next_record() {
                None => {
                    self.open = None;
                    self.tally.files += 1;
                }
                Some(Err(DataError::Record { .. })) if self.spec.on_bad_line == OnBadLine::Skip => self.tally.bad += 1,
                Some(Ok(document)) if document.content.bytes() == 0 => self.tally.empty += 1,
                Some(document) => {
                    let document = document?;
                    self.tally.documents += 1;
                    self.tally.bytes += document.content.bytes() as u64;
                    return Ok(Some(document));
                }
            }
        }
    }

    fn end(&self) -> Result<Option<Document>, DataError> {
        let Tally { files, documents, empty, bad, .. } = self.tally;
        match documents {
            0 => Err(DataError::NoDocuments { name: self.spec.name.clone(), files, empty, bad }),
            _ => Ok(None),
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Document, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.advance().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

fn reader(spec: &SourceSpec, file: &SourceFile) -> Result<Box<dyn Records>, DataError> {
    Ok(match file.holds {
        Holds::Text => Box::new(PlainText::new(spec, file)),
        Holds::Jsonl => Box::new(JsonLines::open(spec, file)?),
        Holds::Parquet => Box::new(ParquetRows::open(spec, file)?),
    })
}

/// Bytes as text, a leading byte order mark taken off.
pub(super) fn utf8(bytes: Vec<u8>) -> Result<String, RecordFault> {
    let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    match String::from_utf8(bytes) {
        Ok(text) => Ok(match text.strip_prefix('\u{feff}') {
            Some(rest) => rest.to_owned(),
            None => text,
        }),
        Err(error) => Err(RecordFault::NotUtf8 { at: error.utf8_error().valid_up_to(), utf16 }),
    }
}

/// A record's content with its place, or what is wrong with it.
pub(super) fn record(
    file: &Arc<Path>,
    record: Option<u64>,
    content: Result<Content, RecordFault>,
) -> Result<Document, DataError> {
    let place = Place { file: Arc::clone(file), record };
    match content {
        Ok(content) => Ok(Document { content, place }),
        Err(fault) => Err(DataError::Record { place, fault }),
    }
}

#[cfg(test)]
#[path = "documents_tests.rs"]
mod tests;
