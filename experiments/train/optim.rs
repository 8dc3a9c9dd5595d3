//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), and clipping by global norm.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};

use crate::error::Failure;

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

/// One parameter and its moments, in float32.
#[derive(Debug)]
pub struct Slot {
    /// Checkpoint name.
    pub name: String,
    /// The parameter itself; shares memory with the model.
    pub parameter: Tensor,
    /// Running mean of the gradient.
    pub mean: Tensor,
    /// Running mean of its square.
    pub square: Tensor,
}

/// The optimizer and its state.
#[derive(Debug)]
pub struct AdamW {
    config: AdamConfig,
    slots: Vec<Slot>,
    steps: u64,
}

impl AdamW {
    /// Fresh moments for `parameters`.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub fn new(config: AdamConfig, parameters: Vec<(String, &Tensor)>) -> Result<Self, Failure> {
        let slot = |(name, parameter): (String, &Tensor)| -> Result<Slot, Failure> {
            let zeros = || parameter.f_zeros_like()?.f_to_kind(Kind::Float);
            Ok(Slot { name, parameter: parameter.shallow_clone(), mean: zeros()?, square: zeros()? })
        };
        Ok(Self { config, slots: parameters.into_iter().map(slot).collect::<Result<_, _>>()?, steps: 0 })
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Parameters and moments.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Puts back a state read from a checkpoint; the caller has checked shapes.
    pub fn restore(&mut self, steps: u64, read: impl Fn(&str, &mut Tensor, &mut Tensor) -> Result<(), Failure>) -> Result<(), Failure> {
        self.steps = steps;
        self.slots.iter_mut().try_for_each(|slot| read(&slot.name, &mut slot.mean, &mut slot.square))
    }

    /// Norm of all gradients together, in float64.
    pub fn gradient_norm(&self) -> f64 {
        let squares = |slot: &Slot| {
            let gradient = slot.parameter.grad();
            if gradient.defined() { gradient.norm().double_value(&[]).powi(2) } else { 0.0 }
        };
        no_grad(|| self.slots.iter().map(squares).sum::<f64>().sqrt())
    }

    /// Moves every parameter against its gradient times `gradient_scale`, then forgets the gradients.
    pub fn step(&mut self, learning_rate: f64, gradient_scale: f64) {
        self.steps += 1;
        let AdamConfig { beta1, beta2, epsilon, weight_decay, decayed } = self.config;
        let correction1 = 1.0 - beta1.powf(self.steps as f64);
        let correction2 = 1.0 - beta2.powf(self.steps as f64);
        no_grad(|| {
            for slot in &mut self.slots {
                let gradient = slot.parameter.grad();
                if !gradient.defined() {
                    continue;
                }
                let gradient = gradient.to_kind(Kind::Float) * gradient_scale;
                if slot.parameter.dim() > 1 || decayed == Decayed::Everything {
                    let _ = slot.parameter.g_mul_scalar_(1.0 - learning_rate * weight_decay);
                }
                let _ = slot.mean.lerp_(&gradient, 1.0 - beta1);
                let _ = slot.square.g_mul_scalar_(beta2).addcmul_(&gradient, &(&gradient * (1.0 - beta2)));
                let denominator = (&slot.square / correction2).sqrt() + epsilon;
                let update = &slot.mean / denominator * (learning_rate / correction1);
                let _ = slot.parameter.g_sub_(&update.to_kind(slot.parameter.kind()));
            }
        });
        self.forget_gradients();
    }

    /// Sets every gradient to zero.
    pub fn forget_gradients(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.parameter.zero_grad());
    }
}

/// The factor that brings a gradient of norm `norm` to at most `limit`.
pub fn clip_factor(norm: f64, limit: Option<f64>) -> f64 {
    match limit {
        Some(limit) if norm > limit => limit / norm,
        _ => 1.0,
    }
}
