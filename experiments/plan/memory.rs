//! Bytes that a step takes on the device and in host memory, at the moments of the step at which much is held.
//!
//! What stands throughout: weights and the optimizer's state. Onto that come, in turn, what every block keeps of every token and
//! the insides of the loss; the same and the insides of the first block to go backward; those of the last one and what it
//! kept; and what the optimizer's step converts; and each time the gradients that are there by then. [`Footprint`] counts what a
//! pass holds, [`AdamW`] state and gradients; here they are put together.
//!
//! [`Footprint`]: crate::model::Footprint

use serde::Serialize;
use tch::Kind;

use super::card::Card;
use super::sizes::{EMBEDDING, Sizes};
use crate::config::{Gradients, Memory, OptimizerState, Stage};
use crate::train::AdamW;

/// Bytes on the device at one moment, by what they are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Categories {
    /// Weights of model and adapters.
    pub weights: u64,
    /// The optimizer's state.
    pub optimizer: u64,
    /// Gradients of what is trained.
    pub gradients: u64,
    /// What the forward pass keeps for the backward pass.
    pub activations: u64,
    /// What the operation in hand, or the block that is computed again, holds beside that.
    pub working_set: u64,
    /// Logits and what the loss makes of them.
    pub loss: u64,
    /// The driver's context and the libraries' workspaces.
    pub context: u64,
    /// What the allocator holds beside the tensors.
    pub reserve: u64,
}

impl Categories {
    /// All of them with their names.
    pub fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("weights", self.weights),
            ("optimizer", self.optimizer),
            ("gradients", self.gradients),
            ("activations", self.activations),
            ("working set", self.working_set),
            ("loss", self.loss),
            ("context", self.context),
            ("reserve", self.reserve),
        ]
    }

    /// Their sum.
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(_, bytes)| bytes).sum()
    }

    /// The sum of what is in tensors.
    pub fn tensors(&self) -> u64 {
        self.total() - self.context - self.reserve
    }
}

/// A moment of a step at which much is held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Which.
    pub name: &'static str,
    /// Tokens of a sequence of the stage that it is in.
    pub length: usize,
    /// What is held.
    pub categories: Categories,
}

/// Bytes of pinned host memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Host {
    /// The optimizer's state.
    pub optimizer: u64,
    /// Inputs of blocks that wait for the backward pass.
    pub activations: u64,
}

impl Host {
    /// Their sum.
    pub fn total(&self) -> u64 {
        self.optimizer + self.activations
    }
}

/// What a step of a stage holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepMemory {
    /// The loss, the backward pass of the first block to go backward, that of the last, the optimizer's step.
    pub moments: [Moment; 4],
    /// In host memory.
    pub host: Host,
}

impl StepMemory {
    /// Of a step of `stage` under `memory` on `card`.
    pub fn new(sizes: &Sizes, memory: &Memory, stage: &Stage, card: &Card) -> Self {
        let footprint = &sizes.footprint;
        let tokens = (stage.micro() * stage.length) as u64;
        let passes = (stage.batch / stage.micro().max(1)) as u64;
        let state = optimizer_bytes(sizes, memory);
        let of_all = |bytes: u64| footprint.layers * tokens * bytes;
        let parked = of_all(footprint.parked(memory));
        let standing = Categories {
            weights: weight_bytes(sizes),
            optimizer: if memory.optimizer_on_host { 0 } else { state },
            activations: of_all(sizes.kept(memory) + sizes.kept_in_groups(memory, stage)) - parked,
            context: card.context_bytes,
            ..Categories::default()
        };
        let moment = |name, categories: Categories| {
            let reserve = (card.reserve * categories.tensors() as f64) as u64;
            Moment { name, length: stage.length, categories: Categories { reserve, ..categories } }
        };
        let loss = footprint.loss(memory, tokens, card.device(), sizes.trains_head());
        let inside = footprint.working(memory, tokens)
            + tokens * sizes.working_in_groups(memory, stage)
            + sizes.dequantised_bytes();
        let grown = Grown::new(sizes, memory, passes);
        let with = |gradients| Categories { gradients, ..standing };
        let of_one = standing.activations / footprint.layers.max(1);
        Self {
            moments: [
                moment("the loss", Categories { loss, ..with(grown.at_loss) }),
                moment(
                    "the backward pass of the first block",
                    Categories { working_set: inside + grown.arriving, ..with(grown.in_first) },
                ),
                moment(
                    "the backward pass of the last block",
                    Categories { activations: of_one, working_set: inside + grown.late, ..with(grown.in_last) },
                ),
                moment(
                    "the optimizer's step",
                    Categories {
                        activations: 0,
                        working_set: update_bytes(sizes, memory, passes),
                        ..with(grown.in_step)
                    },
                ),
            ],
            host: Host { optimizer: if memory.optimizer_on_host { state } else { 0 }, activations: parked },
        }
    }

