//! What tch does not say about libtorch's autograd: nodes of one's own, recomputation, backward from given gradients.
//!
//! [`custom`] makes one node of a Rust forward and a Rust backward. [`checkpoint()`] keeps nothing of a computation but its
//! inputs, and computes it a second time when its gradients are asked for (Chen et al. 2016, section 3). [`GradientHook`]
//! tells of gradients while the backward pass goes on.
//!
//! ```
//! use tch::Tensor;
//! use torch_ext::autograd::{AutogradError, Recorded, custom};
//!
//! /// `x^3`, with the derivative written by hand.
//! fn cubed(x: &Tensor) -> Result<Tensor, AutogradError> {
//!     let backward = |call: torch_ext::autograd::Backward| {
//!         let grad = call.gradients[0].as_ref().map(|grad| grad * &call.saved[0] * &call.saved[0] * 3.0);
//!         Ok::<_, AutogradError>(vec![grad])
//!     };
//!     let forward = || Ok(Recorded { outputs: vec![x * x * x], saved: vec![x.shallow_clone()] });
//!     Ok(custom("cubed", &[x], forward, backward)?.remove(0))
//! }
//!
//! let x = Tensor::from(2.0).set_requires_grad(true);
//! cubed(&x)?.backward();
//! assert_eq!(x.grad().double_value(&[]), 12.0);
//! # Ok::<(), AutogradError>(())
//! ```

use std::fmt::Display;

use tch::Tensor;

mod checkpoint;
mod hook;
mod node;

pub use checkpoint::checkpoint;
pub use hook::{GradientHook, take_gradient};
pub(crate) use node::refused;

/// Why a node was not made or a backward pass not run, in libtorch's words or those of a closure behind it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AutogradError(pub String);

/// What a forward pass leaves.
#[derive(Debug)]
pub struct Recorded {
    /// Its answers, in floating point.
    pub outputs: Vec<Tensor>,
    /// What the backward needs: inputs, outputs or others. Freed with the graph; a later change in place of an input or
    /// output among them is an error of the backward, as with libtorch's own nodes.
    pub saved: Vec<Tensor>,
}

/// What a backward is given.
#[derive(Debug)]
pub struct Backward {
    /// [`Recorded::saved`], in its order.
    pub saved: Vec<Tensor>,
    /// The gradient by each output; none for an output that the result does not depend on.
    pub gradients: Vec<Option<Tensor>>,
    /// Whether a gradient by each input is of use; others may be left out.
    pub wanted: Vec<bool>,
}

/// Runs `forward`; its outputs become the answer of one node of libtorch's graph over `inputs`.
///
/// `forward` runs with gradients untracked. Where they are not tracked anyway, or no input asks for one, its outputs are
/// returned as they are and nothing is kept. `backward` gives a gradient (or none) for each input, of the input's shape. It
/// may run on another thread, once for each pass through the graph, and is dropped with the graph. Its errors and panics
/// become errors of the backward pass. Gradients of gradients are refused.
///
/// The outputs share storage with what `forward` returned, and nothing else: an input returned as it is gives a tensor of
/// its own.
///
/// # Errors
///
/// What `forward` says; [`AutogradError`] when libtorch cannot make the node (outputs that are no floats, for one).
pub fn custom<E, B>(
    name: &str,
    inputs: &[&Tensor],
    forward: impl FnOnce() -> Result<Recorded, E>,
    backward: impl Fn(Backward) -> Result<Vec<Option<Tensor>>, B> + Send + 'static,
) -> Result<Vec<Tensor>, E>
where
    E: From<AutogradError>,
    B: Display,
{
    let recording = grad_enabled() && inputs.iter().any(|input| input.requires_grad());
    let recorded = {
        let _untracked = tch::no_grad_guard();
        forward()?
    };
    if !recording {
        return Ok(recorded.outputs);
    }
    Ok(node::record(name, inputs, recorded, backward)?)
}

/// Adds to the gradients of the leaves under `roots`, given the gradient by each root; the graph is freed.
///
/// # Errors
///
/// When a root has no history, a gradient has not its root's shape, or a backward fails.
pub fn backward(roots: &[&Tensor], gradients: &[Option<&Tensor>]) -> Result<(), AutogradError> {
    if roots.len() != gradients.len() {
        return Err(AutogradError(format!("{} roots came with {} gradients", roots.len(), gradients.len())));
    }
    node::backward(roots, gradients)
}

/// Whether operations on this thread are recorded for gradients: false inside `tch::no_grad`.
#[must_use]
pub fn grad_enabled() -> bool {
    let before = set_grad_enabled(false);
    set_grad_enabled(before);
    before
}

/// Sets whether this thread records; returns whether it did.
fn set_grad_enabled(enabled: bool) -> bool {
    // SAFETY: the call sets a thread-local flag and returns its former value; it takes no pointer and cannot fail.
    let before = unsafe { torch_sys::at_grad_set_enabled(enabled.into()) };
    before != 0
}

/// Records while it lives, whatever was set before.
struct Tracked(bool);

impl Tracked {
    fn new() -> Self {
        Self(set_grad_enabled(true))
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        set_grad_enabled(self.0);
    }
}

#[cfg(test)]
#[path = "autograd/tests.rs"]
mod tests;
