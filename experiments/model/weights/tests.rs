//! Checkpoints that are whole, and every way in which one can be broken.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, OnceLock};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::sniff::Foreign;

type Named = (String, Dtype, Vec<usize>, Vec<u8>);

fn tensor(name: &str, shape: &[usize], fill: u8) -> Named {
    let bytes = (0..shape.iter().product::<usize>() * 4).map(|i| fill.wrapping_add(i as u8)).collect();
    (name.to_owned(), Dtype::F32, shape.to_vec(), bytes)
}

/// Two shards: `a` and `b` in the first, `c` in the second.
fn sharded() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tensors = [tensor("a", &[2, 3], 1), tensor("b", &[2], 2), tensor("c", &[3, 3], 3)];
    let written = write_sharded(folder.path(), tensors, 40).unwrap();
    assert_eq!(written.files.len(), 2);
    assert_eq!((written.total_size, written.total_parameters), (68, 17));
    folder
}

const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";

fn single() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_sharded(folder.path(), [tensor("a", &[2, 3], 1)], MAX_SHARD_BYTES).unwrap();
    folder
}

fn edit_index(dir: &Path, edit: impl FnOnce(&mut Value)) {
    let path = dir.join(INDEX_NAME);
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut index);
    fs::write(path, index.to_string()).unwrap();
}

/// A safetensors file with this header and data.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

fn open_single(bytes: &[u8]) -> Result<Checkpoint, WeightsError> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(SINGLE_NAME), bytes).unwrap();
    Checkpoint::open(folder.path())
}

fn index_problems(dir: &Path) -> Vec<String> {
    match Checkpoint::open(dir) {
        Err(WeightsError::Index { problems, .. }) => problems,
        other => panic!("{other:?}"),
    }
}

fn file_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn shards_come_back_as_they_were_written() {
    let folder = sharded();
    assert_eq!(file_names(folder.path()), [FIRST, SECOND, INDEX_NAME]);
    for access in [Access::Mapped, Access::Read] {
        let checkpoint = Checkpoint::open_with(folder.path(), access).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        for (name, dtype, shape, bytes) in [tensor("a", &[2, 3], 1), tensor("b", &[2], 2), tensor("c", &[3, 3], 3)] {
            let found = checkpoint.tensor(&name).unwrap();
            assert_eq!(found, TensorView { dtype, shape: &shape, data: &bytes });
        }
        assert_eq!((checkpoint.parameters(), checkpoint.bytes()), (17, 68));
        assert_eq!(checkpoint.files().count(), 2);
    }
}

#[test]
fn the_index_says_what_transformers_expects() {
    let folder = sharded();
    let index: Value = serde_json::from_slice(&fs::read(folder.path().join(INDEX_NAME)).unwrap()).unwrap();
    assert_eq!(index["metadata"], json!({ "total_size": 68, "total_parameters": 17 }));
    assert_eq!(index["weight_map"], json!({ "a": FIRST, "b": FIRST, "c": SECOND }));
    let file = fs::read(folder.path().join(FIRST)).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&file).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn every_element_type_comes_back_and_others_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let tensors =
        [("h".to_owned(), Dtype::F16, vec![3], vec![1_u8; 6]), ("n".to_owned(), Dtype::BF16, vec![1, 3], vec![2; 6])];
    write_sharded(folder.path(), tensors, MAX_SHARD_BYTES).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.tensor("h").unwrap().dtype, Dtype::F16);
    assert_eq!(checkpoint.tensor("n").unwrap().dtype, Dtype::BF16);

    let quantized = open_single(&raw(r#"{"q":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}"#, &[0; 2])).unwrap();
    let error = quantized.tensor("q").unwrap_err();
    assert!(error.to_string().contains("tensor q has element type I8"), "{error}");
    assert!(matches!(quantized.tensor("w"), Err(WeightsError::NotFound { .. })));
}

#[test]
fn a_smaller_checkpoint_replaces_a_larger_one_whole() {
    let folder = sharded();
    write_sharded(folder.path(), [tensor("z", &[1], 0)], MAX_SHARD_BYTES).unwrap();
    assert_eq!(file_names(folder.path()), [SINGLE_NAME]);
    write_sharded(folder.path(), [tensor("a", &[2], 0), tensor("b", &[2], 0), tensor("c", &[2], 0)], 1).unwrap();
    assert_eq!(file_names(folder.path()).len(), 4);
    assert_eq!(Checkpoint::open(folder.path()).unwrap().names().count(), 3);
}

#[test]
fn a_refused_tensor_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let good = tensor("a", &[2], 0);
    let short = ("b".to_owned(), Dtype::F32, vec![2], vec![0; 7]);
    let error = write_sharded(folder.path(), [good.clone(), good.clone()], 1).unwrap_err();
    assert!(error.to_string().contains("given twice"), "{error}");
    let error = write_sharded(folder.path(), [good.clone(), tensor("c", &[2], 0), short], 1).unwrap_err();
    assert!(error.to_string().contains("7 bytes do not make [2] of float32"), "{error}");
    let overflowing = ("d".to_owned(), Dtype::F32, vec![usize::MAX, 2], vec![]);
    assert!(write_sharded(folder.path(), [good, overflowing], 1).is_err());
    assert!(write_sharded(folder.path(), Vec::<Named>::new(), 1).is_err());
    assert!(file_names(folder.path()).is_empty());
}

