//! Maximal update parametrization (Yang et al. 2022, table 8), as BTLM uses it (Dey et al. 2023, section 2): what a model of
//! any width multiplies by, so that hyper-parameters found at a small width hold at a large one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Multipliers of a model; the default is a model without muP.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mup {
    /// Width at which hyper-parameters were found, over this model's.
    pub width_scale: f64,
    /// Factor on embeddings.
    pub embeddings_scale: f64,
    /// Factor on logits, beside the width's.
    pub output_alpha: f64,
    /// Whether scores are divided by the size of a head, and not by its root.
    pub scale_by_d: bool,
}

impl Default for Mup {
    fn default() -> Self {
        Self { width_scale: 1.0, embeddings_scale: 1.0, output_alpha: 1.0, scale_by_d: false }
    }
}

impl Mup {
    /// Factor on logits.
    pub fn logits_scale(&self) -> f64 {
        self.output_alpha * self.width_scale
    }

    /// What scores are multiplied by beside `1 / sqrt(head_dim)`.
    pub fn score_factor(&self, head_dim: usize) -> f64 {
        if self.scale_by_d { 1.0 / (head_dim as f64).sqrt() } else { 1.0 }
    }

    /// What the learning rate of a parameter is multiplied by: matrices inside the blocks grow with the width on both sides
    /// and take the width's scale; embeddings, norms and biases take the rate as it is.
    pub fn rate(&self, name: &str) -> f64 {
        let is_hidden_matrix = name.starts_with("model.layers.") && name.ends_with("proj.weight");
        if is_hidden_matrix { self.width_scale } else { 1.0 }
    }

    /// Standard deviation of a new matrix inside the blocks, where embeddings have `deviation`.
    pub fn hidden_deviation(&self, deviation: f64) -> f64 {
        deviation * self.width_scale.sqrt()
    }

    /// What is wrong with it, by the names of its fields.
    pub fn findings(&self) -> BTreeSet<String> {
        let fields = [
            ("width_scale", self.width_scale),
            ("embeddings_scale", self.embeddings_scale),
            ("output_alpha", self.output_alpha),
        ];
        let wrong = fields.into_iter().filter(|(_, value)| !(value.is_finite() && *value > 0.0));
        wrong.map(|(name, value)| format!("{name}: must be a positive number, is {value}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of BTLM-3B.
    const BTLM: Mup = Mup { width_scale: 0.1, embeddings_scale: 14.6, output_alpha: 2.22, scale_by_d: true };

    #[test]
    fn btlm_has_its_published_products() {
        assert!((BTLM.logits_scale() - 0.222).abs() < 1e-12);
        assert!((BTLM.score_factor(80) / 80_f64.sqrt() - 1.0 / 80.0).abs() < 1e-15, "1/d in all");
        assert!((BTLM.hidden_deviation(0.073) - 0.023_084_627).abs() < 1e-8);
    }

    #[test]
    fn only_matrices_inside_blocks_have_another_rate() {
        for name in ["model.layers.0.self_attn.q_proj.weight", "model.layers.31.mlp.down_proj.weight"] {
            assert_eq!(BTLM.rate(name), 0.1, "{name}");
        }
        for name in [
            "model.embed_tokens.weight",
            "lm_head.weight",
            "model.norm.weight",
            "model.layers.3.input_layernorm.weight",
            "model.layers.3.input_layernorm.bias",
            "model.layers.3.self_attn.q_proj.bias",
        ] {
            assert_eq!(BTLM.rate(name), 1.0, "{name}");
        }
        assert_eq!(Mup::default().rate("model.layers.0.self_attn.q_proj.weight"), 1.0);
    }

    #[test]
    fn multipliers_that_cannot_be_are_named() {
        let wrong = Mup { width_scale: 0.0, output_alpha: f64::NAN, ..BTLM };
        let found: Vec<String> = wrong.findings().into_iter().collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("output_alpha") && found[1].starts_with("width_scale"), "{found:?}");
    }
}
