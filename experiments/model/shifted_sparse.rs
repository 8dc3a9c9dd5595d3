//! Shifted sparse attention for training (Chen et al. 2024, LongLoRA, section 3.2): tokens attend inside groups, and the groups
//! of half of the heads are shifted by half of one, so that what is read passes from group to group.
//!
//! In the paper's figure the shifted heads roll the sequence round, which puts its first half group behind its last one:
//! those tokens would then be predicted from the end of the text. Here, as in the authors' program that trains by
//! FlashAttention, the first and the last half group of the shifted heads stand alone. Hence attention is causal in every
//! group and no token sees a later one. Evaluation uses full attention.

use attention::{Alibi, AttnError, AttnProblem, AttnShape, Backend, DocumentStarts, Mask, ProblemError};
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

    /// Mixed values `[batch, heads, length, head_dim]` of q in that shape over k and v `[batch, key_heads, length,
    /// head_dim]`, rotated.
    ///
    /// # Errors
    ///
    /// When there is one head alone, the mask is neither causal nor by documents, or the backend declines a part.
    pub fn attend(
        self,
        backend: Backend,
        (plan, mask): (&PlanTensors, &Mask),
        (q, k, v): (&Tensor, &Tensor, &Tensor),
    ) -> Result<Tensor, Failure> {
        let (heads, length) = (q.size()[1], q.size()[2]);
        let starts = match mask {
            Mask::Causal { offset: 0 } => None,
            Mask::Documents { starts, offset: 0 } => Some(starts),
            other => return Err(Failure::config(format!("shifted sparse attention has no {} mask", other.name()))),
        };
        if heads < 2 || length % self.group as i64 != 0 {
            return Err(Failure::config(format!(
                "shifted sparse attention needs two heads and groups of {} that fill the text; there are {heads} and \
                 {length} tokens",
                self.group
            )));
        }
        let (k, v) = (shareable(k, heads), shareable(v, heads));
        let key_heads = k.size()[1];
        let (kept_heads, kept_keys) = (key_heads / 2 * (heads / key_heads), key_heads / 2);
        let part = |first: i64, count: i64, first_key: i64, key_count: i64, groups: &[Groups]| {
            let tensors =
                [q.narrow(1, first, count), k.narrow(1, first_key, key_count), v.narrow(1, first_key, key_count)];
            let slopes = plan.alibi_slopes().map(|all| &all[first as usize..(first + count) as usize]);
            let attended = groups.iter().map(|&groups| grouped(backend, plan, (starts, slopes), &tensors, groups));
            Ok::<_, Failure>(Tensor::cat(&attended.collect::<Result<Vec<_>, _>>()?, 2))
        };
        let kept = part(0, kept_heads, 0, kept_keys, &self.kept(length as usize))?;
        let shifted =
            part(kept_heads, heads - kept_heads, kept_keys, key_heads - kept_keys, &self.shifted(length as usize))?;
        Ok(Tensor::cat(&[kept, shifted], 1))
    }

    /// The groups of the first half of the heads.
    fn kept(self, length: usize) -> [Groups; 1] {
        [Groups { start: 0, size: self.group, count: length / self.group }]
    }

    /// Those of the second half, from first to last.
    fn shifted(self, length: usize) -> Vec<Groups> {
        let half = self.group / 2;
        let whole = Groups { start: half, size: self.group, count: length / self.group - 1 };
        let ends = [0, length - half].map(|start| Groups { start, size: half, count: 1 });
        [ends[0], whole, ends[1]].into_iter().filter(|groups| groups.count > 0).collect()
    }
}

/// Keys or values that can be halved along their heads: an even number of heads, else one for each query head.
fn shareable(x: &Tensor, query_heads: i64) -> Tensor {
    let key_heads = x.size()[1];
    match key_heads % 2 {
        0 => x.shallow_clone(),
        _ => x.repeat_interleave_self_int(query_heads / key_heads, 1, None),
    }
}

/// Attention inside groups, `[batch, heads, size * count, head_dim]`.
fn grouped(
    backend: Backend,
    plan: &PlanTensors,
    (starts, slopes): (Option<&DocumentStarts>, Option<&[f64]>),
    tensors: &[Tensor; 3],
    groups: Groups,
) -> Result<Tensor, Failure> {
    let Groups { start, size, count } = groups;
    let (batch, head_dim) = (tensors[0].size()[0], tensors[0].size()[3]);
    // Groups beside one another: a view where heads lie inside positions and there is one sequence.
    let [q, k, v] = tensors.each_ref().map(|x| {
        let (heads, tokens) = (x.size()[1], (size * count) as i64);
        let split = x.narrow(2, start as i64, tokens).view([batch, heads, count as i64, size as i64, head_dim]);
        split.transpose(1, 2).reshape([-1, heads, size as i64, head_dim])
    });
    let shape = AttnShape {
        batch: batch as usize * count,
        query_heads: q.size()[1] as usize,
        key_heads: k.size()[1] as usize,
        query_len: size,
        key_len: size,
        head_dim: head_dim as usize,
    };
    let problem = problem(plan, shape, mask_in(starts, batch as usize, groups)?, slopes)?;
    let mixed = backend.forward(&problem, &q, &k, &v)?; // [batch * count, heads, size, head_dim]
    let heads = mixed.size()[1];
    let apart = mixed.view([batch, count as i64, heads, size as i64, head_dim]).transpose(1, 2);
    Ok(apart.reshape([batch, heads, (size * count) as i64, head_dim]))
}

fn problem(plan: &PlanTensors, shape: AttnShape, mask: Mask, slopes: Option<&[f64]>) -> Result<AttnProblem, AttnError> {
    let problem = AttnProblem::new(shape)?.with_scale(plan.score_scale(shape.head_dim))?.with_mask(mask)?;
    Ok(match slopes {
        Some(slopes) => problem.with_alibi(Alibi::new(slopes).map_err(ProblemError::from)?)?,
        None => problem,
    })
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