#[test]
fn names_and_shapes_are_reported_together() {
    let folder = sharded();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let expected = |entries: &[(&str, &[usize])]| -> Vec<(String, Vec<usize>)> {
        entries.iter().map(|(n, s)| (n.to_string(), s.to_vec())).collect()
    };
    checkpoint.check(&expected(&[("a", &[2, 3]), ("b", &[2]), ("c", &[3, 3])]), |_| false).unwrap();
    checkpoint.check(&expected(&[("a", &[2, 3]), ("b", &[2])]), |name| name == "c").unwrap();
    let error = checkpoint.check(&expected(&[("a", &[3, 2]), ("b", &[2]), ("d", &[1])]), |_| false).unwrap_err();
    let text = error.to_string();
    for part in ["1 missing (d)", "1 unexpected (c)", "a is [2, 3], expected [3, 2]"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn shard_names_that_leave_the_folder_are_refused() {
    let outside = tempfile::tempdir().unwrap();
    let good = single();
    fs::copy(good.path().join(SINGLE_NAME), outside.path().join("x.safetensors")).unwrap();
    let absolute = outside.path().join("x.safetensors").to_str().unwrap().to_owned();
    for name in [
        "../x.safetensors",
        "/etc/passwd",
        &absolute,
        "sub/x.safetensors",
        "..",
        "",
        "x.bin",
        "./x.safetensors",
        "a\\x.safetensors",
        "C:x.safetensors",
        "x\0.safetensors",
        "x.safetensors/",
    ] {
        let folder = sharded();
        edit_index(folder.path(), |index| index["weight_map"]["c"] = json!(name));
        let problems = index_problems(folder.path());
        assert!(problems[0].contains("/weight_map/c"), "{name:?}: {problems:?}");
        assert!(problems[0].contains("plain file name"), "{name:?}: {problems:?}");
    }
    let folder = sharded();
    edit_index(folder.path(), |index| index["weight_map"]["c"] = json!(7));
    assert!(index_problems(folder.path())[0].contains("not a file name"));
}

#[test]
fn a_missing_and_an_extra_shard_are_both_named() {
    let folder = sharded();
    fs::rename(folder.path().join(SECOND), folder.path().join("model-00007-of-00009.safetensors")).unwrap();
    let problems = index_problems(folder.path());
    assert_eq!(problems.len(), 2);
    assert!(problems[0].contains("shard model-00002-of-00002.safetensors is missing"), "{problems:?}");
    assert!(problems[1].contains("model-00007-of-00009"), "{problems:?}");
}

#[test]
fn an_index_that_disagrees_with_its_shards_gives_every_finding() {
    let folder = sharded();
    edit_index(folder.path(), |index| {
        index["weight_map"]["b"] = json!(SECOND);
        index["weight_map"]["ghost"] = json!(FIRST);
        index["weight_map"].as_object_mut().unwrap().remove("a");
    });
    let text = index_problems(folder.path()).join("\n");
    assert!(text.contains("places b in model-00002-of-00002.safetensors, but it is in model-00001"), "{text}");
    assert!(text.contains("places ghost in model-00001-of-00002.safetensors, which does not hold it"), "{text}");
    assert!(text.contains("holds a, which the index does not list"), "{text}");
}

#[test]
fn a_tensor_in_two_shards_is_named() {
    let folder = sharded();
    fs::copy(folder.path().join(FIRST), folder.path().join(SECOND)).unwrap();
    let problems = index_problems(folder.path());
    assert!(problems.iter().any(|p| p.contains("tensor a is in two shards")), "{problems:?}");
}

#[test]
fn a_wrong_total_size_is_named() {
    let folder = sharded();
    edit_index(folder.path(), |index| index["metadata"]["total_size"] = json!(69));
    let problems = index_problems(folder.path());
    assert_eq!(problems, ["/metadata/total_size is 69, the shards hold 68 bytes of tensors"]);
    edit_index(folder.path(), |index| index["metadata"]["total_size"] = json!(68.0));
    assert!(Checkpoint::open(folder.path()).is_ok(), "some writers store a float");
    edit_index(folder.path(), |index| index["metadata"]["total_size"] = json!("68"));
    assert!(index_problems(folder.path())[0].contains("not a number of bytes"));
    edit_index(folder.path(), |index| drop(index.as_object_mut().unwrap().remove("metadata")));
    assert!(Checkpoint::open(folder.path()).is_ok(), "the total is optional");
}

#[test]
fn an_index_without_a_map_is_named() {
    for text in ["[]", "{}", r#"{"weight_map": []}"#, r#"{"weight_map": {}}"#] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(INDEX_NAME), text).unwrap();
        assert!(index_problems(folder.path())[0].contains("/weight_map"), "{text}");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(INDEX_NAME), r#"{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}"#)
        .unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("/weight_map/a appears twice"), "{error}");
}

#[test]
fn a_truncated_file_tells_both_lengths() {
    let folder = single();
    let whole = fs::read(folder.path().join(SINGLE_NAME)).unwrap();
    let needed = whole.len() as u64;
    for kept in [4, 8, 20, whole.len() - 1] {
        match open_single(&whole[..kept]) {
            Err(WeightsError::Truncated { bytes, needed: n, .. }) => {
                assert_eq!(bytes, kept as u64);
                // Until the header is whole, only its own end is known.
                assert!(if kept == whole.len() - 1 { n == needed } else { n > bytes && n <= needed });
            }
            other => panic!("{kept}: {other:?}"),
        }
    }
    let error = open_single(&whole[..whole.len() - 1]).unwrap_err().to_string();
    assert!(error.contains(&format!("the file is {} bytes, its header needs {needed}", needed - 1)), "{error}");
    assert!(error.contains("the download is incomplete"), "{error}");
    let longer = [&whole[..], &[0]].concat();
    assert!(matches!(open_single(&longer), Err(WeightsError::Trailing { .. })));
    assert!(matches!(open_single(b""), Err(WeightsError::Empty { .. })));
}

#[test]
fn impostors_are_named() {
    let what = |bytes: &[u8]| match open_single(bytes) {
        Err(WeightsError::Foreign { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(what(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"), Foreign::LfsPointer);
    assert_eq!(what(b"<!DOCTYPE html><html><body>Sign in</body></html>"), Foreign::Html);
    assert_eq!(what(b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl"), Foreign::Zip);
}

#[test]
fn headers_that_lie_are_refused() {
    for (header, data) in [
        // Overlap, hole, shape that does not fit, shape that overflows, offsets the wrong way, unknown type, garbage.
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            4,
        ),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8),
        (r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8),
        (r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, 0),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4),
        (r#"{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}"#, 4),
        (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4),
        (
            r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
            4,
        ),
        ("{\"a\":", 0),
    ] {
        let error = open_single(&raw(header, &vec![0; data])).unwrap_err();
        assert!(matches!(error, WeightsError::Header { .. }), "{header}: {error:?}");
        assert_eq!(error.kind().exit_code(), 3);
    }
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    assert!(matches!(open_single(&huge), Err(WeightsError::Header { .. })));
}

#[test]
fn pickles_are_refused_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(WeightsError::NoWeights { .. })));
    fs::write(folder.path().join("training_args.bin"), "x").unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(WeightsError::NoWeights { .. })));
    fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("only pytorch_model.bin"), "{error}");
    assert!(error.to_string().contains("safe_serialization"), "{error}");
    assert_eq!(error.kind().exit_code(), 3);
    assert_eq!(Checkpoint::open(&folder.path().join("absent")).unwrap_err().kind().exit_code(), 2);
}

#[test]
fn folders_pipes_and_links_out_of_the_checkpoint_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SINGLE_NAME);
    fs::create_dir(&path).unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(WeightsError::NotAFile { what: "a folder", .. })));
    fs::remove_dir(&path).unwrap();

    let other = single();
    std::os::unix::fs::symlink(other.path().join(SINGLE_NAME), &path).unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(WeightsError::LinkOutside { .. })));
    fs::remove_file(&path).unwrap();

    std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
    assert!(Checkpoint::open(folder.path()).is_err());
    fs::remove_file(&path).unwrap();

    std::os::unix::fs::symlink(SINGLE_NAME, &path).unwrap();
    assert!(matches!(Checkpoint::open(folder.path()), Err(WeightsError::Io { .. })), "a link to itself");
    fs::remove_file(&path).unwrap();

    fs::copy(other.path().join(SINGLE_NAME), folder.path().join("kept-here")).unwrap();
    std::os::unix::fs::symlink("kept-here", &path).unwrap();
    assert!(Checkpoint::open(folder.path()).is_ok(), "a link inside the folder is followed");
}

