//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), and clipping by global norm.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};
use torch_ext::optim::{AdamWGroup, AdamWStep, fused_adamw, global_norm, zero};

use crate::error::Failure;

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
    /// Fresh moments for `parameters`, which are on one device.
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
    pub fn restore(
        &mut self,
        steps: u64,
        read: impl Fn(&str, &mut Tensor, &mut Tensor) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.steps = steps;
        self.slots.iter_mut().try_for_each(|slot| read(&slot.name, &mut slot.mean, &mut slot.square))
    }

    /// Norm of all gradients together, in float64.
    pub fn gradient_norm(&self) -> f64 {
        global_norm(&references(&self.gradients())).expect("gradients are of floating point and on one device")
    }

    /// Moves every parameter against its gradient times `gradient_scale`, then forgets the gradients.
    pub fn step(&mut self, learning_rate: f64, gradient_scale: f64) {
        self.advance(learning_rate, gradient_scale, Slot::is_fusible);
    }

    /// A step in which the slots that `fuses` picks go through the fused kernel, the others operation by operation.
    fn advance(&mut self, learning_rate: f64, gradient_scale: f64, fuses: fn(&Slot) -> bool) {
        self.steps += 1;
        let update = Update { config: self.config, steps: self.steps, learning_rate, gradient_scale };
        let (mut decayed, mut undecayed) = (Vec::new(), Vec::new());
        for slot in &mut self.slots {
            let gradient = slot.parameter.grad();
            if !gradient.defined() {
                continue;
            }
            let decays = slot.parameter.dim() > 1 || self.config.decayed == Decayed::Everything;
            match (fuses(slot), decays) {
                (true, true) => decayed.push((&*slot, gradient.contiguous())),
                (true, false) => undecayed.push((&*slot, gradient.contiguous())),
                (false, true) => update.plain(slot, &gradient, self.config.weight_decay),
                (false, false) => update.plain(slot, &gradient, 0.0),
            }
        }
        update.fused(&decayed, self.config.weight_decay);
        update.fused(&undecayed, 0.0);
        self.forget_gradients();
    }

    /// Sets every gradient to zero.
    pub fn forget_gradients(&mut self) {
        zero(&references(&self.gradients())).expect("a gradient that is defined can be written");
    }

    /// The gradients that there are.
    fn gradients(&self) -> Vec<Tensor> {
        self.slots.iter().map(|slot| slot.parameter.grad()).filter(Tensor::defined).collect()
    }
}

impl Slot {
    /// The fused kernel wants moments of the parameter's own type, and ours are float32.
    fn is_fusible(&self) -> bool {
        self.parameter.kind() == Kind::Float && self.parameter.is_contiguous()
    }
}

/// Numbers of one step.
struct Update {
    config: AdamConfig,
    steps: u64,
    learning_rate: f64,
    gradient_scale: f64,
}

impl Update {
    /// Moves a group of parameters in one call.
    fn fused(&self, group: &[(&Slot, Tensor)], weight_decay: f64) {
        let AdamConfig { beta1, beta2, epsilon, .. } = self.config;
        let Self { steps: step, learning_rate, gradient_scale, .. } = *self;
        let list = |part: fn(&Slot) -> &Tensor| group.iter().map(|(slot, _)| part(slot)).collect::<Vec<_>>();
        let tensors = AdamWGroup {
            parameters: &list(|slot| &slot.parameter),
            gradients: &group.iter().map(|(_, gradient)| gradient).collect::<Vec<_>>(),
            means: &list(|slot| &slot.mean),
            squares: &list(|slot| &slot.square),
        };
        fused_adamw(&tensors, &AdamWStep { step, learning_rate, beta1, beta2, weight_decay, epsilon, gradient_scale })
            .expect("moments keep the shape, type and device of their parameter");
    }

    /// Moves one parameter of any floating-point type, moments in float32: the paper line by line.
    fn plain(&self, slot: &mut Slot, gradient: &Tensor, weight_decay: f64) {
        let AdamConfig { beta1, beta2, epsilon, .. } = self.config;
        let correction1 = 1.0 - beta1.powf(self.steps as f64);
        let correction2 = 1.0 - beta2.powf(self.steps as f64);
        no_grad(|| {
            let gradient = gradient.to_kind(Kind::Float) * self.gradient_scale;
            let _ = slot.parameter.g_mul_scalar_(1.0 - self.learning_rate * weight_decay);
            let _ = slot.mean.lerp_(&gradient, 1.0 - beta1);
            let _ = slot.square.g_mul_scalar_(beta2).addcmul_(&gradient, &(&gradient * (1.0 - beta2)));
            let denominator = (&slot.square / correction2).sqrt() + epsilon;
            let update = &slot.mean / denominator * (self.learning_rate / correction1);
            let _ = slot.parameter.g_sub_(&update.to_kind(slot.parameter.kind()));
        });
    }
}

fn references(tensors: &[Tensor]) -> Vec<&Tensor> {
    tensors.iter().collect()
}

/// The factor that brings a gradient of norm `norm` to at most `limit`.
pub fn clip_factor(norm: f64, limit: Option<f64>) -> f64 {
    match limit {
        Some(limit) if norm > limit => limit / norm,
        _ => 1.0,
    }
}
