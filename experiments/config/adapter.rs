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
