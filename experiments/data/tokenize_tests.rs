//! Stores: made once, the same whatever the threads, and never believed when damaged.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;

/// A tokenizer whose ids stand in the text.
fn numbers(text: &str) -> Result<Vec<u32>, String> {
    text.split_whitespace().map(|word| word.parse().map_err(|_| format!("{word:?} is no number"))).collect()
}

fn encoder(vocab_size: usize) -> Encoder<'static> {
    Encoder { encode: &numbers, tokenizer_hash: "numbers", vocab_size, bos: None }
}

fn written(documents: &[Vec<u32>], folder: &Path) -> SourceSpec {
    let line = |ids: &Vec<u32>| {
        let words: Vec<String> = ids.iter().map(u32::to_string).collect();
        format!("{{\"text\": {:?}}}\n", words.join(" "))
    };
    let path = folder.join("numbers.jsonl");
    fs::write(&path, documents.iter().map(line).collect::<String>()).unwrap();
    SourceSpec::new("s", &[path], "text")
}

fn options(folder: &Path, shard_tokens: u64) -> StoreOptions {
    StoreOptions { cache: folder.join("cache"), shard_tokens }
}

fn made(spec: &SourceSpec, vocab_size: usize, options: &StoreOptions) -> Result<TokenStore, DataError> {
    token_store(spec, &encoder(vocab_size), options, &mut |_| {})
}

fn contents(store: &TokenStore) -> Vec<Vec<u32>> {
    (0..store.documents()).map(|index| store.document(index).unwrap().to_vec()).collect()
}

fn files_below(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => all.extend(files_below(&entry.path())),
            false => all.push((entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())),
        }
    }
    all.sort();
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn documents_survive_the_disk(
        documents in prop::collection::vec(prop::collection::vec(0_u32..70_000, 1..20), 1..20),
        shard_tokens in 1_u64..60,
        wide: bool,
    ) {
        let root = tempfile::tempdir().unwrap();
        let vocab_size = if wide { 70_000 } else { 65_536 };
        let documents: Vec<Vec<u32>> =
            documents.iter().map(|ids| ids.iter().map(|id| id % vocab_size as u32).collect()).collect();
        let spec = written(&documents, root.path());
        let store = made(&spec, vocab_size, &options(root.path(), shard_tokens)).unwrap();
        prop_assert_eq!(contents(&store), documents.clone());
        prop_assert_eq!(store.tokens(), documents.iter().map(|ids| ids.len() as u64).sum::<u64>());
        let lengths: Vec<u64> = documents.iter().map(|ids| ids.len() as u64).collect();
        prop_assert_eq!(store.lengths().collect::<Vec<_>>(), lengths);
        prop_assert!(store.document(store.documents()).is_none());
        store.verify().unwrap();
    }
}

#[test]
fn the_same_bytes_come_out_of_one_thread_and_of_four() {
    let documents: Vec<Vec<u32>> = (1..200).map(|n| (0..n).collect()).collect();
    let root = tempfile::tempdir().unwrap();
    let spec = written(&documents, root.path());
    let with = |threads: usize| {
        let options = options(&root.path().join(threads.to_string()), 1000);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| made(&spec, 256, &options)).unwrap();
        files_below(&options.cache)
    };
    let one = with(1);
    assert!(one.len() > 10);
    assert_eq!(one, with(4));
}

#[test]
fn a_store_is_made_once_and_again_when_anything_changes() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let counted: &(dyn Fn(&str) -> Result<Vec<u32>, String> + Sync) = &|text| {
        CALLS.fetch_add(1, Ordering::Relaxed);
        numbers(text)
    };
    let root = tempfile::tempdir().unwrap();
    let spec = written(&[vec![1, 2, 3]], root.path());
    let options = options(root.path(), 100);
    let calls = |spec: &SourceSpec, tokenizer_hash: &str| {
        let before = CALLS.load(Ordering::Relaxed);
        let encoder = Encoder { encode: counted, tokenizer_hash, vocab_size: 10, bos: None };
        token_store(spec, &encoder, &options, &mut |_| {}).unwrap();
        CALLS.load(Ordering::Relaxed) - before
    };
    assert_eq!((calls(&spec, "a"), calls(&spec, "a"), calls(&spec, "b")), (1, 0, 1));
    assert_eq!(calls(&SourceSpec { on_bad_line: super::super::spec::OnBadLine::Skip, ..spec.clone() }, "a"), 1);
    // Weights and names do not touch the tokens.
    assert_eq!(calls(&SourceSpec { weight: 3.0, name: "t".into(), min_tokens: 2, ..spec.clone() }, "a"), 0);
    let spec = written(&[vec![1, 2, 3], vec![4]], root.path());
    assert_eq!(calls(&spec, "a"), 2);
}

