//! What of a model, an adapter and a precision the bytes and the arithmetic of a step follow from.

use tch::Kind;

use super::attention::goes_back_alone;
use super::card::Card;
use crate::config::{Activations, Adapter, Base, Memory, Recipe, Stage};
use crate::model::{Footprint, ModelConfig, nf4_bytes};
use crate::runtime::device::kind;

/// A parameter that is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trained {
    /// Name, as in a checkpoint.
    pub name: String,
    /// Its numbers.
    pub numel: u64,
}

/// Name of the token embedding.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";

/// Sizes of a model under a recipe's adapter and element type.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// What a pass through the model holds.
    pub footprint: Footprint,
    /// Whether attention keeps its output and log-sum-exp alone, and not queries, keys and values as well.
    pub attention_alone: bool,
    /// Whether embedding and head are one.
    pub tied: bool,
    /// Element type of weights and activations.
    pub kind: Kind,
    /// Parameters of the model without adapters.
    pub parameters: u64,
    /// Parameters in the matrices of the blocks.
    pub block_matrices: u64,
    /// Parameters of the base that are held in NF4.
    pub quantised: u64,
    /// Bytes of those.
    pub quantised_bytes: u64,
    /// Parameters of the largest matrix in NF4.
    pub largest_quantised: u64,
    /// Parameters of adapters.
    pub adapters: u64,
    /// What is trained.
    pub trained: Vec<Trained>,
}

impl Sizes {
    /// Of a model of an element type that is trained with `adapter`, or whole.
    pub fn new(config: &ModelConfig, kind: Kind, adapter: Option<&Adapter>) -> Self {
        let all: Vec<(String, Vec<usize>)> = config.expected_tensors();
        let is_block_matrix = |name: &str| name.ends_with("_proj.weight");
        let numel = |shape: &[usize]| shape.iter().map(|&n| n as u64).product::<u64>();
        let in_nf4 = adapter.is_some_and(|it| it.base == Base::Nf4);
        let (mut block_matrices, mut largest, mut quantised_bytes, mut trained) = (0, 0, 0, Vec::new());
        for (name, shape) in &all {
            if is_block_matrix(name) {
                block_matrices += numel(shape);
                largest = numel(shape).max(largest);
                quantised_bytes += if in_nf4 { nf4_bytes(numel(shape)) } else { 0 };
            }
            if adapter.is_none_or(|adapter| adapter.trains_whole(name)) {
                trained.push(Trained { name: name.clone(), numel: numel(shape) });
            }
            let base = name.trim_end_matches(".weight");
            if let (Some(adapter), [out, into]) = (adapter.filter(|it| it.has_target(base)), shape.as_slice()) {
                let rank = adapter.rank as u64;
                trained.push(Trained { name: format!("{base}.lora_A.weight"), numel: rank * *into as u64 });
                trained.push(Trained { name: format!("{base}.lora_B.weight"), numel: rank * *out as u64 });
            }
        }
        let is_adapter = |it: &&Trained| it.name.contains(".lora_");
        let adapters = trained.iter().filter(is_adapter).map(|it| it.numel).sum();
        let quantised = if in_nf4 { block_matrices } else { 0 };
        Self {
            footprint: Footprint::of(config, kind),
            attention_alone: true,
            tied: config.tied,
            kind,
            parameters: all.iter().map(|(_, shape)| numel(shape)).sum(),
            block_matrices,
            quantised,
            quantised_bytes,
            largest_quantised: if in_nf4 { largest } else { 0 },
            adapters,
            trained,
        }
    }

    /// Of a recipe on a device.
    pub fn of(recipe: &Recipe, config: &ModelConfig, card: &Card) -> Self {
        let longest = recipe.stages.iter().map(Stage::attended).max().unwrap_or(0);
        let sizes = Self::new(config, kind(recipe.model.dtype), recipe.adapter.as_ref());
        sizes.under(&recipe.model.backend, config, (longest, card))
    }

    /// The same where a backend computes attention among so many tokens on a device.
    #[must_use]
    pub fn under(self, backend: &str, config: &ModelConfig, (tokens, card): (usize, &Card)) -> Self {
        Self { attention_alone: goes_back_alone(backend, config, tokens, self.kind, card), ..self }
    }

    /// Bytes that a token leaves in a block.
    pub fn kept(&self, memory: &Memory) -> u64 {
        let Footprint { queries, keys, width, .. } = self.footprint;
        let as_well = memory.activations == Activations::Attention && !self.attention_alone;
        self.footprint.kept(memory) + if as_well { width * (queries + 2 * keys) } else { 0 }
    }

    /// Bytes beside that of a token whose attention is in groups and differentiated by libtorch: the groups' answers, and where
    /// there are several sequences, copies of queries, keys and values.
    pub fn kept_in_groups(&self, memory: &Memory, stage: &Stage) -> u64 {
        let Footprint { queries, keys, width, .. } = self.footprint;
        if stage.shifted_sparse.is_none() || self.attention_alone || memory.activations == Activations::Layers {
            return 0;
        }
        width * (queries + if stage.micro() > 1 { queries + 2 * keys } else { 0 })
    }

    /// Bytes of a token that goes back through attention in groups: gradients of half of the heads at a time, and where there
    /// are several sequences, copies of what they come from. An MLP over all tokens at once holds more than all of it.
    pub fn working_in_groups(&self, memory: &Memory, stage: &Stage) -> u64 {
        let Footprint { queries, keys, width, .. } = self.footprint;
        let copies = if stage.micro() > 1 { 3 * queries + 2 * keys } else { 0 };
        let counts = stage.shifted_sparse.is_some() && memory.mlp_tokens > 0;
        if counts { width * (queries + 2 * keys + copies) / 2 } else { 0 }
    }

    /// Bytes at most while a matrix in NF4 is computed again: its levels and those times the scales in float32, and what is
    /// rounded of that.
    pub fn dequantised_bytes(&self) -> u64 {
        let rounded = if self.kind == Kind::Float { 0 } else { self.width() };
        (4 + 4 + rounded) * self.largest_quantised
    }

    /// Bytes of a number of weights and activations.
    pub fn width(&self) -> u64 {
        self.kind.elt_size_in_bytes() as u64
    }

    /// Numbers that are trained.
    pub fn trained_parameters(&self) -> u64 {
        self.trained.iter().map(|it| it.numel).sum()
    }

    /// Parameters that a token is multiplied with: matrices of the blocks and the head.
    pub fn multiplied(&self) -> u64 {
        self.block_matrices + self.footprint.hidden * self.footprint.vocab
    }

    /// Of those, the ones whose gradients are computed.
    pub fn multiplied_and_trained(&self) -> u64 {
        let of_blocks = self.trained.iter().filter(|it| it.name.ends_with("_proj.weight")).map(|it| it.numel);
        let head = if self.trains_head() { self.footprint.hidden * self.footprint.vocab } else { 0 };
        of_blocks.sum::<u64>() + head
    }

    /// Numbers of an output head that is trained and no embedding as well.
    pub fn trained_head(&self) -> u64 {
        if self.trains_head() && !self.tied { self.footprint.hidden * self.footprint.vocab } else { 0 }
    }

    /// Whether the output head is trained.
    pub fn trains_head(&self) -> bool {
        let head = if self.tied { EMBEDDING } else { "lm_head.weight" };
        self.trained.iter().any(|it| it.name == head)
    }
}
