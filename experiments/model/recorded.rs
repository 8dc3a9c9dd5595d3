//! A block as one node of libtorch's graph: what its forward pass keeps is chosen, and its backward is the chain rule
//! written out. What was not kept is computed again from what was; attention never is, unless its layer's input is all there
//! is.
//!
//! With `d` the width of the residual stream, `f` that of the MLP, `a` query heads times their size, `k` the same of key
//! heads, and `h` query heads, a token and layer keep
//!
//! | `activations` | what | numbers | bytes in 16 bits where a = k = d |
//! |---|---|---|---|
//! | `all` | x, norm(x), q, k, v, o, h, norm(h), gate, up, product | 4d + 2a + 2k + 3f | 16d + 6f + 4h |
//! | `light` | x, q, k, v, o, h, gate, up | 2d + 2a + 2k + 2f | 12d + 4f + 4h |
//! | `attention` | x, o | d + a | 4d + 4h |
//! | `layers` | x | d | 2d |
//!
//! and, but for `layers`, the log-sum-exp, h numbers of 4 bytes. `mlp_tokens` cuts the MLP: of norm(h), gate, up and product
//! nothing is kept then, and both ways hold them for so many tokens at once. [`Footprint`](super::Footprint) counts.

use std::sync::{Arc, Mutex, PoisonError};

use attention::{Backend, Mask};
use tch::Tensor;
use torch_ext::autograd::{Backward, Recorded, custom};

use super::block::Block;
use super::host::{in_rows, unset_like};
use super::linear::{Gradients, places};
use super::mixing::Mixed;
use super::norm::Norm;
use super::offload::Parking;
use super::pass::Pass;
use super::positions::PlanTensors;
use super::swiglu::{self, Pulled};
use crate::config::{Activations, Memory};
use crate::error::Failure;

/// Where a block that is trained reads from, and what it may keep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Training<'a> {
    /// Positions and mask of the tokens.
    pub pass: &'a Pass<'a>,
    /// Who computes attention.
    pub backend: Backend,
    /// What is kept.
    pub memory: Memory,
    /// Where inputs of layers wait, and which layer's this is; none where they stay where they are.
    pub parking: Option<(&'a Parking, usize)>,
}

/// Output `[batch, length, hidden]` of a block for its input in that shape, as a step of libtorch's graph.
///
/// # Errors
///
/// When the attention backend declines the problem or memory runs out.
pub(super) fn recorded(block: &Block, x: &Tensor, training: Training<'_>) -> Result<Tensor, Failure> {
    let work = Work::new(block, training)?;
    let kept = Arc::new(Mutex::new(None));
    let parking = training.parking.map(|(parking, layer)| (parking.clone(), layer));
    let inputs: Vec<&Tensor> = [x].into_iter().chain(block.tensors()).collect();
    let forward = || {
        let (y, all) = work.forward(x)?;
        *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(all);
        let saved = match &parking {
            Some((parking, layer)) => parking.park(*layer, x).map(|()| vec![])?,
            None => vec![x.shallow_clone()],
        };
        Ok::<_, Failure>(Recorded { outputs: vec![y], saved })
    };
    let (again, taken, parked) = (Work::new(block, training)?, Arc::clone(&kept), parking.clone());
    let backward = move |call: Backward| -> Result<Vec<Option<Tensor>>, Failure> {
        let x = match &parked {
            Some((parking, layer)) => parking.fetch(*layer)?,
            None => call.saved[0].shallow_clone(),
        };
        // Let go piece by piece; hence a graph serves once.
        let kept = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        let kept = kept.ok_or_else(|| Failure::config("a block's graph serves one backward pass"))?;
        match &call.gradients[0] {
            Some(dy) => again.backward(&x, kept, dy),
            None => Ok(places(call.wanted.len())),
        }
    };
    Ok(custom("block", &inputs, forward, backward)?.swap_remove(0))
}

