//! Parquet: a document a row, out of one column: of strings or binary values, or of lists of token ids.

mod column;

use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use self::column::{Column, Row, Values};
use super::documents::{Document, Records, record};
use super::error::DataError;
use super::files::SourceFile;
use super::spec::SourceSpec;

/// Rows that are decoded together; a page is the least that the library holds anyway.
const BATCH: usize = 64;

/// The rows of one file.
pub(super) struct ParquetRows {
    reader: SerializedFileReader<File>,
    path: Arc<Path>,
    column: Column,
    limit: u64,
    next_group: usize,
    group: Option<Values>,
    waiting: VecDeque<Row>,
    row: u64,
    failed: bool,
}

impl ParquetRows {
    pub(super) fn open(spec: &SourceSpec, file: &SourceFile) -> Result<Self, DataError> {
        let path = file.path.as_path();
        let input = File::open(path).map_err(DataError::io("open", path))?;
        let reader = fenced(|| SerializedFileReader::new(input)).map_err(|what| DataError::Parquet {
            path: path.to_path_buf(),
            place: "its footer".to_owned(),
            what,
        })?;
        let column = column::find(reader.metadata().file_metadata().schema_descr(), path, &spec.text_field)?;
        Ok(Self {
            reader,
            path: path.into(),
            column,
            limit: spec.max_document_bytes,
            next_group: 0,
            group: None,
            waiting: VecDeque::new(),
            row: 0,
            failed: false,
        })
    }

    /// Fills `waiting` with the next rows; false at the end of the file.
    fn refill(&mut self) -> Result<bool, String> {
        loop {
            let Some(group) = &mut self.group else {
                if self.next_group == self.reader.num_row_groups() {
                    return Ok(false);
                }
                let (group, leaf) = (self.next_group, self.column.leaf);
                let opened = fenced(|| self.reader.get_row_group(group)?.get_column_reader(leaf))?;
                let opened = Values::of(opened).ok_or("the row group holds another type than the schema says")?;
                self.group = Some(opened);
                self.next_group += 1;
                continue;
            };
            let rows = fenced(|| group.rows(self.column, BATCH, self.limit))?;
            if rows.is_empty() {
                self.group = None;
                continue;
            }
            self.waiting.extend(rows);
            return Ok(true);
        }
    }

    fn damaged(&mut self, what: String) -> DataError {
        self.failed = true;
        let place = format!("row group {} near row {}", self.next_group.max(1) - 1, self.row + 1);
        DataError::Parquet { path: self.path.to_path_buf(), place, what }
    }
}

impl Records for ParquetRows {
    fn next_record(&mut self) -> Option<Result<Document, DataError>> {
        if self.failed {
            return None;
        }
        while self.waiting.is_empty() {
            match self.refill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(what) => return Some(Err(self.damaged(what))),
            }
        }
        let row = self.waiting.pop_front()?;
        self.row += 1;
        Some(record(&self.path, Some(self.row), row))
    }
}

/// Runs the library behind a fence: a damaged page is an error here, even where the library panics.
fn fenced<T>(act: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the page is damaged".to_owned()),
    }
}

#[cfg(test)]
#[path = "parquet/tests.rs"]
mod tests;
