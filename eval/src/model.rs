//! What the evaluator needs of a language model, and nothing else.
//!
//! Token ids are `u32`; log-probabilities are natural logarithms.

use std::ops::Range;

/// Why a model could not answer.
///
/// The message is the model's own; `eval` adds which task and which sample it was working on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ModelError(pub String);

/// How a model saw one token, given everything before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// Natural logarithm of the probability that the model gave to the token.
    pub log_prob: f32,
    /// The token that it found most likely (the smallest id among equals).
    pub top: u32,
}

/// What is asked of a model about one prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Question<'q> {
    /// The prompt, at least one token.
    pub prompt: &'q [u32],
    /// What is read behind it and ranked (teacher forcing); may be empty.
    pub answer: &'q [u32],
    /// Tokens that the model writes behind the prompt.
    pub count: usize,
}

impl Question<'_> {
    /// The longest input that it takes.
    #[must_use]
    pub fn total(&self) -> usize {
        self.prompt.len() + self.count.max(self.answer.len())
    }
}

/// What a model makes of a [`Question`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Reply {
    /// Every token of the answer, given all tokens before it.
    pub forced: Vec<TokenScore>,
    /// The greedy continuation.
    pub written: Vec<u32>,
}

/// The reply to `question` of a model that has read its prompt alone.
///
/// # Errors
///
/// As for [`LanguageModel::prefix`].
pub fn reply_alone(model: &(impl LanguageModel + ?Sized), question: &Question<'_>) -> Result<Reply, ModelError> {
    let prefix = model.prefix(question.prompt, question.total())?;
    let (forced, written) = prefix.answered(question.answer, question.count)?;
    Ok(Reply { forced, written })
}

/// A causal language model.
pub trait LanguageModel {
    /// Rows of the output distribution.
    fn vocab_size(&self) -> usize;

    /// Id that begins every document, if the model has one.
    fn bos(&self) -> Option<u32>;

    /// Whether what is computed at a position depends on the length of the whole input, as in dynamic NTK or
    /// LongRoPE. When it does, one pass over a long input does not hold the answers for its prefixes.
    fn depends_on_length(&self) -> bool;

    /// Scores `tokens[i]` given `tokens[..i]` for every `i` in `scored`, in one causal pass over `tokens[..scored.end]`.
    ///
    /// # Errors
    ///
    /// When `scored` is empty, starts at 0 or ends past the input, an id is outside the vocabulary, or the model fails.
    fn score(&self, tokens: &[u32], scored: Range<usize>) -> Result<Vec<TokenScore>, ModelError>;

    /// Inputs of `length` tokens that the model takes together within the memory that it grants itself; at least 1.
    fn rows_at_once(&self, _length: usize) -> usize {
        1
    }

    /// [`LanguageModel::score`] of several inputs of one length (at least one input), the same tokens of each, up to the
    /// order of sums.
    ///
    /// # Errors
    ///
    /// As for [`LanguageModel::score`], or when lengths differ.
    fn score_rows(&self, inputs: &[&[u32]], scored: Range<usize>) -> Result<Vec<Vec<TokenScore>>, ModelError> {
        inputs.iter().map(|tokens| self.score(tokens, scored.clone())).collect()
    }

    /// Questions of `total` tokens that the model answers together within the memory that it grants itself; at least 1.
    fn questions_at_once(&self, _total: usize) -> usize {
        1
    }

    /// The replies to several questions, whatever their lengths; those to each alone, up to the order of sums.
    ///
    /// # Errors
    ///
    /// As for [`LanguageModel::prefix`].
    fn replies(&self, questions: &[Question<'_>]) -> Result<Vec<Reply>, ModelError> {
        questions.iter().map(|question| reply_alone(self, question)).collect()
    }

    /// Reads `tokens` (at least one) and keeps what was computed, for several continuations.
    ///
    /// `total` is the longest input that will be read from this prefix, continuation included: a length-dependent
    /// position scheme takes its frequencies from it.
    ///
    /// # Errors
    ///
    /// As for [`LanguageModel::score`].
    fn prefix(&self, tokens: &[u32], total: usize) -> Result<Box<dyn Prefix + '_>, ModelError>;
}

/// Tokens that a model has read; every continuation branches from here and leaves it as it was.
pub trait Prefix {
    /// Tokens read so far.
    fn len(&self) -> usize;

    /// A prefix always holds at least one token.
    fn is_empty(&self) -> bool {
        false
    }

    /// A longer prefix: this one and then `tokens`.
    ///
    /// # Errors
    ///
    /// When the total given at the start would be passed, or the model fails.
    fn extended(&self, tokens: &[u32]) -> Result<Box<dyn Prefix + '_>, ModelError>;

    /// Forgets all but the first `kept` tokens and reads `tokens` (at least one) behind them: the prefix becomes that of
    /// another prompt with the same beginning, under the same total and in the same memory.
    ///
    /// # Errors
    ///
    /// As for [`Prefix::extended`], or when fewer than `kept` tokens are held; the prefix is then of no more use.
    fn rewind(&mut self, kept: usize, tokens: &[u32]) -> Result<(), ModelError>;

    /// Scores every token of `continuation` (teacher forcing).
    ///
    /// # Errors
    ///
    /// As for [`Prefix::extended`].
    fn score(&self, continuation: &[u32]) -> Result<Vec<TokenScore>, ModelError>;

    /// Appends the most likely token `count` times, stopping after a token of `stop`.
    ///
    /// # Errors
    ///
    /// As for [`Prefix::extended`].
    fn greedy(&self, count: usize, stop: &[u32]) -> Result<Vec<u32>, ModelError>;

    /// [`Prefix::score`] of `answer` and the `count` tokens of [`Prefix::greedy`] together. As long as the answer's tokens
    /// are the most likely ones both read the same, so that a model may read it once.
    ///
    /// # Errors
    ///
    /// As for [`Prefix::extended`].
    fn answered(&self, answer: &[u32], count: usize) -> Result<(Vec<TokenScore>, Vec<u32>), ModelError> {
        Ok((self.score(answer)?, self.greedy(count, &[])?))
    }
}

/// Text to ids and back, without special tokens.
pub trait TextCodec {
    /// Ids of `text`; no bos or eos is added.
    ///
    /// # Errors
    ///
    /// When the tokenizer fails.
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError>;

    /// The text of `tokens`, special tokens left out.
    ///
    /// # Errors
    ///
    /// When an id is unknown.
    fn decode(&self, tokens: &[u32]) -> Result<String, ModelError>;
}
