//! The border between Rust closures and libtorch's graph; the other side is `shim/autograd.cpp`.

use std::any::Any;
use std::ffi::{CString, c_char, c_void};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;

use tch::Tensor;
use torch_sys::C_tensor;

use super::{AutogradError, Backward, Recorded};
use crate::message;

/// Laid out as `bowline_call` in the shim. The handles are ours to free; null stands for no gradient.
#[repr(C)]
struct Call {
    saved_count: usize,
    saved: *const *mut C_tensor,
    gradient_count: usize,
    gradients: *const *mut C_tensor,
    input_count: usize,
    wanted: *const bool,
    /// One for each input, null at first; the shim frees what is put here.
    results: *mut *mut C_tensor,
}

/// Laid out as `bowline_closure` in the shim.
#[repr(C)]
struct Closure {
    data: *mut c_void,
    run: unsafe extern "C" fn(*mut c_void, *const Call) -> *mut c_char,
    drop: unsafe extern "C" fn(*mut c_void),
}

// Defined in `shim/autograd.cpp`. Tensors are pointers to libtorch's own handles, which is what tch holds.
unsafe extern "C" {
    fn bowline_record(
        name: *const c_char,
        input_count: usize,
        inputs: *const *const C_tensor,
        output_count: usize,
        outputs: *const *mut C_tensor,
        saved_count: usize,
        saved: *const *const C_tensor,
        closure: Closure,
    ) -> *mut c_char;
    fn bowline_backward(count: usize, roots: *const *const C_tensor, gradients: *const *const C_tensor) -> *mut c_char;
}

/// A backward with its type forgotten.
type Run = Box<dyn Fn(Backward) -> Result<Vec<Option<Tensor>>, String> + Send>;

/// Gives the outputs a history in which `backward` is one node over `inputs`.
pub(super) fn record<B: Display>(
    name: &str,
    inputs: &[&Tensor],
    recorded: Recorded,
    backward: impl Fn(Backward) -> Result<Vec<Option<Tensor>>, B> + Send + 'static,
) -> Result<Vec<Tensor>, AutogradError> {
    let name = CString::new(name).map_err(|error| AutogradError(format!("the name of a node: {error}")))?;
    let Recorded { mut outputs, saved } = recorded;
    if let Some(index) = saved.iter().chain(&outputs).position(|tensor| !tensor.defined()) {
        return Err(AutogradError(format!("tensor {index} of those saved and those put out is undefined")));
    }
    let shapes: Vec<Vec<i64>> = inputs.iter().map(|input| input.size()).collect();
    let run: Run = Box::new(move |call| {
        let results = backward(call).map_err(|error| error.to_string())?;
        fitting(&shapes, &results)?;
        Ok(results)
    });
    // Boxed twice: a pointer to a closure of unknown type is two words, and the shim keeps one.
    let data = Box::into_raw(Box::new(run)).cast();
    let input_handles = handles(inputs.iter().copied());
    let saved_handles = handles(&saved);
    let output_handles: Vec<*mut C_tensor> = outputs.iter_mut().map(Tensor::as_mut_ptr).collect();
    // SAFETY: lists of live tensors with their lengths; the outputs are ours alone, and no other handle than theirs is
    // written to. The shim takes the closure whatever it answers, and passes `data` to these two functions only.
    let message = unsafe {
        bowline_record(
            name.as_ptr(),
            inputs.len(),
            input_handles.as_ptr(),
            outputs.len(),
            output_handles.as_ptr(),
            saved.len(),
            saved_handles.as_ptr(),
            Closure { data, run: run_closure, drop: drop_closure },
        )
    };
    refused(message)?;
    Ok(outputs)
}

/// [`super::backward`] for lists of one length.
pub(super) fn backward(roots: &[&Tensor], gradients: &[Option<&Tensor>]) -> Result<(), AutogradError> {
    let null = std::ptr::null();
    let of_gradients: Vec<*const C_tensor> = gradients.iter().map(|g| g.map_or(null, |grad| grad.as_ptr())).collect();
    // SAFETY: two lists of one length, of live tensors and, in the second, null.
    refused(unsafe { bowline_backward(roots.len(), handles(roots.iter().copied()).as_ptr(), of_gradients.as_ptr()) })
}

