//! What a loader promises, and loaders that break the promise.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use rayon::prelude::*;

use super::super::corpus::MemoryCorpus;
use super::super::packing::{Mode, SequenceStart};
use super::*;

const BOS: u32 = 0;
const EOS: u32 = 1;

/// Documents whose every token is another number.
fn distinct(lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut next = 2;
    let document = |&length: &usize| {
        next += length as u32;
        (next - length as u32..next).collect()
    };
    lengths.iter().map(document).collect()
}

fn source(documents: Vec<Vec<u32>>) -> LoaderSource {
    LoaderSource { name: "s".into(), corpus: Arc::new(MemoryCorpus(documents)), weight: 1.0, min_tokens: 0 }
}

fn stream(length: usize) -> Packing {
    Packing { length, mode: Mode::Stream, bos: Some(BOS), eos: Some(EOS), start: SequenceStart::AsCut }
}

fn epoch(loader: &Loader, number: u64) -> Vec<Sequence> {
    (number * loader.len()..(number + 1) * loader.len()).map(|n| loader.sequence(n)).collect()
}

/// Whether each text token is a target at most once and at most `rest` targets are missing, bos and eos counted too.
fn conserves(documents: &[Vec<u32>], sequences: &[Sequence], rest: usize) -> Result<(), String> {
    let mut left: BTreeMap<u32, i64> = BTreeMap::new();
    for document in documents {
        document.iter().chain(&[BOS, EOS]).for_each(|&token| *left.entry(token).or_default() += 1);
    }
    for &target in sequences.iter().flat_map(|sequence| &sequence.tokens[1..]) {
        *left.entry(target).or_default() -= 1;
    }
    if let Some((token, _)) = left.iter().find(|(_, count)| **count < 0) {
        return Err(format!("token {token} is a target too often"));
    }
    let missing: i64 = left.values().sum();
    if missing == rest as i64 { Ok(()) } else { Err(format!("{missing} targets are missing, {rest} may be")) }
}

/// Whether text runs on within documents, and documents start exactly where the starts say.
fn runs_on(sequence: &Sequence) -> bool {
    let starts: Vec<u32> =
        (1..sequence.tokens.len() - 1).filter(|&at| sequence.tokens[at] == BOS).map(|at| at as u32).collect();
    let steady = sequence.tokens.windows(2).all(|pair| match (pair[0], pair[1]) {
        (EOS, next) => next == BOS,
        (BOS, next) => next > EOS,
        (_, EOS) => true,
        (before, next) => next == before + 1,
    });
    steady && sequence.starts[0] == 0 && sequence.starts[1..] == starts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_epoch_predicts_every_token_once_but_for_the_rest(
        lengths in prop::collection::vec(1_usize..40, 1..12), length in 1_usize..30, seed: u64, start_with_bos: bool,
    ) {
        let documents = distinct(&lengths);
        let total: usize = lengths.iter().map(|length| length + 2).sum();
        prop_assume!(total > length);
        let start = if start_with_bos { SequenceStart::Bos } else { SequenceStart::AsCut };
        let loader = Loader::new(vec![source(documents.clone())], Packing { start, ..stream(length) }, seed).unwrap();
        for number in 0..2 {
            let sequences = epoch(&loader, number);
            prop_assert_eq!(conserves(&documents, &sequences, total % length), Ok(()));
            for sequence in &sequences {
                prop_assert_eq!(sequence.tokens.len(), length + 1);
                prop_assert!(start_with_bos && sequence.tokens[0] == BOS || runs_on(sequence), "{:?}", sequence);
            }
        }
    }

    #[test]
    fn whole_documents_give_one_piece_each(
        lengths in prop::collection::vec(1_usize..40, 1..12), length in 1_usize..30, seed: u64,
    ) {
        let documents = distinct(&lengths);
        let long = lengths.iter().filter(|&&tokens| tokens + 2 > length).count();
        let packing = Packing { mode: Mode::Whole, ..stream(length) };
        let loader = Loader::new(vec![source(documents)], packing, seed);
        prop_assume!(long > 0 || loader.is_err());
        let Ok(loader) = loader else { return Ok(()) };
        prop_assert_eq!(loader.len(), long as u64);
        let sequences = epoch(&loader, 3);
        prop_assert!(sequences.iter().all(|s| s.tokens.len() == length + 1 && s.starts == [0] && runs_on(s)));
        prop_assert!(sequences.iter().all(|s| !s.tokens.windows(2).any(|pair| pair == [EOS, BOS])));
        let key = |s: &Sequence| s.tokens.iter().copied().find(|&token| token > EOS).unwrap_or(0);
        let mut firsts: Vec<u32> = sequences.iter().map(key).collect();
        firsts.sort_unstable();
        firsts.dedup();
        prop_assert_eq!(firsts.len(), long, "two pieces of one document");
    }
}

#[test]
fn loaders_with_a_bug_are_found_out() {
    let documents = distinct(&[50, 30, 70]);
    let loader = Loader::new(vec![source(documents.clone())], stream(12), 5).unwrap();
    let rest = 156 % 12;
    let good = epoch(&loader, 0);
    conserves(&documents, &good, rest).unwrap();
    let mut repeated = good.clone();
    repeated[3] = repeated[4].clone();
    assert!(conserves(&documents, &repeated, rest).is_err());
    let skipping: Vec<Sequence> = good[1..].to_vec();
    assert!(conserves(&documents, &skipping, rest).is_err());
    let all: Vec<u32> = documents.iter().flatten().copied().collect();
    let no_ends: Vec<Sequence> =
        all.chunks(13).map(|tokens| Sequence { tokens: tokens.to_vec(), starts: vec![0] }).collect();
    assert!(conserves(&documents, &no_ends, rest).is_err());
    let shifted = Sequence { tokens: good[0].tokens.iter().rev().copied().collect(), ..good[0].clone() };
    assert!(!runs_on(&shifted));
    let with_start = good.iter().find(|sequence| sequence.starts.len() > 1).unwrap();
    assert!(!runs_on(&Sequence { starts: vec![0], ..with_start.clone() }));
}

