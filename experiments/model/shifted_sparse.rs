//! Shifted sparse attention for training (Chen et al. 2024, LongLoRA, section 3.2): tokens attend inside groups, and the groups
//! of half of the heads are shifted by half of one, so that what is read passes from group to group.
//!
//! In the paper's figure the shifted heads roll the sequence round, which puts its first half group behind its last one:
//! those tokens would then be predicted from the end of the text. Here, as in the authors' program that trains by
//! FlashAttention, the first and the last half group of the shifted heads stand alone. Hence attention is causal in every
//! group and no token sees a later one. Evaluation uses full attention.
//!
//! Where the backend has a backward pass of its own, output and log-sum-exp are all that goes back, as in full attention.

use std::ops::Range;

use attention::{
    Alibi, Attended, AttnError, AttnProblem, AttnShape, Backend, DocumentStarts, Gradients, Mask, ProblemError,
    dtype_of,
};
use tch::Tensor;

use super::positions::PlanTensors;
use crate::error::Failure;

/// Attention inside groups of so many tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShiftedSparse {
    group: usize,
}

/// Neighbouring tokens that attend among themselves: `count` groups of `size` from token `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Groups {
    start: usize,
    size: usize,
    count: usize,
}

/// Groups of some heads: a problem of attention of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    queries: Range<i64>,
    keys: Range<i64>,
    groups: Groups,
}

/// Attention's answer, and what a backward pass takes of it.
#[derive(Debug)]
pub struct Answer {
    /// `[batch, heads, length, head_dim]`.
    pub output: Tensor,
    /// Log-sum-exp of every part, `[batch * count, heads, size]`.
    lse: Vec<Tensor>,
}

impl ShiftedSparse {
    /// Groups of a share of `length` tokens.
    ///
    /// # Errors
    ///
    /// What the share must be, when groups would not be even in size or not fill the length.
    pub fn new(length: usize, share: f64) -> Result<Self, String> {
        let group = (length as f64 * share).round();
        let fits =
            share > 0.0 && share <= 1.0 && group >= 2.0 && group % 2.0 == 0.0 && length.is_multiple_of(group as usize);
        match fits {
            true => Ok(Self { group: group as usize }),
            false => Err(format!(
                "must make groups of an even number of tokens that divides the length, is {share} ({group} of {length})"
            )),
        }
    }

    /// Tokens of a group.
    pub fn group(self) -> usize {
        self.group
    }

    /// Mixed values `[batch, heads, length, head_dim]` of q in that shape over k and v `[batch, key_heads, length,
    /// head_dim]`, rotated; as steps of libtorch's graph where gradients are tracked.
    ///
    /// # Errors
    ///
    /// When there is one head alone, the mask is neither causal nor by documents, or the backend declines a part.
    pub fn attend(
        self,
        backend: Backend,
        place: (&PlanTensors, &Mask),
        tensors: [&Tensor; 3],
    ) -> Result<Tensor, Failure> {
        let call = Call::new(self, place, tensors)?;
        let mixed = call.parts.iter().map(|part| {
            let [q, k, v] = call.inside(part);
            let mixed = backend.forward(&call.problem(part)?, &q, &k, &v)?; // [batch * count, heads, size, head_dim]
            let size = mixed.size();
            let apart = mixed.view([call.batch, -1, size[1], size[2], size[3]]).transpose(1, 2);
            Ok(apart.reshape([call.batch, size[1], -1, size[3]]))
        });
        let mut mixed = mixed.collect::<Result<Vec<Tensor>, Failure>>()?;
        let shifted = mixed.split_off(1);
        mixed.push(Tensor::cat(&shifted, 2));
        Ok(Tensor::cat(&mixed, 1))
    }

