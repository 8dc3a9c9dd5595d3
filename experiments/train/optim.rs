//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), and clipping by global norm.
//!
//! [`AdamW`] owns parameters and state. What is kept of each ([`Slot`]) and the kernel that moves it (`update`) go by
//! `memory.optimizer`; gradients are used after the backward pass ([`AdamW::step`]) or within it
//! ([`AdamW::step_in_backward`]).

use serde::{Deserialize, Serialize};
use tch::Tensor;
use torch_ext::optim::global_norm;

use crate::config::Memory;
use crate::error::Failure;

mod arrival;
mod bytes;
mod in_backward;
mod processes;
mod slot;
mod update;

pub use arrival::Arrival;
pub use bytes::BLOCK;
pub use processes::{Reduction, Shard};
pub use slot::Slot;
use update::Update;

#[cfg(test)]
mod tests;

/// Settings of [`AdamW`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamConfig {
    /// Decay of the first moment, 0 to 1.
    pub beta1: f64,
    /// Decay of the second moment, 0 to 1.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of what `decayed` names, per step and learning rate.
    pub weight_decay: f64,
    /// Which parameters decay.
    #[serde(default)]
    pub decayed: Decayed,
}

/// Which parameters weight decay shrinks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decayed {
    /// Matrices alone, as LLaMA-style training does: norms and biases are left where the gradient puts them.
    #[default]
    Matrices,
    /// Every parameter, as PyTorch's AdamW does when it is given them in one group.
    Everything,
}

/// How state is kept, and by whom.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keeping {
    /// Policies of optimizer and gradients.
    pub memory: Memory,
    /// Seed of the bits that round stochastically.
    pub seed: u64,
    /// What of every parameter is kept and moved here.
    pub shard: Shard,
}

/// The optimizer and its state: the one place that owns parameters and state, by [`Shard`].
#[derive(Debug)]
pub struct AdamW {
    config: AdamConfig,
    keeping: Keeping,
    reduction: Reduction,
    slots: Vec<Slot>,
    steps: u64,
    /// Norm of the gradients of the step before, by which those of the next are clipped when used in the backward pass.
    norm_before: Option<f64>,
}

impl AdamW {
    /// Fresh moments in float32 for `parameters`, which are on one device.
    ///
    /// # Errors
    ///
    /// When memory cannot be had, or a parameter is of a type that is not moved.
    pub fn new(config: AdamConfig, parameters: Vec<(String, &Tensor)>) -> Result<Self, Failure> {
        Self::keeping(config, Keeping::default(), parameters)
    }

    /// Fresh state for `parameters`, which are on one device, as `keeping` says.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn keeping(config: AdamConfig, keeping: Keeping, parameters: Vec<(String, &Tensor)>) -> Result<Self, Failure> {
        let slot = |(number, (name, parameter))| Slot::new((number, name), parameter, &keeping.memory, keeping.shard);
        let slots = parameters.into_iter().enumerate().map(slot).collect::<Result<_, _>>()?;
        Ok(Self { config, keeping, reduction: Reduction, slots, steps: 0, norm_before: None })
    }

    /// Multiplies the learning rate of every parameter by what `rate` says of its name, as muP asks.
    pub fn set_rates(&mut self, rate: impl Fn(&str) -> f64) {
        self.slots.iter_mut().for_each(|slot| slot.rate = rate(&slot.name));
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Norm of the gradients of the step before, where gradients are used in the backward pass.
    pub fn norm_before(&self) -> Option<f64> {
        self.norm_before
    }

    /// Parameters and what belongs to them.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Everything that a checkpoint must hold beside the parameters: `mean.NAME`, `square.NAME`, and `master.NAME` or
    /// `mean_scale.NAME` and `square_scale.NAME` where there are any.
    pub fn state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let named = |slot: &Slot, what: &str| format!("{what}.{}", slot.name);
        self.slots.iter().flat_map(move |slot| slot.state().map(move |(what, tensor)| (named(slot, what), tensor)))
    }

    /// Puts back what [`state`](Self::state), [`steps`](Self::steps) and [`norm_before`](Self::norm_before) gave: `read`
    /// fills the tensor of a name.
    ///
    /// # Errors
    ///
    /// What `read` says.
    pub fn restore(
        &mut self,
        steps: u64,
        norm_before: Option<f64>,
        mut read: impl FnMut(&str, &mut Tensor) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        (self.steps, self.norm_before) = (steps, norm_before);
        for slot in &mut self.slots {
            let name = slot.name.clone();
            slot.state_mut().try_for_each(|(what, tensor)| read(&format!("{what}.{name}"), tensor))?;
            slot.round_master()?;
        }
        Ok(())
    }

    /// Adds the gradients of a pass to those of the passes before it in float32, where they are of less: sums of many
    /// passes would lose what the later ones add. To be called after every pass of a step or after none; of no effect on
    /// float32 parameters.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub fn gather_gradients(&mut self) -> Result<(), Failure> {
        self.slots.iter_mut().filter(|slot| slot.is_brief()).try_for_each(Slot::gather)
    }

    /// Takes all gradients, reduces them, and returns the norm of all together, in float64.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub fn gradient_norm(&mut self) -> Result<f64, Failure> {
        for slot in &mut self.slots {
            slot.make_ready(self.reduction)?;
        }
        let ready: Vec<&Tensor> = self.slots.iter().filter_map(Slot::ready).collect();
        let norm = global_norm(&ready).map_err(|error| Failure::data(format!("the gradients' norm: {error}")))?;
        Ok(self.reduction.total(norm * norm).sqrt())
    }

    /// Moves every parameter against its gradient times `gradient_scale`, then lets go of the gradients.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub fn step(&mut self, learning_rate: f64, gradient_scale: f64) -> Result<(), Failure> {
        self.advance(learning_rate, gradient_scale, true)
    }

    /// A step in which float32 state is moved by the fused kernel, or operation by operation.
    fn advance(&mut self, learning_rate: f64, gradient_scale: f64, fused: bool) -> Result<(), Failure> {
        for slot in &mut self.slots {
            slot.make_ready(self.reduction)?;
        }
        let update = Update { fused, ..self.update(learning_rate, gradient_scale) };
        update.apply(self.slots.iter_mut())?;
        self.steps += 1;
        Ok(())
    }

    /// Numbers of the next step.
    fn update(&self, learning_rate: f64, gradient_scale: f64) -> Update {
        let (config, seed, step) = (self.config, self.keeping.seed, self.steps + 1);
        Update { config, seed, step, learning_rate, gradient_scale, fused: true }
    }

    /// Lets go of every gradient.
    ///
    /// # Errors
    ///
    /// When libtorch refuses.
    pub fn forget_gradients(&mut self) -> Result<(), Failure> {
        self.slots.iter_mut().try_for_each(Slot::forget_gradient)
    }
}

impl AdamConfig {
    /// Whether weight decay shrinks a parameter.
    fn decays(&self, parameter: &Tensor) -> bool {
        parameter.dim() > 1 || self.decayed == Decayed::Everything
    }
}

/// The factor that brings a gradient of norm `norm` to at most `limit`.
pub fn clip_factor(norm: f64, limit: Option<f64>) -> f64 {
    match limit {
        Some(limit) if norm > limit => limit / norm,
        _ => 1.0,
    }
}
