//! How a training run spends memory: what is kept, in how many bits, and what is computed again.

use serde::{Deserialize, Serialize};

/// Policies of optimizer state, gradients and activations. The default keeps everything where and as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Who chooses what follows.
    #[serde(skip_serializing_if = "Policy::is_recipe")]
    pub policy: Policy,
    /// What the optimizer keeps of each parameter.
    pub optimizer: OptimizerState,
    /// When gradients are used.
    pub gradients: Gradients,
    /// Whether the optimizer's state lives in pinned host memory.
    pub optimizer_on_host: bool,
    /// What the forward pass keeps for the backward pass.
    pub activations: Activations,
    /// Whether layer inputs that are kept wait in pinned host memory, copied on a side stream. Only where layers are
    /// recomputed: `attention` or `layers`.
    pub offload: bool,
    /// Tokens that go through an MLP at once, forward and backward; 0: all of them.
    pub mlp_tokens: usize,
    /// Tokens whose logits exist at once, forward and backward; 0: chosen by size.
    pub loss_tokens: usize,
}

/// Who chooses how memory is spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The recipe.
    #[default]
    Recipe,
    /// The planner, for the device that the run is on; the recipe says nothing else then.
    Auto,
}

impl Policy {
    fn is_recipe(&self) -> bool {
        *self == Self::Recipe
    }
}

impl Memory {
    /// What is wrong with it: the field and a sentence, each.
    pub fn findings(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        if self.policy == Policy::Auto && *self != (Self { policy: Policy::Auto, ..Self::default() }) {
            found
                .push(("policy", "with \"auto\" the planner chooses, and no other key may stand beside it".to_owned()));
        }
        if self.offload && !matches!(self.activations, Activations::Attention | Activations::Layers) {
            found.push(("offload", "needs activations = \"attention\" or \"layers\"".to_owned()));
        }
        found
    }
}

/// What the optimizer keeps of each parameter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerState {
    /// Moments in float32, and a float32 copy of weights of less: 8 bytes a parameter, 12 where weights are of 16 bits.
    #[default]
    Mixed,
    /// Moments in bfloat16 and no copy; weights and moments are rounded stochastically: 4 bytes a parameter.
    Bfloat16,
    /// Moments in 8 bits with a scale for each block of 256 (Dettmers et al. 2022) and no copy; weights of 16 bits are
    /// rounded stochastically: 2 bytes a parameter, and the scales.
    Int8,
}

/// When gradients are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gradients {
    /// After the backward pass: all of them are held at once.
    #[default]
    Kept,
    /// As soon as each is complete, within the backward pass, after which it is let go. Clipping then goes by the norm of
    /// the step before.
    InBackward,
}

/// What the forward pass keeps for the backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activations {
    /// Everything.
    #[default]
    All,
    /// All but what is cheap to compute again: norms and the product of SwiGLU.
    Light,
    /// A layer's input, and attention's output and log-sum-exp: matrix products are computed again, attention is not.
    Attention,
    /// A layer's input: everything is computed again.
    Layers,
}
