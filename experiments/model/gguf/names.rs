//! Names of tensors in a GGUF file and in a Hugging Face checkpoint, and the order of rows in which they differ.

/// Parts of a block: the name here, the name there.
const BLOCK_PARTS: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
/// What stands outside the blocks.
const OUTER: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Tensors that say how far apart positions are, and are no parameters.
pub(super) const ROPE_FACTORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
/// The matrix of embeddings.
pub(super) const EMBEDDING: &str = OUTER[0].0;
/// The output head; the embedding stands in for it where it is absent.
pub(super) const HEAD: &str = OUTER[2].0;

/// Which heads the rows of a tensor belong to, when their order differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotated {
    /// The query projection.
    Query,
    /// The key projection.
    Key,
}

/// The GGUF name of a parameter of ours; a name that the format lacks stays as it is, to be missed by it.
pub(super) fn stored_name(name: &str) -> String {
    if let Some((stored, _)) = OUTER.iter().find(|(_, ours)| *ours == name) {
        return (*stored).to_owned();
    }
    let split = |rest: &str| -> Option<String> {
        let (layer, part) = rest.split_once('.')?;
        let (part, suffix) = part.rsplit_once('.')?;
        let (stored, _) = BLOCK_PARTS.iter().find(|(_, ours)| *ours == part)?;
        Some(format!("blk.{layer}.{stored}.{suffix}"))
    };
    name.strip_prefix("model.layers.").and_then(split).unwrap_or_else(|| name.to_owned())
}

/// Whether the rows of a parameter of ours lie in another order in the file.
pub(super) fn rotated(name: &str) -> Option<Rotated> {
    let of = |part: &str| name.rsplit_once('.').is_some_and(|(stem, _)| stem.ends_with(part));
    match () {
        () if of("self_attn.q_proj") => Some(Rotated::Query),
        () if of("self_attn.k_proj") => Some(Rotated::Key),
        () => None,
    }
}

/// Where row `row` of a projection lies in the file.
///
/// GGUF rotates neighbouring channels (2i, 2i+1) of a head; a Hugging Face checkpoint rotates (i, i + d/2). Its row
/// `h d + j d/2 + i`, with j of 0 or 1, is the file's `h d + 2 i + j`.
pub(super) fn stored_row(row: usize, head_dim: usize) -> usize {
    let (head, channel) = (row / head_dim, row % head_dim);
    let (half, pair) = (channel / (head_dim / 2), channel % (head_dim / 2));
    head * head_dim + 2 * pair + half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated_and_foreign_ones_stay() {
        assert_eq!(stored_name("model.layers.12.self_attn.q_proj.weight"), "blk.12.attn_q.weight");
        assert_eq!(stored_name("model.layers.0.post_attention_layernorm.weight"), "blk.0.ffn_norm.weight");
        assert_eq!(stored_name("model.layers.3.self_attn.k_proj.bias"), "blk.3.attn_k.bias");
        assert_eq!(stored_name("lm_head.weight"), "output.weight");
        assert_eq!(stored_name("model.layers.x"), "model.layers.x");
    }

    #[test]
    fn only_queries_and_keys_are_rotated() {
        assert_eq!(rotated("model.layers.0.self_attn.q_proj.weight"), Some(Rotated::Query));
        assert_eq!(rotated("model.layers.0.self_attn.k_proj.bias"), Some(Rotated::Key));
        assert_eq!(rotated("model.layers.0.self_attn.v_proj.weight"), None);
    }

    #[test]
    fn neighbours_of_the_file_are_half_a_head_apart() {
        let rows: Vec<usize> = (0..12).map(|row| stored_row(row, 6)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
