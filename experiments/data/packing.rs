//! Sequences of one length out of documents of any length.
//!
//! Either all documents of an epoch are joined to one stream, closed to a ring, and cut every `length` tokens from a
//! drawn place on; or each document that is long enough gives one piece from a drawn place. Sequences carry one token
//! more than `length`: inputs are all but the last, targets all but the first. In the ring every token is a target at
//! most once an epoch, and all are but a rest shorter than one sequence.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::corpus::Corpus;
use super::error::DataError;
use super::order::Permutation;
use super::rng::CounterRng;

/// How documents become sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Packing {
    /// Predicted tokens of a sequence.
    pub length: usize,
    /// How documents are cut.
    #[serde(default)]
    pub mode: Mode,
    /// Id put before each document.
    #[serde(default)]
    pub bos: Option<u32>,
    /// Id put behind each document.
    #[serde(default)]
    pub eos: Option<u32>,
    /// What a sequence begins with.
    #[serde(default)]
    pub start: SequenceStart,
}

/// How documents are cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Joined, then cut wherever a sequence ends.
    #[default]
    Stream,
    /// One piece of each document that is long enough; shorter ones are left out.
    Whole,
}

/// What a sequence begins with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SequenceStart {
    /// Whatever token stands there.
    #[default]
    AsCut,
    /// The bos id, in place of that token. It is only context there: no target is lost.
    Bos,
}

/// A training sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids, `length + 1` of them.
    pub tokens: Vec<u32>,
    /// Where documents start among the inputs, ascending; the first is 0, even where a document was cut there.
    pub starts: Vec<u32>,
}

/// The documents of one source that take part, ready to be cut.
pub(super) struct Packed {
    packing: Packing,
    corpus: Arc<dyn Corpus>,
    /// Numbers of the documents that take part.
    kept: Vec<u64>,
    /// Tokens of all that take part, with bos and eos.
    total: u64,
    count: u64,
    rng: CounterRng,
    /// The rings of the epochs last asked for, latest last.
    rings: Mutex<Vec<(u64, Arc<Ring>)>>,
}

/// The stream of one epoch.
struct Ring {
    /// Documents in the order of this epoch.
    order: Vec<u64>,
    /// Where each of them ends.
    ends: Vec<u64>,
    /// Where the first sequence starts.
    phase: u64,
}

/// Rings that are kept; more than the current one, since sources in a mixture cross an epoch's end at different times.
const RINGS: usize = 2;

impl Packed {
    /// Selects documents of at least `min_tokens`.
    pub(super) fn new(
        name: &str,
        corpus: Arc<dyn Corpus>,
        min_tokens: u64,
        packing: Packing,
        rng: CounterRng,
    ) -> Result<Self, DataError> {
        let wrong = |what: &str| DataError::Config { name: name.to_owned(), what: what.to_owned() };
        if packing.length == 0 {
            return Err(wrong("sequences need a length of at least 1 token"));
        }
        if packing.start == SequenceStart::Bos && packing.bos.is_none() {
            return Err(wrong("sequences are to begin with bos, but no bos id is given"));
        }
        let (needed, framing) = (packing.length as u64 + 1, framing(&packing));
        let least = match packing.mode {
            Mode::Stream => min_tokens.max(1),
            Mode::Whole => min_tokens.max(needed.saturating_sub(framing)),
        };
        let lengths: Vec<u64> = (0..corpus.documents()).map(|index| corpus.length(index)).collect();
        let kept: Vec<u64> = (0..corpus.documents()).filter(|&index| lengths[index as usize] >= least).collect();
        if kept.is_empty() {
            let longest = lengths.iter().copied().max().unwrap_or(0);
            return Err(DataError::TooShort {
                name: name.to_owned(),
                documents: corpus.documents(),
                longest,
                needed: least,
            });
        }
        let total: u64 = kept.iter().map(|&index| lengths[index as usize] + framing).sum();
        if total < needed {
            return Err(DataError::TooSmall {
                name: name.to_owned(),
                documents: kept.len() as u64,
                tokens: total,
                needed,
            });
        }
        let count = match packing.mode {
            Mode::Stream => total / packing.length as u64,
            Mode::Whole => kept.len() as u64,
        };
        Ok(Self { packing, corpus, kept, total, count, rng, rings: Mutex::new(Vec::new()) })
    }

