//! What optimizer state and gradients cost in memory: exact numbers, for planning and for the room of a checkpoint.

use tch::Kind;

use super::AdamW;
use super::arrival::Arrival;
use crate::config::{Gradients, Memory, OptimizerState};

/// Numbers that share a scale in 8-bit moments (Dettmers et al. 2022, section 2.1, take 2048; the smaller blocks of their
/// published code isolate outliers better).
pub const BLOCK: u64 = 256;

impl AdamW {
    /// Bytes of state for one parameter of `numel` numbers of type `kind` under `memory.optimizer`: moments, their scales,
    /// and the float32 copy of 16-bit weights where one is kept. Weights and gradients are not among them.
    pub fn state_bytes(kind: Kind, numel: u64, memory: &Memory) -> u64 {
        match memory.optimizer {
            OptimizerState::Mixed if kind == Kind::Float => 8 * numel,
            OptimizerState::Mixed => 12 * numel,
            OptimizerState::Bfloat16 => 4 * numel,
            OptimizerState::Int8 => 2 * numel + 2 * 4 * numel.div_ceil(BLOCK),
        }
    }

    /// Most bytes that the gradients of `parameters` (names and numbers, of type `kind`) take at once in a step of
    /// `passes` passes, whether or not `tied` embedding and head are one parameter.
    ///
    /// Kept gradients are all there at the end of the backward pass, and those of 16 bits once more in float32 where
    /// several passes are gathered. Gradients used in the backward pass wait for those that are complete with them: the
    /// largest block, the first of the next, and that of a tied embedding throughout.
    pub fn gradient_bytes(kind: Kind, parameters: &[(&str, u64)], passes: u64, tied: bool, memory: &Memory) -> u64 {
        let width = kind.elt_size_in_bytes() as u64;
        if memory.gradients == Gradients::Kept {
            let gathered = if passes > 1 && kind != Kind::Float { 4 } else { 0 };
            return (width + gathered) * parameters.iter().map(|(_, numel)| numel).sum::<u64>();
        }
        let mut waiting = std::collections::BTreeMap::<Arrival, (u64, u64)>::new();
        for &(name, numel) in parameters {
            let (sum, largest) = waiting.entry(Arrival::of(name)).or_default();
            (*sum, *largest) = (*sum + numel, numel.max(*largest));
        }
        let embedding = waiting.remove(&Arrival::Embedding).map_or(0, |(sum, _)| sum);
        // In the order of the backward pass: the head, then the blocks from the last on.
        let order: Vec<(u64, u64)> = waiting.into_values().collect();
        let next = |at: usize| order.get(at + 1).map_or(if tied { 0 } else { embedding }, |(_, largest)| *largest);
        let most = order.iter().enumerate().map(|(at, (sum, _))| sum + next(at)).max().unwrap_or(0);
        width * if tied { most + embedding } else { most.max(embedding) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(optimizer: OptimizerState, gradients: Gradients) -> Memory {
        Memory { optimizer, gradients, ..Memory::default() }
    }

    #[test]
    fn state_of_seven_billion_parameters_is_what_the_policies_promise() {
        let numel = 6_738_415_616;
        let gigabytes = |optimizer, kind| {
            AdamW::state_bytes(kind, numel, &memory(optimizer, Gradients::Kept)) as f64 / numel as f64
        };
        assert_eq!(gigabytes(OptimizerState::Mixed, Kind::Float), 8.0);
        assert_eq!(gigabytes(OptimizerState::Mixed, Kind::BFloat16), 12.0);
        assert_eq!(gigabytes(OptimizerState::Bfloat16, Kind::BFloat16), 4.0);
        assert_eq!(gigabytes(OptimizerState::Int8, Kind::BFloat16), 2.0 + 8.0 / 256.0);
        assert_eq!(AdamW::state_bytes(Kind::Float, 257, &memory(OptimizerState::Int8, Gradients::Kept)), 514 + 16);
    }

    #[test]
    fn gradients_used_in_the_backward_pass_are_a_block_at_a_time() {
        let block = [("a", 10), ("b", 6)].map(|(name, numel)| (name.to_owned(), numel));
        let mut parameters = vec![("model.embed_tokens.weight".to_owned(), 30)];
        for layer in 0..3 {
            parameters.extend(block.iter().map(|(name, numel)| (format!("model.layers.{layer}.{name}"), *numel)));
        }
        parameters.push(("model.norm.weight".to_owned(), 2));
        let bytes = |more: &[(&str, u64)], passes, tied, gradients| {
            let named = parameters.iter().map(|(name, numel)| (name.as_str(), *numel));
            let all: Vec<(&str, u64)> = named.chain(more.iter().copied()).collect();
            AdamW::gradient_bytes(Kind::BFloat16, &all, passes, tied, &memory(OptimizerState::Int8, gradients))
        };
        let head = [("lm_head.weight", 30)];
        assert_eq!(bytes(&[], 1, true, Gradients::Kept), 2 * 80);
        assert_eq!(bytes(&[], 4, true, Gradients::Kept), 6 * 80);
        assert_eq!(bytes(&[], 1, true, Gradients::InBackward), 2 * (30 + 16 + 10));
        assert_eq!(bytes(&head, 1, false, Gradients::InBackward), 2 * (16 + 30), "the last block and the embedding");
    }
}