    /// Whether the backend takes every part back from output and log-sum-exp alone, as [`ShiftedSparse::backward`] does.
    ///
    /// # Errors
    ///
    /// As [`ShiftedSparse::attend`].
    pub fn goes_back_alone(
        self,
        backend: Backend,
        place: (&PlanTensors, &Mask),
        tensors: [&Tensor; 3],
    ) -> Result<bool, Failure> {
        let (q, call) = (tensors[0], Call::new(self, place, tensors)?);
        let Some(dtype) = dtype_of(q.kind()) else { return Ok(false) };
        for part in &call.parts {
            if !backend.has_backward(&call.problem(part)?, q.device(), dtype) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// As [`ShiftedSparse::attend`], with what goes back; nothing is recorded for gradients.
    ///
    /// # Errors
    ///
    /// As [`ShiftedSparse::attend`]; when the backend has no backward pass.
    pub fn answered(
        self,
        backend: Backend,
        place: (&PlanTensors, &Mask),
        tensors: [&Tensor; 3],
    ) -> Result<Answer, Failure> {
        let call = Call::new(self, place, tensors)?;
        let output = unset_like(&call.q)?;
        let one = |part: &Part| {
            let [q, k, v] = call.inside(part);
            let Attended { output: mixed, lse } = backend.attend(&call.problem(part)?, &q, &k, &v)?;
            part.put(&output, &part.queries, &mixed)?;
            Ok(lse)
        };
        let lse = call.parts.iter().map(one).collect::<Result<_, Failure>>()?;
        Ok(Answer { output, lse })
    }

    /// The gradients by q, k and v for `grad` by the output of an answer to them.
    ///
    /// # Errors
    ///
    /// As [`ShiftedSparse::answered`].
    pub fn backward(
        self,
        backend: Backend,
        place: (&PlanTensors, &Mask),
        tensors: [&Tensor; 3],
        (answer, grad): (&Answer, &Tensor),
    ) -> Result<[Tensor; 3], Failure> {
        let call = Call::new(self, place, tensors)?;
        let by = [unset_like(&call.q)?, unset_like(&call.k)?, unset_like(&call.v)?];
        for (part, lse) in call.parts.iter().zip(&answer.lse) {
            let [q, k, v] = call.inside(part);
            let attended = Attended { output: part.take(&answer.output, &part.queries), lse: lse.shallow_clone() };
            let grad = part.take(grad, &part.queries);
            let Gradients { dq, dk, dv } = backend.backward(&call.problem(part)?, &q, &k, &v, &attended, &grad)?;
            part.put(&by[0], &part.queries, &dq)?;
            part.put(&by[1], &part.keys, &dk)?;
            part.put(&by[2], &part.keys, &dv)?;
        }
        let [dq, dk, dv] = by;
        let key_heads = tensors[1].size()[1];
        Ok([dq, unshared(dk, key_heads), unshared(dv, key_heads)])
    }

    /// The groups of the first half of the heads.
    fn kept(self, length: usize) -> Groups {
        Groups { start: 0, size: self.group, count: length / self.group }
    }

    /// Those of the second half, from first to last.
    fn shifted(self, length: usize) -> impl Iterator<Item = Groups> {
        let half = self.group / 2;
        let whole = Groups { start: half, size: self.group, count: length / self.group - 1 };
        let ends = [0, length - half].map(|start| Groups { start, size: half, count: 1 });
        [ends[0], whole, ends[1]].into_iter().filter(|groups| groups.count > 0)
    }
}

impl Part {
    /// Its part of a tensor `[batch, heads, length, head_dim]`, of which some heads are its own: a view `[batch, count, heads,
    /// size, head_dim]`.
    fn of(&self, x: &Tensor, heads: &Range<i64>) -> Tensor {
        let Groups { start, size, count } = self.groups;
        let (own, dims) = (heads.end - heads.start, x.size());
        let tokens = x.narrow(1, heads.start, own).narrow(2, start as i64, (size * count) as i64);
        tokens.view([dims[0], own, count as i64, size as i64, dims[3]]).transpose(1, 2)
    }

    /// Its part of a tensor with the groups side by side, `[batch * count, heads, size, head_dim]`: a view where there is one
    /// sequence.
    fn take(&self, x: &Tensor, heads: &Range<i64>) -> Tensor {
        let groups = self.of(x, heads);
        let size = groups.size();
        groups.reshape([-1, size[2], size[3], size[4]])
    }

    /// Writes such groups to their places in a tensor.
    fn put(&self, x: &Tensor, heads: &Range<i64>, groups: &Tensor) -> Result<(), Failure> {
        let mut place = self.of(x, heads);
        place.f_copy_(&groups.f_view(place.size().as_slice())?)?;
        Ok(())
    }
}

/// Tensors of one call and the parts that they fall into, which cover every head and token once.
struct Call<'a> {
    plan: &'a PlanTensors,
    starts: Option<&'a DocumentStarts>,
    batch: i64,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    parts: Vec<Part>,
}

impl<'a> Call<'a> {
    fn new(
        sparse: ShiftedSparse,
        (plan, mask): (&'a PlanTensors, &'a Mask),
        [q, k, v]: [&Tensor; 3],
    ) -> Result<Self, Failure> {
        let (batch, heads, length, _) = q.size4()?;
        let starts = match mask {
            Mask::Causal { offset: 0 } => None,
            Mask::Documents { starts, offset: 0 } => Some(starts),
            other => return Err(Failure::config(format!("shifted sparse attention has no {} mask", other.name()))),
        };
        if heads < 2 || length % sparse.group as i64 != 0 {
            return Err(Failure::config(format!(
                "shifted sparse attention needs two heads and groups of {} that fill the text; there are {heads} and \
                 {length} tokens",
                sparse.group
            )));
        }
        let (k, v) = (shareable(k, heads), shareable(v, heads));
        let key_heads = k.size()[1];
        let (half, half_keys) = (key_heads / 2 * (heads / key_heads), key_heads / 2);
        let kept = Part { queries: 0..half, keys: 0..half_keys, groups: sparse.kept(length as usize) };
        let shifted = sparse.shifted(length as usize);
        let shifted = shifted.map(|groups| Part { queries: half..heads, keys: half_keys..key_heads, groups });
        let parts = std::iter::once(kept).chain(shifted).collect();
        Ok(Self { plan, starts, batch, q: q.shallow_clone(), k, v, parts })
    }

