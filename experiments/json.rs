//! JSON as strangers write it: read with a size cap, and with every way to be wrong named in one sentence.
//!
//! serde_json alone keeps the last of two equal keys, which lets one file mean two things to two readers; here they
//! are an error that names the key by its JSON pointer (RFC 6901). A byte order mark is stripped, UTF-16 and the
//! things that get saved in place of a file (a Git LFS pointer, a web page) are recognised.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::fault::Fault;
use crate::sniff::{self, Foreign};

/// Why a JSON file could not be read. Every message is one sentence that names the file.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Opening or reading failed.
    #[error("could not read {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The path is a folder, a device or a pipe.
    #[error("{} is not a regular file", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file is larger than this kind of file may be.
    #[error("{} is {bytes} bytes, more than the {max} that such a file may have", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The cap.
        max: u64,
    },
    /// The text is not JSON as UTF-8.
    #[error("{}: {fault}", .path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        fault: TextFault,
    },
}

impl JsonError {
    /// What it means for the exit code: bad data, always.
    pub fn kind(&self) -> Fault {
        Fault::BadData
    }
}

/// What is wrong in a JSON text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextFault {
    /// There is nothing in it.
    #[error("the file is empty")]
    Empty,
    /// It is something else.
    #[error("this is {0}")]
    Foreign(Foreign),
    /// It is written in UTF-16.
    #[error("the text is UTF-16; save it as UTF-8")]
    Utf16,
    /// It is not valid UTF-8.
    #[error("the text is not UTF-8 (byte {offset})")]
    NotUtf8 {
        /// Where the first wrong byte is.
        offset: usize,
    },
    /// An object has the same key twice.
    #[error("the key {pointer} appears twice")]
    DuplicateKey {
        /// JSON pointer to the key.
        pointer: String,
    },
    /// It is nested deeper than any such file has reason to be.
    #[error("nested more than 127 levels deep (line {line}, column {column})")]
    TooDeep {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// `NaN` or `Infinity`, which Python writes and JSON does not have.
    #[error("{literal} is not a JSON number (line {line}, column {column})")]
    NotANumber {
        /// The literal.
        literal: &'static str,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// Any other breach of the grammar, in the parser's words.
    #[error("not valid JSON: {0}")]
    Syntax(String),
}

/// Reads a JSON file of at most `max_bytes`.
///
/// # Errors
///
/// [`JsonError`], with the path in it.
pub fn read_json(path: &Path, max_bytes: u64) -> Result<Value, JsonError> {
    let bytes = read_capped(path, max_bytes)?;
    parse_json(&bytes).map_err(|fault| JsonError::Text { path: path.to_path_buf(), fault })
}

/// The bytes of a regular file of at most `max_bytes`.
///
/// # Errors
///
/// [`JsonError::Io`], [`JsonError::NotAFile`] and [`JsonError::TooLarge`].
pub fn read_capped(path: &Path, max_bytes: u64) -> Result<Vec<u8>, JsonError> {
    let io = |source| JsonError::Io { path: path.to_path_buf(), source };
    let about = std::fs::metadata(path).map_err(io)?;
    // Asked before opening: opening a pipe would wait for its writer.
    if !about.is_file() {
        return Err(JsonError::NotAFile { path: path.to_path_buf() });
    }
    let too_large = |bytes| JsonError::TooLarge { path: path.to_path_buf(), bytes, max: max_bytes };
    if about.len() > max_bytes {
        return Err(too_large(about.len()));
    }
    let mut bytes = Vec::new();
    // The file may grow between the two looks.
    File::open(path).map_err(io)?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    match bytes.len() as u64 {
        read if read > max_bytes => Err(too_large(read)),
        _ => Ok(bytes),
    }
}

/// Parses a JSON text as [`read_json`] does.
///
/// # Errors
///
/// [`TextFault`].
pub fn parse_json(bytes: &[u8]) -> Result<Value, TextFault> {
    let text = decoded(bytes)?;
    let mut state = State::default();
    let mut parser = serde_json::Deserializer::from_str(text);
    let parsed = Checked { state: &mut state }.deserialize(&mut parser).and_then(|v| parser.end().map(|()| v));
    parsed.map_err(|error| match state.duplicate {
        Some(pointer) => TextFault::DuplicateKey { pointer },
        None => syntax_fault(text, &error),
    })
}

/// The text without its byte order mark.
fn decoded(bytes: &[u8]) -> Result<&str, TextFault> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(TextFault::Empty);
    }
    let wide = |pair: &[u8]| (pair[0] == 0) != (pair[1] == 0);
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || (bytes.len() > 3 && wide(&bytes[..2])) {
        return Err(TextFault::Utf16);
    }
    if let Some(what) = sniff::foreign(&bytes[..bytes.len().min(64)]) {
        return Err(TextFault::Foreign(what));
    }
    std::str::from_utf8(bytes).map_err(|e| TextFault::NotUtf8 { offset: e.valid_up_to() })
}