fn handles<'t>(tensors: impl IntoIterator<Item = &'t Tensor>) -> Vec<*const C_tensor> {
    tensors.into_iter().map(Tensor::as_ptr).collect()
}

pub(crate) fn refused(answer: *mut c_char) -> Result<(), AutogradError> {
    message::taken(answer).map_or(Ok(()), |text| Err(AutogradError(text)))
}

/// Runs a closure; null, or a message for the shim to free.
///
/// # Safety
///
/// `data` comes from [`record`] and was not dropped; `call` and its lists outlive the call.
unsafe extern "C" fn run_closure(data: *mut c_void, call: *const Call) -> *mut c_char {
    // A panic must not unwind into C++. What it leaves behind is dropped with the closure and not looked at again.
    let answer = catch_unwind(AssertUnwindSafe(|| -> Result<(), String> {
        // SAFETY: the caller's word.
        let (run, call) = unsafe { (&*data.cast::<Run>(), &*call) };
        // SAFETY: lists as long as their counts say; each handle in them is ours.
        let given = unsafe { received(call) };
        let results = run(given)?;
        // As many as there are inputs, by `fitting`.
        for (index, result) in results.into_iter().enumerate().take(call.input_count) {
            if let Some(mut tensor) = result {
                // SAFETY: as many results as inputs; the shim frees the handle, hence the tensor is forgotten.
                unsafe { *call.results.add(index) = tensor.as_mut_ptr() };
                std::mem::forget(tensor);
            }
        }
        Ok(())
    }));
    match answer {
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

/// That gradients are in number and shape what the inputs call for: libtorch would sum some misfits instead.
fn fitting(shapes: &[Vec<i64>], results: &[Option<Tensor>]) -> Result<(), String> {
    if results.len() != shapes.len() {
        return Err(format!("{} gradients came for {} inputs", results.len(), shapes.len()));
    }
    let sizes = results.iter().map(|result| result.as_ref().map(Tensor::size));
    match sizes.zip(shapes).enumerate().find(|(_, (found, shape))| found.as_ref().is_some_and(|found| found != *shape))
    {
        Some((index, (found, shape))) => {
            Err(format!("gradient {index} has shape {:?}, its input {shape:?}", found.unwrap_or_default()))
        }
        None => Ok(()),
    }
}

/// What the shim hands over.
///
/// # Safety
///
/// The lists are as long as their counts say; each handle is live and this function's to keep.
unsafe fn received(call: &Call) -> Backward {
    // SAFETY: the caller's word; libtorch's list of a node without saved tensors may be null.
    let list = |count, first| if count == 0 { &[][..] } else { unsafe { slice::from_raw_parts(first, count) } };
    // SAFETY: the caller's word.
    let tensor = |&handle: &*mut C_tensor| (!handle.is_null()).then(|| unsafe { Tensor::from_ptr(handle) });
    let saved = list(call.saved_count, call.saved).iter();
    let gradients = list(call.gradient_count, call.gradients).iter();
    let wanted: &[bool] = match call.input_count {
        0 => &[],
        // SAFETY: the caller's word.
        count => unsafe { slice::from_raw_parts(call.wanted, count) },
    };
    Backward {
        // Only tensors that exist are saved, so that none is lost here.
        saved: saved.filter_map(tensor).collect(),
        gradients: gradients.map(tensor).collect(),
        wanted: wanted.to_vec(),
    }
}

/// What a panic said.
pub(super) fn words(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// Frees a closure and what it holds.
///
/// # Safety
///
/// `data` comes from [`record`] and is not used again.
unsafe extern "C" fn drop_closure(data: *mut c_void) {
    // SAFETY: the caller's word.
    let run = unsafe { Box::from_raw(data.cast::<Run>()) };
    // A destructor that panics must not unwind into C++; the message went to stderr by the panic hook.
    if let Err(payload) = catch_unwind(AssertUnwindSafe(move || drop(run))) {
        std::mem::forget(payload);
    }
}
