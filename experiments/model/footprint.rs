//! What a training pass holds in memory, from the numbers of a model and the policy alone.
//!
//! With `d`, `f`, `a`, `k`, `h` as for a block's graph (width, MLP width, query heads times their size, the same of keys, query
//! heads), `N` tokens of a pass, `T` of them through the MLP at once, `V` ids and `w` bytes a number:
//!
//! - every layer keeps [`Footprint::kept`] for each token;
//! - while one block goes backward, [`Footprint::working`] is there beside: gradients of its output and of the stream inside
//!   it, what is computed again, and the larger of the MLP's `T` and attention's `N` tokens of insides and their gradients;
//! - at the loss, [`Footprint::loss`]: the hidden states before and after the last norm and their gradient, that of the head,
//!   and a piece of logits.
//!
//! Weights, optimizer state and the few hundred kilobytes a thread of attention's tiles come on top.

use tch::{Device, Kind};

use super::config::ModelConfig;
use super::host::AT_ONCE;
use crate::config::{Activations, Memory};
use crate::train::loss_rows;

/// The numbers of a model that the memory of its training follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// Blocks.
    pub layers: u64,
    /// Width of the residual stream.
    pub hidden: u64,
    /// Width of the MLP.
    pub inner: u64,
    /// Query heads times their size.
    pub queries: u64,
    /// Key heads times their size.
    pub keys: u64,
    /// Query heads.
    pub heads: u64,
    /// Token ids.
    pub vocab: u64,
    /// Bytes of a number.
    pub width: u64,
}

/// Bytes of a float32.
const SINGLE: u64 = 4;

/// Bytes of the float32 copies that types of 16 bits take while SwiGLU goes backward piece by piece: seven.
const WIDENED: u64 = 7 * SINGLE * AT_ONCE as u64;

impl Footprint {
    /// Of a model whose weights and activations are of a type.
    pub fn of(config: &ModelConfig, kind: Kind) -> Self {
        Self {
            layers: config.layers as u64,
            hidden: config.hidden as u64,
            inner: config.inner as u64,
            queries: (config.heads * config.head_dim) as u64,
            keys: (config.key_heads * config.head_dim) as u64,
            heads: config.heads as u64,
            vocab: config.vocab as u64,
            width: kind.elt_size_in_bytes() as u64,
        }
    }

    /// Bytes that a token leaves in a layer, its input included.
    pub fn kept(&self, memory: &Memory) -> u64 {
        let Self { hidden: d, inner: f, queries: a, keys: k, heads, width, .. } = *self;
        let whole = memory.mlp_tokens == 0;
        let when = |kept: bool, numbers: u64| if kept { numbers } else { 0 };
        let (numbers, log_sum_exp) = match memory.activations {
            Activations::All => (3 * d + 2 * a + 2 * k + when(whole, d + 3 * f), heads),
            Activations::Light => (2 * d + 2 * a + 2 * k + when(whole, 2 * f), heads),
            Activations::Attention => (d + a, heads),
            Activations::Layers => (d, 0),
        };
        width * numbers + SINGLE * log_sum_exp
    }

    /// Of those, bytes in host memory.
    pub fn parked(&self, memory: &Memory) -> u64 {
        if memory.offload { self.width * self.hidden } else { 0 }
    }

    /// Bytes beside what was kept while one block goes backward over `tokens`, gradients of weights apart.
    pub fn working(&self, memory: &Memory, tokens: u64) -> u64 {
        let Self { hidden: d, inner: f, queries: a, keys: k, heads, width, .. } = *self;
        let again = |numbers: u64, kept: bool| if kept { 0 } else { numbers };
        let all = memory.activations == Activations::All;
        let most = all || memory.activations == Activations::Light;
        let at_once = if memory.mlp_tokens == 0 { tokens } else { tokens.min(memory.mlp_tokens as u64) };
        let whole = memory.mlp_tokens == 0;
        let inside = match whole {
            true if all => 2 * f,
            true if most => 2 * f + d,
            _ => 4 * f + d,
        };
        // SwiGLU goes backward before its product is there again.
        let widened = if width < SINGLE { WIDENED.min(7 * SINGLE * at_once * f) } else { 0 };
        let product = width * at_once * again(f, all && whole);
        let tiled = at_once < tokens;
        let mixed = memory.activations != Activations::Layers;
        // The gradient of the output; what attention was recomputed from; the stream, and its gradient when it is gathered.
        let through_mlp = d + again(2 * a + 2 * k, mixed) + again(d, most) + again(d, !tiled);
        let through_attention = 2 * d + again(d, all) + again(a + 2 * k, most) + again(a, mixed) + 2 * a + 2 * k;
        // Its own input, and that of the layer below on its way back.
        let fetched = if memory.offload { 2 * d } else { 0 };
        let mlp = width * (tokens * through_mlp + at_once * inside) + widened.max(product);
        let attention = width * tokens * through_attention;
        mlp.max(attention) + width * tokens * fetched + tokens * SINGLE * again(heads, mixed)
    }

    /// Bytes at the loss of `tokens` on a device, the gradient of the head included where it is trained.
    pub fn loss(&self, memory: &Memory, tokens: u64, device: Device, head_is_trained: bool) -> u64 {
        let Self { hidden: d, vocab, width, .. } = *self;
        let rows = u64::try_from(loss_rows(memory.loss_tokens, tokens as i64, device)).unwrap_or(0).min(tokens);
        let a_logit = match (device, width < SINGLE) {
            (Device::Cpu, false) => SINGLE,
            // The logits, the same in float32, and what log-sum-exp makes of those.
            (Device::Cpu, true) => width + 2 * SINGLE,
            _ => 2 * width + SINGLE,
        };
        let logits = rows * vocab * a_logit;
        // 16-bit gradients of many pieces are added up in float32.
        let gathered = if rows < tokens && width < SINGLE { SINGLE + width } else { width };
        let head = if head_is_trained { vocab * d * gathered } else { 0 };
        3 * tokens * d * width + head + logits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::known_shape;

    fn seven() -> Footprint {
        Footprint::of(&known_shape("llama-2-7b").unwrap().unwrap(), Kind::BFloat16)
    }

    #[test]
    fn a_token_of_llama_2_7b_keeps_what_the_policies_say() {
        let kept = |activations| seven().kept(&Memory { activations, ..Memory::default() });
        // Per token and layer: 16d + 6f + 4h, 12d + 4f + 4h, 4d + 4h, 2d bytes.
        assert_eq!(kept(Activations::All), 131_712);
        assert_eq!(kept(Activations::Light), 93_312);
        assert_eq!(kept(Activations::Attention), 16_512);
        assert_eq!(kept(Activations::Layers), 8_192);
    }
}
