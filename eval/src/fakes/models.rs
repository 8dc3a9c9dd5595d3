//! Models that follow a rule.

use std::ops::Range;

use crate::model::{LanguageModel, ModelError, Prefix, TokenScore};

/// How a fake model sees one token.
pub trait Rule {
    /// Score of `token` after `context` (never empty) in an input of `total` tokens.
    fn score(&self, context: &[u32], token: u32, total: usize) -> f32;

    /// Most likely token after `context`.
    fn top(&self, context: &[u32], total: usize) -> u32;

    /// Whether the answers change with `total`.
    fn depends_on_length(&self) -> bool {
        false
    }
}

/// A language model made of a rule.
#[derive(Debug, Clone)]
pub struct Fake<R> {
    /// The rule.
    pub rule: R,
    /// Vocabulary size; larger ids are refused.
    pub vocab_size: usize,
    /// Id that begins documents.
    pub bos: Option<u32>,
}

impl<R: Rule> Fake<R> {
    fn check(&self, tokens: &[u32]) -> Result<(), ModelError> {
        match tokens.iter().find(|&&token| token as usize >= self.vocab_size) {
            Some(token) => Err(ModelError(format!("id {token} is outside a vocabulary of {}", self.vocab_size))),
            None => Ok(()),
        }
    }

    fn scores(&self, tokens: &[u32], scored: Range<usize>, total: usize) -> Vec<TokenScore> {
        scored
            .map(|i| TokenScore {
                log_prob: self.rule.score(&tokens[..i], tokens[i], total),
                top: self.rule.top(&tokens[..i], total),
            })
            .collect()
    }
}

impl<R: Rule> LanguageModel for Fake<R> {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn bos(&self) -> Option<u32> {
        self.bos
    }

    fn depends_on_length(&self) -> bool {
        self.rule.depends_on_length()
    }

    fn score(&self, tokens: &[u32], scored: Range<usize>) -> Result<Vec<TokenScore>, ModelError> {
        if scored.is_empty() || scored.start == 0 || scored.end > tokens.len() {
            return Err(ModelError(format!("cannot score {scored:?} of {} tokens", tokens.len())));
        }
        self.check(&tokens[..scored.end])?;
        let total = scored.end;
        Ok(self.scores(tokens, scored, total))
    }

    fn prefix(&self, tokens: &[u32], total: usize) -> Result<Box<dyn Prefix + '_>, ModelError> {
        FakePrefix::boxed(self, tokens.to_vec(), total)
    }
}

struct FakePrefix<'a, R> {
    model: &'a Fake<R>,
    tokens: Vec<u32>,
    total: usize,
}

impl<'a, R: Rule> FakePrefix<'a, R> {
    fn boxed(model: &'a Fake<R>, tokens: Vec<u32>, total: usize) -> Result<Box<dyn Prefix + 'a>, ModelError> {
        if tokens.is_empty() || tokens.len() > total {
            return Err(ModelError(format!("a prefix of {} tokens does not fit a total of {total}", tokens.len())));
        }
        model.check(&tokens)?;
        Ok(Box::new(Self { model, tokens, total }))
    }

    fn joined(&self, more: &[u32]) -> Result<Vec<u32>, ModelError> {
        let joined = [self.tokens.as_slice(), more].concat();
        if joined.len() > self.total {
            return Err(ModelError(format!("{} tokens pass the announced total of {}", joined.len(), self.total)));
        }
        self.model.check(more)?;
        Ok(joined)
    }
}

impl<R: Rule> Prefix for FakePrefix<'_, R> {
    fn len(&self) -> usize {
        self.tokens.len()
    }

    fn extended(&self, tokens: &[u32]) -> Result<Box<dyn Prefix + '_>, ModelError> {
        Self::boxed(self.model, self.joined(tokens)?, self.total)
    }

    fn rewind(&mut self, kept: usize, tokens: &[u32]) -> Result<(), ModelError> {
        if kept > self.tokens.len() || tokens.is_empty() {
            return Err(ModelError(format!("cannot keep {kept} of {} and read {}", self.tokens.len(), tokens.len())));
        }
        self.tokens.truncate(kept);
        self.tokens = self.joined(tokens)?;
        Ok(())
    }

    fn score(&self, continuation: &[u32]) -> Result<Vec<TokenScore>, ModelError> {
        let joined = self.joined(continuation)?;
        Ok(self.model.scores(&joined, self.tokens.len()..joined.len(), self.total))
    }

    fn greedy(&self, count: usize, stop: &[u32]) -> Result<Vec<u32>, ModelError> {
        let mut tokens = self.tokens.clone();
        for _ in 0..count {
            if tokens.len() == self.total {
                return Err(ModelError(format!("{count} more tokens pass the announced total of {}", self.total)));
            }
            let next = self.model.rule.top(&tokens, self.total);
            tokens.push(next);
            if stop.contains(&next) {
                break;
            }
        }
        Ok(tokens.split_off(self.tokens.len()))
    }
}

/// Every token is as likely as any other: perplexity is the vocabulary size, whatever the protocol.
#[derive(Debug, Clone, Copy)]
pub struct Uniform {
    vocab_size: usize,
}

impl Uniform {
    /// A uniform model over `vocab_size` ids.
    #[must_use]
    pub fn model(vocab_size: usize, bos: Option<u32>) -> Fake<Self> {
        Fake { rule: Self { vocab_size }, vocab_size, bos }
    }
}

