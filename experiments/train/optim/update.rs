//! One step of AdamW on parts of parameters, by the kernel of each policy.

use tch::{Kind, Tensor, no_grad};
use torch_ext::fused::Use;
use torch_ext::fused::adamw::{MixedPart, mixed_where_used};
use torch_ext::optim::{AdamWGroup, AdamWStep, Draws, LowMoments, LowPart, Quantised, adamw_low, fused_adamw};

use super::AdamConfig;
use super::slot::{Part, Slot};
use crate::config::OptimizerState;
use crate::error::Failure;

/// Numbers of gradients that are converted to float32 at once: 256 MB.
const CONVERTED_AT_ONCE: usize = 1 << 26;

/// Numbers of one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    pub(super) config: AdamConfig,
    pub(super) seed: u64,
    pub(super) step: u64,
    pub(super) learning_rate: f64,
    pub(super) gradient_scale: f64,
    /// Whether float32 state goes through libtorch's fused kernel, or operation by operation.
    pub(super) fused: bool,
}

/// Parts of float32 state that the fused kernel moves in one call.
#[derive(Default)]
struct Group {
    parts: Vec<Part>,
    /// Numbers of gradients held here that are copies.
    converted: usize,
}

impl Update {
    /// Moves the slots whose gradients are ready, and lets go of these.
    pub(super) fn apply<'s>(&self, slots: impl Iterator<Item = &'s mut Slot>) -> Result<(), Failure> {
        // What decays and what does not, at each rate.
        let mut groups: Vec<(f64, bool, Group)> = Vec::new();
        for slot in slots {
            let (decays, rate) = (self.config.decays(&slot.parameter), slot.rate);
            let (update, decay) = (self.at(rate), self.decay(decays));
            let found = groups.iter().position(|(r, d, _)| r.to_bits() == rate.to_bits() && *d == decays);
            let place = found.unwrap_or_else(|| {
                groups.push((rate, decays, Group::default()));
                groups.len() - 1
            });
            let group = &mut groups[place].2;
            slot.visit(|part| match part.policy {
                OptimizerState::Mixed if self.fused && self.by_kernel(&part, decay)? => Ok(()),
                OptimizerState::Mixed if self.fused => {
                    let at_once = group.join(part);
                    if at_once { update.move_group(group, decay) } else { Ok(()) }
                }
                OptimizerState::Mixed => update.plain(&part, decay),
                OptimizerState::Bfloat16 | OptimizerState::Int8 => update.low(&part, decay),
            })?;
        }
        groups.iter_mut().try_for_each(|(rate, decays, group)| self.at(*rate).move_group(group, self.decay(*decays)))
    }

    /// The same step for parameters whose learning rate is `rate` times the schedule's.
    fn at(&self, rate: f64) -> Self {
        Self { learning_rate: self.learning_rate * rate, ..*self }
    }

    fn decay(&self, decays: bool) -> f64 {
        if decays { self.config.weight_decay } else { 0.0 }
    }

    fn numbers(&self, weight_decay: f64) -> AdamWStep {
        let AdamConfig { beta1, beta2, epsilon, .. } = self.config;
        let Self { step, learning_rate, gradient_scale, .. } = *self;
        AdamWStep { step, learning_rate, beta1, beta2, weight_decay, epsilon, gradient_scale }
    }

    /// Moves a group in one call, and empties it.
    fn move_group(&self, group: &mut Group, weight_decay: f64) -> Result<(), Failure> {
        let Group { parts, .. } = std::mem::take(group);
        let list = |of: fn(&Part) -> &Tensor| parts.iter().map(of).collect::<Vec<_>>();
        let tensors = AdamWGroup {
            parameters: &list(Part::moved),
            gradients: &list(|part| &part.gradient),
            means: &list(|part| &part.kept[0]),
            squares: &list(|part| &part.kept[1]),
        };
        fused_adamw(&tensors, &self.numbers(weight_decay)).map_err(refused)?;
        parts.iter().try_for_each(Part::round_master)
    }

    /// Moves a part that has a master in one pass over memory, where there is a kernel for it on the device; whether it did.
    fn by_kernel(&self, part: &Part, weight_decay: f64) -> Result<bool, Failure> {
        let [mean, square, master] = part.kept.as_slice() else { return Ok(false) };
        let (parameter, gradient) = (&part.parameter, &part.gradient);
        let mixed = MixedPart { master, parameter, gradient, mean, square };
        mixed_where_used(&mixed, &self.numbers(weight_decay), Use::of_process())
            .map_err(|error| Failure::data(format!("the optimizer: {error}")))
    }

    /// Moves one part on state of 16 or 8 bits.
    fn low(&self, part: &Part, weight_decay: f64) -> Result<(), Failure> {
        let moments = match part.kept.as_slice() {
            [mean, square] => LowMoments::Bfloat16 { mean, square },
            [mean, square, of_mean, of_square] => LowMoments::Int8 {
                mean: Quantised { codes: mean, scales: of_mean },
                square: Quantised { codes: square, scales: of_square },
            },
            other => {
                return Err(Failure::data(format!("{} tensors of optimizer state for one parameter", other.len())));
            }
        };
        let draws = Draws { seed: self.seed, step: self.step, parameter: part.number };
        let low = LowPart { parameter: &part.parameter, gradient: &part.gradient, moments, first: part.first };
        adamw_low(&low, &self.numbers(weight_decay), &draws).map_err(refused)
    }

    /// Moves one part or its master, moments in float32: the paper line by line.
    fn plain(&self, part: &Part, weight_decay: f64) -> Result<(), Failure> {
        let AdamConfig { beta1, beta2, epsilon, .. } = self.config;
        let correction1 = 1.0 - beta1.powf(self.step as f64);
        let correction2 = 1.0 - beta2.powf(self.step as f64);
        no_grad(|| {
            let (mut moved, mut mean) = (part.moved().shallow_clone(), part.kept[0].shallow_clone());
            let mut square = part.kept[1].shallow_clone();
            let gradient = part.gradient.to_kind(Kind::Float) * self.gradient_scale;
            let _ = moved.g_mul_scalar_(1.0 - self.learning_rate * weight_decay);
            let _ = mean.lerp_(&gradient, 1.0 - beta1);
            let _ = square.g_mul_scalar_(beta2).addcmul_(&gradient, &(&gradient * (1.0 - beta2)));
            let denominator = (&square / correction2).sqrt() + epsilon;
            let _ = moved.g_sub_(&(&mean / denominator * (self.learning_rate / correction1)));
        });
        part.round_master()
    }
}

impl Group {
    /// Adds a part, its gradient in the type of what the kernel moves; whether the group must be moved before another.
    fn join(&mut self, mut part: Part) -> bool {
        if part.gradient.kind() != Kind::Float {
            part.gradient = part.gradient.to_kind(Kind::Float);
            self.converted += part.gradient.numel();
        }
        let away = part.away;
        self.parts.push(part);
        away || self.converted > CONVERTED_AT_ONCE
    }
}

impl Part {
    /// What float32 moments belong to: the master where there is one.
    fn moved(&self) -> &Tensor {
        self.kept.get(2).unwrap_or(&self.parameter)
    }

    /// Makes the parameter what its master is, rounded.
    fn round_master(&self) -> Result<(), Failure> {
        if let Some(master) = self.kept.get(2) {
            no_grad(|| self.parameter.shallow_clone().f_copy_(master))?;
        }
        Ok(())
    }
}

fn refused(error: torch_ext::optim::OptimError) -> Failure {
    Failure::data(format!("the optimizer: {error}"))
}
