//! The LLaMA forward pass (Touvron et al. 2023, section 2.2): pre-norm blocks of attention and SwiGLU.
//!
//! Shapes: `batch`, `length` (tokens of this call), `total` (tokens that keys exist for), `heads`, `key_heads`,
//! `head_dim`, `hidden`, `inner`. Weights are named as in a Hugging Face checkpoint, and adapted to nothing.

use attention::{Alibi, AttnError, AttnProblem, AttnShape, Backend, Mask, ProblemError};
use tch::{Kind, Tensor};

use super::config::ModelConfig;
use super::kv_cache::KvCache;
use super::positions::PlanTensors;
use crate::error::Failure;

/// Tokens that go through an MLP at once where no gradient is recorded: `inner` is the widest thing that a long text would
/// otherwise be held at.
const MLP_TOKENS: i64 = 8192;

/// A linear map `x W^T + b`, weight `[out, in]`.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// One block.
#[derive(Debug)]
pub struct Block {
    /// Norm before attention, `[hidden]`.
    pub input_norm: Tensor,
    /// Query projection.
    pub query: Linear,
    /// Key projection.
    pub key: Linear,
    /// Value projection.
    pub value: Linear,
    /// Output projection.
    pub output: Linear,
    /// Norm before the MLP, `[hidden]`.
    pub post_norm: Tensor,
    /// Gate projection of SwiGLU.
    pub gate: Linear,
    /// Up projection of SwiGLU.
    pub up: Linear,
    /// Down projection of SwiGLU.
    pub down: Linear,
}

/// A LLaMA model on one device.
#[derive(Debug)]
pub struct Llama {
    /// Its checked configuration.
    pub config: ModelConfig,
    /// Token embedding, `[vocab, hidden]`.
    pub embedding: Tensor,
    /// The blocks, first to last.
    pub blocks: Vec<Block>,
    /// Final norm, `[hidden]`.
    pub norm: Tensor,
    /// Output head `[vocab, hidden]`; none when it is tied to the embedding.
    pub head: Option<Tensor>,
    /// Attention backend.
    pub backend: Backend,
}

/// What one pass over tokens needs beside them.
#[derive(Debug)]
pub struct Pass<'a> {
    /// Rotation tables and slopes.
    pub plan: &'a PlanTensors,
    /// First position of the tokens; the number of tokens in the cache.
    pub offset: i64,
    /// Which keys a query may see.
    pub mask: Mask,
}

/// `x` `[batch, length, ..]` from the `from`th token on.
fn later(x: &Tensor, from: i64) -> Tensor {
    match from {
        0 => x.shallow_clone(),
        _ => x.narrow(1, from, x.size()[1] - from).contiguous(),
    }
}

impl Pass<'_> {
    /// The same for the tokens from the `from`th on, whose keys are there all the same.
    fn later(&self, from: i64) -> Result<Self, Failure> {
        let mask = match &self.mask {
            mask if from == 0 => mask.clone(),
            Mask::Causal { offset } => Mask::Causal { offset: offset + from },
            mask => {
                return Err(Failure::config(format!(
                    "a part of the tokens is read causally, not under {}",
                    mask.name()
                )));
            }
        };
        Ok(Self { plan: self.plan, offset: self.offset + from, mask })
    }

    fn problem(&self, shape: AttnShape) -> Result<AttnProblem, AttnError> {
        let scale = self.plan.score_scale(shape.head_dim);
        let problem = AttnProblem::new(shape)?.with_scale(scale)?.with_mask(self.mask.clone())?;
        Ok(match self.plan.alibi_slopes() {
            Some(slopes) => problem.with_alibi(Alibi::new(slopes).map_err(ProblemError::from)?)?,
            None => problem,
        })
    }
}

impl Llama {
    /// Hidden states `[batch, length, hidden]` after the final norm, for `tokens` `[batch, length]`.
    ///
    /// # Errors
    ///
    /// When the attention backend declines the problem, or the cache was filled under another plan.
    pub fn hidden(&self, tokens: &Tensor, pass: &Pass, cache: Option<&mut KvCache>) -> Result<Tensor, Failure> {
        self.hidden_from(tokens, pass, cache, 0)
    }