impl Rule for Uniform {
    fn score(&self, _: &[u32], _: u32, _: usize) -> f32 {
        -(self.vocab_size as f32).ln()
    }

    fn top(&self, _: &[u32], _: usize) -> u32 {
        0
    }
}

/// A negative log-likelihood that is a formula of token, context length and total length.
#[derive(Debug, Clone, Copy)]
pub struct Formula<F> {
    nll: F,
    depends_on_length: bool,
}

impl<F: Fn(u32, usize, usize) -> f64> Formula<F> {
    /// A model whose negative log-likelihood of a token is `nll(token, context tokens, total tokens)` in nats.
    ///
    /// `depends_on_length` says whether the formula uses the total.
    pub fn model(nll: F, depends_on_length: bool, vocab_size: usize, bos: Option<u32>) -> Fake<Self> {
        Fake { rule: Self { nll, depends_on_length }, vocab_size, bos }
    }
}

impl<F: Fn(u32, usize, usize) -> f64> Rule for Formula<F> {
    fn score(&self, context: &[u32], token: u32, total: usize) -> f32 {
        -(self.nll)(token, context.len(), total) as f32
    }

    fn top(&self, _: &[u32], _: usize) -> u32 {
        0
    }

    fn depends_on_length(&self) -> bool {
        self.depends_on_length
    }
}

/// Copies what followed the longest earlier match of the latest tokens, among the last `window` tokens: it solves
/// passkey when the needle is inside the window, and never beyond.
#[derive(Debug, Clone, Copy)]
pub struct Induction {
    window: usize,
    vocab_size: usize,
}

impl Induction {
    /// Longest match that is looked for.
    const LONGEST: usize = 64;
    /// Probability given to the copied token.
    const SURE: f32 = 0.9;

    /// A copying model that sees the last `window` tokens.
    #[must_use]
    pub fn model(window: usize, vocab_size: usize, bos: Option<u32>) -> Fake<Self> {
        Fake { rule: Self { window, vocab_size }, vocab_size, bos }
    }
}

impl Rule for Induction {
    fn score(&self, context: &[u32], token: u32, total: usize) -> f32 {
        if self.top(context, total) == token {
            Self::SURE.ln()
        } else {
            ((1.0 - Self::SURE) / (self.vocab_size.max(2) - 1) as f32).ln()
        }
    }

    fn top(&self, context: &[u32], _: usize) -> u32 {
        let seen = &context[context.len().saturating_sub(self.window)..];
        let matched = |end: usize| {
            let backwards = seen[..end].iter().rev().zip(seen.iter().rev());
            backwards.take(Self::LONGEST).take_while(|(a, b)| a == b).count()
        };
        let best = (1..seen.len()).map(|end| (matched(end), end)).max();
        best.filter(|&(length, _)| length > 0).map_or(0, |(_, end)| seen[end])
    }
}

/// Reads bytes and says what a function of the prompt tells it to: `reply(prompt)` follows the last `marker` in the text.
#[derive(Debug, Clone, Copy)]
pub struct Scripted<F> {
    marker: &'static str,
    reply: F,
}

impl<F: Fn(&str) -> String> Scripted<F> {
    /// A model of bytes that answers a prompt, which ends with `marker`, with `reply(prompt)` and then with blanks.
    pub fn model(marker: &'static str, reply: F, bos: Option<u32>) -> Fake<Self> {
        Fake { rule: Self { marker, reply }, vocab_size: 257, bos }
    }
}

impl<F: Fn(&str) -> String> Rule for Scripted<F> {
    fn score(&self, context: &[u32], token: u32, total: usize) -> f32 {
        if self.top(context, total) == token { 0.9_f32.ln() } else { (0.1_f32 / 256.0).ln() }
    }

    fn top(&self, context: &[u32], _: usize) -> u32 {
        let bytes: Vec<u8> = context.iter().filter_map(|&token| u8::try_from(token).ok()).collect();
        let text = String::from_utf8_lossy(&bytes);
        let end = text.rfind(self.marker).map_or(text.len(), |at| at + self.marker.len());
        let said = text.len() - end;
        (self.reply)(&text[..end]).as_bytes().get(said).map_or(u32::from(b' '), |&byte| u32::from(byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn induction_copies_inside_its_window_only() {
        let tokens = [5, 6, 7, 1, 2, 3, 4, 5, 6];
        assert_eq!(Induction::model(9, 10, None).rule.top(&tokens, 9), 7);
        assert_eq!(Induction::model(6, 10, None).rule.top(&tokens, 9), 0);
    }

    #[test]
    fn fakes_keep_the_contract_of_score_and_prefix() {
        let model = Uniform::model(8, Some(0));
        assert!(model.score(&[1, 2], 0..1).is_err());
        assert!(model.score(&[1, 2], 1..3).is_err());
        assert!(model.score(&[1, 8], 1..2).is_err());
        assert!(model.prefix(&[], 4).is_err());
        let prefix = model.prefix(&[1, 2], 3).unwrap();
        assert!(prefix.score(&[1, 1]).is_err());
        assert!(prefix.greedy(2, &[]).is_err());
        assert_eq!(prefix.greedy(2, &[0]).unwrap(), [0]);
        assert_eq!(prefix.extended(&[3]).unwrap().len(), 3);
        assert_eq!(prefix.len(), 2);
    }
}