    /// q, k and v of a part.
    fn inside(&self, part: &Part) -> [Tensor; 3] {
        [part.take(&self.q, &part.queries), part.take(&self.k, &part.keys), part.take(&self.v, &part.keys)]
    }

    /// What a part asks.
    fn problem(&self, part: &Part) -> Result<AttnProblem, Failure> {
        let Part { queries, keys, groups } = part;
        let (batch, head_dim) = (self.batch as usize, self.q.size()[3] as usize);
        let shape = AttnShape {
            batch: batch * groups.count,
            query_heads: (queries.end - queries.start) as usize,
            key_heads: (keys.end - keys.start) as usize,
            query_len: groups.size,
            key_len: groups.size,
            head_dim,
        };
        let slopes = self.plan.alibi_slopes().map(|all| &all[queries.start as usize..queries.end as usize]);
        Ok(problem(self.plan, shape, mask_in(self.starts, batch, *groups)?, slopes)?)
    }
}

fn problem(plan: &PlanTensors, shape: AttnShape, mask: Mask, slopes: Option<&[f64]>) -> Result<AttnProblem, AttnError> {
    let problem = AttnProblem::new(shape)?.with_scale(plan.score_scale(shape.head_dim))?.with_mask(mask)?;
    Ok(match slopes {
        Some(slopes) => problem.with_alibi(Alibi::new(slopes).map_err(ProblemError::from)?)?,
        None => problem,
    })
}

/// A tensor of the shape and kind of another, its numbers not set: heads inside positions, as a projection leaves them.
fn unset_like(x: &Tensor) -> Result<Tensor, Failure> {
    let (batch, heads, length, head_dim) = x.size4()?;
    Ok(Tensor::f_empty([batch, length, heads, head_dim], (x.kind(), x.device()))?.transpose(1, 2))
}

/// Keys or values that can be halved along their heads: an even number of heads, else one for each query head.
fn shareable(x: &Tensor, query_heads: i64) -> Tensor {
    let key_heads = x.size()[1];
    match key_heads % 2 {
        0 => x.shallow_clone(),
        _ => x.repeat_interleave_self_int(query_heads / key_heads, 1, None),
    }
}

/// The gradient by what [`shareable`] was given, which had so many heads.
fn unshared(grad: Tensor, key_heads: i64) -> Tensor {
    let dims = grad.size();
    match dims[1] / key_heads {
        1 => grad,
        share => {
            grad.view([dims[0], key_heads, share, dims[2], dims[3]]).sum_dim_intlist([2_i64].as_slice(), false, None)
        }
    }
}

/// What is seen inside groups: one row of document starts for each group of each sequence, or what came before.
fn mask_in(starts: Option<&DocumentStarts>, batch: usize, groups: Groups) -> Result<Mask, Failure> {
    let Some(starts) = starts else { return Ok(Mask::Causal { offset: 0 }) };
    let of_group = |row: usize, group: usize| {
        let from = groups.start + group * groups.size;
        within(starts.row(row), from, groups.size)
    };
    let rows = (0..batch).flat_map(|row| (0..groups.count).map(move |group| of_group(row, group))).collect();
    let starts = DocumentStarts::new(rows).map_err(|error| Failure::data(error.to_string()))?;
    Ok(Mask::Documents { starts, offset: 0 })
}

/// Document starts of `count` tokens from token `from` on, counted from there.
pub fn within(starts: &[usize], from: usize, count: usize) -> Vec<usize> {
    let inside = starts.iter().filter(|&&start| start > from && start < from + count).map(|start| start - from);
    [0].into_iter().chain(inside).collect()
}

#[cfg(test)]
#[path = "shifted_sparse_tests.rs"]
mod tests;
