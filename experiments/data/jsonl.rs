//! JSON lines: an object a line, one field of which is the text. The other fields are parsed and dropped.

use std::fmt;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::bytes::{self, Line};
use super::documents::{Content, Document, Records, record, utf8};
use super::error::{DataError, RecordFault};
use super::files::{Packed, SourceFile};
use super::spec::SourceSpec;

/// The records of one file.
pub(super) struct JsonLines {
    input: Box<dyn BufRead + Send>,
    path: Arc<Path>,
    packed: Packed,
    field: String,
    limit: u64,
    window_log: u32,
    line: Vec<u8>,
    number: u64,
    failed: bool,
}

impl JsonLines {
    pub(super) fn open(spec: &SourceSpec, file: &SourceFile) -> Result<Self, DataError> {
        let (input, packed) = bytes::open(&file.path, file.packed, spec.zstd_window_log)?;
        Ok(Self {
            input,
            path: file.path.as_path().into(),
            packed,
            field: spec.text_field.clone(),
            limit: spec.max_document_bytes,
            window_log: spec.zstd_window_log,
            line: Vec::new(),
            number: 0,
            failed: false,
        })
    }

    fn text(&mut self) -> Result<String, RecordFault> {
        let line = utf8(std::mem::take(&mut self.line))?;
        let text = text_of(&line, &self.field);
        self.line = line.into_bytes();
        text
    }
}

impl Records for JsonLines {
    fn next_record(&mut self) -> Option<Result<Document, DataError>> {
        while !self.failed {
            self.number += 1;
            let text = match bytes::next_line(&mut *self.input, &mut self.line, self.limit) {
                Ok(Line::End) => return None,
                Ok(Line::Whole) if self.line.iter().all(u8::is_ascii_whitespace) => continue,
                Ok(Line::Whole) => self.text(),
                Ok(Line::TooLong) => Err(RecordFault::TooLong { limit: self.limit }),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(bytes::read_error(&self.path, self.packed, self.window_log, error)));
                }
            };
            return Some(record(&self.path, Some(self.number), text.map(Content::Text)));
        }
        None
    }
}

/// The text in `field` of the object in `line`; null counts as empty.
fn text_of(line: &str, field: &str) -> Result<String, RecordFault> {
    let not_json = |error: serde_json::Error| RecordFault::NotJson(error.to_string());
    let mut json = serde_json::Deserializer::from_str(line);
    let found = Object { field }.deserialize(&mut json).map_err(not_json)?;
    json.end().map_err(not_json)?;
    match found {
        Found::Text(text) => Ok(text),
        Found::Other(what) => Err(RecordFault::NotText { field: field.to_owned(), what }),
        Found::Missing(found) => Err(RecordFault::MissingField { field: field.to_owned(), found }),
        Found::NoObject(what) => Err(RecordFault::NotObject(what)),
    }
}

/// What a line holds.
enum Found {
    Text(String),
    Other(&'static str),
    Missing(Vec<String>),
    NoObject(&'static str),
}

/// Reads an object and keeps one field of it.
struct Object<'a> {
    field: &'a str,
}

/// Reads one value and keeps it if it is a string.
struct Field;

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> DeserializeSeed<'de> for Field {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// The methods of a visitor that names a value of every simple type.
macro_rules! names_of_simple_values {
    ($found:path) => {
        fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
            Ok($found("a boolean"))
        }

        fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
            Ok($found("a number"))
        }

        fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
            Ok($found("a number"))
        }

        fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
            Ok($found("a number"))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Found, A::Error> {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            Ok($found("an array"))
        }
    };
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Found;

    names_of_simple_values!(Found::NoObject);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::NoObject("null"))
    }

    fn visit_str<E>(self, _: &str) -> Result<Found, E> {
        Ok(Found::NoObject("a string"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Found, A::Error> {
        let mut found = None;
        let mut others = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            if key == self.field {
                if found.replace(entries.next_value_seed(Field)?).is_some() {
                    return Err(A::Error::custom(format_args!("field {key:?} appears twice")));
                }
            } else {
                entries.next_value::<IgnoredAny>()?;
                others.push(key);
            }
        }
        Ok(found.unwrap_or(Found::Missing(others)))
    }
}

impl<'de> Visitor<'de> for Field {
    type Value = Found;

    names_of_simple_values!(Found::Other);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Text(String::new()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(Found::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Found, E> {
        Ok(Found::Text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Found, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Found::Other("an object"))
    }
}
