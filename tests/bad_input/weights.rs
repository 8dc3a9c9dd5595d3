use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::super::support::golden::edit_json;
use super::{Bad, SCORE, SCORE_SHARDED, check};

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

const fn single(what: &'static str, make: fn(&Path), said: &'static [&'static str]) -> Bad {
    Bad { what, make, run: SCORE, code: 3, said }
}

const fn sharded(what: &'static str, make: fn(&Path), said: &'static [&'static str]) -> Bad {
    Bad { what, make, run: SCORE_SHARDED, code: 3, said }
}

fn index(dir: &Path, edit: impl FnOnce(&mut Value)) {
    edit_json(&dir.join("sharded/model.safetensors.index.json"), edit);
}

/// Puts a tensor into another shard by the index.
fn place(dir: &Path, shard: &str) {
    index(dir, |index| index["weight_map"]["model.norm.weight"] = json!(shard));
}

/// Copies a shard under another name.
fn copied(dir: &Path, from: &str, to: &str) {
    let _ = std::fs::copy(dir.join("sharded").join(from), dir.join("sharded").join(to)).unwrap();
}

/// Writes bytes in place of the single weight file.
fn replaced(dir: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(dir.join("model/model.safetensors"), bytes).unwrap();
}

/// A safetensors file of this header and so many zero bytes.
fn crafted(dir: &Path, header: &str, data: usize) {
    let length = (header.len() as u64).to_le_bytes();
    replaced(dir, [&length[..], header.as_bytes(), &vec![0; data]].concat());
}

fn changed(dir: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let path = dir.join("model/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

/// Puts a link in place of the single weight file.
fn linked(dir: &Path, target: impl AsRef<Path>) {
    std::fs::remove_file(dir.join("model/model.safetensors")).unwrap();
    std::os::unix::fs::symlink(target, dir.join("model/model.safetensors")).unwrap();
}

#[test]
fn shard_names_that_lead_elsewhere_are_named_and_not_opened() {
    check(&[
        sharded("up", |d| place(d, "../../x.safetensors"), &["index.json", "model.norm.weight", "../../x.safetensors"]),
        sharded("absolute", |d| place(d, "/etc/passwd"), &["index.json", "model.norm.weight", "/etc/passwd"]),
        sharded("a folder inside", |d| place(d, "a/b.safetensors"), &["model.norm.weight", "a/b.safetensors"]),
        sharded("another kind", |d| place(d, "model.bin"), &["model.norm.weight", "model.bin"]),
        sharded(
            "a number",
            |d| index(d, |i| i["weight_map"]["model.norm.weight"] = json!(7)),
            &["model.norm.weight", "7"],
        ),
    ]);
}

#[test]
fn an_index_that_is_not_true_is_told_in_full() {
    check(&[
        sharded(
            "a shard is missing",
            |d| std::fs::remove_file(d.join("sharded").join(TWO)).unwrap(),
            &[TWO, "missing"],
        ),
        sharded(
            "a shard too many",
            |d| copied(d, TWO, "model-00003-of-00003.safetensors"),
            &["model-00003-of-00003.safetensors", "not in the index"],
        ),
        sharded("a tensor in two shards", |d| copied(d, ONE, TWO), &["model.embed_tokens.weight", ONE, TWO]),
        sharded("in the other shard", |d| place(d, ONE), &["model.norm.weight", ONE, TWO]),
        sharded(
            "a wrong total",
            |d| index(d, |i| i["metadata"]["total_size"] = json!(5)),
            &["/metadata/total_size", "5"],
        ),
        sharded("no map", |d| index(d, |i| *i = json!({"metadata": {}})), &["index.json", "/weight_map"]),
        sharded(
            "a tensor that is nowhere",
            |d| index(d, |i| i["weight_map"]["model.ghost"] = json!(ONE)),
            &["model.ghost", ONE],
        ),
    ]);
}

#[test]
fn files_that_are_no_safetensors_are_called_what_they_are() {
    check(&[
        single(
            "LFS pointer",
            |d| replaced(d, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
            &["model.safetensors", "Git LFS"],
        ),
        single(
            "web page",
            |d| replaced(d, "<!DOCTYPE html><html><body>404</body></html>"),
            &["model.safetensors", "HTML"],
        ),
        single("pickle in a zip", |d| replaced(d, b"PK\x03\x04archive/data.pkl"), &["model.safetensors", "zip"]),
        single("pickle", |d| replaced(d, b"\x80\x02}q\x00."), &["model.safetensors", "pickle"]),
        single("nothing", |d| replaced(d, ""), &["model.safetensors", "empty", "incomplete"]),
        single(
            "only a pickle",
            |d| std::fs::rename(d.join("model/model.safetensors"), d.join("model/pytorch_model.bin")).unwrap(),
            &["model", "pytorch_model.bin", "pickle"],
        ),
        single(
            "no weights",
            |d| std::fs::remove_file(d.join("model/model.safetensors")).unwrap(),
            &["model", "neither"],
        ),
    ]);
}

#[test]
fn headers_and_lengths_that_contradict_each_other_are_refused() {
    check(&[
        single(
            "cut off in the data",
            |d| changed(d, |b| b.truncate(100_000)),
            &["model.safetensors", "100000 bytes", "incomplete"],
        ),
        single(
            "cut off in the header",
            |d| changed(d, |b| b.truncate(300)),
            &["model.safetensors", "300 bytes", "incomplete"],
        ),
        single("cut off in the length", |d| changed(d, |b| b.truncate(5)), &["model.safetensors", "5 bytes"]),
        single("bytes behind the end", |d| changed(d, |b| b.extend([0; 3])), &["model.safetensors", "267291 bytes"]),
        single("an endless header", |d| changed(d, |b| b[..8].fill(0xff)), &["model.safetensors", "header"]),
        single(
            "overlap",
            |d| {
                crafted(
                    d,
                    r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
                    12,
                )
            },
            &["model.safetensors", "not a valid safetensors file"],
        ),
        single(
            "a hole",
            |d| {
                crafted(
                    d,
                    r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#,
                    12,
                )
            },
            &["model.safetensors", "not a valid safetensors file"],
        ),
        single(
            "a shape beyond all numbers",
            |d| crafted(d, r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#, 4),
            &["model.safetensors", "not a valid safetensors file"],
        ),
        single(
            "a name twice",
            |d| {
                crafted(
                    d,
                    r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                    4,
                )
            },
            &["model.safetensors", "/a", "twice"],
        ),
        single("no JSON", |d| crafted(d, "{nonsense", 0), &["model.safetensors", "header"]),
    ]);
}

#[test]
fn weights_that_do_not_fit_the_config_are_told_together() {
    check(&[
        single(
            "a layer too few",
            |d| edit_json(&d.join("model/config.json"), |c| c["num_hidden_layers"] = json!(3)),
            &["model", "9 missing", "model.layers.2."],
        ),
        single(
            "a layer too many",
            |d| edit_json(&d.join("model/config.json"), |c| c["num_hidden_layers"] = json!(1)),
            &["model", "9 unexpected", "model.layers.1."],
        ),
        single(
            "another width inside",
            |d| edit_json(&d.join("model/config.json"), |c| c["intermediate_size"] = json!(81)),
            &["of the wrong shape", "mlp", "[80, 48]", "[81, 48]"],
        ),
        single(
            "integers",
            |d| {
                changed(d, |bytes| {
                    let at = bytes.windows(3).position(|window| window == b"F32").unwrap();
                    bytes[at..at + 3].copy_from_slice(b"I32");
                });
            },
            &["model.safetensors", "I32"],
        ),
        single(
            "a number that is none",
            |d| {
                changed(d, |bytes| {
                    let end = bytes.len();
                    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
                });
            },
            &["NaN"],
        ),
    ]);
}

#[test]
fn only_regular_files_inside_the_folder_are_opened() {
    check(&[
        single("a link out", |d| linked(d, d.join("ids.json")), &["model.safetensors", "symbolic link", "ids.json"]),
        single("a device", |d| linked(d, "/dev/zero"), &["model.safetensors", "/dev/zero"]),
        single("a link to itself", |d| linked(d, "model.safetensors"), &["model.safetensors"]),
        single("a link to nowhere", |d| linked(d, "gone"), &["model.safetensors"]),
        single(
            "a pipe",
            |d| {
                std::fs::remove_file(d.join("model/model.safetensors")).unwrap();
                let made =
                    std::process::Command::new("mkfifo").arg(d.join("model/model.safetensors")).status().unwrap();
                assert!(made.success());
            },
            &["model.safetensors", "a pipe"],
        ),
        single(
            "a folder",
            |d| {
                std::fs::remove_file(d.join("model/model.safetensors")).unwrap();
                std::fs::create_dir(d.join("model/model.safetensors")).unwrap();
                std::fs::File::create(d.join("model/model.safetensors/x")).unwrap().write_all(b"x").unwrap();
            },
            &["model.safetensors", "a folder"],
        ),
    ]);
}
