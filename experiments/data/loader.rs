//! Sequences by number: which source, which epoch, which piece, all a pure function of (sources, packing, seed, number).

use std::sync::Arc;

use super::corpus::Corpus;
use super::error::DataError;
use super::order::{Dealt, Mixture};
use super::packing::{Packed, Packing, Sequence};
use super::rng::CounterRng;
use super::spec::SourceSpec;

/// A source with its tokens.
#[derive(Clone)]
pub struct LoaderSource {
    /// Name, for messages.
    pub name: String,
    /// Its documents.
    pub corpus: Arc<dyn Corpus>,
    /// Share of the sequences, relative to the other sources.
    pub weight: f64,
    /// Documents of fewer tokens are left out.
    pub min_tokens: u64,
}

impl LoaderSource {
    /// The source that `spec` describes, once tokenized.
    pub fn new(spec: &SourceSpec, corpus: Arc<dyn Corpus>) -> Self {
        Self { name: spec.name.clone(), corpus, weight: spec.weight, min_tokens: spec.min_tokens }
    }
}

/// What a source gives to training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSummary {
    /// Name of the source.
    pub name: String,
    /// Documents that take part.
    pub documents: u64,
    /// Their tokens, with bos and eos.
    pub tokens: u64,
    /// Sequences in one epoch of it.
    pub sequences: u64,
}

/// Training sequences, numbered from 0 without end.
pub struct Loader {
    sources: Vec<(String, Packed)>,
    mixture: Mixture,
    packing: Packing,
    fingerprint: String,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("packing", &self.packing)
            .field("sources", &self.summary())
            .finish_non_exhaustive()
    }
}

impl Loader {
    /// Sequences of `sources`, mixed by weight.
    ///
    /// # Errors
    ///
    /// [`DataError::TooSmall`] or [`DataError::TooShort`] when a source cannot fill one sequence; [`DataError::Config`]
    /// for weights, lengths and names that make no sense.
    pub fn new(sources: Vec<LoaderSource>, packing: Packing, seed: u64) -> Result<Self, DataError> {
        if sources.is_empty() {
            return Err(DataError::Config { name: String::new(), what: "there is no source to load from".to_owned() });
        }
        let rng = CounterRng::new(seed).stream("loader");
        let weights: Vec<(&str, f64)> = sources.iter().map(|source| (source.name.as_str(), source.weight)).collect();
        let mixture = Mixture::new(&weights, rng.stream("mixture"))?;
        let fingerprint = fingerprint(&sources, &packing);
        let mut packed = Vec::with_capacity(sources.len());
        for (at, LoaderSource { name, corpus, min_tokens, .. }) in sources.into_iter().enumerate() {
            // By place and not by name: names may repeat.
            let rng = rng.stream("source").stream(&at.to_string());
            packed.push((name.clone(), Packed::new(&name, corpus, min_tokens, packing, rng)?));
        }
        Ok(Self { sources: packed, mixture, packing, fingerprint })
    }

    /// Sequence `number`, whenever and from whichever thread it is asked for.
    pub fn sequence(&self, number: u64) -> Sequence {
        let Dealt { source, index } = self.mixture.deal(number);
        self.sources[source].1.sequence(index)
    }

    /// Where sequence `number` comes from: the name of its source and the epoch of that source.
    pub fn origin(&self, number: u64) -> (&str, u64) {
        let Dealt { source, index } = self.mixture.deal(number);
        let (name, packed) = &self.sources[source];
        (name, index / packed.count())
    }

    /// Sequences in one epoch of every source together.
    pub fn len(&self) -> u64 {
        self.sources.iter().map(|(_, packed)| packed.count()).sum()
    }

    /// Never: a loader has a sequence or is not made.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How documents become sequences.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// What each source gives.
    pub fn summary(&self) -> Vec<SourceSummary> {
        let of = |(name, packed): &(String, Packed)| SourceSummary {
            name: name.clone(),
            documents: packed.documents(),
            tokens: packed.tokens(),
            sequences: packed.count(),
        };
        self.sources.iter().map(of).collect()
    }

    /// Hash of everything but the seed that decides which sequences come up: tokens, weights, selection, packing. Equal
    /// before and after a resume, or the resumed run would train on something else.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

fn fingerprint(sources: &[LoaderSource], packing: &Packing) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("loader 1 {packing:?}").as_bytes());
    for LoaderSource { name, corpus, weight, min_tokens } in sources {
        let line = format!("\n{name:?} {} {:016x} {min_tokens}", corpus.hash(), weight.to_bits());
        hasher.update(line.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