/// Turns the parser's error into ours.
fn syntax_fault(text: &str, error: &serde_json::Error) -> TextFault {
    let (line, column) = (error.line(), error.column());
    if error.to_string().starts_with("recursion limit") {
        return TextFault::TooDeep { line, column };
    }
    let before = column.saturating_sub(2);
    let here = text.lines().nth(line.saturating_sub(1)).map_or(&b""[..], |l| l.as_bytes());
    let rest = here.get(before..).unwrap_or_default();
    // The parser stops at or just after the first letter; the minus sign of -Infinity may lie before it.
    for literal in ["-Infinity", "Infinity", "NaN"] {
        if (0..=2).any(|skip| rest.get(skip..).is_some_and(|r| r.starts_with(literal.as_bytes()))) {
            return TextFault::NotANumber { literal, line, column };
        }
    }
    TextFault::Syntax(error.to_string())
}

/// Where the reader is, and the duplicate that it met.
#[derive(Default)]
struct State {
    pointer: String,
    duplicate: Option<String>,
}

impl State {
    /// Steps into a member; returns the length to cut back to afterwards.
    fn enter(&mut self, step: &str) -> usize {
        let before = self.pointer.len();
        self.pointer.push('/');
        self.pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
        before
    }
}

/// Builds a `Value`, refusing a key that its object has already.
struct Checked<'a> {
    state: &'a mut State,
}

impl<'de> DeserializeSeed<'de> for Checked<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Checked<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let state = self.state;
        let mut items = Vec::new();
        loop {
            let before = state.enter(&items.len().to_string());
            let item = access.next_element_seed(Checked { state })?;
            state.pointer.truncate(before);
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let state = self.state;
        let mut members = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let before = state.enter(&key);
            if members.contains_key(&key) {
                state.duplicate = Some(state.pointer.clone());
                return Err(A::Error::custom("duplicate key"));
            }
            let value = access.next_value_seed(Checked { state })?;
            state.pointer.truncate(before);
            members.insert(key, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> TextFault {
        parse_json(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn ordinary_json_equals_what_serde_reads() {
        let text = r#"{"a": [1, -2, 2.5e3, null, true, "x\n\u00e9"], "b": {"c": {}}, "d": []}"#;
        assert_eq!(parse_json(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn a_byte_order_mark_is_stripped() {
        assert_eq!(parse_json(b"\xef\xbb\xbf{\"a\": 1}").unwrap()["a"], 1);
    }

    #[test]
    fn a_key_twice_is_named_by_its_pointer() {
        let pointer = |text| match fault(text) {
            TextFault::DuplicateKey { pointer } => pointer,
            other => panic!("{other:?}"),
        };
        assert_eq!(pointer(r#"{"a": 1, "a": 1}"#), "/a");
        assert_eq!(pointer(r#"{"x": [0, {"y": {"b/c": 1, "b/c": 2}}]}"#), "/x/1/y/b~1c");
        assert!(parse_json(br#"[{"a": 1}, {"a": 2}]"#).is_ok(), "equal keys of two objects are fine");
        assert!(serde_json::from_str::<Value>(r#"{"a": 1, "a": 2}"#).is_ok(), "the plain parser lets it pass");
    }

    #[test]
    fn a_million_levels_are_an_error_and_no_overflow() {
        assert!(matches!(fault(&"[".repeat(1_000_000)), TextFault::TooDeep { .. }));
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        assert!(parse_json(deep.as_bytes()).is_ok());
    }

    #[test]
    fn python_number_literals_are_named() {
        for (text, expected) in [
            ("{\"factor\": NaN}", "NaN"),
            ("{\n \"a\": 1,\n \"factor\": Infinity}", "Infinity"),
            ("{\"factor\": -Infinity}", "-Infinity"),
            ("[NaN]", "NaN"),
            ("NaN", "NaN"),
        ] {
            match fault(text) {
                TextFault::NotANumber { literal, .. } => assert_eq!(literal, expected, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(fault("{\"a\": nul}"), TextFault::Syntax(_)));
        assert!(matches!(fault("{\"a\": 1e999}"), TextFault::Syntax(_)));
    }

    #[test]
    fn other_encodings_are_named() {
        let wide: Vec<u8> = "{\"a\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(parse_json(&wide), Err(TextFault::Utf16));
        let marked: Vec<u8> = "\u{feff}{\"a\": 1}".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(parse_json(&marked), Err(TextFault::Utf16));
        assert_eq!(parse_json(b"{\"a\": \"\xe9\"}"), Err(TextFault::NotUtf8 { offset: 7 }));
    }

    #[test]
    fn empty_and_foreign_texts_are_named() {
        assert_eq!(fault(" \n"), TextFault::Empty);
        assert_eq!(fault("<!doctype html>"), TextFault::Foreign(Foreign::Html));
        assert_eq!(fault("version https://git-lfs.github.com/spec/v1\n"), TextFault::Foreign(Foreign::LfsPointer));
        assert!(matches!(fault("{} {}"), TextFault::Syntax(_)));
    }

    #[test]
    fn the_message_names_the_file_and_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, "[1, 2, 3]").unwrap();
        assert_eq!(read_json(&path, 9).unwrap()[2], 3);
        let error = read_json(&path, 8).unwrap_err();
        assert!(matches!(error, JsonError::TooLarge { bytes: 9, max: 8, .. }));
        assert!(error.to_string().contains("config.json is 9 bytes"), "{error}");
        assert!(matches!(read_json(folder.path(), 8), Err(JsonError::NotAFile { .. })));
        assert!(matches!(read_json(&folder.path().join("none"), 8), Err(JsonError::Io { .. })));
    }
}