/// What of the forward pass is kept for the backward, beside the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Keep {
    /// Answers of the norms.
    norms: bool,
    /// q, k and v, and the residual stream between attention and MLP.
    most: bool,
    /// Attention's answer.
    mixed: bool,
    /// Tokens of an MLP at once, whose inside is not kept; 0: all, and it is.
    mlp_tokens: usize,
}

impl Keep {
    fn of(memory: &Memory) -> Self {
        let Memory { activations, mlp_tokens, .. } = *memory;
        Self {
            norms: activations == Activations::All,
            most: matches!(activations, Activations::All | Activations::Light),
            mixed: activations != Activations::Layers,
            mlp_tokens,
        }
    }
}

/// What was kept of one pass through a block.
#[derive(Debug)]
struct Kept {
    /// The norm of the input, `[batch, length, hidden]`.
    normed: Option<Tensor>,
    /// q, k and v, rotated, `[batch, heads, length, head_dim]`.
    projected: Option<[Tensor; 3]>,
    /// Attention's answer.
    mixed: Option<Mixed>,
    /// The residual stream between attention and MLP, `[rows, hidden]`.
    stream: Option<Tensor>,
    inner: Inner,
}

/// What was kept of an MLP.
#[derive(Debug, Default)]
struct Inner {
    /// The norm of its input, `[rows, hidden]`.
    normed: Option<Tensor>,
    /// Gate and what it lets through, `[rows, inner]`.
    gates: Option<[Tensor; 2]>,
    /// What goes down, `[rows, inner]`.
    product: Option<Tensor>,
}

/// The residual stream between attention and MLP, `[rows, hidden]`.
struct Stream {
    h: Tensor,
    /// What is still to be added to it, which the norm does in passing.
    lacks: Option<Tensor>,
}

impl Stream {
    /// Some of its rows: the same memory.
    fn tile(&self, (start, count): (i64, i64)) -> Self {
        let rows = |t: &Tensor| t.narrow(0, start, count);
        Self { h: rows(&self.h), lacks: self.lacks.as_ref().map(rows) }
    }

    /// Its norm; it lacks nothing then.
    fn normed(&mut self, norm: &Norm) -> Tensor {
        match self.lacks.take() {
            Some(x) => norm.after_adding(&mut self.h, &x),
            None => norm.forward(&self.h),
        }
    }
}

/// Gradients by the tensors of a block, part by part.
struct Sums {
    input_norm: Gradients,
    query: Gradients,
    key: Gradients,
    value: Gradients,
    output: Gradients,
    post_norm: Gradients,
    gate: Gradients,
    up: Gradients,
    down: Gradients,
}

impl Sums {
    fn of(block: &Block) -> Self {
        Self {
            input_norm: places(block.input_norm.parameters().len()),
            query: places(block.query.parameters().len()),
            key: places(block.key.parameters().len()),
            value: places(block.value.parameters().len()),
            output: places(block.output.parameters().len()),
            post_norm: places(block.post_norm.parameters().len()),
            gate: places(block.gate.parameters().len()),
            up: places(block.up.parameters().len()),
            down: places(block.down.parameters().len()),
        }
    }

    /// In the order of [`Block::tensors`].
    fn list(self) -> impl Iterator<Item = Option<Tensor>> {
        let Self { input_norm, query, key, value, output, post_norm, gate, up, down } = self;
        [input_norm, query, key, value, output, post_norm, gate, up, down].into_iter().flatten()
    }
}

impl Block {
    /// Every tensor that a gradient may be asked by.
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let parts = [
            self.input_norm.parameters(),
            self.query.parameters(),
            self.key.parameters(),
            self.value.parameters(),
            self.output.parameters(),
            self.post_norm.parameters(),
            self.gate.parameters(),
            self.up.parameters(),
            self.down.parameters(),
        ];
        parts.into_iter().flatten().map(|(_, tensor)| tensor)
    }
}

/// A block with what its passes need, to be kept by a graph.
struct Work {
    block: Block,
    plan: PlanTensors,
    offset: i64,
    mask: Mask,
    backend: Backend,
    keep: Keep,
}

