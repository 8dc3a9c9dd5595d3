//! Training a small byte-level BPE vocabulary, so that a model can be made from nothing but text.
//!
//! Text is cut by single digits, then by the GPT-2 pattern, and each piece is merged byte pair by byte pair (Sennrich
//! et al. 2016, in the byte form of Radford et al. 2019). Every byte is in the alphabet, so no text is unknown; a
//! number is as many tokens as it has digits, so an n-digit passkey has a fixed width. There is no post-processor:
//! whoever encodes adds [`BOS`] and [`EOS`].

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerBuilder,
};

/// The token that opens a document; id 0.
pub const BOS: &str = "<s>";
/// The token that closes a document; id 1.
pub const EOS: &str = "</s>";
/// The token that fills a batch; id 2.
pub const PAD: &str = "<pad>";
/// The smallest vocabulary: the three special tokens and one token for each byte.
pub const SMALLEST_VOCAB: usize = 3 + 256;

/// Why a vocabulary could not be trained.
#[derive(Debug, thiserror::Error)]
pub enum BpeError {
    /// The bytes and the special tokens alone need more room.
    #[error(
        "a byte-level vocabulary has at least {SMALLEST_VOCAB} tokens (3 special, 256 bytes), but {asked} were asked for"
    )]
    TooFew {
        /// The size that was asked for.
        asked: usize,
    },
    /// The text has fewer mergeable pairs than the vocabulary needs.
    #[error("the text gives a vocabulary of {got} tokens, but {asked} were asked for; use more text or fewer tokens")]
    TooLittleText {
        /// The size that was asked for.
        asked: usize,
        /// The size that the text supports.
        got: usize,
    },
    /// The tokenizer library refused.
    #[error("training the vocabulary failed: {0}")]
    Library(String),
}

impl From<tokenizers::Error> for BpeError {
    fn from(error: tokenizers::Error) -> Self {
        Self::Library(error.to_string())
    }
}

/// The two files that make a tokenizer loadable here and by transformers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainedTokenizer {
    /// Contents of `tokenizer.json`.
    pub tokenizer_json: String,
    /// Contents of `tokenizer_config.json`.
    pub tokenizer_config_json: String,
    /// Tokens in the vocabulary, the special ones included.
    pub vocab_size: usize,
}

/// Trains a vocabulary of exactly `vocab_size` tokens on `texts`; `context_tokens` is written as the model's maximum
/// length. The result depends on the texts alone: not on their order, the thread count or the run.
///
/// # Errors
///
/// [`BpeError::TooFew`] below [`SMALLEST_VOCAB`]; [`BpeError::TooLittleText`] when the text has too few pairs.
pub fn train_bpe<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    vocab_size: usize,
    context_tokens: usize,
) -> Result<TrainedTokenizer, BpeError> {
    if vocab_size < SMALLEST_VOCAB {
        return Err(BpeError::TooFew { asked: vocab_size });
    }
    let mut tokenizer =
        TokenizerBuilder::<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>::new()
            .with_model(BPE::default())
            .with_pre_tokenizer(Some(cutter()))
            .with_decoder(Some(byte_level().into()))
            .build()?;
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(vocab_size)
        .min_frequency(2)
        .special_tokens([BOS, EOS, PAD].map(|text| AddedToken::from(text, true)).to_vec())
        .initial_alphabet(alphabet())
        .build();
    let texts: Vec<&str> = texts.into_iter().collect();
    tokenizer.train(&mut trainer, texts.into_iter())?;
    let got = tokenizer.get_vocab_size(true);
    if got != vocab_size {
        return Err(BpeError::TooLittleText { asked: vocab_size, got });
    }
    let mut tokenizer_json = tokenizer.to_string(true)?;
    tokenizer_json.push('\n');
    Ok(TrainedTokenizer { tokenizer_json, tokenizer_config_json: config_json(context_tokens), vocab_size })
}

/// Single digits first, then words with their leading space.
fn cutter() -> PreTokenizerWrapper {
    PreTokenizerWrapper::Sequence(Sequence::new(vec![
        PreTokenizerWrapper::Digits(Digits::new(true)),
        PreTokenizerWrapper::ByteLevel(byte_level()),
    ]))
}

fn byte_level() -> ByteLevel {
    ByteLevel::new(false, true, true)
}

/// The 256 characters that stand for bytes, in no particular order (the trainer sorts them).
fn alphabet() -> HashSet<char> {
    ByteLevel::alphabet().into_iter().collect()
}

/// What transformers' `AutoTokenizer` needs beside `tokenizer.json`.
fn config_json(context_tokens: usize) -> String {
    let mut added = Map::new();
    for (id, text) in [BOS, EOS, PAD].iter().enumerate() {
        let token = json!({
            "content": text, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true
        });
        added.insert(id.to_string(), token);
    }
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": context_tokens,
        "clean_up_tokenization_spaces": false,
        "added_tokens_decoder": Value::Object(added),
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::str::FromStr;

    use tokenizers::Tokenizer;

    use super::*;

    const TEXT: &str =
        "the cat sat on the mat, and then the other cat sat there with that hat; 1914 and 1960 were years.
        When the first cat left, the second cat stayed; whether it rained or not, they gathered together.";

    fn trained() -> TrainedTokenizer {
        train_bpe([TEXT, "the the then that cat"], 275, 256).unwrap()
    }

    fn loaded() -> Tokenizer {
        Tokenizer::from_str(&trained().tokenizer_json).unwrap()
    }

    #[test]
    fn special_tokens_come_first_and_nothing_is_added_when_encoding() {
        let tokenizer = loaded();
        assert_eq!([BOS, EOS, PAD].map(|t| tokenizer.token_to_id(t)), [Some(0), Some(1), Some(2)]);
        assert_eq!(tokenizer.get_vocab_size(true), 275);
        let ids = tokenizer.encode_fast("the cat", true).unwrap();
        assert!(ids.get_ids().iter().all(|&id| id > 2));
    }

    #[test]
    fn every_byte_survives_the_round_trip() {
        let tokenizer = loaded();
        for text in ["", " ", "\n\n\t x", "na\u{ef}ve \u{2014} \u{1f9f5}\u{0}", "\u{4e2d}\u{6587}", "  two  spaces "] {
            let ids = tokenizer.encode_fast(text, false).unwrap();
            assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text);
        }
    }

    #[test]
    fn a_number_is_one_token_per_digit() {
        let tokenizer = loaded();
        let bare = tokenizer.encode_fast("x", false).unwrap().len();
        for digits in ["1", "19", "1914", "1960196019"] {
            assert_eq!(tokenizer.encode_fast(format!("x{digits}"), false).unwrap().len(), bare + digits.len());
        }
    }

    #[test]
    fn the_same_text_gives_the_same_file_whatever_the_order() {
        let again = train_bpe(["the the then that cat", TEXT], 275, 256).unwrap();
        assert_eq!(trained(), again);
        let other = train_bpe([TEXT, "different words different"], 275, 256).unwrap();
        assert_ne!(trained(), other);
    }

    #[test]
    fn too_small_a_vocabulary_and_too_little_text_are_errors_with_numbers() {
        let few = train_bpe([TEXT], 258, 256).unwrap_err().to_string();
        assert!(few.contains("259") && few.contains("258"), "{few}");
        let little = train_bpe(["ab"], 4000, 256).unwrap_err().to_string();
        assert!(little.contains("4000"), "{little}");
    }
}
