//! Where haystacks come from: the user's texts, a seeded grammar, or the published filler.

use super::grammar;
use super::sentences::sentences;
use crate::error::TaskError;
use crate::model::{ModelError, TextCodec};
use crate::rng::{SplitMix64, mixed_seed};

/// The filler of the published passkey tests and of RULER's noise haystack: five short sentences, repeated.
pub(crate) const FILLER: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/// Sentences to hide things between; read in a circle.
#[derive(Debug, Clone, PartialEq)]
pub struct Haystack {
    sentences: Vec<String>,
}

impl Haystack {
    /// The sentences of `texts`, in order.
    ///
    /// # Errors
    ///
    /// [`TaskError::EmptyHaystack`] when there is no word in them.
    pub fn from_texts<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Result<Self, TaskError> {
        let sentences: Vec<String> = texts.into_iter().flat_map(|text| sentences(text.as_ref())).collect();
        if sentences.is_empty() { Err(TaskError::EmptyHaystack) } else { Ok(Self { sentences }) }
    }

    /// `count` sentences (at least one) of plain English prose from a seed, without digits.
    #[must_use]
    pub fn generated(seed: u64, count: usize) -> Self {
        let mut rng = SplitMix64::new(mixed_seed(&[seed, 0x68_6179]));
        Self { sentences: (0..count.max(1)).map(|_| grammar::sentence(&mut rng)).collect() }
    }

    /// The filler of the published passkey tests.
    #[must_use]
    pub fn filler() -> Self {
        Self { sentences: sentences(FILLER) }
    }

    /// Its sentences.
    #[must_use]
    pub fn sentences(&self) -> &[String] {
        &self.sentences
    }

    /// The first `count` words, cut into sentences, beginning again at the end; the last sentence may be cut short.
    pub(crate) fn first_words(&self, count: usize) -> Vec<String> {
        let (mut left, mut taken) = (count, Vec::new());
        for sentence in self.sentences.iter().cycle() {
            if left == 0 {
                break;
            }
            let words = sentence.split(' ').count();
            if words <= left {
                taken.push(sentence.clone());
                left -= words;
            } else {
                taken.push(sentence.split(' ').take(left).collect::<Vec<_>>().join(" "));
                left = 0;
            }
        }
        taken
    }

    /// As tokens; `joint` separates the sentences.
    pub(crate) fn encoded(&self, codec: &dyn TextCodec, joint: &str) -> Result<TokenStream, ModelError> {
        let (mut tokens, mut ends) = (Vec::new(), Vec::new());
        for sentence in &self.sentences {
            tokens.extend(codec.encode(&format!("{joint}{sentence}"))?);
            ends.push(tokens.len());
        }
        ends.dedup();
        Ok(TokenStream { tokens, ends })
    }
}

/// A haystack in tokens, read in a circle, which knows where its sentences end.
#[derive(Debug, Clone)]
pub(crate) struct TokenStream {
    tokens: Vec<u32>,
    /// Ends of sentences: the token after a sentence's last one; the last end is the length of the stream.
    ends: Vec<usize>,
}

/// A stretch of a stream and the places in it at which a sentence ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stretch {
    pub(crate) tokens: Vec<u32>,
    pub(crate) ends: Vec<usize>,
}

impl TokenStream {
    /// A sentence's end that the seed chooses.
    pub(crate) fn some_end(&self, rng: &mut SplitMix64) -> usize {
        self.ends.get(rng.below(self.ends.len())).copied().unwrap_or(0)
    }

    /// A sentence of exactly `count` tokens that the seed chooses; nothing for 0, none where no sentence has that size.
    pub(crate) fn sentence_of(&self, count: usize, rng: &mut SplitMix64) -> Option<Vec<u32>> {
        if count == 0 {
            return Some(Vec::new());
        }
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let fitting: Vec<usize> =
            starts.zip(&self.ends).filter(|&(start, &end)| end - start == count).map(|(start, _)| start).collect();
        let &start = fitting.get(rng.below(fitting.len()))?;
        Some(self.tokens[start..start + count].to_vec())
    }

