//! Gradients as they arrive: a call after each addition to the gradient of a leaf, within the backward pass.

use std::ffi::{c_char, c_void};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;
use torch_sys::C_tensor;

use super::AutogradError;
use super::node::{refused, words};
use crate::message;

/// Laid out as `bowline_hook` in the shim.
#[repr(C)]
struct Hook {
    data: *mut c_void,
    run: unsafe extern "C" fn(*mut c_void) -> *mut c_char,
    drop: unsafe extern "C" fn(*mut c_void),
}

// Defined in `shim/autograd.cpp`.
unsafe extern "C" {
    fn bowline_hook_gradient(leaf: *const C_tensor, hook: Hook) -> *mut c_char;
    fn bowline_unhook_gradient(leaf: *const C_tensor) -> *mut c_char;
    fn bowline_take_gradient(tensor: *const C_tensor, gradient: *mut *mut C_tensor) -> *mut c_char;
}

/// A hook with its type forgotten.
type Run = Box<dyn Fn() -> Result<(), String> + Send>;

/// Calls a closure whenever a backward pass has added to the gradient of a leaf, until it is dropped.
///
/// ```
/// use std::sync::mpsc::channel;
/// use tch::Tensor;
/// use torch_ext::autograd::{AutogradError, GradientHook};
///
/// let x = Tensor::from(2.0).set_requires_grad(true);
/// let (arrived, arrivals) = channel();
/// let hook = GradientHook::new(&x, move || arrived.send(()))?;
/// (&x * &x + &x).backward();
/// assert_eq!(arrivals.iter().take(1).count(), 1);
/// drop(hook);
/// assert_eq!(arrivals.iter().count(), 0, "one sum for both uses");
/// # Ok::<(), AutogradError>(())
/// ```
#[derive(Debug)]
pub struct GradientHook {
    leaf: Tensor,
}

impl GradientHook {
    /// `hook` runs with gradients untracked, on the thread that computes the leaf's gradient, after every addition to it:
    /// once for a backward pass through a plain graph, and once more for each [`super::checkpoint()`] that uses the leaf. It
    /// may also run where a node had nothing to add. Its errors and panics become errors of the backward pass. A leaf has
    /// one hook at a time.
    ///
    /// # Errors
    ///
    /// When the tensor is no leaf, requires no gradient, or has a hook.
    pub fn new<E: Display>(
        leaf: &Tensor,
        hook: impl Fn() -> Result<(), E> + Send + 'static,
    ) -> Result<Self, AutogradError> {
        let run: Run = Box::new(move || hook().map_err(|error| error.to_string()));
        // Boxed twice: a pointer to a closure of unknown type is two words, and the shim keeps one.
        let data = Box::into_raw(Box::new(run)).cast();
        // SAFETY: a live tensor; the shim takes the closure whatever it answers, and passes `data` to these two functions
        // only.
        refused(unsafe { bowline_hook_gradient(leaf.as_ptr(), Hook { data, run: run_hook, drop: drop_hook }) })?;
        Ok(Self { leaf: leaf.shallow_clone() })
    }
}

impl Drop for GradientHook {
    fn drop(&mut self) {
        // SAFETY: a live tensor. That it refuses leaves a hook behind, which does no harm to memory.
        let _ = refused(unsafe { bowline_unhook_gradient(self.leaf.as_ptr()) });
    }
}

/// The gradient of a tensor, which has none afterwards: its memory is the caller's to free. None where there was none.
///
/// # Errors
///
/// When libtorch refuses, for a tensor that is undefined.
pub fn take_gradient(tensor: &Tensor) -> Result<Option<Tensor>, AutogradError> {
    if !tensor.defined() {
        return Err(AutogradError("an undefined tensor has no gradient".to_owned()));
    }
    let mut gradient = std::ptr::null_mut();
    // SAFETY: a live tensor, and a place to write a handle to.
    refused(unsafe { bowline_take_gradient(tensor.as_ptr(), &raw mut gradient) })?;
    // SAFETY: a handle that is not null is ours.
    Ok((!gradient.is_null()).then(|| unsafe { Tensor::from_ptr(gradient) }))
}

