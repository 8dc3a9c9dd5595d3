//! One block of LLaMA (Touvron et al. 2023, section 2.2): `h = x + attention(norm(x))`, `y = h + mlp(norm(h))`.

use attention::{Backend, Mask};
use tch::Tensor;

use super::kv_cache::KvCache;
use super::linear::Linear;
use super::norm::Norm;
use super::pass::Pass;
use super::positions::PlanTensors;
use super::swiglu;
use crate::error::Failure;

/// Tokens that go through an MLP at once where no gradient is recorded: `inner` is the widest thing that a long text would
/// otherwise be held at.
const MLP_TOKENS: i64 = 8192;

/// How projections are cut into heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Of queries.
    pub query: i64,
    /// Of keys and values.
    pub key: i64,
    /// Size of each.
    pub dim: i64,
}

/// One block.
#[derive(Debug)]
pub struct Block {
    /// How projections are cut into heads.
    pub heads: Heads,
    /// Norm before attention.
    pub input_norm: Norm,
    /// Query projection.
    pub query: Linear,
    /// Key projection.
    pub key: Linear,
    /// Value projection.
    pub value: Linear,
    /// Output projection.
    pub output: Linear,
    /// Norm before the MLP.
    pub post_norm: Norm,
    /// Gate projection of SwiGLU.
    pub gate: Linear,
    /// Up projection of SwiGLU.
    pub up: Linear,
    /// Down projection of SwiGLU.
    pub down: Linear,
}

/// Where a block reads from beside its input.
pub(super) struct Reading<'a> {
    /// Positions and mask of the tokens.
    pub pass: &'a Pass<'a>,
    /// Who computes attention.
    pub backend: Backend,
    /// Keys and values of tokens before, and which block's these are.
    pub cache: Option<(&'a mut KvCache, usize)>,
    /// First token whose output is wanted; of those before it keys and values alone are computed.
    pub from: i64,
}

impl Block {
    /// Output `[batch, length - from, hidden]` for input `[batch, length, hidden]`. Nothing is recorded for gradients: see
    /// [`super::recorded`].
    pub(super) fn forward(&self, x: &Tensor, reading: Reading<'_>) -> Result<Tensor, Failure> {
        let from = reading.from;
        let attended = self.attended(&self.input_norm.forward(x), reading)?;
        Ok(self.fed_forward(attended, &later(x, from)))
    }

    /// Attention of the tokens from `from` on to all of them, `[batch, length - from, hidden]`.
    fn attended(&self, x: &Tensor, reading: Reading<'_>) -> Result<Tensor, Failure> {
        let (q, k, v) = (self.query.forward(&later(x, reading.from)), self.key.forward(x), self.value.forward(x));
        Ok(self.output.forward(&self.mixed([&q, &k, &v], reading)?))
    }

    /// Output `[rows, 1, hidden]` for the next token `[rows, 1, hidden]` of as many texts, each behind its own cache. Weights are
    /// read once for all of them; attention is each one's own.
    pub(super) fn next(
        &self,
        x: &Tensor,
        plan: &PlanTensors,
        backend: Backend,
        (caches, index): (&mut [&mut KvCache], usize),
    ) -> Result<Tensor, Failure> {
        let normed = self.input_norm.forward(x);
        let projected = [&self.query, &self.key, &self.value].map(|linear| linear.forward(&normed));
        let mut attended = Vec::with_capacity(caches.len());
        for (row, cache) in caches.iter_mut().enumerate() {
            let own = projected.each_ref().map(|it| it.narrow(0, row as i64, 1));
            let pass = Pass::behind(plan, cache.len() as i64);
            cache.check(&pass)?;
            let reading = Reading { pass: &pass, backend, cache: Some((cache, index)), from: 0 };
            attended.push(self.mixed(own.each_ref(), reading)?);
        }
        Ok(self.fed_forward(self.output.forward(&Tensor::cat(&attended, 0)), x))
    }

    /// Mixed values `[batch, length - from, heads * head_dim]` of what was projected: queries of the tokens from `from` on, keys and
    /// values of all.
    fn mixed(&self, [q, k, v]: [&Tensor; 3], reading: Reading<'_>) -> Result<Tensor, Failure> {
        let Reading { pass, backend, cache, from } = reading;
        let (q, k) = (self.split(q, self.heads.query), self.split(k, self.heads.key));
        let v = self.split(v, self.heads.key);
        let asking = pass.later(from)?;
        let (q, k) = match pass.plan.extrapolation() {
            // [batch, heads, length - from, head_dim] and [batch, key_heads, length, head_dim]
            None => {
                let rotated = |x, offset| pass.plan.rotated_over(x, offset, backend);
                (rotated(q, asking.offset)?, rotated(k, pass.offset)?)
            }
            // Rotated inside attention, at more than one position each.
            Some(_) => (q, k),
        };
        let (k, v) = match cache {
            Some((cache, index)) => cache.appended(index, &k, &v), // [batch, key_heads, total, head_dim]
            None => (k, v),
        };
        let mixed = mixed(backend, &asking, &q, &k, &v)?; // [batch, heads, length - from, head_dim]
        Ok(self.merged(&mixed))
    }