    /// The `count` tokens before the token `end`.
    ///
    /// # Errors
    ///
    /// [`TaskError::EmptyFiller`] when tokens are needed and there are none.
    pub(crate) fn before(&self, end: usize, count: usize) -> Result<Stretch, TaskError> {
        let length = self.tokens.len().max(1);
        self.after((end + length - count % length) % length, count)
    }

    /// The `count` tokens from the token `start` on.
    ///
    /// # Errors
    ///
    /// [`TaskError::EmptyFiller`] when tokens are needed and there are none.
    pub(crate) fn after(&self, start: usize, count: usize) -> Result<Stretch, TaskError> {
        let tokens = super::filled(&self.tokens, start, count)?;
        if count == 0 {
            return Ok(Stretch::default());
        }
        let length = self.tokens.len();
        let start = start % length;
        let first = self.ends.partition_point(|&end| end <= start);
        let coming = (0..).flat_map(|turn| self.ends.iter().map(move |end| turn * length + end)).skip(first);
        let ends = coming.map(|end| end - start).take_while(|&end| end <= count).collect();
        Ok(Stretch { tokens, ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::ByteCodec;

    #[test]
    fn the_same_seed_gives_the_same_haystack_and_no_digit() {
        let haystack = Haystack::generated(7, 500);
        assert_eq!(haystack, Haystack::generated(7, 500));
        assert_ne!(haystack, Haystack::generated(8, 500));
        let mut all: Vec<&String> = haystack.sentences().iter().collect();
        assert!(all.iter().all(|s| s.ends_with('.') && !s.contains(|c: char| c.is_ascii_digit())));
        all.sort();
        all.dedup();
        assert!(all.len() > 495, "sentences hardly ever repeat: {}", all.len());
        let text = haystack.sentences().join(" ");
        assert_eq!(Haystack::from_texts([text]).unwrap(), haystack, "each is one sentence to the splitter");
    }

    #[test]
    fn texts_without_words_are_refused() {
        assert_eq!(Haystack::from_texts([" \n", ""]), Err(TaskError::EmptyHaystack));
    }

    #[test]
    fn first_words_begin_again_and_end_exactly() {
        let haystack = Haystack::from_texts(["One two. Three four five."]).unwrap();
        assert_eq!(haystack.first_words(4), ["One two.", "Three four"]);
        assert_eq!(haystack.first_words(6), ["One two.", "Three four five.", "One"]);
        assert!(haystack.first_words(0).is_empty());
    }

    #[test]
    fn stretches_know_where_sentences_end() {
        let stream = Haystack::from_texts(["Ab. Cde."]).unwrap().encoded(&ByteCodec, " ").unwrap();
        let text = |stretch: &Stretch| ByteCodec.decode(&stretch.tokens).unwrap();
        // " Ab. Cde.": ends at 4 and 9.
        let after = stream.after(4, 12).unwrap();
        assert_eq!((text(&after).as_str(), after.ends.as_slice()), (" Cde. Ab. Cd", [5, 9].as_slice()));
        let before = stream.before(4, 6).unwrap();
        assert_eq!((text(&before).as_str(), before.ends.as_slice()), ("e. Ab.", [2, 6].as_slice()));
        assert!(stream.after(3, 0).unwrap().tokens.is_empty());
        let mut rng = SplitMix64::new(1);
        let sentence = |count| Some(ByteCodec.decode(&stream.sentence_of(count, &mut rng)?).unwrap());
        assert_eq!([0, 4, 5, 6].map(sentence), [Some("".into()), Some(" Ab.".into()), Some(" Cde.".into()), None]);
        let whole = stream.before(9, 9).unwrap();
        assert_eq!((text(&whole).as_str(), whole.ends.as_slice()), (" Ab. Cde.", [4, 9].as_slice()));
    }
}
