//! Gradients that are used as soon as they are complete, within the backward pass, and then let go of (as LOMO does; Lv et
//! al. 2023, section 3.1).
//!
//! Parts of the model ([`Arrival`]) are moved one after another. Two things differ from a step on all gradients together,
//! since most of them are not there yet when the first are used:
//!
//! - Clipping: the norm of all is taken to be the larger of that of the step before and that of what has arrived so far,
//!   this part included. A spike is thus clipped where it shows, and a run's first step by what arrives alone. With no limit
//!   the step is that on kept gradients, bit for bit.
//! - A gradient that is not finite stops the step where it shows: its part and all later ones stay as they were, while
//!   those before have moved. No weight is ever moved by it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::Tensor;
use torch_ext::autograd::GradientHook;
use torch_ext::optim::global_norm;

use super::arrival::Arrival;
use super::processes::Reduction;
use super::slot::Slot;
use super::update::Update;
use super::{AdamW, clip_factor};
use crate::error::Failure;

/// A backward pass that moves parameters as it goes.
struct Pass {
    slots: Vec<Slot>,
    update: Update,
    reduction: Reduction,
    clip_norm: Option<f64>,
    /// Norm of the step before; 0 where there was none.
    norm_before: f64,
    /// The part whose gradients are arriving.
    open: Option<Arrival>,
    /// Slots of that part with a gradient.
    arrived: Vec<usize>,
    /// Slots of the embedding, which is complete at the end.
    last: Vec<usize>,
    /// Slots that were moved or passed over.
    done: Vec<bool>,
    /// Squared norm of the gradients used so far; not finite from the first on that is not.
    squares: f64,
    moved: bool,
    failure: Option<Failure>,
}

impl AdamW {
    /// Runs the backward pass from `loss`, moves every parameter against its gradient on the way, and returns the norm of
    /// all gradients. Where that is not finite the step broke off: parameters whose gradients came later did not move.
    ///
    /// The gradients are those of one pass: others that were there before are counted in.
    ///
    /// # Errors
    ///
    /// When memory cannot be had, or a gradient arrives after its part was done; parts of the model have moved then.
    pub fn step_in_backward(
        &mut self,
        loss: &Tensor,
        learning_rate: f64,
        clip_norm: Option<f64>,
    ) -> Result<f64, Failure> {
        let pass = Arc::new(Mutex::new(Pass {
            done: vec![false; self.slots.len()],
            slots: std::mem::take(&mut self.slots),
            update: self.update(learning_rate, 1.0),
            reduction: self.reduction,
            clip_norm,
            norm_before: self.norm_before.unwrap_or(0.0),
            open: None,
            arrived: Vec::new(),
            last: Vec::new(),
            squares: 0.0,
            moved: false,
            failure: None,
        }));
        let swept = sweep(&pass, loss);
        let mut pass = held(&pass);
        let finished = match pass.failure.take() {
            Some(failure) => Err(failure),
            None => swept.and_then(|()| pass.finish()),
        };
        self.slots = std::mem::take(&mut pass.slots);
        self.steps += u64::from(pass.moved);
        // What an error or a gradient that is not finite left lying.
        self.forget_gradients()?;
        finished?;
        let norm = pass.squares.sqrt();
        if norm.is_finite() {
            self.norm_before = Some(norm);
        }
        Ok(norm)
    }
}

/// The backward pass with a hook on every parameter.
fn sweep(pass: &Arc<Mutex<Pass>>, loss: &Tensor) -> Result<(), Failure> {
    let parameters: Vec<Tensor> = held(pass).slots.iter().map(|slot| slot.parameter.shallow_clone()).collect();
    let hook = |(index, parameter): (usize, &Tensor)| {
        let pass = Arc::clone(pass);
        GradientHook::new(parameter, move || held(&pass).arrive(index))
    };
    let hooks: Result<Vec<GradientHook>, _> = parameters.iter().enumerate().map(hook).collect();
    let _hooks = hooks.map_err(|error| Failure::data(format!("gradients in the backward pass: {error}")))?;
    Ok(loss.f_backward()?)
}

/// What a panic of another thread left is as good as before: each part is moved or not.
fn held(pass: &Mutex<Pass>) -> MutexGuard<'_, Pass> {
    pass.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pass {
    /// A gradient was added to. What goes wrong is kept, since libtorch passes on nothing but words, and ends the pass.
    fn arrive(&mut self, index: usize) -> Result<(), &'static str> {
        if self.failure.is_none() {
            self.failure = self.receive(index).err();
        }
        if self.failure.is_some() { Err("a parameter could not be moved") } else { Ok(()) }
    }

    fn receive(&mut self, index: usize) -> Result<(), Failure> {
        let slot = &self.slots[index];
        if !slot.parameter.grad().defined() {
            // A node that had nothing to add.
            return Ok(());
        }
        if self.done[index] {
            return Err(Failure::data(format!(
                "the gradient of {} was added to after it had been used; memory.gradients = \"in-backward\" wants parts of \
                 the model to be differentiated one after another",
                slot.name
            )));
        }
        let list = if slot.arrival == Arrival::Embedding { &mut self.last } else { &mut self.arrived };
        if list.contains(&index) {
            return Ok(());
        }
        if slot.arrival != Arrival::Embedding && self.open != Some(slot.arrival) {
            let before = std::mem::replace(list, vec![index]);
            self.open = Some(slot.arrival);
            return self.settle(&before);
        }
        list.push(index);
        Ok(())
    }

    /// The end of the backward pass: the last part, and the embedding.
    fn finish(&mut self) -> Result<(), Failure> {
        let (arrived, last) = (std::mem::take(&mut self.arrived), std::mem::take(&mut self.last));
        self.settle(&arrived)?;
        self.settle(&last)
    }

    /// Moves the slots of a part whose gradients are complete.
    fn settle(&mut self, part: &[usize]) -> Result<(), Failure> {
        for &index in part {
            self.slots[index].make_ready(self.reduction)?;
            self.done[index] = true;
        }
        let ready: Vec<&Tensor> = part.iter().filter_map(|&index| self.slots[index].ready()).collect();
        let norm = global_norm(&ready).map_err(|error| Failure::data(format!("the gradients' norm: {error}")))?;
        self.squares += self.reduction.total(norm * norm);
        if !self.squares.is_finite() {
            return part.iter().try_for_each(|&index| self.slots[index].forget_gradient());
        }
        let gradient_scale = clip_factor(self.squares.sqrt().max(self.norm_before), self.clip_norm);
        self.moved |= !ready.is_empty();
        let chosen = self.slots.iter_mut().enumerate().filter(|(index, _)| part.contains(index));
        Update { gradient_scale, ..self.update }.apply(chosen.map(|(_, slot)| slot))
    }
}

#[cfg(test)]
mod tests;
