//! Long texts read in pieces, block by block: what a block holds of all tokens is its input and its keys and values, and no
//! other block's.
//!
//! For `n` tokens of width `hidden` that is `n (hidden + 2 key_heads head_dim)` numbers beside one piece's activations, where a
//! cache of all blocks would be `2 layers key_heads head_dim n`: 3 GB instead of 69 GB for 128K tokens of a LLaMA-2-7B in 16
//! bits. By causality a piece needs nothing of the pieces after it, so that the answers are those of one pass over
//! everything, up to the order of sums.

use tch::Tensor;

use super::block::Reading;
use super::kv_cache::KvCache;
use super::llama::Llama;
use super::pass::Pass;
use super::positions::PlanTensors;
use crate::error::Failure;

/// Tokens of a piece where none are asked for.
const PIECE: usize = 4096;
/// Numbers of the dense bias that libtorch's attention takes for queries behind other keys: half a gigabyte in float32.
const BIAS_NUMBERS: usize = 1 << 27;

impl Llama {
    /// Tokens that are read at once of `length` tokens behind `offset` others, where nothing else is asked for: all of them
    /// where that is no more than two pieces.
    pub fn piece(&self, length: usize, offset: usize) -> usize {
        let by_libtorch = || self.attention_choice(length).is_some_and(|choice| choice.backend.name() == "libtorch");
        match length {
            0..=1 => 1,
            length if length <= 2 * PIECE => length,
            // From the beginning of a text libtorch takes no bias, and is faster without pieces.
            length if offset == 0 && by_libtorch() => length,
            length if by_libtorch() => (BIAS_NUMBERS / (offset + length)).clamp(256, PIECE),
            _ => PIECE,
        }
    }

    /// As [`Llama::hidden_from`] for causal reading from position 0 without a cache, in pieces of at most `piece` tokens.
    ///
    /// # Errors
    ///
    /// As for [`Llama::hidden_from`].
    pub fn hidden_in_pieces(
        &self,
        tokens: &Tensor, // [batch, length]
        plan: &PlanTensors,
        from: i64,
        piece: i64,
    ) -> Result<Tensor, Failure> {
        let (batch, length) = tokens.size2()?;
        if piece >= length {
            return self.hidden_from(tokens, &Pass::behind(plan, 0), None, from);
        }
        let x = self.embedded(tokens); // [batch, length, hidden]
        for (index, block) in self.blocks.iter().enumerate() {
            let wanted = if index + 1 == self.blocks.len() { from } else { 0 };
            let mut held = KvCache::of_one_block(&self.config, (batch, length), plan.fingerprint(), &x)?;
            for start in (0..length).step_by(piece.max(1) as usize) {
                let count = piece.min(length - start);
                // Of tokens that nobody asks for the last block needs keys and values alone; one query is asked all the same.
                let from = (wanted - start).clamp(0, count - 1);
                let reading = Reading {
                    pass: &Pass::behind(plan, start),
                    backend: self.backend,
                    cache: Some((&mut held, 0)),
                    from,
                };
                let output = block.forward(&x.narrow(1, start, count), reading)?;
                held.advance(count);
                x.narrow(1, start + from, count - from).f_copy_(&output)?;
            }
        }
        Ok(self.normed(&x.narrow(1, from, length - from).contiguous()))
    }

    /// As [`Llama::hidden_from`] for causal reading behind what `cache` holds, in pieces of at most `piece` tokens.
    ///
    /// # Errors
    ///
    /// As for [`Llama::hidden_from`].
    pub fn hidden_behind(
        &self,
        tokens: &Tensor, // [batch, length]
        plan: &PlanTensors,
        cache: &mut KvCache,
        from: i64,
        piece: i64,
    ) -> Result<Tensor, Failure> {
        let length = tokens.size2()?.1;
        let mut asked = Vec::new();
        for start in (0..length).step_by(piece.max(1) as usize) {
            let count = piece.min(length - start);
            let offset = cache.len() as i64;
            let first = (from - start).clamp(0, count - 1);
            let part = tokens.narrow(1, start, count);
            let hidden = self.hidden_from(&part, &Pass::behind(plan, offset), Some(cache), first)?;
            if start + count > from {
                asked.push(hidden);
            }
        }
        Ok(if asked.len() == 1 { asked.swap_remove(0) } else { Tensor::cat(&asked, 1) })
    }

    /// Bytes that one token takes while a block reads it: what is held of it at once, widest at the MLP.
    pub fn activation_bytes(&self) -> usize {
        let config = &self.config;
        let numbers = 8 * config.hidden + 3 * config.inner + 4 * config.heads * config.head_dim;
        numbers * self.embedding.kind().elt_size_in_bytes()
    }
}
