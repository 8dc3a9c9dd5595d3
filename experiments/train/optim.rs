//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), and clipping by global norm.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, no_grad};
use torch_ext::optim::{AdamWGroup, AdamWStep, fused_adamw, global_norm, zero};

use crate::error::Failure;

mod arrival;
mod bytes;

pub use arrival::Arrival;
pub use bytes::BLOCK;

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

/// One parameter and what belongs to it, in float32.
#[derive(Debug)]
pub struct Slot {
    /// Checkpoint name.
    pub name: String,
    /// The parameter itself; shares memory with the model.
    pub parameter: Tensor,
    /// The weight that is moved, where the parameter is of less than float32: the parameter is this, rounded. A bfloat16
    /// number has 8 bits, so that an update of less than 1/512 of it would be lost (Micikevicius et al. 2018, section
    /// 3.1).
    pub master: Option<Tensor>,
    /// Running mean of the gradient.
    pub mean: Tensor,
    /// Running mean of its square.
    pub square: Tensor,
    /// Gradients gathered over several passes, where the parameter's own are of less than float32.
    gathered: Option<Tensor>,
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
        let slots = parameters.into_iter().map(|(name, parameter)| Slot::new(name, parameter));
        Ok(Self { config, slots: slots.collect::<Result<_, _>>()?, steps: 0 })
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Parameters and what belongs to them.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Everything that a checkpoint must hold beside the parameters: `mean.NAME`, `square.NAME` and, where there is one,
    /// `master.NAME`.
    pub fn state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.slots.iter().flat_map(|slot| {
            let tensors =
                [("mean", Some(&slot.mean)), ("square", Some(&slot.square)), ("master", slot.master.as_ref())];
            tensors.into_iter().filter_map(|(what, tensor)| Some((format!("{what}.{}", slot.name), tensor?)))
        })
    }

    /// Puts back what [`state`](Self::state) gave: `read` fills the tensor of a name.
    ///
    /// # Errors
    ///
    /// What `read` says.
    pub fn restore(
        &mut self,
        steps: u64,
        mut read: impl FnMut(&str, &mut Tensor) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.steps = steps;
        for slot in &mut self.slots {
            read(&format!("mean.{}", slot.name), &mut slot.mean)?;
            read(&format!("square.{}", slot.name), &mut slot.square)?;
            if let Some(master) = &mut slot.master {
                read(&format!("master.{}", slot.name), master)?;
                no_grad(|| slot.parameter.f_copy_(master))?;
            }
        }
        Ok(())
    }

    /// Adds the gradients of a pass to those of the passes before it in float32, where they are of less: sums of many
    /// passes would lose what the later ones add. To be called after every pass of a step or after none; of no effect on
    /// float32 parameters.
    pub fn gather_gradients(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.master.is_some()) {
            let gradient = slot.parameter.grad();
            if gradient.defined() {
                match &mut slot.gathered {
                    Some(gathered) => drop(gathered.g_add_(&gradient)),
                    None => slot.gathered = Some(gradient.to_kind(Kind::Float).contiguous()),
                }
                zero(&[&gradient]).expect("a gradient that is defined can be written");
            }
        }
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
        let mut groups = [Group::new(self.config.weight_decay), Group::new(0.0)];
        for slot in &mut self.slots {
            let Some(gradient) = slot.gradient() else { continue };
            let decays = slot.parameter.dim() > 1 || self.config.decayed == Decayed::Everything;
            let group = &mut groups[usize::from(!decays)];
            if !fuses(slot) {
                update.plain(slot, &gradient, group.weight_decay);
                slot.round_master();
                continue;
            }
            // The kernel takes gradients of the type of what it moves.
            group.add(slot, gradient.to_kind(Kind::Float).contiguous());
            if group.converted > CONVERTED_AT_ONCE {
                update.fused(group);
            }
        }
        groups.iter_mut().for_each(|group| update.fused(group));
        self.forget_gradients();
    }

    /// Sets every gradient to zero.
    pub fn forget_gradients(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.gathered = None);
        zero(&references(&self.gradients())).expect("a gradient that is defined can be written");
    }

    /// The gradients that there are.
    fn gradients(&self) -> Vec<Tensor> {
        self.slots.iter().filter_map(Slot::gradient).collect()
    }
}

