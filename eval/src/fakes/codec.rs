//! Tokenizers without a vocabulary file.

use std::sync::Mutex;

use crate::model::{ModelError, TextCodec};

/// One token a byte; id 256 is free for a bos.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByteCodec;

impl ByteCodec {
    /// An id that no byte has.
    pub const BOS: u32 = 256;
}

impl TextCodec for ByteCodec {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        let bytes = tokens
            .iter()
            .filter(|&&token| token != Self::BOS)
            .map(|&token| u8::try_from(token).map_err(|_| ModelError(format!("no byte has the id {token}"))))
            .collect::<Result<Vec<u8>, _>>()?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Words, single digits, single punctuation marks; ids are given in order of appearance, from 1 on (0 is free for a bos).
///
/// A space belongs to the word after it, as in byte-level BPE; a space before a digit is a token of its own.
#[derive(Debug, Default)]
pub struct WordCodec {
    words: Mutex<Vec<String>>,
    space_first: bool,
}

impl WordCodec {
    /// An id that no word has.
    pub const BOS: u32 = 0;

    /// A codec that puts a space in front of every text, as SentencePiece does for LLaMA.
    #[must_use]
    pub fn with_space_first() -> Self {
        Self { words: Mutex::default(), space_first: true }
    }

    fn id(&self, word: &str) -> u32 {
        let mut words = self.words.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = words.iter().position(|w| w == word);
        let index = known.unwrap_or_else(|| {
            words.push(word.to_owned());
            words.len() - 1
        });
        index as u32 + 1
    }
}

impl TextCodec for WordCodec {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        if self.space_first && !text.is_empty() {
            return Ok(pieces(&format!(" {text}")).iter().map(|piece| self.id(piece)).collect());
        }
        Ok(pieces(text).iter().map(|piece| self.id(piece)).collect())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        let words = self.words.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tokens
            .iter()
            .filter(|&&token| token != Self::BOS)
            .map(|&token| {
                let word = words.get(token as usize - 1);
                word.cloned().ok_or_else(|| ModelError(format!("no word has the id {token}")))
            })
            .collect()
    }
}

fn pieces(text: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for c in text.chars() {
        match pieces.last_mut() {
            Some(last) if c.is_alphabetic() && last.chars().all(|l| l.is_alphabetic() || l == ' ') => last.push(c),
            _ => pieces.push(c.to_string()),
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_space_and_digits_stand_alone() {
        assert_eq!(pieces("The key is 42."), ["The", " key", " is", " ", "4", "2", "."]);
    }

    #[test]
    fn codecs_read_back_what_they_wrote() {
        let codecs: [&dyn TextCodec; 2] = [&ByteCodec, &WordCodec::default()];
        for codec in codecs {
            let text = "The key is 42. No, 43!";
            assert_eq!(codec.decode(&codec.encode(text).unwrap()).unwrap(), text);
        }
    }

    #[test]
    fn unknown_ids_are_errors() {
        assert!(ByteCodec.decode(&[257]).is_err());
        assert!(WordCodec::default().decode(&[9]).is_err());
    }
}
