//! Which gradients are complete together in a backward pass.

/// Parts of the model in the order in which a backward pass completes their gradients.
///
/// A part may add to the gradient of one weight several times, where it goes through its tokens piece by piece and
/// computes each again. Its gradients are complete when the first one of the next part arrives, since a part's input gets
/// its own gradient last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arrival {
    /// The output head, the final norm, and whatever else is in no block.
    Head,
    /// A block, by its distance from the last one that there could be.
    Block(u32),
    /// The token embedding: last of all, and first as well where it is the head. Complete with the pass.
    Embedding,
}

impl Arrival {
    /// The part that a parameter belongs to, by its checkpoint name.
    pub fn of(name: &str) -> Self {
        if name == "model.embed_tokens.weight" {
            return Self::Embedding;
        }
        let number = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
        match number.and_then(|number| number.parse::<u32>().ok()) {
            Some(number) => Self::Block(u32::MAX - number),
            None => Self::Head,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_in_the_order_of_the_backward_pass() {
        let names = [
            "lm_head.weight",
            "model.layers.11.mlp.down_proj.weight",
            "model.layers.2.self_attn.q_proj.lora_A.weight",
            "model.layers.0.input_layernorm.weight",
            "model.embed_tokens.weight",
        ];
        assert!(names.windows(2).all(|pair| Arrival::of(pair[0]) < Arrival::of(pair[1])));
        assert_eq!(Arrival::of("model.norm.weight"), Arrival::Head);
        assert_eq!(Arrival::of("model.layers.2.mlp.up_proj.weight"), Arrival::of("model.layers.2.mlp.gate_proj.bias"));
    }
}
