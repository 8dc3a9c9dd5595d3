//! Every kind of file, whole and broken.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;
use crate::fault::Fault;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(name), bytes).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn spec(&self) -> SourceSpec {
        SourceSpec::new("s", &[self.0.path()], "text")
    }

    fn texts(&self) -> Vec<String> {
        texts(&self.spec())
    }

    fn error(&self) -> String {
        error(&self.spec())
    }
}

fn text_of(document: Result<Document, DataError>) -> String {
    document.unwrap().text().unwrap().to_owned()
}

fn texts(spec: &SourceSpec) -> Vec<String> {
    documents(spec).unwrap().map(text_of).collect()
}

/// The error that reading ends with; nothing may follow it.
fn error(spec: &SourceSpec) -> String {
    let mut all = match documents(spec) {
        Ok(all) => all,
        Err(error) => return error.to_string(),
    };
    let error = all.find_map(Result::err).unwrap();
    assert!(all.next().is_none());
    assert_eq!(error.kind(), Fault::BadData);
    error.to_string()
}

fn assert_says(message: &str, words: &[&str]) {
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A Parquet file with an id, an optional text and a list, in row groups of two.
fn write_parquet(path: &Path, rows: &[Option<&[u8]>]) {
    let schema =
        "message m { required int32 id; optional binary text (UTF8); required binary raw; repeated int32 tags; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_dictionary_enabled(false).build());
    let mut writer = SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, properties).unwrap();
    for rows in rows.chunks(2) {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let ids: Vec<i32> = (0..rows.len() as i32).collect();
        column.typed::<Int32Type>().write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = rows.iter().flatten().map(|text| text.to_vec().into()).collect();
        let levels: Vec<i16> = rows.iter().map(|text| i16::from(text.is_some())).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let raw: Vec<ByteArray> = rows.iter().map(|_| b"raw".to_vec().into()).collect();
        column.typed::<ByteArrayType>().write_batch(&raw, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let zeros = vec![0_i16; rows.len()];
        column.typed::<Int32Type>().write_batch(&[], Some(&zeros), Some(&zeros)).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn every_kind_gives_its_documents_in_order() {
    let folder = Folder::new()
        .with("a.txt", "\u{feff}one\r\ntwo\n")
        .with("b.jsonl", "\u{feff}{\"id\": 1, \"text\": \"b1\"}\r\n\n{\"text\":\"b\\n2\",\"meta\":{\"x\":[1]}}")
        .with("c.jsonl.zst", [zstd(b"{\"text\":\"c1\"}\n"), zstd(b"{\"text\":\"c2\"}\n")].concat())
        .with("d.txt.gz", [gzip(b"d1 "), gzip(b"d2")].concat())
        .with("e.txt.zst", zstd(b"e"));
    write_parquet(&folder.path("f.parquet"), &[Some(b"f1"), None, Some(b"f2"), Some(b""), Some(b"f3")]);
    assert_eq!(folder.texts(), ["one\ntwo\n", "b1", "b\n2", "c1", "c2", "d1 d2", "e", "f1", "f2", "f3"]);
    let mut all = documents(&folder.spec()).unwrap();
    let places: Vec<String> = all.by_ref().map(|document| document.unwrap().place.to_string()).collect();
    assert!(places[2].ends_with("b.jsonl:3") && places[9].ends_with("f.parquet:5"), "{places:?}");
    assert_eq!(all.tally(), Tally { files: 6, documents: 10, bytes: 29, empty: 2, bad: 0 });
}

#[test]
fn a_required_binary_column_is_text_too() {
    let folder = Folder::new();
    write_parquet(&folder.path("f.parquet"), &[Some(b"f1"), None, None]);
    let spec = SourceSpec { text_field: "raw".into(), ..folder.spec() };
    assert_eq!(texts(&spec), ["raw", "raw", "raw"]);
}

#[test]
fn bad_lines_stop_with_file_and_line() {
    let cases: [(&[u8], &[&str]); 9] = [
        (b"{\"text\": \"a\"", &["not valid JSON"]),
        (b"{\"text\": \"a\"} x", &["not valid JSON"]),
        (b"[1, 2]", &["an array", "not a JSON object"]),
        (b"\"a\"", &["a string", "not a JSON object"]),
        (b"{\"body\": \"a\", \"id\": 3}", &["no field \"text\"", "\"body\"", "\"id\""]),
        (b"{\"text\": 3}", &["\"text\" is a number"]),
        (b"{\"text\": {\"a\": [1]}}", &["\"text\" is an object"]),
        (b"{\"text\": \"a\", \"text\": \"b\"}", &["twice"]),
        (b"{\"text\": \"\xff\"}", &["byte 10", "UTF-8"]),
    ];
    for (line, words) in cases {
        let folder = Folder::new().with("a.jsonl", [b"{\"text\":\"x\"}\n", line, b"\n{\"text\":\"y\"}\n"].concat());
        assert_says(&folder.error(), &[&["a.jsonl:2: "], words].concat());
        let mut all = documents(&SourceSpec { on_bad_line: OnBadLine::Skip, ..folder.spec() }).unwrap();
        let texts: Vec<String> = all.by_ref().map(text_of).collect();
        assert_eq!((texts, all.tally().bad), (vec!["x".to_owned(), "y".to_owned()], 1));
    }
}

#[test]
fn nesting_without_end_is_a_bad_line_and_no_overflow() {
    let deep = ["{\"a\":", &"[".repeat(1_000_000)].concat();
    assert_says(&Folder::new().with("a.jsonl", deep).error(), &["a.jsonl:1", "not valid JSON"]);
}

#[test]
fn what_a_file_is_packed_with_is_seen_where_its_name_does_not_say() {
    let folder = Folder::new().with("part-0", zstd(b"{\"text\":\"z\"}\n")).with("part-1", gzip(b"{\"text\":\"g\"}\n"));
    let folder = folder.with("part-2", "{\"text\":\"p\"}\n");
    let spec = SourceSpec { format: crate::data::Format::Jsonl, ..folder.spec() };
    assert_eq!(texts(&spec), ["z", "g", "p"]);
    let cut = zstd(&b"{\"text\":\"a\"}\n".repeat(100_000));
    let folder = Folder::new().with("a.jsonl", &cut[..cut.len() - 2]);
    assert_says(&folder.error(), &["a.jsonl", "truncated"]);
}

#[test]
fn records_over_the_limit_are_bad_in_every_kind() {
    let folder = Folder::new()
        .with("a.txt", "0123456789")
        .with("b.jsonl", "{\"text\":\"a long text\"}\n{\"text\":1}\n")
        .with("c.txt.zst", zstd(&[b'x'; 1 << 20]));
    write_parquet(&folder.path("d.parquet"), &[Some(b"0123456789"), Some(b"012345678")]);
    let spec = SourceSpec { max_document_bytes: 9, ..folder.spec() };
    assert_says(&error(&spec), &["a.txt", "limit of 9 bytes", "max_document_bytes"]);
    let mut all = documents(&SourceSpec { on_bad_line: OnBadLine::Skip, ..spec }).unwrap();
    assert_eq!(all.by_ref().map(text_of).collect::<Vec<_>>(), ["012345678"]);
    assert_eq!(all.tally().bad, 5);
}

#[test]
fn utf16_is_recognised() {
    assert_says(&Folder::new().with("a.txt", b"\xff\xfea\0b\0").error(), &["a.txt", "UTF-16"]);
}

#[test]
fn truncated_compressed_files_say_so() {
    let text: Vec<u8> = (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_string().into_bytes()).collect();
    for (name, whole) in [("a.txt.zst", zstd(&text)), ("a.txt.gz", gzip(&text))] {
        let cut = &whole[..whole.len() / 2];
        assert_says(&Folder::new().with(name, cut).error(), &[name, "truncated"]);
    }
    let lines = zstd(&b"{\"text\":\"a\"}\n".repeat(100_000));
    assert_says(&Folder::new().with("a.jsonl.zst", &lines[..lines.len() - 2]).error(), &["a.jsonl.zst", "truncated"]);
}

#[test]
fn a_page_saved_under_a_compressed_name_is_told_from_damage() {
    for name in ["a.txt.zst", "a.jsonl.zst", "a.txt.gz", "a.jsonl.gz"] {
        assert_says(&Folder::new().with(name, "<!doctype html><p>Not found</p>").error(), &[name, "it is not a "]);
    }
    let mut damaged = zstd(&b"some words, some words and other words".repeat(100));
    let middle = damaged.len() / 2;
    damaged[middle..].fill(0xff);
    assert_says(&Folder::new().with("a.txt.zst", damaged).error(), &["a.txt.zst", "damaged"]);
}

#[test]
fn a_window_over_the_limit_names_the_option_and_the_option_opens_it() {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(21).unwrap();
    encoder.write_all(&vec![b'x'; 3 << 20]).unwrap();
    let folder = Folder::new().with("a.txt.zst", encoder.finish().unwrap());
    let narrow = SourceSpec { zstd_window_log: 20, ..folder.spec() };
    assert_says(&error(&narrow), &["2^20", "zstd_window_log"]);
    assert_eq!(texts(&SourceSpec { zstd_window_log: 21, ..narrow })[0].len(), 3 << 20);
}

#[test]
fn a_wrong_parquet_column_lists_those_that_exist() {
    let folder = Folder::new();
    write_parquet(&folder.path("a.parquet"), &[Some(b"x")]);
    let with = |field: &str| SourceSpec { text_field: field.into(), ..folder.spec() };
    assert_says(
        &error(&with("content")),
        &["a.parquet", "no column \"content\"", "\"id\", \"text\", \"raw\", \"tags\""],
    );
    assert_says(&error(&with("id")), &["a.parquet", "\"id\" is INT32"]);
}

#[test]
fn damaged_parquet_files_are_errors_and_no_panics() {
    let folder = Folder::new();
    let path = folder.path("a.parquet");
    write_parquet(&path, &[Some(b"first text"), Some(b"second text"), Some(b"third text")]);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    assert_says(&folder.error(), &["a.parquet", "footer"]);
    fs::write(&path, b"PAR1").unwrap();
    assert_says(&folder.error(), &["a.parquet", "footer"]);
    let at = whole.windows(10).position(|bytes| bytes == b"first text").unwrap();
    let mut bad_length = whole.clone();
    bad_length[at - 4..at].copy_from_slice(&0x7fff_0000_u32.to_le_bytes());
    fs::write(&path, bad_length).unwrap();
    assert_says(&folder.error(), &["a.parquet", "row group 0 near row 1"]);
    // Whatever byte is wrong, there is an answer; a changed letter of the text is the one that stays unseen.
    for at in 4..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(&path, bytes).unwrap();
        let spec = SourceSpec { on_bad_line: OnBadLine::Skip, ..folder.spec() };
        if let Ok(all) = documents(&spec) {
            assert!(all.take(100).count() < 100, "no end with byte {at} wrong");
        }
    }
}

#[test]
fn nothing_but_empty_documents_is_an_error_with_counts() {
    let folder = Folder::new().with("a.txt", "").with("b.jsonl", "{\"text\":\"\"}\n{\"text\":null}\nx\n");
    let spec = SourceSpec { on_bad_line: OnBadLine::Skip, ..folder.spec() };
    assert_says(&error(&spec), &["\"s\"", "not one document", "2 file(s)", "3 empty", "1 bad"]);
}
