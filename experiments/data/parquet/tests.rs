//! Columns of token ids: every spelling of a list, nulls, wrong entries, other kinds of columns.
#![allow(clippy::unwrap_used)]

use std::fs::File;

use parquet::data_type::{ByteArrayType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::super::documents::{Content, documents};
use super::super::spec::{OnBadLine, SourceSpec};
use super::*;

/// The list of pyarrow and of every writer that follows the format's text.
const STANDARD: &str = "optional group ids (LIST) { repeated group list { optional int64 element; } }";

/// Values of the one column of a file.
enum Column<'a> {
    Text(&'a [&'a str]),
    Narrow(&'a [i32]),
    Wide(&'a [i64]),
}

/// A file of one column with the levels given, in pages so small that lists are cut by their ends.
fn written(path: &Path, field: &str, values: &Column<'_>, levels: &[i16], repeats: &[i16]) -> SourceSpec {
    let schema = Arc::new(parse_message_type(&format!("message m {{ {field} }}")).unwrap());
    let small = WriterProperties::builder().set_data_page_row_count_limit(2).set_write_batch_size(2);
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(small.build())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let (levels, repeats) = (Some(levels), Some(repeats));
    match values {
        Column::Narrow(values) => column.typed::<Int32Type>().write_batch(values, levels, repeats).unwrap(),
        Column::Wide(values) => column.typed::<Int64Type>().write_batch(values, levels, repeats).unwrap(),
        Column::Text(values) => {
            let values: Vec<_> = values.iter().map(|&text| text.into()).collect();
            column.typed::<ByteArrayType>().write_batch(&values, levels, repeats).unwrap()
        }
    };
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    SourceSpec::new("s", &[path], "ids")
}

fn rows(spec: &SourceSpec) -> Vec<Vec<u32>> {
    let ids = |content| match content {
        Content::Ids(ids) => ids,
        Content::Text(text) => panic!("text {text:?}"),
    };
    documents(spec).unwrap().map(|document| ids(document.unwrap().content)).collect()
}

#[test]
fn lists_of_both_widths_are_token_ids_and_empty_ones_are_counted() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.parquet");
    // Rows: [5, 6, 7], null, [], [8], [4294967295].
    let (levels, repeats) = ([3, 3, 3, 0, 1, 3, 3], [0, 1, 1, 0, 0, 0, 0]);
    let wide = written(&path, STANDARD, &Column::Wide(&[5, 6, 7, 8, 4_294_967_295]), &levels, &repeats);
    assert_eq!(rows(&wide), [vec![5, 6, 7], vec![8], vec![u32::MAX]]);
    let mut all = documents(&wide).unwrap();
    let places: Vec<String> = all.by_ref().map(|document| document.unwrap().place.to_string()).collect();
    assert!(places[1].ends_with("a.parquet:4"), "{places:?}");
    assert_eq!((all.tally().empty, all.tally().bytes), (2, 20));
    let narrow = STANDARD.replace("int64", "int32");
    assert_eq!(rows(&written(&path, &narrow, &Column::Narrow(&[5, 6, 7, 8, 9]), &levels, &repeats))[0], [5, 6, 7]);
}

#[test]
fn older_spellings_of_a_list_are_read_too() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.parquet");
    let values = Column::Narrow(&[1, 2, 3]);
    for (field, full) in [
        ("repeated int32 ids;", 1),
        ("required group ids (LIST) { repeated int32 array; }", 1),
        ("required group ids (LIST) { repeated group bag { required int32 array; } }", 1),
        ("optional group ids (LIST) { repeated group list { required int32 item; } }", 2),
    ] {
        // Rows: [1, 2], [], [3].
        let spec = written(&path, field, &values, &[full, full, full - 1, full], &[0, 1, 0, 0]);
        assert_eq!(rows(&spec), [vec![1, 2], vec![3]], "{field}");
    }
}

#[test]
fn a_list_across_many_pages_stays_whole() {
    let root = tempfile::tempdir().unwrap();
    let ids: Vec<i64> = (0..5000).collect();
    let repeats: Vec<i16> = (0..5000).map(|at| i16::from(at % 1000 != 0)).collect();
    let spec = written(&root.path().join("a.parquet"), STANDARD, &Column::Wide(&ids), &[3; 5000], &repeats);
    let found = rows(&spec);
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [1000; 5]);
    assert!(found.concat().iter().copied().eq(0..5000));
}

#[test]
fn entries_that_are_no_ids_name_row_place_and_value_and_can_be_skipped() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.parquet");
    // Rows: [1], [2, BAD], [3]; a null entry is a level below a value.
    let cases: [(&[i64], [i16; 4], &str); 3] = [
        (&[1, 2, -7, 3], [3, 3, 3, 3], "entry 1 of the list is -7, not a token id"),
        (&[1, 2, 1 << 32, 3], [3, 3, 3, 3], "entry 1 of the list is 4294967296"),
        (&[1, 2, 3], [3, 3, 2, 3], "entry 1 of the list is null"),
    ];
    for (values, levels, words) in cases {
        let spec = written(&path, STANDARD, &Column::Wide(values), &levels, &[0, 0, 1, 0]);
        let error = documents(&spec).unwrap().find_map(Result::err).unwrap().to_string();
        assert!(error.contains("a.parquet:2: ") && error.contains(words), "{error}");
        assert_eq!(rows(&SourceSpec { on_bad_line: OnBadLine::Skip, ..spec }), [[1], [3]]);
    }
}

#[test]
fn the_limit_counts_four_bytes_an_id() {
    let root = tempfile::tempdir().unwrap();
    let repeats = [0, 1, 0, 1, 1];
    let spec = written(&root.path().join("a.parquet"), STANDARD, &Column::Wide(&[1, 2, 3, 4, 5]), &[3; 5], &repeats);
    assert_eq!(rows(&SourceSpec { max_document_bytes: 12, ..spec.clone() }).len(), 2);
    let narrow = SourceSpec { max_document_bytes: 11, on_bad_line: OnBadLine::Skip, ..spec };
    assert_eq!(rows(&narrow), [[1, 2]]);
}

#[test]
fn other_columns_say_what_they_are() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.parquet");
    let one = Column::Narrow(&[1]);
    for (field, values, levels, what) in [
        ("required int32 ids;", &one, 0, "is INT32"),
        ("repeated binary ids (UTF8);", &Column::Text(&["a"]), 1, "is a list of BYTE_ARRAY"),
        ("required group ids { required int32 a; }", &one, 0, "is a structure"),
        ("repeated group ids { required int32 a; }", &one, 1, "is a structure"),
        ("required group ids { repeated group list { repeated int32 element; } }", &one, 2, "is a list of lists"),
    ] {
        let spec = written(&path, field, values, &[levels], &[0]);
        let error = documents(&spec).unwrap().find_map(Result::err).unwrap().to_string();
        assert!(error.contains(what) && error.contains("neither text nor a list of token ids"), "{field}: {error}");
    }
}