impl Work {
    fn new(block: &Block, training: Training<'_>) -> Result<Self, Failure> {
        let Training { pass, backend, memory, .. } = training;
        if let Some(method) = pass.plan.extrapolation() {
            return Err(Failure::config(format!("{method} is a way of reading, and has no gradients to train by")));
        }
        let (plan, mask) = (pass.plan.handle(), pass.mask.clone());
        Ok(Self { block: block.handle(), plan, offset: pass.offset, mask, backend, keep: Keep::of(&memory) })
    }

    fn pass(&self) -> Pass<'_> {
        Pass { plan: &self.plan, offset: self.offset, mask: self.mask.clone() }
    }

    fn forward(&self, x: &Tensor) -> Result<(Tensor, Kept), Failure> {
        let keep = self.keep;
        let normed = self.block.input_norm.forward(x);
        let projected = self.block.projected(&normed, &self.pass(), self.backend)?;
        let normed = keep.norms.then_some(normed);
        let mixed = Mixed::new(self.backend, &self.pass(), &projected, keep.mixed)?;
        let projected = keep.most.then_some(projected);
        let stream = self.stream(x, &mixed);
        let mixed = keep.mixed.then_some(mixed);
        let (y, inner) = self.fed_forward(&stream);
        let stream = keep.most.then_some(stream.h);
        Ok((y.view_as(x), Kept { normed, projected, mixed, stream, inner }))
    }

    /// `h = x + output(o)`, of which `x` is still to be added.
    fn stream(&self, x: &Tensor, mixed: &Mixed) -> Stream {
        let h = self.block.output.forward(&in_rows(&self.block.merged(mixed.output())));
        Stream { h, lacks: Some(in_rows(x)) }
    }

    /// `y = h + mlp(norm(h))`, `[rows, hidden]`; the stream lacks nothing then.
    fn fed_forward(&self, stream: &Stream) -> (Tensor, Inner) {
        let tiles = self.tiles(&stream.h);
        if let [whole] = tiles[..] {
            return self.fed(stream.tile(whole));
        }
        let y = unset_like(&stream.h);
        for tile in tiles {
            y.narrow(0, tile.0, tile.1).copy_(&self.fed(stream.tile(tile)).0);
        }
        (y, Inner::default())
    }

    /// The same for a tile.
    fn fed(&self, mut stream: Stream) -> (Tensor, Inner) {
        let (block, keep) = (&self.block, self.keep);
        let normed = stream.normed(&block.post_norm);
        let gates = [block.gate.forward(&normed), block.up.forward(&normed)];
        let whole = keep.mlp_tokens == 0;
        let normed = (keep.norms && whole).then_some(normed);
        let product = swiglu::forward(&gates[0], &gates[1]);
        let gates = (keep.most && whole).then_some(gates);
        let mut y = block.down.forward(&product);
        let product = (keep.norms && whole).then_some(product);
        (y.g_add_(&stream.h), Inner { normed, gates, product })
    }

    /// First rows and counts of the pieces that go through the MLP at once; at least one.
    fn tiles(&self, h: &Tensor) -> Vec<(i64, i64)> {
        let count = h.size()[0];
        match self.keep.mlp_tokens as i64 {
            0 => vec![(0, count)],
            size => (0..count.max(1)).step_by(size as usize).map(|start| (start, size.min(count - start))).collect(),
        }
    }

    /// The gradients by the input and by every tensor of the block, for `dy` by the output.
    fn backward(&self, x: &Tensor, kept: Kept, dy: &Tensor) -> Result<Vec<Option<Tensor>>, Failure> {
        let (block, pass, mut sums) = (&self.block, self.pass(), Sums::of(&self.block));
        let Kept { normed, projected, mixed, stream, inner } = kept;
        let normed_again = || block.input_norm.forward(x);
        let projected_again = |normed: &Tensor| block.projected(normed, &pass, self.backend);
        let (projected, mixed) = match mixed {
            Some(mixed) => (projected, mixed),
            None => {
                let projected = projected_again(&normed_again())?;
                let mixed = Mixed::new(self.backend, &pass, &projected, true)?;
                (Some(projected), mixed)
            }
        };
        let stream = stream.map_or_else(|| self.stream(x, &mixed), |h| Stream { h, lacks: None });
        let dh = self.fed_backward(stream, inner, &in_rows(&dy.contiguous()), &mut sums);

        block.output.gather(&in_rows(&block.merged(mixed.output())), &dh, &mut sums.output);
        let d_merged = block.output.pulled(&dh, None).view([x.size()[0], x.size()[1], -1]);
        let d_mixed = block.split(&d_merged, block.heads.query);
        let normed = normed.unwrap_or_else(normed_again);
        let projected = projected.map_or_else(|| projected_again(&normed), Ok)?;
        let [dq, dk, dv] = mixed.backward(self.backend, &pass, projected, &d_mixed)?;
        drop([d_merged, d_mixed]);
        let back = |grad: Tensor| pass.plan.turned_back(&grad, self.offset, self.backend);
        let [dq, dk, dv] = [back(dq)?, back(dk)?, dv.transpose(1, 2).contiguous()].map(|grad| heads_in_rows(&grad));

        let normed = in_rows(&normed);
        block.query.gather(&normed, &dq, &mut sums.query);
        block.key.gather(&normed, &dk, &mut sums.key);
        block.value.gather(&normed, &dv, &mut sums.value);
        let d_normed = block.query.pulled(&dq, None);
        let d_normed = block.key.pulled(&dk, Some(d_normed));
        let d_normed = block.value.pulled(&dv, Some(d_normed));
        let dx = block.input_norm.backward(&in_rows(x), &d_normed, Some(&dh), &mut sums.input_norm);
        Ok([Some(dx.view_as(x))].into_iter().chain(sums.list()).collect())
    }

    /// `dh` for the stream and `dy`, `[rows, hidden]`.
    fn fed_backward(&self, stream: Stream, inner: Inner, dy: &Tensor, sums: &mut Sums) -> Tensor {
        let tiles = self.tiles(&stream.h);
        if let [_] = tiles[..] {
            return self.fed_back(stream, inner, dy, sums);
        }
        let dh = unset_like(&stream.h);
        for tile in tiles {
            let part = |t: &Tensor| t.narrow(0, tile.0, tile.1);
            part(&dh).copy_(&self.fed_back(stream.tile(tile), Inner::default(), &part(dy), sums));
        }
        dh
    }

    /// The same for a tile.
    fn fed_back(&self, mut stream: Stream, inner: Inner, dy: &Tensor, sums: &mut Sums) -> Tensor {
        let block = &self.block;
        let normed = inner.normed.unwrap_or_else(|| stream.normed(&block.post_norm));
        let [gate, up] = inner.gates.unwrap_or_else(|| [block.gate.forward(&normed), block.up.forward(&normed)]);
        let Pulled { gate: d_gate, up: d_up, product } =
            swiglu::backward(&gate, &up, block.down.pulled(dy, None), inner.product);
        drop([gate, up]);
        block.down.gather(&product, dy, &mut sums.down);
        drop(product);
        block.gate.gather(&normed, &d_gate, &mut sums.gate);
        block.up.gather(&normed, &d_up, &mut sums.up);
        let d_normed = block.gate.pulled(&d_gate, None);
        let d_normed = block.up.pulled(&d_up, Some(d_normed));
        block.post_norm.backward(&stream.h, &d_normed, Some(dy), &mut sums.post_norm)
    }
}

/// `[batch, length, heads, head_dim]` as `[rows, heads * head_dim]`.
fn heads_in_rows(x: &Tensor) -> Tensor {
    let size = x.size();
    x.view([size[0] * size[1], size[2] * size[3]])
}

#[cfg(test)]
#[path = "recorded_tests.rs"]
mod tests;
