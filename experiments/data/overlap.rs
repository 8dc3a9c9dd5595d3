//! Whether evaluation documents occur in training text: the share of their n-grams that do.
//!
//! Text counts by runs of 13 words, as is usual since GPT-3 (Brown et al. 2020, appendix C); letters and digits make words,
//! case and everything else are ignored. Tokens count by runs of their ids. Only hashes of the evaluation's n-grams are kept
//! (64 bits), so training text of any size passes through in parallel.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::prelude::*;

use super::corpus::Corpus;
use super::documents::{Content, Document, documents};
use super::error::DataError;
use super::rng::mixed;
use super::spec::SourceSpec;

/// Words of an n-gram, unless told otherwise.
pub const WORDS: usize = 13;
/// Tokens of an n-gram, unless told otherwise.
pub const TOKENS: usize = 32;
/// Multiplier of the rolling hash: odd, from SplitMix64.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// Training text that is scanned together, in bytes.
const BATCH_BYTES: usize = 16 << 20;

/// What part of an evaluation document occurs in training text.
#[derive(Debug, Clone, PartialEq)]
pub struct Overlap {
    /// The document.
    pub name: String,
    /// Its n-grams, repeated ones counted each time.
    pub ngrams: u64,
    /// Those that occur in training text.
    pub found: u64,
}

impl Overlap {
    /// Share of the n-grams that occur in training text; 0 for a document shorter than one.
    pub fn fraction(&self) -> f64 {
        if self.ngrams == 0 { 0.0 } else { self.found as f64 / self.ngrams as f64 }
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, ngrams, found } = self;
        write!(f, "{name}: {found} of {ngrams} n-grams ({:.3} %) occur in the training text", 100.0 * self.fraction())
    }
}

/// What [`text_overlap`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct TextOverlap {
    /// For each held-out document, in order.
    pub overlaps: Vec<Overlap>,
    /// Training documents that could not be compared, since they hold token ids.
    pub uncompared: u64,
}

/// The overlap of each document of `held_out` with all of `training` together, by runs of `words` words.
///
/// # Errors
///
/// As [`documents`], [`DataError::NoText`] for held-out token ids, or [`DataError::Config`] when `words` is 0.
pub fn text_overlap(training: &[SourceSpec], held_out: &SourceSpec, words: usize) -> Result<TextOverlap, DataError> {
    let mut index = NgramIndex::new(&held_out.name, words)?;
    for document in documents(held_out)? {
        let document = document?;
        index.add(document.place.to_string(), &hashed_words(document.text()?));
    }
    let uncompared = AtomicU64::new(0);
    for spec in training {
        let mut all = documents(spec)?;
        loop {
            let batch = batch(&mut all)?;
            if batch.is_empty() {
                break;
            }
            batch.par_iter().for_each(|document| match &document.content {
                Content::Text(text) => index.mark(&hashed_words(text)),
                Content::Ids(_) => drop(uncompared.fetch_add(1, Ordering::Relaxed)),
            });
        }
    }
    Ok(TextOverlap { overlaps: index.overlaps(), uncompared: uncompared.into_inner() })
}

/// The overlap of tokenized documents, by runs of `tokens` tokens; documents are named by their numbers.
///
/// # Errors
///
/// [`DataError::Config`] when `tokens` is 0.
pub fn token_overlap(
    training: &[&dyn Corpus],
    held_out: &dyn Corpus,
    tokens: usize,
) -> Result<Vec<Overlap>, DataError> {
    let units = |corpus: &dyn Corpus, index: u64| -> Vec<u64> {
        let ids = corpus.document(index).map(|tokens| tokens.to_vec()).unwrap_or_default();
        ids.into_iter().map(|id| mixed(u64::from(id) + 1)).collect()
    };
    let mut index = NgramIndex::new("held-out", tokens)?;
    for document in 0..held_out.documents() {
        index.add(format!("document {document}"), &units(held_out, document));
    }
    for &corpus in training {
        (0..corpus.documents()).into_par_iter().for_each(|document| index.mark(&units(corpus, document)));
    }
    Ok(index.overlaps())
}

fn batch(all: &mut super::documents::Documents) -> Result<Vec<Document>, DataError> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES {
        let Some(document) = all.next().transpose()? else { break };
        bytes += document.content.bytes();
        batch.push(document);
    }
    Ok(batch)
}

/// The n-grams of documents, and which of them were met elsewhere.
struct NgramIndex {
    length: usize,
    slots: HashMap<u64, usize>,
    met: Vec<AtomicBool>,
    /// Slots of each document's n-grams, in order.
    documents: Vec<(String, Vec<usize>)>,
}

impl NgramIndex {
    fn new(name: &str, length: usize) -> Result<Self, DataError> {
        if length == 0 {
            return Err(DataError::Config { name: name.to_owned(), what: "n-grams need at least 1 word".to_owned() });
        }
        Ok(Self { length, slots: HashMap::new(), met: Vec::new(), documents: Vec::new() })
    }

    fn add(&mut self, name: String, units: &[u64]) {
        let mut slots = Vec::new();
        for hash in ngrams(units, self.length) {
            slots.push(*self.slots.entry(hash).or_insert_with(|| {
                self.met.push(AtomicBool::new(false));
                self.met.len() - 1
            }));
        }
        self.documents.push((name, slots));
    }

    fn mark(&self, units: &[u64]) {
        for hash in ngrams(units, self.length) {
            if let Some(&slot) = self.slots.get(&hash) {
                self.met[slot].store(true, Ordering::Relaxed);
            }
        }
    }