    /// q, k and v, rotated, `[batch, heads, length, head_dim]`, of a normed input `[batch, length, hidden]`. To be called where
    /// nothing is recorded.
    pub(super) fn projected(&self, x: &Tensor, pass: &Pass, backend: Backend) -> Result<[Tensor; 3], Failure> {
        let rotated = |x: &Tensor, heads| pass.plan.rotated_over(self.split(x, heads), pass.offset, backend);
        let q = rotated(&self.query.forward(x), self.heads.query)?;
        let k = rotated(&self.key.forward(x), self.heads.key)?;
        Ok([q, k, self.split(&self.value.forward(x), self.heads.key)])
    }

    /// `[batch, length, heads * head_dim]` as `[batch, heads, length, head_dim]`.
    pub(super) fn split(&self, x: &Tensor, heads: i64) -> Tensor {
        let batch = x.size()[0];
        x.view([batch, -1, heads, self.heads.dim]).transpose(1, 2)
    }

    /// `[batch, heads, length, head_dim]` as `[batch, length, heads * head_dim]`.
    pub(super) fn merged(&self, x: &Tensor) -> Tensor {
        let size = x.size();
        x.transpose(1, 2).reshape([size[0], size[2], self.heads.query * self.heads.dim])
    }

    /// `y = h + mlp(norm(h))` with `h = x + attended`, which takes the place of `attended`, all `[batch, length, hidden]`; every
    /// position is on its own.
    fn fed_forward(&self, attended: Tensor, x: &Tensor) -> Tensor {
        let (h, length) = (attended, x.size()[1]);
        let part = |start: i64| {
            let tokens = |t: &Tensor| t.narrow(1, start, MLP_TOKENS.min(length - start));
            self.mlp(&self.post_norm.after_adding(&mut tokens(&h), &tokens(x)))
        };
        let mut fed = match length {
            ..=MLP_TOKENS => part(0),
            _ => Tensor::cat(&(0..length).step_by(MLP_TOKENS as usize).map(part).collect::<Vec<_>>(), 1),
        };
        fed.g_add_(&h)
    }

    /// SwiGLU (Shazeer 2020): `down(silu(gate(x)) * up(x))`.
    fn mlp(&self, x: &Tensor) -> Tensor {
        self.down.forward(&swiglu::forward(&self.gate.forward(x), &self.up.forward(x)))
    }

    /// Another handle on the same tensors.
    pub(super) fn handle(&self) -> Self {
        Self {
            heads: self.heads,
            input_norm: self.input_norm.handle(),
            query: self.query.handle(),
            key: self.key.handle(),
            value: self.value.handle(),
            output: self.output.handle(),
            post_norm: self.post_norm.handle(),
            gate: self.gate.handle(),
            up: self.up.handle(),
            down: self.down.handle(),
        }
    }

    /// Its linear maps, with their names in a checkpoint.
    pub fn linears(&self) -> [(&'static str, &Linear); 7] {
        [
            ("self_attn.q_proj", &self.query),
            ("self_attn.k_proj", &self.key),
            ("self_attn.v_proj", &self.value),
            ("self_attn.o_proj", &self.output),
            ("mlp.gate_proj", &self.gate),
            ("mlp.up_proj", &self.up),
            ("mlp.down_proj", &self.down),
        ]
    }

    /// The same, to be changed.
    pub fn linears_mut(&mut self) -> [(&'static str, &mut Linear); 7] {
        [
            ("self_attn.q_proj", &mut self.query),
            ("self_attn.k_proj", &mut self.key),
            ("self_attn.v_proj", &mut self.value),
            ("self_attn.o_proj", &mut self.output),
            ("mlp.gate_proj", &mut self.gate),
            ("mlp.up_proj", &mut self.up),
            ("mlp.down_proj", &mut self.down),
        ]
    }

    /// Every parameter with its name inside the block.
    pub(super) fn parameters(&self) -> Vec<(String, &Tensor)> {
        let norms = [("input_layernorm", &self.input_norm), ("post_attention_layernorm", &self.post_norm)];
        let norms = norms.into_iter().map(|(name, norm)| (name, norm.parameters()));
        let linears = self.linears().into_iter().map(|(name, linear)| (name, linear.parameters()));
        let named = |(name, parts): (&str, Vec<_>)| -> Vec<(String, &Tensor)> {
            parts.into_iter().map(|(part, tensor): (&str, _)| (format!("{name}.{part}"), tensor)).collect()
        };
        norms.chain(linears).flat_map(named).collect()
    }
}

/// `x` `[batch, length, ..]` from the `from`th token on.
fn later(x: &Tensor, from: i64) -> Tensor {
    match from {
        0 => x.shallow_clone(),
        _ => x.narrow(1, from, x.size()[1] - from).contiguous(),
    }
}

/// Attention `[batch, heads, length, head_dim]` of q in that shape over k and v `[batch, key_heads, total, head_dim]`.
fn mixed(backend: Backend, pass: &Pass, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor, Failure> {
    if let Some(method) = pass.plan.extrapolation() {
        if pass.mask != (Mask::Causal { offset: pass.offset }) {
            let mask = pass.mask.name();
            return Err(Failure::config(format!("{method} takes causal attention, not the {mask} mask")));
        }
        return method.attend(backend, pass.plan, (q, k, v), pass.offset);
    }
    if let Some(sparse) = pass.plan.sparse() {
        return sparse.attend(backend, (pass.plan, &pass.mask), [q, k, v]);
    }
    Ok(backend.forward(&pass.problem(q, k)?, q, k, v)?)
}
