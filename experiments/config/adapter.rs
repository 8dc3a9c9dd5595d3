//! Low-rank adapters: what is trained while the base stands still.

use serde::{Deserialize, Serialize};

/// LoRA (Hu et al. 2022): each target's weight `W` becomes `W + (alpha / rank) B A`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// Rank of the update.
    pub rank: usize,
    /// Scale of the update times the rank.
    pub alpha: f64,
    /// Share of the adapter's inputs that are dropped in training, from 0 to below 1.
    #[serde(default)]
    pub dropout: f64,
    /// Projections that get one: of `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj`.
    pub targets: Vec<String>,
    /// Whole parameters trained beside them: `embedding` (and an untied head with it) and `norms`. Long contexts need both
    /// (Chen et al. 2024, table 2 of LongLoRA).
    #[serde(default)]
    pub also: Vec<Whole>,
    /// How the base's matrices of the blocks are held.
    #[serde(default)]
    pub base: Base,
}

/// The projections of a block that can have an adapter.
pub const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

impl Adapter {
    /// Whether a projection has one; by its own name, with or without the path before it.
    #[must_use]
    pub fn has_target(&self, projection: &str) -> bool {
        let own = projection.rsplit('.').next().unwrap_or(projection);
        self.targets.iter().any(|target| target == own)
    }

    /// Whether a parameter of the base, by its checkpoint name, is trained whole.
    #[must_use]
    pub fn trains_whole(&self, parameter: &str) -> bool {
        match parameter {
            "model.embed_tokens.weight" | "lm_head.weight" => self.also.contains(&Whole::Embedding),
            name => name.ends_with("norm.weight") && self.also.contains(&Whole::Norms),
        }
    }

    /// What is wrong with it: the field and a sentence, each.
    #[must_use]
    pub fn findings(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.rank == 0 || self.rank > MAX_RANK {
            found.push(("rank", format!("must be from 1 to {MAX_RANK}, is {}", self.rank)));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            found.push(("alpha", format!("must be a positive number, is {}", self.alpha)));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            found.push(("dropout", format!("must be from 0 to below 1, is {}", self.dropout)));
        }
        if self.targets.is_empty() {
            found.push(("targets", format!("at least one of {} is needed", TARGETS.join(", "))));
        }
        for (index, target) in self.targets.iter().enumerate() {
            if !TARGETS.contains(&target.as_str()) {
                found.push(("targets", format!("{target:?} is none of {}", TARGETS.join(", "))));
            } else if self.targets[..index].contains(target) {
                found.push(("targets", format!("{target:?} is given twice")));
            }
        }
        found
    }
}

/// Largest rank: a wider update than the widest projection is a mistake, and far larger ones would not fit an index.
const MAX_RANK: usize = 1 << 16;

/// Parameters that are trained whole beside an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whole {
    /// Token embedding and output head.
    Embedding,
    /// Every norm.
    Norms,
}

/// How the base's matrices of the blocks are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Base {
    /// As loaded.
    #[default]
    Full,
    /// NF4 with double quantisation (Dettmers et al. 2023, QLoRA): 0.516 bytes a weight.
    Nf4,
}