    /// The moment at which most is held.
    pub fn peak(&self) -> &Moment {
        let [first, rest @ ..] = &self.moments;
        rest.iter().fold(first, |most, it| if it.categories.total() > most.categories.total() { it } else { most })
    }
}

/// Bytes of the weights of the model and its adapters.
pub fn weight_bytes(sizes: &Sizes) -> u64 {
    let full = sizes.parameters - sizes.quantised + sizes.adapters;
    full * sizes.width() + sizes.quantised_bytes
}

/// Bytes of the optimizer's state of everything trained.
pub fn optimizer_bytes(sizes: &Sizes, memory: &Memory) -> u64 {
    sizes.trained.iter().map(|it| AdamW::state_bytes(sizes.kind, it.numel, memory)).sum()
}

/// Bytes of gradients in a step of `passes` passes.
pub fn gradient_bytes(sizes: &Sizes, memory: &Memory, passes: u64) -> u64 {
    let trained: Vec<(&str, u64)> = sizes.trained.iter().map(|it| (it.name.as_str(), it.numel)).collect();
    AdamW::gradient_bytes(sizes.kind, &trained, passes, sizes.tied, memory)
}

/// Bytes of gradients in the last pass of a step, from moment to moment.
struct Grown {
    /// That stand at the loss.
    at_loss: u64,
    /// That stand when the first block goes backward.
    in_first: u64,
    /// That arrive meanwhile: of the block's parameters together, and of a tied embedding, which the head begins and the
    /// embedding ends.
    arriving: u64,
    /// That stand when the last block has gone backward.
    in_last: u64,
    /// That arrived at last, and are added to what stands.
    late: u64,
    /// That the optimizer's step begins with.
    in_step: u64,
}

impl Grown {
    fn new(sizes: &Sizes, memory: &Memory, passes: u64) -> Self {
        if memory.gradients == Gradients::InBackward {
            let few = gradient_bytes(sizes, memory, passes);
            return Self { at_loss: few, in_first: few, arriving: 0, in_last: few, late: 0, in_step: few };
        }
        let all = sizes.width() * sizes.trained_parameters();
        let of = |wanted: &dyn Fn(&str) -> bool| -> u64 {
            sizes.trained.iter().filter(|it| wanted(&it.name)).map(|it| it.numel).sum()
        };
        let tied = if sizes.tied { of(&|name| name == EMBEDDING) } else { 0 };
        let arriving = sizes.width() * (of(&|name| name.starts_with("model.layers.0.")) + tied);
        let head = sizes.width() * sizes.trained_head();
        match (passes, sizes.kind) {
            (0 | 1, _) => Self { at_loss: 0, in_first: head, arriving, in_last: all, late: 0, in_step: all },
            // Added in place to those of the passes before.
            (_, Kind::Float) => {
                Self { at_loss: all, in_first: all, arriving, in_last: all, late: arriving, in_step: all }
            }
            // Beside the sums of the passes before, which are float32.
            _ => {
                let sums = gradient_bytes(sizes, memory, passes) - all;
                Self { at_loss: sums, in_first: sums + head, arriving, in_last: sums + all, late: 0, in_step: sums }
            }
        }
    }
}

/// Numbers of gradients that are converted to float32 at once in the optimizer's step.
const CONVERTED_AT_ONCE: u64 = 1 << 26;

/// Bytes that the optimizer's step holds beside state and gradients: those of one 16-bit pass are let go as they are converted,
/// parameter by parameter.
fn update_bytes(sizes: &Sizes, memory: &Memory, passes: u64) -> u64 {
    if sizes.kind == Kind::Float || memory.optimizer != OptimizerState::Mixed || passes > 1 {
        return 0;
    }
    let largest = sizes.trained.iter().map(|it| it.numel).max().unwrap_or(0);
    let converted = sizes.trained_parameters().min(CONVERTED_AT_ONCE + largest);
    (4 - sizes.width()) * converted + sizes.width() * largest
}
