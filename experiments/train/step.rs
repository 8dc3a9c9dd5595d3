//! One optimizer step: passes forward and backward over a batch, then AdamW.

use std::time::Instant;

use attention::{DocumentStarts, Mask};
use tch::Tensor;

use super::feed::Sequence;
use super::long_ce;
use super::loss::{UNCOUNTED, weighted_loss};
use super::metrics::StepMetrics;
use super::optim::clip_factor;
use super::trainer::Trainer;
use crate::config::{Gradients, LossKind, Stage};
use crate::error::Failure;
use crate::model::{Pass, PlanTensors};
use crate::runtime::signals::StopFlag;

/// How a step ended.
#[derive(Debug)]
pub enum Outcome {
    /// The weights moved.
    Moved(StepMetrics),
    /// A stop was asked for between two passes; nothing moved, and the step will be taken again.
    GivenUp,
    /// Nothing moved; or, where gradients are used in the backward pass, what came after the place where it showed.
    NotFinite(NotFinite),
}

/// What of a step is not finite.
#[derive(Debug)]
pub struct NotFinite {
    /// `loss` or `gradient norm`.
    pub what: &'static str,
    /// Infinite, or not a number.
    pub value: f64,
}

impl Trainer {
    /// One optimizer step on `batch`.
    ///
    /// # Errors
    ///
    /// What the model says of its input.
    pub fn take_step(
        &mut self,
        stage: &Stage,
        plan: &PlanTensors,
        batch: &[Sequence],
        stop: &StopFlag,
    ) -> Result<Outcome, Failure> {
        let started = Instant::now();
        let counted: usize = batch.iter().map(|sequence| sequence.counted(stage.length)).sum();
        let passes: Vec<&[Sequence]> = batch.chunks(stage.micro()).collect();
        let (learning_rate, clip_norm) = (self.schedule.at(self.step), self.recipe.optimizer.clip_norm);
        let (mut loss, mut norm) = (0.0, 0.0);
        for (number, micro) in passes.iter().enumerate() {
            if number > 0 && stop.raised() {
                self.optimizer.forget_gradients()?;
                return Ok(Outcome::GivenUp);
            }
            self.number_pass(number);
            let (inputs, targets) = self.tensors(micro, stage.length);
            let moved = moved(plan, micro)?;
            let pass = Pass { plan: moved.as_ref().unwrap_or(plan), offset: 0, mask: mask(micro, stage)? };
            let hidden = self.model.llama.hidden(&inputs, &pass, None)?;
            let weights = self.weights(&pass, (&inputs, &targets), &hidden)?;
            // Averaged over the counted tokens of the whole step, however it is cut into passes.
            let sum = weighted_loss(&self.model.llama, &hidden, &targets, weights.as_ref())?;
            let mean = sum / counted.max(1) as f64;
            loss += mean.double_value(&[]);
            if !loss.is_finite() {
                return self.not_finite("loss", loss);
            }
            if self.recipe.memory.gradients == Gradients::InBackward {
                // The only pass of the step, by the recipe's check.
                norm = self.optimizer.step_in_backward(&mean, learning_rate, clip_norm)?;
                continue;
            }
            mean.f_backward()?;
            if passes.len() > 1 {
                self.optimizer.gather_gradients()?;
            }
        }
        if self.recipe.memory.gradients == Gradients::Kept {
            norm = self.optimizer.gradient_norm()?;
        }
        if !norm.is_finite() {
            return self.not_finite("gradient norm", norm);
        }
        if self.recipe.memory.gradients == Gradients::Kept {
            self.optimizer.step(learning_rate, clip_factor(norm, clip_norm))?;
        }
        self.step += 1;
        self.tokens += stage.step_tokens();
        Ok(Outcome::Moved(StepMetrics {
            step: self.step,
            tokens: self.tokens,
            length: stage.length,
            loss,
            gradient_norm: norm,
            learning_rate,
            tokens_per_second: stage.step_tokens() as f64 / started.elapsed().as_secs_f64(),
        }))
    }

    /// What tokens count by, where they do not count alike.
    fn weights(&self, pass: &Pass, tokens: (&Tensor, &Tensor), hidden: &Tensor) -> Result<Option<Tensor>, Failure> {
        let loss = &self.recipe.loss;
        match loss.kind {
            LossKind::CrossEntropy => Ok(None),
            LossKind::LongCe => long_ce::weights(&self.model.llama, loss, pass, tokens, hidden).map(Some),
        }
    }

    /// Says which pass of the run this is, for what is dropped in it: a function of step and place, so that a run that
    /// goes on drops the same.
    fn number_pass(&self, place: usize) {
        if let Some(adapted) = &self.model.llama.adapter {
            adapted.pass.set((self.step << 20) + place as u64 + 1);
        }
    }

    fn not_finite(&mut self, what: &'static str, value: f64) -> Result<Outcome, Failure> {
        self.optimizer.forget_gradients()?;
        Ok(Outcome::NotFinite(NotFinite { what, value }))
    }

    /// Inputs and targets `[batch, length]`.
    fn tensors(&self, batch: &[Sequence], length: usize) -> (Tensor, Tensor) {
        let shape = [batch.len() as i64, length as i64];
        let tensor = |ids: Vec<i64>| Tensor::from_slice(&ids).view(shape).to_device(self.model.device());
        let inputs = batch.iter().flat_map(|s| s.tokens[..length].iter().map(|&id| i64::from(id)));
        let targets = batch.iter().flat_map(|s| {
            let target = |place: usize| if place < s.counted_from { UNCOUNTED } else { i64::from(s.tokens[place]) };
            (1..=length).map(target)
        });
        (tensor(inputs.collect()), tensor(targets.collect()))
    }
}

/// The plan of sequences that stand at positions of their own, if they do.
fn moved(plan: &PlanTensors, batch: &[Sequence]) -> Result<Option<PlanTensors>, Failure> {
    let positions: Option<Vec<&[u32]>> = batch.iter().map(|sequence| sequence.positions.as_deref()).collect();
    positions.map(|positions| plan.at(&positions)).transpose()
}

/// Which keys are seen: causal, or causal within each document of each sequence.
fn mask(batch: &[Sequence], stage: &Stage) -> Result<Mask, Failure> {
    if !stage.document_mask {
        return Ok(Mask::Causal { offset: 0 });
    }
    let rows = batch
        .iter()
        .map(|sequence| sequence.starts.iter().copied().filter(|&start| start < stage.length).collect())
        .collect();
    let starts = DocumentStarts::new(rows).map_err(|error| Failure::data(error.to_string()))?;
    Ok(Mask::Documents { starts, offset: 0 })
}
