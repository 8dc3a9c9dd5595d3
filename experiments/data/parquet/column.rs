//! One column of a Parquet file that holds documents: text, or lists of token ids.
//!
//! Ids come as `list<int32>` or `list<int64>`, in any of the spellings of a list that the format knows: a repeated leaf, or
//! a group with one repeated child that is the leaf or holds it alone.

use std::path::Path;

use parquet::basic::{Repetition, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::schema::types::{SchemaDescriptor, Type};

use super::super::documents::{Content, utf8};
use super::super::error::{DataError, RecordFault};

/// A row's document, or what is wrong with it.
pub(super) type Row = Result<Content, RecordFault>;

/// Where documents stand in a file and how they are told from nulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    /// Its number among the leaves of the schema.
    pub(super) leaf: usize,
    /// Definition level of a value that is there.
    defined: i16,
    /// For entries of a list: whether one may be null, which is a level below a value.
    null_entries: bool,
}

/// Finds the column by its name.
///
/// # Errors
///
/// [`DataError::MissingColumn`], or [`DataError::ColumnKind`] with what it is instead.
pub(super) fn find(schema: &SchemaDescriptor, path: &Path, name: &str) -> Result<Column, DataError> {
    let fields = schema.root_schema().get_fields();
    let Some(field) = fields.iter().find(|field| field.name() == name) else {
        let found = fields.iter().map(|field| field.name().to_owned()).collect();
        return Err(DataError::MissingColumn { path: path.to_path_buf(), column: name.to_owned(), found });
    };
    let wrong = |what: &str| {
        Err(DataError::ColumnKind { path: path.to_path_buf(), column: name.to_owned(), what: what.to_owned() })
    };
    let under = |leaf: &usize| schema.column(*leaf).path().parts().first().is_some_and(|part| part == name);
    let leaves: Vec<usize> = (0..schema.num_columns()).filter(under).collect();
    let &[leaf] = leaves.as_slice() else { return wrong("a structure") };
    let about = schema.column(leaf);
    let column = Column {
        leaf,
        defined: about.max_def_level(),
        null_entries: repetition(about.self_type()) == Repetition::OPTIONAL,
    };
    let list = list_of_one(field);
    match (about.max_rep_level(), about.physical_type()) {
        (0, Physical::BYTE_ARRAY) if field.is_primitive() => Ok(column),
        (0, other) if field.is_primitive() => wrong(&other.to_string()),
        (1, Physical::INT32 | Physical::INT64) if list => Ok(column),
        (1, other) if list => wrong(&format!("a list of {other}")),
        (0 | 1, _) => wrong("a structure"),
        _ => wrong("a list of lists"),
    }
}

/// Whether a field is a list whose entries have one part.
fn list_of_one(field: &Type) -> bool {
    let repeated = |field: &Type| repetition(field) == Repetition::REPEATED;
    if field.is_primitive() {
        return repeated(field);
    }
    match field.get_fields() {
        [entries] if !repeated(field) && repeated(entries) => {
            entries.is_primitive() || matches!(entries.get_fields(), [entry] if entry.is_primitive())
        }
        _ => false,
    }
}

fn repetition(field: &Type) -> Repetition {
    let about = field.get_basic_info();
    if about.has_repetition() { about.repetition() } else { Repetition::REQUIRED }
}

/// The column's values in one row group.
pub(super) enum Values {
    Text(ColumnReaderImpl<ByteArrayType>),
    Narrow(ColumnReaderImpl<Int32Type>),
    Wide(ColumnReaderImpl<Int64Type>),
}

impl Values {
    /// The library's reader; none when a row group holds another type than the schema says.
    pub(super) fn of(reader: ColumnReader) -> Option<Self> {
        match reader {
            ColumnReader::ByteArrayColumnReader(reader) => Some(Self::Text(reader)),
            ColumnReader::Int32ColumnReader(reader) => Some(Self::Narrow(reader)),
            ColumnReader::Int64ColumnReader(reader) => Some(Self::Wide(reader)),
            _ => None,
        }
    }

    /// The next rows, `most` of them or those that are left, each of at most `limit` bytes.
    pub(super) fn rows(&mut self, column: Column, most: usize, limit: u64) -> Result<Vec<Row>, ParquetError> {
        match self {
            Self::Text(reader) => texts(reader, column, most, limit),
            Self::Narrow(reader) => lists(reader, column, most, limit),
            Self::Wide(reader) => lists(reader, column, most, limit),
        }
    }
}

fn texts(
    reader: &mut ColumnReaderImpl<ByteArrayType>,
    column: Column,
    most: usize,
    limit: u64,
) -> Result<Vec<Row>, ParquetError> {
    let text = |value: ByteArray| match value.len() as u64 > limit {
        true => Err(RecordFault::TooLong { limit }),
        false => utf8(value.data().to_vec()).map(Content::Text),
    };
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    if column.defined == 0 {
        reader.read_records(most, None, None, &mut values)?;
        return Ok(values.into_iter().map(text).collect());
    }
    reader.read_records(most, Some(&mut levels), None, &mut values)?;
    let mut values = values.into_iter();
    let null = || Ok(Content::Text(String::new()));
    let row = |level: i16| values.next_if_defined(level == column.defined).map_or_else(null, text);
    Ok(levels.into_iter().map(row).collect())
}

/// Values in the order of rows, as definition levels tell them apart from nulls.
trait Defined: Iterator {
    fn next_if_defined(&mut self, defined: bool) -> Option<Self::Item> {
        if defined { self.next() } else { None }
    }
}

impl<I: Iterator> Defined for I {}

/// A row begins where the repetition level is 0; an entry that is neither value nor null marks an empty or absent list.
fn lists<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    column: Column,
    most: usize,
    limit: u64,
) -> Result<Vec<Row>, ParquetError>
where
    T::T: Into<i64>,
{
    let (mut values, mut levels, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
    reader.read_records(most, Some(&mut levels), Some(&mut repeats), &mut values)?;
    let mut values = values.into_iter().map(Into::into);
    let mut rows: Vec<Result<Vec<u32>, RecordFault>> = Vec::new();
    for (level, repeat) in levels.into_iter().zip(repeats) {
        if repeat == 0 {
            rows.push(Ok(Vec::new()));
        }
        let value = values.next_if_defined(level == column.defined);
        let entry = value.is_some() || (column.null_entries && level == column.defined - 1);
        let Some(row) = rows.last_mut().filter(|_| entry) else { continue };
        if let Ok(ids) = row {
            match id(value, ids.len(), limit) {
                Ok(id) => ids.push(id),
                Err(fault) => *row = Err(fault),
            }
        }
    }
    Ok(rows.into_iter().map(|row| row.map(Content::Ids)).collect())
}

/// Entry `at` of a list as a token id.
fn id(value: Option<i64>, at: usize, limit: u64) -> Result<u32, RecordFault> {
    if (at as u64 + 1) * size_of::<u32>() as u64 > limit {
        return Err(RecordFault::TooLong { limit });
    }
    value.and_then(|value| u32::try_from(value).ok()).ok_or(RecordFault::NotAnId { at, value })
}