#[test]
fn links_of_a_hub_cache_are_followed() {
    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("models--org--name/snapshots/c0ffee");
    let blobs = cache.path().join("models--org--name/blobs");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    fs::copy(single().path().join(SINGLE_NAME), blobs.join("abc")).unwrap();
    std::os::unix::fs::symlink("../../blobs/abc", snapshot.join(SINGLE_NAME)).unwrap();
    assert!(Checkpoint::open(&snapshot).is_ok());

    // The same shape of path without the repository's name gives no such right.
    let elsewhere = cache.path().join("plain/snapshots/c0ffee");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::create_dir_all(cache.path().join("plain/blobs")).unwrap();
    fs::copy(blobs.join("abc"), cache.path().join("plain/blobs/abc")).unwrap();
    std::os::unix::fs::symlink("../../blobs/abc", elsewhere.join(SINGLE_NAME)).unwrap();
    assert!(matches!(Checkpoint::open(&elsewhere), Err(WeightsError::LinkOutside { .. })));
}

#[test]
fn a_file_cut_short_after_opening_is_an_error_and_no_crash() {
    let folder = single();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let path = folder.path().join(SINGLE_NAME);
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(10).unwrap();
    assert!(matches!(checkpoint.tensor("a"), Err(WeightsError::Changed { now: 10, .. })));
}

