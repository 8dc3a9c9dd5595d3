//! What consecutive prompts begin with in common is read once.
//!
//! The prompts of a retrieval grid share a haystack up to the place of the needle. Asked with the deepest needle first, each
//! prompt begins as the one before it does, up to its own needle: one kept prompt, cut back and read on, is all the memory
//! that a grid takes, and a haystack of `n` tokens costs `n (1 + sum of (1 - depth))` read tokens over all depths but the
//! deepest one, instead of `n` for each.

use std::cell::{Cell, RefCell, RefMut};
use std::ops::Range;

use crate::model::{LanguageModel, ModelError, Prefix, Question, Reply, TokenScore, reply_alone};

/// A beginning below this share of the prompt is read again: reading on takes attention of another shape, which is not
/// worth it for a bos alone.
const LEAST_SHARE: usize = 16;

/// A model that keeps the prompt that it read last, and reads of the next one only what is new.
///
/// Answers are those of the model itself up to the rounding of one long pass against two shorter ones.
pub struct Branching<'m> {
    model: &'m dyn LanguageModel,
    room: usize,
    held: RefCell<Option<Held<'m>>>,
    read: Cell<u64>,
}

struct Held<'m> {
    tokens: Vec<u32>,
    total: usize,
    prefix: Box<dyn Prefix + 'm>,
}

impl<'m> Branching<'m> {
    /// Prompts for `model`; where positions do not depend on the length, a kept prompt has space for `room` tokens at
    /// least, so that prompts of slightly different totals can share it.
    #[must_use]
    pub fn new(model: &'m dyn LanguageModel, room: usize) -> Self {
        Self { model, room, held: RefCell::new(None), read: Cell::new(0) }
    }

    /// Prompt tokens that the model has read so far.
    #[must_use]
    pub fn tokens_read(&self) -> u64 {
        self.read.get()
    }

    /// The total that is announced for one of `total` tokens.
    fn announced(&self, total: usize) -> usize {
        if self.model.depends_on_length() { total } else { total.max(self.room) }
    }

    /// A prefix of `tokens`, made from the one held before where that is possible.
    fn made(&self, before: Option<Held<'m>>, tokens: &[u32], total: usize) -> Result<Held<'m>, ModelError> {
        let fits = |held: &Held<'_>| match self.model.depends_on_length() {
            true => held.total == total,
            false => held.total >= total,
        };
        let held = match before {
            Some(mut held) if fits(&held) && !tokens.is_empty() => {
                let kept = held.shared_with(tokens);
                held.rewind(kept, &tokens[kept..])?;
                self.read.set(self.read.get() + (tokens.len() - kept) as u64);
                held
            }
            // Given back before another one is made: two may not fit.
            other => {
                drop(other);
                let total = self.announced(total);
                self.read.set(self.read.get() + tokens.len() as u64);
                Held { tokens: tokens.to_vec(), total, prefix: self.model.prefix(tokens, total)? }
            }
        };
        Ok(held)
    }
}

impl Held<'_> {
    /// How many tokens of a prompt need not be read again; the last one always is, since what follows it is asked for.
    fn shared_with(&self, tokens: &[u32]) -> usize {
        let same = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        let kept = same.min(tokens.len().saturating_sub(1));
        if kept * LEAST_SHARE < tokens.len() { 0 } else { kept }
    }

    fn rewind(&mut self, kept: usize, tokens: &[u32]) -> Result<(), ModelError> {
        self.prefix.rewind(kept, tokens)?;
        self.tokens.truncate(kept);
        self.tokens.extend(tokens);
        Ok(())
    }
}

impl LanguageModel for Branching<'_> {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn bos(&self) -> Option<u32> {
        self.model.bos()
    }

    fn depends_on_length(&self) -> bool {
        self.model.depends_on_length()
    }

    fn score(&self, tokens: &[u32], scored: Range<usize>) -> Result<Vec<TokenScore>, ModelError> {
        self.model.score(tokens, scored)
    }

    fn rows_at_once(&self, length: usize) -> usize {
        self.model.rows_at_once(length)
    }

    fn score_rows(&self, inputs: &[&[u32]], scored: Range<usize>) -> Result<Vec<Vec<TokenScore>>, ModelError> {
        self.model.score_rows(inputs, scored)
    }

    fn questions_at_once(&self, total: usize) -> usize {
        self.model.questions_at_once(total)
    }

    /// Several questions are the model's to answer together; a single one shares what was read before.
    fn replies(&self, questions: &[Question<'_>]) -> Result<Vec<Reply>, ModelError> {
        match questions {
            [question] => Ok(vec![reply_alone(self, question)?]),
            questions => self.model.replies(questions),
        }
    }

    fn prefix(&self, tokens: &[u32], total: usize) -> Result<Box<dyn Prefix + '_>, ModelError> {
        // A second prompt while the first is in use is read on its own.
        let Ok(mut held) = self.held.try_borrow_mut() else { return self.model.prefix(tokens, total) };
        let before = held.take();
        *held = Some(self.made(before, tokens, total)?);
        match RefMut::filter_map(held, Option::as_mut) {
            Ok(held) => Ok(Box::new(Branch(held))),
            Err(_) => self.model.prefix(tokens, total),
        }
    }
}

/// The kept prompt while it is in use.
struct Branch<'b, 'm>(RefMut<'b, Held<'m>>);

impl Prefix for Branch<'_, '_> {
    fn len(&self) -> usize {
        self.0.prefix.len()
    }

    fn extended(&self, tokens: &[u32]) -> Result<Box<dyn Prefix + '_>, ModelError> {
        self.0.prefix.extended(tokens)
    }

    fn rewind(&mut self, kept: usize, tokens: &[u32]) -> Result<(), ModelError> {
        self.0.rewind(kept, tokens)
    }

    fn score(&self, continuation: &[u32]) -> Result<Vec<TokenScore>, ModelError> {
        self.0.prefix.score(continuation)
    }

    fn greedy(&self, count: usize, stop: &[u32]) -> Result<Vec<u32>, ModelError> {
        self.0.prefix.greedy(count, stop)
    }

    fn answered(&self, answer: &[u32], count: usize) -> Result<(Vec<TokenScore>, Vec<u32>), ModelError> {
        self.0.prefix.answered(answer, count)
    }
}
