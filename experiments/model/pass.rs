//! What one pass over tokens needs beside them.

use attention::{Alibi, AttnError, AttnProblem, AttnShape, Mask, ProblemError};
use tch::Tensor;

use super::positions::PlanTensors;
use crate::error::Failure;

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

impl<'a> Pass<'a> {
    /// Causal reading behind `offset` tokens.
    pub(super) fn behind(plan: &'a PlanTensors, offset: i64) -> Self {
        Self { plan, offset, mask: Mask::Causal { offset } }
    }

    /// The same for the tokens from the `from`th on, whose keys are there all the same.
    pub(super) fn later(&self, from: i64) -> Result<Self, Failure> {
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

    /// Attention of q `[batch, heads, length, head_dim]` over k `[batch, key_heads, total, head_dim]`.
    pub(super) fn problem(&self, q: &Tensor, k: &Tensor) -> Result<AttnProblem, AttnError> {
        let [batch, query_heads, query_len, head_dim] = dims(q);
        let [_, key_heads, key_len, _] = dims(k);
        let shape = AttnShape { batch, query_heads, key_heads, query_len, key_len, head_dim };
        let scale = self.plan.score_scale(head_dim);
        let problem = AttnProblem::new(shape)?.with_scale(scale)?.with_mask(self.mask.clone())?;
        Ok(match self.plan.alibi_slopes() {
            Some(slopes) => problem.with_alibi(Alibi::new(slopes).map_err(ProblemError::from)?)?,
            None => problem,
        })
    }
}

/// Sizes of a tensor of four dimensions.
fn dims(x: &Tensor) -> [usize; 4] {
    let sizes = x.size();
    std::array::from_fn(|place| sizes.get(place).copied().and_then(|n| usize::try_from(n).ok()).unwrap_or(0))
}