    /// The same for the tokens from the `from`th on alone, `[batch, length - from, hidden]`: of those before them the last
    /// block needs keys and values, and nothing else.
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
        if let Some(cache) = cache.as_deref() {
            cache.check(pass)?;
        }
        let mut x = Tensor::embedding(&self.embedding, tokens, -1, false, false);
        for (index, block) in self.blocks.iter().enumerate() {
            let from = if index + 1 == self.blocks.len() { from } else { 0 };
            let mixed =
                self.attend((block, index), &self.normed(&x, &block.input_norm), pass, cache.as_deref_mut(), from)?;
            x = later(&x, from) + mixed;
            x = &x + self.fed_forward(block, &x);
        }
        if let Some(cache) = cache {
            cache.advance(tokens.size()[1]);
        }
        Ok(self.normed(&x, &self.norm))
    }

    /// Logits `[.., vocab]` of hidden states `[.., hidden]`.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        hidden.linear(self.head.as_ref().unwrap_or(&self.embedding), None::<&Tensor>)
    }

    /// RMSNorm (Zhang and Sennrich 2019), statistics in float32 as in the checkpoints' own training.
    fn normed(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        let hidden = [self.config.hidden as i64];
        if x.kind() == Kind::Float {
            return x.rms_norm(hidden, Some(weight), self.config.norm_epsilon);
        }
        let normed = x.to_kind(Kind::Float).rms_norm(hidden, None::<&Tensor>, self.config.norm_epsilon);
        normed.to_kind(x.kind()) * weight
    }

    /// The MLP's part of a block, `[batch, length, hidden]`; every position is on its own.
    fn fed_forward(&self, block: &Block, x: &Tensor) -> Tensor {
        let part = |x: &Tensor| mlp(block, &self.normed(x, &block.post_norm));
        let length = x.size()[1];
        if length <= MLP_TOKENS || x.requires_grad() {
            return part(x);
        }
        let starts = (0..length).step_by(MLP_TOKENS as usize);
        let pieces: Vec<Tensor> =
            starts.map(|start| part(&x.narrow(1, start, MLP_TOKENS.min(length - start)))).collect();
        Tensor::cat(&pieces, 1)
    }

    /// Attention of the tokens from the `from`th on to all of them, `[batch, length - from, hidden]`.
    fn attend(
        &self,
        (block, index): (&Block, usize),
        x: &Tensor, // [batch, length, hidden]
        pass: &Pass,
        cache: Option<&mut KvCache>,
        from: i64,
    ) -> Result<Tensor, Failure> {
        let (batch, length, _) = x.size3()?;
        let (heads, key_heads, head_dim) = self.config.head_shape();
        let split = |t: Tensor, heads: i64| t.view([batch, -1, heads, head_dim]).transpose(1, 2);
        let (q, k) = (split(block.query.forward(&later(x, from)), heads), split(block.key.forward(x), key_heads));
        let asking = pass.later(from)?;
        let (q, k) = match pass.plan.extrapolation() {
            // [batch, heads, length - from, head_dim] and [batch, key_heads, length, head_dim]
            None => {
                let rotated = |x, offset| pass.plan.rotated_over(x, offset, self.backend);
                (rotated(q, asking.offset)?, rotated(k, pass.offset)?)
            }
            // Rotated inside attention, at more than one position each.
            Some(_) => (q, k),
        };
        let v = split(block.value.forward(x), key_heads);
        let (k, v) = match cache {
            Some(cache) => cache.appended(index, &k, &v), // [batch, key_heads, total, head_dim]
            None => (k, v),
        };
        let mixed = self.mixed(&asking, &q, &k, &v)?; // [batch, heads, length - from, head_dim]
        let merged = mixed.transpose(1, 2).reshape([batch, length - from, heads * head_dim]);
        Ok(block.output.forward(&merged))
    }

    /// Attention `[batch, heads, length, head_dim]` of q in that shape over k and v `[batch, key_heads, total, head_dim]`.
    fn mixed(&self, pass: &Pass, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, Failure> {
        if let Some(method) = pass.plan.extrapolation() {
            if pass.mask != (Mask::Causal { offset: pass.offset }) {
                let mask = pass.mask.name();
                return Err(Failure::config(format!("{method} takes causal attention, not the {mask} mask")));
            }
            return method.attend(self.backend, pass.plan, (q, k, v), pass.offset);
        }
        let (batch, _, length, head_dim) = q.size4()?;
        let shape = AttnShape {
            batch: batch as usize,
            query_heads: self.config.heads,
            key_heads: self.config.key_heads,
            query_len: length as usize,
            key_len: k.size()[2] as usize,
            head_dim: head_dim as usize,
        };
        Ok(self.backend.forward(&pass.problem(shape)?, q, k, v)?)
    }

    /// Every parameter with its checkpoint name.
    pub fn parameters(&self) -> Vec<(String, &Tensor)> {
        let mut all = vec![("model.embed_tokens.weight".to_owned(), &self.embedding)];
        for (index, block) in self.blocks.iter().enumerate() {
            all.extend(block.parameters().into_iter().map(|(name, t)| (format!("model.layers.{index}.{name}"), t)));
        }
        all.push(("model.norm.weight".to_owned(), &self.norm));
        all.extend(self.head.as_ref().map(|head| ("lm_head.weight".to_owned(), head)));
        all
    }
}

/// SwiGLU (Shazeer 2020): `down(silu(gate(x)) * up(x))`.
fn mlp(block: &Block, x: &Tensor) -> Tensor {
    block.down.forward(&(block.gate.forward(x).silu() * block.up.forward(x)))
}

impl Block {
    fn parameters(&self) -> Vec<(String, &Tensor)> {
        let linears = [
            ("self_attn.q_proj", &self.query),
            ("self_attn.k_proj", &self.key),
            ("self_attn.v_proj", &self.value),
            ("self_attn.o_proj", &self.output),
            ("mlp.gate_proj", &self.gate),
            ("mlp.up_proj", &self.up),
            ("mlp.down_proj", &self.down),
        ];
        let mut all = vec![
            ("input_layernorm.weight".to_owned(), &self.input_norm),
            ("post_attention_layernorm.weight".to_owned(), &self.post_norm),
        ];
        for (name, linear) in linears {
            all.push((format!("{name}.weight"), &linear.weight));
            all.extend(linear.bias.as_ref().map(|bias| (format!("{name}.bias"), bias)));
        }
        all
    }
}
