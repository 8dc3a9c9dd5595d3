//! Recomputation in the backward pass.

use std::fmt::Display;

use tch::{Device, Tensor};

use super::{AutogradError, Backward, Recorded, Tracked, grad_enabled, node};
use crate::generator::{generator_state, set_generator_state};

/// The outputs of `compute(inputs)`; of what it computes on the way nothing is kept, and its gradients come from running
/// it a second time.
///
/// Both runs see the same state of the random generators (of the CPU and of the inputs' device), so that dropout drops the
/// same; the second leaves the generators as it found them. Gradients reach the inputs and every leaf that `compute` uses,
/// each added to its `grad` as the backward pass comes by. They equal those of a plain call bit for bit, unless a leaf is
/// also used elsewhere: then only the order of its sum differs. `compute` must do the same both times, and hence change
/// nothing in place that it reads.
///
/// With gradients untracked this is a plain call. Otherwise the outputs require a gradient, even where no input does.
/// `Tensor::run_backward` for chosen leaves does not find those inside; `Tensor::backward` does.
///
/// # Errors
///
/// What `compute` says; [`AutogradError`] when libtorch refuses. In the backward pass both are errors of that.
pub fn checkpoint<E>(
    inputs: &[&Tensor],
    compute: impl Fn(&[Tensor]) -> Result<Vec<Tensor>, E> + Send + 'static,
) -> Result<Vec<Tensor>, E>
where
    E: From<AutogradError> + Display,
{
    let inputs_given: Vec<Tensor> = inputs.iter().map(|input| input.shallow_clone()).collect();
    if !grad_enabled() {
        return compute(&inputs_given);
    }
    let devices = devices(inputs);
    let states = states(&devices)?;
    let outputs = {
        let _untracked = tch::no_grad_guard();
        compute(&inputs_given)?
    };
    let backward = move |call: Backward| recomputed(&call, &states, &compute);
    Ok(node::record("checkpoint", inputs, Recorded { outputs, saved: inputs_given }, backward)?)
}

/// Devices whose generators `compute` may draw from.
fn devices(inputs: &[&Tensor]) -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    for device in inputs.iter().map(|input| input.device()) {
        if !devices.contains(&device) {
            devices.push(device);
        }
    }
    devices
}

fn states(devices: &[Device]) -> Result<Vec<(Device, Tensor)>, AutogradError> {
    devices.iter().map(|&device| Ok((device, generator_state(device)?))).collect()
}

/// Puts generators back when it goes.
struct Restored(Vec<(Device, Tensor)>);

impl Drop for Restored {
    fn drop(&mut self) {
        // The states came from these generators, which is all that can be wrong with them.
        let _ = self.0.iter().try_for_each(|(device, state)| set_generator_state(*device, state));
    }
}

/// Gradients of the inputs, by a second run and a backward pass of its own.
fn recomputed<E: Display>(
    call: &Backward,
    states: &[(Device, Tensor)],
    compute: &impl Fn(&[Tensor]) -> Result<Vec<Tensor>, E>,
) -> Result<Vec<Option<Tensor>>, String> {
    let leaves: Vec<Tensor> = call.saved.iter().map(|t| t.detach().set_requires_grad(t.requires_grad())).collect();
    let outputs = {
        let of: Vec<Device> = states.iter().map(|(device, _)| *device).collect();
        let _restored = Restored(self::states(&of).map_err(|error| error.to_string())?);
        for (device, state) in states {
            set_generator_state(*device, state).map_err(|error| error.to_string())?;
        }
        let _tracked = Tracked::new();
        compute(&leaves).map_err(|error| error.to_string())?
    };
    if outputs.len() != call.gradients.len() {
        return Err(format!("{} outputs the second time, {} the first", outputs.len(), call.gradients.len()));
    }
    // An output that depends on nothing, or on which nothing depends, has nothing to pass on.
    let pairs = outputs.iter().zip(&call.gradients);
    let pairs = pairs.filter_map(|(output, gradient)| Some((output, Some(gradient.as_ref()?))));
    let (roots, gradients): (Vec<&Tensor>, Vec<Option<&Tensor>>) = pairs.filter(|(o, _)| o.requires_grad()).unzip();
    if !roots.is_empty() {
        super::backward(&roots, &gradients).map_err(|error| error.to_string())?;
    }
    Ok(leaves.iter().map(gradient).collect())
}

/// What a leaf has gathered.
fn gradient(leaf: &Tensor) -> Option<Tensor> {
    let grad = leaf.grad();
    grad.defined().then_some(grad)
}
