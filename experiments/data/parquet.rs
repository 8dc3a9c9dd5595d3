//! Parquet: a document a row, out of one column of strings or binary values.

use std::collections::VecDeque;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Type as Physical;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::documents::{Document, Records, record, utf8};
use super::error::{DataError, RecordFault};
use super::files::SourceFile;
use super::spec::SourceSpec;

/// Rows that are decoded together; a page is the least that the library holds anyway.
const BATCH: usize = 64;

/// The rows of one file.
pub(super) struct ParquetRows {
    reader: SerializedFileReader<File>,
    path: Arc<Path>,
    column: usize,
    optional: bool,
    limit: u64,
    next_group: usize,
    group: Option<ColumnReaderImpl<ByteArrayType>>,
    waiting: VecDeque<Option<ByteArray>>,
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
        let (column, optional) = text_column(&reader, path, &spec.text_field)?;
        Ok(Self {
            reader,
            path: path.into(),
            column,
            optional,
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
                let (group, column) = (self.next_group, self.column);
                let opened = fenced(|| self.reader.get_row_group(group)?.get_column_reader(column))?;
                let ColumnReader::ByteArrayColumnReader(opened) = opened else {
                    return Err("the row group holds another type than the schema says".to_owned());
                };
                self.group = Some(opened);
                self.next_group += 1;
                continue;
            };
            let (mut values, mut levels) = (Vec::new(), Vec::new());
            let wanted = self.optional.then_some(&mut levels);
            let (rows, _, _) = fenced(|| group.read_records(BATCH, wanted, None, &mut values))?;
            if rows == 0 {
                self.group = None;
                continue;
            }
            let mut values = values.into_iter();
            match self.optional {
                // Definition level 1 is a value, 0 a null.
                true => self.waiting.extend(levels.iter().map(|&level| values.next_if_defined(level))),
                false => self.waiting.extend(values.map(Some)),
            }
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
        let value = self.waiting.pop_front()?;
        self.row += 1;
        let text = match value {
            None => Ok(String::new()),
            Some(value) if value.len() as u64 > self.limit => Err(RecordFault::TooLong { limit: self.limit }),
            Some(value) => utf8(value.data().to_vec()),
        };
        Some(record(&self.path, Some(self.row), text))
    }
}

/// Values in the order of rows, as definition levels tell them apart from nulls.
trait Defined {
    fn next_if_defined(&mut self, level: i16) -> Option<ByteArray>;
}

impl<I: Iterator<Item = ByteArray>> Defined for I {
    fn next_if_defined(&mut self, level: i16) -> Option<ByteArray> {
        if level > 0 { self.next() } else { None }
    }
}

/// Index of the column and whether it may be null.
fn text_column(reader: &SerializedFileReader<File>, path: &Path, name: &str) -> Result<(usize, bool), DataError> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let wrong = |what: String| DataError::ColumnKind { path: path.to_path_buf(), column: name.to_owned(), what };
    let Some(root) = schema.root_schema().get_fields().iter().find(|field| field.name() == name) else {
        let found = schema.root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
        return Err(DataError::MissingColumn { path: path.to_path_buf(), column: name.to_owned(), found });
    };
    if !root.is_primitive() {
        return Err(wrong("a list or a structure".to_owned()));
    }
    let found = schema.columns().iter().position(|column| column.path().parts() == [name]);
    let column = found.ok_or_else(|| wrong("nested".to_owned()))?;
    let descriptor = schema.column(column);
    if descriptor.max_rep_level() > 0 {
        return Err(wrong("repeated".to_owned()));
    }
    match descriptor.physical_type() {
        Physical::BYTE_ARRAY => Ok((column, descriptor.max_def_level() > 0)),
        other => Err(wrong(other.to_string())),
    }
}

/// Runs the library behind a fence: a damaged page is an error here, even where the library panics.
fn fenced<T>(act: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the page is damaged".to_owned()),
    }
}
