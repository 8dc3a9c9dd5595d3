//! Shapes of well-known models, so that a run on one can be planned, and a bench run with random weights, where its
//! checkpoint is not at hand: LLaMA 2's is behind a licence form.

use serde_json::{Value, json};

use super::config::ModelConfig;
use crate::error::Failure;

/// A model's numbers, from its published `config.json`.
struct Shape {
    /// Short name, then the names on the Hub of checkpoints that have this shape.
    names: &'static [&'static str],
    vocab: usize,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    key_heads: usize,
    context: usize,
    base: f64,
    norm_epsilon: f64,
    tied: bool,
}

/// Every shape that is known. Bases, epsilons and contexts are those of the files named first.
const SHAPES: [Shape; 5] = [
    Shape {
        names: &["llama-2-7b", "meta-llama/Llama-2-7b-hf", "NousResearch/Llama-2-7b-hf"],
        vocab: 32_000,
        hidden: 4096,
        inner: 11_008,
        layers: 32,
        heads: 32,
        key_heads: 32,
        context: 4096,
        base: 10_000.0,
        norm_epsilon: 1e-5,
        tied: false,
    },
    Shape {
        names: &["llama-2-13b", "meta-llama/Llama-2-13b-hf", "NousResearch/Llama-2-13b-hf"],
        vocab: 32_000,
        hidden: 5120,
        inner: 13_824,
        layers: 40,
        heads: 40,
        key_heads: 40,
        context: 4096,
        base: 10_000.0,
        norm_epsilon: 1e-5,
        tied: false,
    },
    Shape {
        names: &["llama-7b", "huggyllama/llama-7b"],
        vocab: 32_000,
        hidden: 4096,
        inner: 11_008,
        layers: 32,
        heads: 32,
        key_heads: 32,
        context: 2048,
        base: 10_000.0,
        norm_epsilon: 1e-6,
        tied: false,
    },
    Shape {
        names: &["llama-13b", "huggyllama/llama-13b"],
        vocab: 32_000,
        hidden: 5120,
        inner: 13_824,
        layers: 40,
        heads: 40,
        key_heads: 40,
        context: 2048,
        base: 10_000.0,
        norm_epsilon: 1e-6,
        tied: false,
    },
    Shape {
        names: &[
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-135M",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
        ],
        vocab: 49_152,
        hidden: 576,
        inner: 1536,
        layers: 30,
        heads: 9,
        key_heads: 3,
        context: 8192,
        base: 100_000.0,
        norm_epsilon: 1e-5,
        tied: true,
    },
];

impl Shape {
    fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "max_position_embeddings": self.context,
            "rope_theta": self.base,
            "rms_norm_eps": self.norm_epsilon,
            "tie_word_embeddings": self.tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
        })
    }
}

/// Names of BTLM-3B-8K, whose config is of another family.
const BTLM: [&str; 2] = ["btlm-3b", "cerebras/btlm-3b-8k-base"];

/// Its numbers (Dey et al. 2023, and its published config).
fn btlm() -> Value {
    json!({
        "architectures": ["BTLMLMHeadModel"],
        "model_type": "btlm",
        "activation_function": "swiglu",
        "vocab_size": 50_257,
        "n_embd": 2560,
        "n_inner": 6826,
        "n_layer": 32,
        "n_head": 32,
        "n_positions": 8192,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.073,
        "position_embedding_type": "alibi",
        "mup_width_scale": 0.1,
        "mup_embeddings_scale": 14.6,
        "mup_output_alpha": 2.22,
        "mup_scale_qk_dot_by_d": true,
        "tie_word_embeddings": true,
        "bos_token_id": 50_256,
        "eos_token_id": 50_256,
    })
}

/// The short names of every shape that is known.
pub fn known_shapes() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.names[0]).chain([BTLM[0]])
}

/// The configuration of a model that is known by its short name, or by its name on the Hub; none for any other name.
///
/// # Errors
///
/// Never for what is in the table.
pub fn known_shape(name: &str) -> Option<Result<ModelConfig, Failure>> {
    let is_among = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    let llama = SHAPES.iter().find(|shape| is_among(shape.names)).map(Shape::config);
    let config = llama.or_else(|| is_among(&BTLM).then(btlm));
    config.map(|config| ModelConfig::from_hf(&config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_shape_has_the_published_number_of_parameters() {
        // LLaMA 2: 6.74 and 13.02 billion; SmolLM2-135M: 134,515,008 (each file's own count of its tensors).
        let counts = [
            ("llama-2-7b", 6_738_415_616),
            ("llama-2-13b", 13_015_864_320),
            ("llama-7b", 6_738_415_616),
            ("llama-13b", 13_015_864_320),
            ("smollm2-135m", 134_515_008),
            ("btlm-3b", 2_646_255_744),
        ];
        let count = |name: &str| known_shape(name).unwrap().unwrap().parameter_count();
        for (name, expected) in counts {
            assert_eq!(count(name), expected, "{name}");
        }
        assert!(known_shapes().eq(counts.iter().map(|(name, _)| *name)));
    }

    #[test]
    fn a_name_on_the_hub_is_known_in_any_case_and_another_is_not() {
        let seven = known_shape("META-llama/llama-2-7b-HF").unwrap().unwrap();
        assert_eq!((seven.layers, seven.positions.context()), (32, 4096));
        assert!(known_shape("meta-llama/Llama-2-70b-hf").is_none() && known_shape("").is_none());
    }
}