    /// Sequences in an epoch.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Documents that take part.
    pub(super) fn documents(&self) -> u64 {
        self.kept.len() as u64
    }

    /// Tokens of the documents that take part, with bos and eos.
    pub(super) fn tokens(&self) -> u64 {
        self.total
    }

    /// Sequence `index`, counted over all epochs.
    pub(super) fn sequence(&self, index: u64) -> Sequence {
        let (epoch, within) = (index / self.count, index % self.count);
        let place = Permutation::new(self.count, self.of_epoch("sequences", epoch)).at(within);
        let mut sequence = match self.packing.mode {
            Mode::Stream => self.cut(&self.ring(epoch), place),
            Mode::Whole => self.crop(epoch, self.kept[place as usize]),
        };
        if let (SequenceStart::Bos, Some(bos)) = (self.packing.start, self.packing.bos) {
            sequence.tokens[0] = bos;
        }
        sequence
    }

    fn of_epoch(&self, name: &str, epoch: u64) -> CounterRng {
        self.rng.stream(name).stream(&epoch.to_string())
    }

    /// Sequence number `place` of a ring.
    fn cut(&self, ring: &Ring, place: u64) -> Sequence {
        let wanted = self.packing.length + 1;
        let mut at = (ring.phase + place * self.packing.length as u64) % self.total;
        let mut document = ring.ends.partition_point(|&end| end <= at);
        let mut tokens = Vec::with_capacity(wanted);
        let mut starts = vec![0];
        while tokens.len() < wanted {
            let begin = if document == 0 { 0 } else { ring.ends[document - 1] };
            if at == begin && !tokens.is_empty() && tokens.len() < self.packing.length {
                starts.push(tokens.len() as u32);
            }
            self.append(ring.order[document], at - begin, wanted - tokens.len(), &mut tokens);
            document = (document + 1) % ring.order.len();
            at = if document == 0 { 0 } else { ring.ends[document - 1] };
        }
        Sequence { tokens, starts }
    }

    /// A piece of one document from a drawn place.
    fn crop(&self, epoch: u64, document: u64) -> Sequence {
        let wanted = self.packing.length + 1;
        let length = self.corpus.length(document) + framing(&self.packing);
        let from = self.of_epoch("crops", epoch).below(document, length - wanted as u64 + 1);
        let mut tokens = Vec::with_capacity(wanted);
        self.append(document, from, wanted, &mut tokens);
        Sequence { tokens, starts: vec![0] }
    }

    /// Appends up to `most` tokens of a document with its bos and eos, from `from` on.
    fn append(&self, document: u64, from: u64, most: usize, out: &mut Vec<u32>) {
        let end = out.len() + most;
        let before = self.packing.bos.map_or(0, |_| 1);
        if let (Some(bos), 0) = (self.packing.bos, from) {
            out.push(bos);
        }
        // `kept` holds numbers of this corpus alone, so the document is there.
        if let Some(tokens) = self.corpus.document(document) {
            let from = (from.max(before) - before).min(tokens.len() as u64) as usize;
            tokens.slice(from..tokens.len().min(from + end - out.len())).append_to(out);
        }
        if let (Some(eos), true) = (self.packing.eos, out.len() < end) {
            out.push(eos);
        }
    }

    fn ring(&self, epoch: u64) -> Arc<Ring> {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, ring)) = rings.iter().find(|(of, _)| *of == epoch) {
            return Arc::clone(ring);
        }
        let ring = Arc::new(self.new_ring(epoch));
        if rings.len() == RINGS {
            rings.remove(0);
        }
        rings.push((epoch, Arc::clone(&ring)));
        ring
    }

    fn new_ring(&self, epoch: u64) -> Ring {
        let shuffled = Permutation::new(self.kept.len() as u64, self.of_epoch("documents", epoch));
        let order: Vec<u64> = (0..self.kept.len() as u64).map(|place| self.kept[shuffled.at(place) as usize]).collect();
        let mut end = 0;
        let ends = order.iter().map(|&document| {
            end += self.corpus.length(document) + framing(&self.packing);
            end
        });
        Ring { ends: ends.collect(), order, phase: self.rng.stream("phases").below(epoch, self.total) }
    }
}

/// Tokens that are put around a document.
fn framing(packing: &Packing) -> u64 {
    u64::from(packing.bos.is_some()) + u64::from(packing.eos.is_some())
}
