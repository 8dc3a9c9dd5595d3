//! The LLaMA forward pass (Touvron et al. 2023, section 2.2): pre-norm blocks of attention and SwiGLU.
//!
//! Shapes: `batch`, `length` (tokens of this call), `total` (tokens that keys exist for), `heads`, `key_heads`,
//! `head_dim`, `hidden`, `inner`. Weights are named as in a Hugging Face checkpoint, and adapted to nothing.

use attention::Backend;
use rope_scaling::PositionPlan;
use tch::Tensor;
use torch_ext::grad_enabled;

use super::adapted::Adapted;
use super::block::{Block, Reading};
use super::config::ModelConfig;
use super::kv_cache::KvCache;
use super::norm::Norm;
use super::offload::Parking;
use super::pass::Pass;
use super::positions::PlanTensors;
use super::products;
use super::recorded::{Training, recorded};
use crate::config::Memory;
use crate::error::Failure;

/// A LLaMA model on one device.
#[derive(Debug)]
pub struct Llama {
    /// Its checked configuration.
    pub config: ModelConfig,
    /// Token embedding, `[vocab, hidden]`.
    pub embedding: Tensor,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// Final norm.
    pub norm: Norm,
    /// Output head `[vocab, hidden]`; none when it is tied to the embedding.
    pub head: Option<Tensor>,
    /// Attention backend.
    pub backend: Backend,
    /// What its adapters were made by, if it has any.
    pub adapter: Option<Adapted>,
    /// What a pass that is recorded for gradients keeps; the default keeps everything.
    pub memory: Memory,
}

impl Llama {
    /// Hidden states `[batch, length, hidden]` after the final norm, for `tokens` `[batch, length]`. Without a cache, and where
    /// gradients are tracked and a parameter asks for one, the pass is recorded; what it keeps says [`Llama::memory`].
    ///
    /// # Errors
    ///
    /// When the attention backend declines the problem, or the cache was filled under another plan.
    pub fn hidden(&self, tokens: &Tensor, pass: &Pass, cache: Option<&mut KvCache>) -> Result<Tensor, Failure> {
        let trained = || self.parameters().iter().any(|(_, parameter)| parameter.requires_grad());
        match cache {
            None if grad_enabled() && trained() => self.recorded(tokens, pass),
            cache => self.hidden_from(tokens, pass, cache, 0),
        }
    }

    /// The same for the tokens from the `from`th on alone, `[batch, length - from, hidden]`: of those before them the last
    /// block needs keys and values, and nothing else. Nothing is recorded for gradients.
    ///
    /// # Errors
    ///
    /// As for [`Llama::hidden`]; when `from` is not 0 and the mask is not the causal one.
    pub fn hidden_from(
        &self,
        tokens: &Tensor,
        pass: &Pass,
        mut cache: Option<&mut KvCache>,
        from: i64,
    ) -> Result<Tensor, Failure> {
        let _unrecorded = tch::no_grad_guard();
        if let Some(cache) = cache.as_deref() {
            cache.check(pass)?;
        }
        let mut x = self.embedded(tokens);
        for (index, block) in self.blocks.iter().enumerate() {
            let from = if index + 1 == self.blocks.len() { from } else { 0 };
            let cache = cache.as_deref_mut().map(|cache| (cache, index));
            x = block.forward(&x, Reading { pass, backend: self.backend, cache, from })?;
        }
        if let Some(cache) = cache {
            cache.advance(tokens.size()[1]);
        }
        Ok(self.normed(&x))
    }

    /// Hidden states `[rows, hidden]` after the next tokens `[rows]` of as many texts, each behind what its cache holds.
    /// Nothing is recorded for gradients.
    ///
    /// # Errors
    ///
    /// As for [`Llama::hidden`].
    pub fn next_hidden(
        &self,
        tokens: &Tensor,
        plan: &PlanTensors,
        caches: &mut [&mut KvCache],
    ) -> Result<Tensor, Failure> {
        let _unrecorded = tch::no_grad_guard();
        let mut x = self.embedded(&tokens.unsqueeze(1));
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.next(&x, plan, self.backend, (caches, index))?;
        }
        caches.iter_mut().for_each(|cache| cache.advance(1));
        Ok(self.normed(&x).squeeze_dim(1))
    }

    /// What this model needs of a position plan, on its device.
    pub fn positions(&self, plan: &PositionPlan) -> PlanTensors {
        let factor = self.config.mup.score_factor(self.config.head_dim);
        PlanTensors::new(plan, self.embedding.device()).with_score_factor(factor)
    }

    /// The pass of a training step.
    fn recorded(&self, tokens: &Tensor, pass: &Pass) -> Result<Tensor, Failure> {
        let parking = Parking::default();
        let mut x = self.embedded(tokens);
        for (layer, block) in self.blocks.iter().enumerate() {
            let parking = self.memory.offload.then_some((&parking, layer));
            x = recorded(block, &x, Training { pass, backend: self.backend, memory: self.memory, parking })?;
        }
        Ok(scaled(self.norm.recorded(&x)?, self.config.mup.logits_scale()))
    }

    /// Hidden states after the last block as the head reads them. muP's scale of logits is among them, so that whoever multiplies
    /// by the head itself need not know of it.
    pub(super) fn normed(&self, x: &Tensor) -> Tensor {
        scaled(self.norm.forward(x), self.config.mup.logits_scale())
    }

    /// Embeddings `[batch, length, hidden]` of tokens, as the first block reads them.
    pub(super) fn embedded(&self, tokens: &Tensor) -> Tensor {
        scaled(Tensor::embedding(&self.embedding, tokens, -1, false, false), self.config.mup.embeddings_scale)
    }

    /// Logits `[.., vocab]` of hidden states `[.., hidden]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let head = self.head_weight();
        products::product(hidden, head).unwrap_or_else(|| hidden.linear(head, None::<&Tensor>))
    }

    /// The weight of the output head, `[vocab, hidden]`.
    pub fn head_weight(&self) -> &Tensor {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Every parameter with its checkpoint name, those of adapters among them; without matrices that are quantised.
    pub fn parameters(&self) -> Vec<(String, &Tensor)> {
        let mut all = vec![("model.embed_tokens.weight".to_owned(), &self.embedding)];
        for (index, block) in self.blocks.iter().enumerate() {
            all.extend(block.parameters().into_iter().map(|(name, t)| (format!("model.layers.{index}.{name}"), t)));
        }
        all.extend(self.norm.parameters().into_iter().map(|(part, tensor)| (format!("model.norm.{part}"), tensor)));
        all.extend(self.head.as_ref().map(|head| ("lm_head.weight".to_owned(), head)));
        all
    }
}

/// `x` times a multiplier of muP, which is 1 outside it.
fn scaled(x: Tensor, by: f64) -> Tensor {
    if by == 1.0 { x } else { x * by }
}
