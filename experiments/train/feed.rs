//! Sequences for training: documents and made text, dealt by the shares of a stage.

use std::collections::BTreeMap;

use eval::TextCodec;
use eval::tasks::passkey::{Generator, Variant};

use super::synthetic::{Draws, keyed, repeated};
use crate::config::{SkipPositions, Source, SourceKind, Stage};
use crate::data::rng::CounterRng;
use crate::data::{Dealt, Loader, Mixture, skip_positions};
use crate::error::Failure;

/// First id that made text draws from: the ones below are special tokens of the bundled tokenizers.
const FIRST_ORDINARY_ID: u32 = 3;
/// Shortest made passkey text in a longer sequence, in tokens.
const PASSKEY_FLOOR: usize = 48;

/// One training sequence of `length + 1` tokens: inputs are all but the last, targets all but the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Where documents start, the first at 0.
    pub starts: Vec<usize>,
    /// Targets before this token are not counted: those of a first, random block cannot be known.
    pub counted_from: usize,
    /// Positions of the inputs, where they are not 0, 1, 2, ..
    pub positions: Option<Vec<u32>>,
}

impl Sequence {
    /// How many of its `length` targets are counted.
    pub fn counted(&self, length: usize) -> usize {
        length + 1 - self.counted_from.clamp(1, length + 1)
    }
}

/// What a feed needs beside its sources.
#[derive(Clone, Copy)]
pub struct Materials<'a> {
    /// Text to ids.
    pub codec: &'a dyn TextCodec,
    /// Id that begins a document.
    pub bos: Option<u32>,
    /// Rows of the vocabulary.
    pub vocab: usize,
    /// Seed of the run.
    pub seed: u64,
}

/// The sequences of one stage, numbered from 0.
pub struct Feed<'a> {
    materials: Materials<'a>,
    length: usize,
    mix: Mixture,
    drawn: Vec<Drawn<'a>>,
    skips: Option<(SkipPositions, CounterRng)>,
}

/// One source of a stage.
struct Drawn<'a> {
    name: &'a str,
    kind: SourceKind,
    loader: Option<&'a Loader>,
}

impl<'a> Feed<'a> {
    /// The sequences of `stage`, number `index` of the run; `loaders` holds text by source name at this length.
    ///
    /// # Errors
    ///
    /// When a share is too small to come up.
    pub fn new(
        materials: Materials<'a>,
        sources: &'a [Source],
        stage: &Stage,
        index: usize,
        loaders: &'a BTreeMap<String, Loader>,
    ) -> Result<Self, Failure> {
        let in_mix = || sources.iter().filter_map(|source| stage.mix.get(&source.name).map(|&weight| (source, weight)));
        let weights: Vec<(&str, f64)> = in_mix().map(|(source, weight)| (source.name.as_str(), weight)).collect();
        let drawn = in_mix()
            .map(|(source, _)| Drawn { name: &source.name, kind: source.kind, loader: loaders.get(&source.name) })
            .collect();
        let materials = Materials { seed: materials.seed.wrapping_add(index as u64), ..materials };
        let rng = CounterRng::new(materials.seed);
        let mix = Mixture::new(&weights, rng.stream("mix"))?;
        let skips = stage.skip_positions.map(|skip| (skip, rng.stream("skip-positions")));
        Ok(Self { materials, length: stage.length, mix, drawn, skips })
    }

    /// That every source can fill a sequence of this stage.
    ///
    /// # Errors
    ///
    /// When a passkey text does not fit.
    pub fn check(&self) -> Result<(), Failure> {
        match self.drawn.iter().any(|drawn| matches!(drawn.kind, SourceKind::Passkey | SourceKind::Passkeys)) {
            true => self.generator().map(drop),
            false => Ok(()),
        }
    }

    /// Sequence `number`: the same whenever it is asked for.
    ///
    /// # Errors
    ///
    /// When a document cannot be read or the tokenizer fails.
    pub fn sequence(&self, number: u64) -> Result<Sequence, Failure> {
        let sequence = self.unmoved(number)?;
        let positions = self
            .skips
            .as_ref()
            .map(|(SkipPositions { target, chunks }, rng)| skip_positions(rng, number, self.length, *target, *chunks));
        Ok(Sequence { positions, ..sequence })
    }

    /// The same at positions 0, 1, 2, ..
    fn unmoved(&self, number: u64) -> Result<Sequence, Failure> {
        let Dealt { source, index } = self.mix.deal(number);
        let Drawn { name, kind, loader } = &self.drawn[source];
        let Materials { codec, vocab, seed, .. } = self.materials;
        let wanted = self.length + 1;
        let mut draws = Draws::new(seed, name, index);
        let tokens = match (kind, loader) {
            (SourceKind::Text, Some(loader)) => return self.text(loader, index),
            (SourceKind::Text, None) => return Err(Failure::config(format!("source {name:?} has no documents"))),
            (SourceKind::Repeat, _) => {
                let (tokens, block) = repeated(&mut draws, wanted, FIRST_ORDINARY_ID, vocab as u32);
                return Ok(Sequence { tokens, starts: vec![0], counted_from: block, positions: None });
            }
            (SourceKind::Keys, _) => keyed(&mut draws, codec, wanted)?,
            (SourceKind::Passkey, haystack) => self.passkey(&mut draws, *haystack, wanted)?,
            (SourceKind::Passkeys, haystack) => self.passkeys(&mut draws, *haystack, wanted)?,
        };
        Ok(Sequence { tokens, starts: vec![0], counted_from: 0, positions: None })
    }