#[test]
fn long_lists_are_cut() {
    let folder = single();
    let expected: Vec<_> = (0..100).map(|i| (format!("layer.{i:03}"), vec![1])).collect();
    let text = Checkpoint::open(folder.path()).unwrap().check(&expected, |_| false).unwrap_err().to_string();
    assert!(text.contains("100 missing") && text.contains("and 92 more"), "{text}");
}

/// One folder for all cases: making one flushes to the disk.
static DAMAGED: OnceLock<Mutex<tempfile::TempDir>> = OnceLock::new();

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_damaged_file_never_panics(edits in prop::collection::vec((0_usize..400, any::<u8>()), 1..6), cut in 0_usize..400) {
        let folder = DAMAGED.get_or_init(|| Mutex::new(sharded())).lock().unwrap();
        for name in [FIRST, INDEX_NAME] {
            let whole = fs::read(folder.path().join(name)).unwrap();
            let mut bytes = whole.clone();
            for &(at, value) in &edits {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            if cut % 3 == 0 {
                bytes.truncate(cut % bytes.len());
            }
            fs::write(folder.path().join(name), &bytes).unwrap();
            if let Ok(checkpoint) = Checkpoint::open(folder.path()) {
                for tensor in checkpoint.names() {
                    if let Ok(view) = checkpoint.tensor(tensor) {
                        prop_assert_eq!(view.data.len(), view.shape.iter().product::<usize>() * view.dtype.size());
                    }
                }
            }
            fs::write(folder.path().join(name), &whole).unwrap();
        }
    }

    #[test]
    fn any_index_text_is_an_answer(text in r#"[{}\[\]":,a-z0-9./ -]{0,80}"#) {
        if let Ok(value) = crate::json::parse_json(text.as_bytes()) {
            let _ = parse_index(&value);
        }
    }
}