#[test]
fn progress_ends_at_the_whole() {
    let root = tempfile::tempdir().unwrap();
    let spec = written(&[vec![1, 2, 3], vec![4]], root.path());
    let last = Cell::new(None);
    token_store(&spec, &encoder(10), &options(root.path(), 9), &mut |at| last.set(Some(at))).unwrap();
    let Tokenized { files, tally, tokens } = last.get().unwrap();
    assert_eq!((files, tally.documents, tokens), (1, 2, 4));
}

#[test]
fn failures_name_the_document_and_leave_nothing_behind() {
    let root = tempfile::tempdir().unwrap();
    let options = options(root.path(), 9);
    let cases = [
        (
            "{\"text\": \"1 2\"}\n{\"text\": \"3 x\"}\n",
            "numbers.jsonl:2: it could not be tokenized: \"x\" is no number",
        ),
        (
            "{\"text\": \"1 2\"}\n{\"text\": \"3 10\"}\n",
            "numbers.jsonl:2: the tokenizer gave id 10, but the vocabulary has 10",
        ),
        ("{\"text\": \" \"}\n", "it gave no tokens"),
        ("{\"text\": \"1 2\"}\n{\"txt\": \"3\"}\n", "numbers.jsonl:2: there is no field"),
    ];
    for (text, words) in cases {
        let spec = written(&[], root.path());
        fs::write(&spec.paths[0], text).unwrap();
        let error = made(&spec, 10, &options).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(fs::read_dir(&options.cache).unwrap().count(), 0, "{words}");
    }
}

#[test]
fn ready_made_ids_are_held_against_the_vocabulary_and_lose_a_leading_bos() {
    let place = super::super::error::Place { file: Path::new("a.parquet").into(), record: Some(3) };
    let ids = |ids: &[u32], bos: Option<u32>| {
        let document = Document { content: Content::Ids(ids.to_vec()), place: place.clone() };
        Encoder { bos, ..encoder(10) }.ids(document).map_err(|error| error.to_string())
    };
    assert_eq!(ids(&[1, 9, 1], None), Ok(vec![1, 9, 1]));
    assert_eq!(ids(&[1, 9, 1], Some(1)), Ok(vec![9, 1]));
    assert_eq!(ids(&[9, 1], Some(1)), Ok(vec![9, 1]));
    assert_eq!(ids(&[1], Some(1)), Ok(vec![1]));
    let error = ids(&[1, 10], Some(1)).unwrap_err();
    assert!(error.starts_with("a.parquet:3: token id 10 is outside the vocabulary of 10 rows"), "{error}");
}

#[test]
fn any_changed_byte_of_a_store_is_found() {
    let root = tempfile::tempdir().unwrap();
    let spec = written(&[vec![1, 2, 3], vec![4, 5]], root.path());
    let options = options(root.path(), 100);
    let folder = options.cache.join(made(&spec, 10, &options).unwrap().manifest().key.clone());
    let path = folder.join("shard-00000.tok");
    let whole = fs::read(&path).unwrap();
    let opened = || TokenStore::open(&folder).and_then(|store| store.verify());
    opened().unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        fs::write(&path, bytes).unwrap();
        let error = opened().expect_err(&format!("byte {at} may change unseen")).to_string();
        assert!(error.contains("shard-00000.tok") && error.contains("made again"), "{error}");
    }
    for length in [0, 7, HEADER, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        opened().unwrap_err();
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert!(opened().unwrap_err().to_string().contains("its header needs"));
}

#[test]
fn a_manifest_that_points_elsewhere_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let spec = written(&[vec![1, 2, 3]], root.path());
    let options = options(root.path(), 100);
    let folder = options.cache.join(made(&spec, 10, &options).unwrap().manifest().key.clone());
    let path = folder.join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap();
    for (from, to, words) in [
        ("shard-00000.tok", "../../numbers.jsonl", "no plain file name"),
        ("\"tokens\": 3,\n  \"shards\"", "\"tokens\": 4,\n  \"shards\"", "counts others"),
        ("\"version\": 1", "\"version\": 2", "version is 2"),
        ("\"version\": 1", "\"extra\": 1", "extra"),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = TokenStore::open(&folder).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