    fn overlaps(self) -> Vec<Overlap> {
        let met = |slots: &[usize]| slots.iter().filter(|&&slot| self.met[slot].load(Ordering::Relaxed)).count() as u64;
        let of = |(name, slots): &(String, Vec<usize>)| Overlap {
            name: name.clone(),
            ngrams: slots.len() as u64,
            found: met(slots),
        };
        self.documents.iter().map(of).collect()
    }
}

/// Hashes of all runs of `length` units, by a rolling polynomial modulo 2^64 (Karp and Rabin 1987).
fn ngrams(units: &[u64], length: usize) -> impl Iterator<Item = u64> + '_ {
    let leaving = (0..length).fold(1_u64, |power, _| power.wrapping_mul(MULTIPLIER));
    let mut hash = 0_u64;
    let rolled = units.iter().enumerate().map(move |(at, &unit)| {
        hash = hash.wrapping_mul(MULTIPLIER).wrapping_add(unit);
        if at >= length {
            hash = hash.wrapping_sub(units[at - length].wrapping_mul(leaving));
        }
        hash
    });
    rolled.skip(length - 1).map(mixed)
}

/// A hash of each word: letters and digits in lower case.
fn hashed_words(text: &str) -> Vec<u64> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words
        .map(|word| {
            let lower = word.chars().flat_map(char::to_lowercase);
            lower.fold(1, |hash: u64, c| mixed(hash.wrapping_mul(MULTIPLIER).wrapping_add(u64::from(c))))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use proptest::prelude::*;

    use super::super::corpus::MemoryCorpus;
    use super::*;

    /// `count` words, none of them in a text with another `salt`.
    fn words(salt: &str, count: usize) -> String {
        (0..count).map(|n| format!("{salt}{n}")).collect::<Vec<_>>().join(" ")
    }

    fn overlaps(training: &[&str], held_out: &[&str], length: usize) -> Vec<Overlap> {
        let root = tempfile::tempdir().unwrap();
        let spec = |name: &str, texts: &[&str]| {
            let folder = root.path().join(name);
            fs::create_dir(&folder).unwrap();
            for (at, text) in texts.iter().enumerate() {
                fs::write(folder.join(format!("{at}.txt")), text).unwrap();
            }
            SourceSpec::new(name, &[folder], "text")
        };
        let (training, held_out) = (spec("training", training), spec("held-out", held_out));
        text_overlap(&[training], &held_out, length).unwrap().overlaps
    }

    #[test]
    fn a_copied_passage_is_measured_and_the_other_document_is_clean() {
        let shared = words("shared", 20);
        let training = format!("{} {shared} {}", words("t", 40), words("u", 40));
        let copied = format!("{} {shared}", words("e", 30));
        let found = overlaps(&[&training], &[&copied, &words("f", 50)], 13);
        assert_eq!((found[0].ngrams, found[0].found), (50 - 12, 20 - 12));
        assert_eq!((found[1].ngrams, found[1].found), (38, 0));
        assert!(found[0].name.ends_with("0.txt") && found[0].to_string().contains("8 of 38"), "{}", found[0]);
    }

    #[test]
    fn case_punctuation_and_line_ends_do_not_hide_a_copy() {
        let text = words("word", 15);
        let dressed = text.to_uppercase().replace(' ', " --\n\"");
        assert_eq!(overlaps(&[&dressed], &[&text], 13)[0].fraction(), 1.0);
    }

    #[test]
    fn the_same_words_in_another_order_are_no_copy() {
        let text = words("word", 30);
        let turned: Vec<&str> = text.split(' ').rev().collect();
        assert_eq!(overlaps(&[&turned.join(" ")], &[&text], 2)[0].found, 0);
    }

    #[test]
    fn a_run_across_two_training_documents_does_not_count() {
        let text = words("word", 13);
        let (left, right) = text.split_at(text.find("word6").unwrap());
        assert_eq!(overlaps(&[left, right], &[&text], 13)[0].found, 0);
        assert_eq!(overlaps(&[&text], &[&text], 13)[0].found, 1);
    }

    #[test]
    fn documents_shorter_than_an_ngram_have_none() {
        let found = overlaps(&["a b"], &["a b"], 13);
        assert_eq!((found[0].ngrams, found[0].fraction()), (0, 0.0));
    }

    #[test]
    fn token_ids_are_refused_where_text_is_needed() {
        let place = super::super::error::Place { file: std::path::Path::new("a.parquet").into(), record: Some(2) };
        let document = Document { content: Content::Ids(vec![1]), place };
        assert_eq!(
            document.text().unwrap_err().to_string(),
            "a.parquet:2: it holds token ids, but text is needed here"
        );
    }

    proptest! {
        #[test]
        fn tokens_count_as_a_plain_search_counts(
            training in prop::collection::vec(prop::collection::vec(0_u32..3, 0..40), 1..4),
            held_out in prop::collection::vec(0_u32..3, 0..40),
            length in 1_usize..6,
        ) {
            let occurs = |run: &&[u32]| training.iter().any(|document| document.windows(length).any(|other| other == *run));
            let expected = held_out.windows(length).filter(occurs).count() as u64;
            let corpus = MemoryCorpus(training.clone());
            let found = token_overlap(&[&corpus], &MemoryCorpus(vec![held_out.clone()]), length).unwrap();
            prop_assert_eq!(found[0].found, expected);
            prop_assert_eq!(found[0].ngrams, held_out.windows(length).count() as u64);
        }
    }
}
