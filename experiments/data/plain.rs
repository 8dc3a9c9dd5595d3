//! Plain text: a file is a document, its line ends made `\n`.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::bytes;
use super::documents::{Content, Document, Records, record, utf8};
use super::error::{DataError, RecordFault};
use super::files::{Packed, SourceFile};
use super::spec::SourceSpec;

/// The single record of a text file.
pub(super) struct PlainText {
    path: Arc<Path>,
    packed: Packed,
    limit: u64,
    window_log: u32,
    done: bool,
}

impl PlainText {
    pub(super) fn new(spec: &SourceSpec, file: &SourceFile) -> Self {
        Self {
            path: file.path.as_path().into(),
            packed: file.packed,
            limit: spec.max_document_bytes,
            window_log: spec.zstd_window_log,
            done: false,
        }
    }

    fn read(&self) -> Result<Document, DataError> {
        let mut bytes = Vec::new();
        let (input, packed) = bytes::open(&self.path, self.packed, self.window_log)?;
        input
            .take(self.limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| bytes::read_error(&self.path, packed, self.window_log, error))?;
        let text = match bytes.len() as u64 > self.limit {
            true => Err(RecordFault::TooLong { limit: self.limit }),
            false => utf8(bytes).map(unix_lines).map(Content::Text),
        };
        record(&self.path, None, text)
    }
}

impl Records for PlainText {
    fn next_record(&mut self) -> Option<Result<Document, DataError>> {
        if std::mem::replace(&mut self.done, true) {
            return None;
        }
        Some(self.read())
    }
}

fn unix_lines(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n") } else { text }
}