/// Runs a hook; null, or a message for the shim to free.
///
/// # Safety
///
/// `data` comes from [`GradientHook::new`] and was not dropped.
unsafe extern "C" fn run_hook(data: *mut c_void) -> *mut c_char {
    // SAFETY: the caller's word. A panic must not unwind into C++.
    match catch_unwind(AssertUnwindSafe(|| unsafe { &*data.cast::<Run>() }())) {
        Ok(Ok(())) => std::ptr::null_mut(),
        Ok(Err(reason)) => message::given(&reason),
        Err(payload) => {
            let text = format!("panicked: {}", words(payload.as_ref()));
            // Dropping a payload may itself panic.
            std::mem::forget(payload);
            message::given(&text)
        }
    }
}

/// Frees a hook and what it holds.
///
/// # Safety
///
/// `data` comes from [`GradientHook::new`] and is not used again.
unsafe extern "C" fn drop_hook(data: *mut c_void) {
    // SAFETY: the caller's word.
    let run = unsafe { Box::from_raw(data.cast::<Run>()) };
    // A destructor that panics must not unwind into C++; the message went to stderr by the panic hook.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(move || drop(run))) {
        std::mem::forget(payload);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tch::{Device, Kind};

    use super::*;
    use crate::autograd::checkpoint;

    fn leaf() -> Tensor {
        Tensor::full([3], 2.0, (Kind::Float, Device::Cpu)).set_requires_grad(true)
    }

    /// A hook that counts, and its count.
    fn counted(leaf: &Tensor) -> (GradientHook, Arc<AtomicUsize>) {
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let hook = GradientHook::new(leaf, move || {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(())
        });
        (hook.unwrap(), count)
    }

    #[test]
    fn a_leaf_that_is_used_twice_arrives_once_and_complete() {
        let x = leaf();
        let (hook, count) = counted(&x);
        (&x * &x + &x * 3.0).sum(Kind::Float).backward();
        assert_eq!(count.load(Ordering::Relaxed), 1);
        assert_eq!(take_gradient(&x).unwrap().unwrap().double_value(&[0]), 7.0);
        assert!(take_gradient(&x).unwrap().is_none() && !x.grad().defined());
        drop(hook);
        x.sum(Kind::Float).backward();
        assert_eq!(count.load(Ordering::Relaxed), 1, "it is gone with its guard");
    }

    #[test]
    fn each_recomputation_adds_for_itself() {
        let x = leaf();
        let (_hook, count) = counted(&x);
        let part = |with: &Tensor| {
            let held = with.shallow_clone();
            let compute = move |_: &[Tensor]| Ok::<_, AutogradError>(vec![&held * &held]);
            checkpoint(&[], compute).unwrap().remove(0)
        };
        (part(&x) + part(&x)).sum(Kind::Float).backward();
        assert_eq!(count.load(Ordering::Relaxed), 2);
        assert_eq!(take_gradient(&x).unwrap().unwrap().double_value(&[0]), 8.0);
    }

    #[test]
    fn errors_and_panics_are_errors_of_the_backward_pass() {
        let x = leaf();
        let hook = GradientHook::new(&x, || Err("no room for its moments")).unwrap();
        let refused = x.sum(Kind::Float).f_backward().unwrap_err().to_string();
        assert!(refused.contains("no room for its moments"), "{refused}");
        drop(hook);
        let _hook = GradientHook::new(&x, || -> Result<(), Infallible> { panic!("a bug") }).unwrap();
        let refused = x.sum(Kind::Float).f_backward().unwrap_err().to_string();
        assert!(refused.contains("panicked: a bug"), "{refused}");
    }

    #[test]
    fn what_has_no_gradient_of_its_own_or_a_hook_already_is_refused() {
        let quiet = || Ok::<_, Infallible>(());
        let x = leaf();
        assert!(GradientHook::new(&(&x * 2.0), quiet).is_err());
        assert!(GradientHook::new(&x.detach(), quiet).is_err());
        let _first = GradientHook::new(&x, quiet).unwrap();
        let second = GradientHook::new(&x, quiet).unwrap_err().to_string();
        assert!(second.contains("already"), "{second}");
        assert!(take_gradient(&Tensor::new()).is_err());
    }

    #[test]
    fn a_hook_frees_what_it_holds() {
        let x = leaf();
        let (hook, count) = counted(&x);
        assert_eq!(Arc::strong_count(&count), 2);
        drop(hook);
        assert_eq!(Arc::strong_count(&count), 1);
    }
}