impl Slot {
    fn new(name: String, parameter: &Tensor) -> Result<Self, Failure> {
        let zeros = || parameter.f_zeros_like()?.f_to_kind(Kind::Float);
        let rounds = matches!(parameter.kind(), Kind::BFloat16 | Kind::Half);
        let copy = || no_grad(|| parameter.detach().f_to_kind(Kind::Float)?.f_contiguous());
        let master = rounds.then(copy).transpose()?;
        let (mean, square) = (zeros()?, zeros()?);
        Ok(Self { name, parameter: parameter.shallow_clone(), master, mean, square, gathered: None })
    }

    /// What the optimizer moves.
    fn moved(&self) -> &Tensor {
        self.master.as_ref().unwrap_or(&self.parameter)
    }

    /// The gradient of the passes so far, if there is one.
    fn gradient(&self) -> Option<Tensor> {
        match &self.gathered {
            Some(gathered) => Some(gathered.shallow_clone()),
            None => Some(self.parameter.grad()).filter(Tensor::defined),
        }
    }

    /// Whether the fused kernel takes it.
    fn is_fusible(&self) -> bool {
        let plain = |tensor: &Tensor| tensor.kind() == Kind::Float && tensor.is_contiguous();
        [self.moved(), &self.mean, &self.square].into_iter().all(plain)
    }

    /// Makes the parameter what its master is, rounded.
    fn round_master(&self) {
        if let Some(master) = &self.master {
            no_grad(|| self.parameter.shallow_clone().copy_(master));
        }
    }
}

/// Numbers of gradients that are converted to float32 at once: 256 MB.
const CONVERTED_AT_ONCE: usize = 1 << 26;

/// Slots that the fused kernel moves in one call, with their gradients.
struct Group<'a> {
    weight_decay: f64,
    slots: Vec<(&'a Slot, Tensor)>,
    /// Numbers of gradients held here that are copies.
    converted: usize,
}

impl<'a> Group<'a> {
    fn new(weight_decay: f64) -> Self {
        Self { weight_decay, slots: Vec::new(), converted: 0 }
    }

    fn add(&mut self, slot: &'a Slot, gradient: Tensor) {
        self.converted += if slot.master.is_some() { gradient.numel() } else { 0 };
        self.slots.push((slot, gradient));
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
    /// Moves a group in one call, and empties it.
    fn fused(&self, group: &mut Group<'_>) {
        let AdamConfig { beta1, beta2, epsilon, .. } = self.config;
        let Self { steps: step, learning_rate, gradient_scale, .. } = *self;
        let slots = std::mem::take(&mut group.slots);
        let list = |part: fn(&Slot) -> &Tensor| slots.iter().map(|(slot, _)| part(slot)).collect::<Vec<_>>();
        let tensors = AdamWGroup {
            parameters: &list(Slot::moved),
            gradients: &slots.iter().map(|(_, gradient)| gradient).collect::<Vec<_>>(),
            means: &list(|slot| &slot.mean),
            squares: &list(|slot| &slot.square),
        };
        let weight_decay = group.weight_decay;
        fused_adamw(&tensors, &AdamWStep { step, learning_rate, beta1, beta2, weight_decay, epsilon, gradient_scale })
            .expect("moments keep the shape, type and device of what is moved");
        slots.iter().for_each(|(slot, _)| slot.round_master());
        group.converted = 0;
    }

    /// Moves one parameter or its master, moments in float32: the paper line by line.
    fn plain(&self, slot: &mut Slot, gradient: &Tensor, weight_decay: f64) {
        let AdamConfig { beta1, beta2, epsilon, .. } = self.config;
        let correction1 = 1.0 - beta1.powf(self.steps as f64);
        let correction2 = 1.0 - beta2.powf(self.steps as f64);
        no_grad(|| {
            let mut moved = slot.moved().shallow_clone();
            let gradient = gradient.to_kind(Kind::Float) * self.gradient_scale;
            let _ = moved.g_mul_scalar_(1.0 - self.learning_rate * weight_decay);
            let _ = slot.mean.lerp_(&gradient, 1.0 - beta1);
            let _ = slot.square.g_mul_scalar_(beta2).addcmul_(&gradient, &(&gradient * (1.0 - beta2)));
            let denominator = (&slot.square / correction2).sqrt() + epsilon;
            let _ = moved.g_sub_(&(&slot.mean / denominator * (self.learning_rate / correction1)));
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