fn mixed(seed: u64) -> Loader {
    let of =
        |name: &str, weight, lengths: &[usize]| LoaderSource { name: name.into(), weight, ..source(distinct(lengths)) };
    let sources = vec![of("a", 3.0, &[40, 50, 60]), of("b", 1.0, &[200, 300])];
    Loader::new(sources, stream(16), seed).unwrap()
}

#[test]
fn neither_threads_nor_the_order_of_asking_change_a_sequence() {
    let expected: Vec<Sequence> = (0..500).map(|n| mixed(7).sequence(n)).collect();
    for threads in [1, 4] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let loader = mixed(7);
        let backwards: Vec<Sequence> =
            pool.install(|| (0..500_u32).into_par_iter().rev().map(|n| loader.sequence(u64::from(n))).collect());
        assert!(backwards.into_iter().rev().eq(expected.iter().cloned()));
    }
}

#[test]
fn resuming_at_a_cursor_equals_not_stopping() {
    let straight: Vec<Sequence> = {
        let loader = mixed(7);
        (0..300).map(|n| loader.sequence(n)).collect()
    };
    for cursor in [1, 63, 200] {
        let before = mixed(7);
        let after = mixed(7);
        assert_eq!(before.fingerprint(), after.fingerprint());
        let resumed = (0..cursor).map(|n| before.sequence(n)).chain((cursor..300).map(|n| after.sequence(n)));
        assert!(resumed.eq(straight.iter().cloned()));
        // A resume that forgets its cursor is something else.
        assert!(!(0..300 - cursor).map(|n| after.sequence(n)).eq(straight[cursor as usize..].iter().cloned()));
    }
}

#[test]
fn epochs_and_seeds_differ() {
    let loader = mixed(7);
    let sequences = |loader: &Loader, from: u64| (from..from + 20).map(|n| loader.sequence(n)).collect::<Vec<_>>();
    assert_ne!(sequences(&loader, 0), sequences(&mixed(8), 0));
    let single = Loader::new(vec![source(distinct(&[100, 200]))], stream(16), 7).unwrap();
    assert_ne!(epoch(&single, 0), epoch(&single, 1));
    assert_eq!(single.origin(single.len()), ("s", 1));
}

#[test]
fn shares_follow_the_weights() {
    let loader = mixed(7);
    let from_a = (0..1024).filter(|&n| loader.origin(n).0 == "a").count();
    assert_eq!(from_a, 768);
}

#[test]
fn crops_move_from_epoch_to_epoch() {
    let packing = Packing { mode: Mode::Whole, bos: None, eos: None, ..stream(10) };
    let loader = Loader::new(vec![source(distinct(&[1000]))], packing, 1).unwrap();
    let firsts: std::collections::BTreeSet<u32> = (0..50).map(|n| loader.sequence(n).tokens[0]).collect();
    assert!(firsts.len() > 40, "{firsts:?}");
    let last = (0..20_000).map(|n| loader.sequence(n).tokens[10]).max().unwrap();
    assert_eq!(last, 1001, "the document's last token is reached");
}

#[test]
fn a_fingerprint_tells_apart_what_would_train_otherwise() {
    let base = || source(distinct(&[40, 50]));
    let of = |source: LoaderSource, packing| Loader::new(vec![source], packing, 1).unwrap().fingerprint().to_owned();
    let fingerprint = of(base(), stream(16));
    let others = [
        of(base(), stream(17)),
        of(base(), Packing { eos: None, ..stream(16) }),
        of(source(distinct(&[50, 40])), stream(16)),
        of(LoaderSource { weight: 2.0, ..base() }, stream(16)),
        of(LoaderSource { min_tokens: 45, ..base() }, stream(16)),
    ];
    assert!(others.iter().all(|other| *other != fingerprint));
    assert_eq!(fingerprint, of(base(), stream(16)));
}

#[test]
fn too_little_data_is_an_error_with_numbers() {
    let told = |source: LoaderSource, packing: Packing| Loader::new(vec![source], packing, 1).unwrap_err().to_string();
    let small = told(source(distinct(&[3, 4])), stream(100));
    assert!(
        small.contains("\"s\"") && small.contains("2 document(s) hold 11 tokens") && small.contains("101"),
        "{small}"
    );
    let short = told(source(distinct(&[3, 4])), Packing { mode: Mode::Whole, ..stream(10) });
    assert!(short.contains("all 2 document(s) are shorter than 9 tokens; the longest has 4"), "{short}");
    let filtered = told(LoaderSource { min_tokens: 5, ..source(distinct(&[3, 4])) }, stream(2));
    assert!(filtered.contains("shorter than 5"), "{filtered}");
    assert!(told(source(distinct(&[9])), stream(0)).contains("at least 1 token"));
    let start = Packing { bos: None, start: SequenceStart::Bos, ..stream(2) };
    assert!(told(source(distinct(&[9])), start).contains("no bos id"));
    assert!(Loader::new(vec![], stream(2), 1).is_err());
}
