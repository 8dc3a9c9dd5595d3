use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int32Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::super::support::tiny;
use super::{Bad, check};

/// Evaluates on one file: exit code 3.
macro_rules! evaluated {
    ($file:literal, $what:literal, $make:expr, $said:expr) => {
        Bad {
            what: $what,
            make: $make,
            run: concat!("eval perplexity tiny --lengths 32 --out run --device cpu --data ", $file),
            code: 3,
            said: $said,
        }
    };
}

fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(dir.join(name), bytes).unwrap();
}

#[test]
fn bad_lines_of_json_are_named_by_file_and_line() {
    check(&[
        evaluated!(
            "d.jsonl",
            "no JSON",
            |d| put(d, "d.jsonl", "{\"text\": \"a\"}\n{\"text\": "),
            &["d.jsonl:2", "not valid JSON"]
        ),
        evaluated!(
            "d.jsonl",
            "no field",
            |d| put(d, "d.jsonl", "{\"body\": \"a\", \"id\": 1}\n"),
            &["d.jsonl:1", "\"text\"", "\"body\""]
        ),
        evaluated!(
            "d.jsonl",
            "a number",
            |d| put(d, "d.jsonl", "{\"text\": 5}\n"),
            &["d.jsonl:1", "\"text\"", "a number"]
        ),
        evaluated!("d.jsonl", "a list", |d| put(d, "d.jsonl", "[\"a\"]\n"), &["d.jsonl:1", "an array"]),
        evaluated!(
            "d.jsonl",
            "no UTF-8",
            |d| put(d, "d.jsonl", b"{\"text\": \"caf\xe9\"}\r\n"),
            &["d.jsonl:1", "UTF-8"]
        ),
        evaluated!(
            "d.jsonl",
            "only empty documents",
            |d| put(d, "d.jsonl", "{\"text\": \"\"}\r\n\r\n{\"text\": null}\n"),
            &["not one document", "2 empty"]
        ),
        evaluated!(
            "d.jsonl",
            "a field twice",
            |d| put(d, "d.jsonl", "{\"text\": \"a\", \"text\": \"b\"}\n"),
            &["d.jsonl:1", "twice"]
        ),
    ]);
}

#[test]
fn compressed_files_that_are_damaged_or_greedy_are_named() {
    check(&[
        evaluated!(
            "d.jsonl.zst",
            "cut off",
            |d| {
                let whole = zstd::encode_all(tiny::text(1, 5000).as_bytes(), 1).unwrap();
                put(d, "d.jsonl.zst", &whole[..whole.len() / 2]);
            },
            &["d.jsonl.zst", "truncated"]
        ),
        // A frame header that asks for 2 GiB, and one raw block.
        evaluated!(
            "d.txt.zst",
            "a window of 2 GiB",
            |d| put(d, "d.txt.zst", b"\x28\xb5\x2f\xfd\x00\xa8\x09\x00\x00a"),
            &["d.txt.zst", "window", "zstd_window_log"]
        ),
        evaluated!(
            "d.txt.zst",
            "no zstd",
            |d| put(d, "d.txt.zst", tiny::text(1, 50)),
            &["d.txt.zst", "not a zstd file"]
        ),
        evaluated!("d.txt.gz", "no gzip", |d| put(d, "d.txt.gz", tiny::text(1, 50)), &["d.txt.gz", "not a gzip file"]),
    ]);
}