    fn text(&self, loader: &Loader, index: u64) -> Result<Sequence, Failure> {
        let sequence = loader.sequence(index);
        let starts = sequence.starts.iter().map(|&start| start as usize).collect();
        Ok(Sequence { tokens: sequence.tokens, starts, counted_from: 0, positions: None })
    }

    /// What makes passkey texts, which fit the stage's length, and the least tokens of one.
    fn generator(&self) -> Result<(Generator<'a>, usize), Failure> {
        let Materials { codec, bos, .. } = self.materials;
        let generator = Generator::new(codec, Variant::Bowline, bos).map_err(|e| Failure::config(e.to_string()))?;
        let least = generator.least_length().map_err(|e| Failure::config(e.to_string()))?.max(PASSKEY_FLOOR);
        match self.length + 1 < least {
            true => Err(Failure::config(format!(
                "stage.length: a passkey text needs at least {}, is {}",
                least - 1,
                self.length
            ))),
            false => Ok((generator, least)),
        }
    }

    /// One passkey text of exactly `wanted` tokens; its haystack is text half of the time when there is any.
    fn passkey(&self, draws: &mut Draws, haystack: Option<&Loader>, wanted: usize) -> Result<Vec<u32>, Failure> {
        let generator = self.generator()?.0;
        let (depth, seed) = (draws.uniform(), draws.below(u64::MAX));
        let sample = match haystack {
            Some(loader) if draws.below(2) == 0 => {
                let text = loader.sequence(draws.below(loader.len().max(1))).tokens;
                generator.sample_in(&text, wanted, depth, seed)
            }
            _ => generator.sample(wanted, depth, seed),
        };
        let sample = sample.map_err(|e| Failure::config(e.to_string()))?;
        Ok(sample.tokens.iter().chain(&sample.answer).copied().collect())
    }

    /// Passkey texts of drawn lengths, one behind another, `wanted` tokens in all. Half of the sequences hold one alone.
    fn passkeys(&self, draws: &mut Draws, haystack: Option<&Loader>, wanted: usize) -> Result<Vec<u32>, Failure> {
        let least = self.generator()?.1;
        let mut tokens = Vec::with_capacity(wanted);
        let alone = draws.below(2) == 0;
        while tokens.len() < wanted {
            let left = wanted - tokens.len();
            let length = match alone || left < 2 * least {
                true => left,
                false => least + draws.below((left - 2 * least + 1) as u64) as usize,
            };
            tokens.extend(self.passkey(draws, haystack, length)?);
        }
        Ok(tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    fn sequences(kind: &str, length: usize) -> Vec<Sequence> {
        sequences_of(kind, &format!("length = {length}"))
    }

    fn sequences_of(kind: &str, stage: &str) -> Vec<Sequence> {
        let codec = Tokenizer::from_file(&crate::assets::tokenizer().join("tokenizer.json"), 2048).unwrap();
        let source: Source = toml::from_str(&format!("name = \"made\"\nkind = \"{kind}\"")).unwrap();
        let stage: Stage = toml::from_str(&format!("{stage}\nbatch = 1\nsteps = 1\nmix = {{ made = 1.0 }}")).unwrap();
        let materials = Materials { codec: &codec, bos: Some(0), vocab: 2048, seed: 1 };
        let (sources, loaders) = ([source], BTreeMap::new());
        let feed = Feed::new(materials, &sources, &stage, 0, &loaders).unwrap();
        (0..20).map(|number| feed.sequence(number).unwrap()).collect()
    }

    #[test]
    fn made_text_fills_a_sequence_exactly_and_replays() {
        for kind in ["repeat", "keys", "passkey", "passkeys"] {
            let made = sequences(kind, 128);
            assert!(made.iter().all(|sequence| sequence.tokens.len() == 129), "{kind}");
            assert_eq!(made, sequences(kind, 128), "{kind}");
            assert_ne!(made[0], made[1], "{kind}");
        }
    }

    #[test]
    fn skipped_positions_leave_the_text_as_it_is() {
        let skip = "length = 64\nskip_positions = { target = 256 }";
        let (plain, skipped) = (sequences("repeat", 64), sequences_of("repeat", skip));
        for (plain, skipped) in plain.iter().zip(&skipped) {
            assert_eq!((&plain.tokens, plain.counted_from), (&skipped.tokens, skipped.counted_from));
            let positions = skipped.positions.as_ref().unwrap();
            assert!(plain.positions.is_none() && positions.len() == 64 && positions[63] < 256);
        }
        assert_ne!(skipped[0].positions, skipped[1].positions);
        assert_eq!(skipped, sequences_of("repeat", skip));
    }

    #[test]
    fn passkey_texts_of_drawn_lengths_share_a_sequence() {
        let texts = |kind| -> Vec<usize> {
            sequences(kind, 256).iter().map(|s| s.tokens.iter().filter(|&&id| id == 0).count()).collect()
        };
        assert!(texts("passkey").iter().all(|&count| count == 1));
        assert!(texts("passkeys").iter().any(|&count| count > 1) && texts("passkeys").contains(&1));
    }

    #[test]
    fn targets_before_the_first_repetition_are_not_counted() {
        for sequence in sequences("repeat", 64) {
            assert_eq!(sequence.counted(64), 65 - sequence.counted_from);
            assert!(sequence.counted(64) >= 32);
        }
    }
}