/// A table of a number and of a text for each document.
fn write_parquet(path: &Path, texts: &[&str]) {
    let schema = Arc::new(parse_message_type("message m { required int32 id; required binary body (UTF8); }").unwrap());
    let properties = Arc::new(WriterProperties::builder().set_dictionary_enabled(false).build());
    let mut writer = SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let ids: Vec<i32> = (0..texts.len() as i32).collect();
    column.typed::<Int32Type>().write_batch(&ids, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let values: Vec<ByteArray> = texts.iter().map(|text| text.as_bytes().to_vec().into()).collect();
    column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn tables_without_the_column_or_with_broken_pages_are_named() {
    check(&[
        evaluated!(
            "d.parquet",
            "another column",
            |d| write_parquet(&d.join("d.parquet"), &[&tiny::text(1, 60)]),
            &["d.parquet", "\"text\"", "\"id\"", "\"body\""]
        ),
        evaluated!(
            "d.parquet --text-field id",
            "a column of numbers",
            |d| write_parquet(&d.join("d.parquet"), &[&tiny::text(1, 60)]),
            &["d.parquet", "\"id\"", "neither text"]
        ),
        evaluated!(
            "d.parquet --text-field body",
            "a broken page",
            |d| {
                write_parquet(&d.join("d.parquet"), &[&tiny::text(1, 60)]);
                let mut bytes = std::fs::read(d.join("d.parquet")).unwrap();
                // The magic number and the footer stay; the pages behind the first do not.
                bytes[4..120].fill(0xff);
                put(d, "d.parquet", bytes);
            },
            &["d.parquet"]
        ),
        evaluated!("d.parquet", "no table", |d| put(d, "d.parquet", "PAR1 and nothing more"), &["d.parquet"]),
    ]);
}

#[test]
fn places_without_documents_are_told_apart() {
    check(&[
        evaluated!("none.txt", "no such file", |_| {}, &["none.txt", "No such file"]),
        evaluated!(
            "empty",
            "an empty folder",
            |d| std::fs::create_dir(d.join("empty")).unwrap(),
            &["empty", "no documents", ".jsonl"]
        ),
        evaluated!("empty.txt", "an empty file", |d| put(d, "empty.txt", ""), &["not one document"]),
        evaluated!(
            "link.txt",
            "a link to itself",
            |d| std::os::unix::fs::symlink("link.txt", d.join("link.txt")).unwrap(),
            &["link.txt"]
        ),
        Bad {
            what: "a name that says nothing",
            make: |d| put(d, "d.pdf", "x"),
            run: "eval perplexity tiny --lengths 32 --out run --data d.pdf",
            code: 2,
            said: &["d.pdf", ".parquet"],
        },
    ]);
}

/// Trains one stage on the folder `data`.
fn recipe(dir: &Path, change: fn(String) -> String) {
    std::fs::create_dir_all(dir.join("data")).unwrap();
    tiny::write(dir, "r.toml", &change(tiny::one_stage(&dir.join("data"), 2)));
}

const TRAIN: &str = "train r.toml --out run --device cpu";

#[test]
fn text_that_is_too_little_to_train_on_is_told_before_the_first_step() {
    check(&[
        Bad {
            what: "less than one sequence",
            make: |d| {
                recipe(d, |text| text);
                put(d, "data/a.txt", "at dawn");
            },
            run: TRAIN,
            code: 3,
            said: &["\"text\"", "fewer than one sequence"],
        },
        Bad {
            what: "documents that are all too short",
            make: |d| {
                recipe(d, |text| text.replacen("name = \"text\"\n", "name = \"text\"\nmin_tokens = 100\n", 1));
                for number in 0..20 {
                    put(d, &format!("data/{number}.txt"), tiny::text(number, 40));
                }
            },
            run: TRAIN,
            code: 3,
            said: &["\"text\"", "shorter than 100 tokens", "longest"],
        },
        Bad {
            what: "too little for the second stage",
            make: |d| {
                recipe(d, |text| text + "[[stage]]\nlength = 120\nbatch = 1\nsteps = 1\nmix = { text = 1.0 }\n");
                put(d, "data/a.txt", tiny::text(1, 60));
            },
            run: TRAIN,
            code: 3,
            said: &["\"text\"", "fewer than one sequence"],
        },
        Bad {
            what: "a passkey text that does not fit its stage",
            make: |d| {
                recipe(d, |text| {
                    let text = text.replace("name = \"keys\"\nkind = \"keys\"", "name = \"keys\"\nkind = \"passkey\"");
                    text + "[[stage]]\nlength = 16\nbatch = 1\nsteps = 1\nmix = { keys = 1.0 }\n"
                });
                put(d, "data/a.txt", tiny::text(1, 400));
            },
            run: TRAIN,
            code: 2,
            said: &["passkey", "16"],
        },
        Bad {
            what: "a bad line",
            make: |d| {
                recipe(d, |text| text);
                put(d, "data/a.jsonl", "{\"text\": 5}\n");
            },
            run: TRAIN,
            code: 3,
            said: &["a.jsonl:1", "a number"],
        },
    ]);
}
