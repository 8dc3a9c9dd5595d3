//! What runs on the CPU in the kernels' place: vector code of ours, in float32.

use attention::tiled::rows::{self, RmsNormGradient};
use tch::{Device, Kind, Tensor};
use torch_ext::fused::FusedError;
use torch_ext::host::{HostError, contiguous_mut, span};

use super::Run;
use super::jobs::{EPSILON, Tensors};

/// Our way to do an operation, if there is one.
pub(super) fn way<'a>(operation: &'static str, t: &'a Tensors) -> Option<Run<'a>> {
    if t.x.device() != Device::Cpu || t.x.kind() != Kind::Float {
        return None;
    }
    let broken = move |error: HostError| FusedError::Broken { operation, reason: error.to_string() };
    let run: Box<dyn Fn() -> Result<(), HostError> + 'a> = match operation {
        "rms_norm" => Box::new(|| rms_norm(t)),
        "rms_norm_backward" => Box::new(|| rms_norm_backward(t, None)),
        "rms_norm_of_sum_backward" => Box::new(|| rms_norm_backward(t, Some(&t.grad))),
        "swiglu" => Box::new(|| swiglu(t)),
        "swiglu_backward" => Box::new(|| swiglu_backward(t)),
        "cross_entropy" => Box::new(|| cross_entropy(t)),
        _ => return None,
    };
    Some(Box::new(move || run().map_err(broken)))
}

fn unset(like: &Tensor) -> Tensor {
    Tensor::empty(like.size(), (like.kind(), like.device()))
}

fn rms_norm(t: &Tensors) -> Result<(), HostError> {
    let mut out = unset(&t.x);
    rows::rms_norm(span(&t.x)?, span(&t.weight)?, EPSILON as f32, contiguous_mut(&mut out)?);
    Ok(())
}

fn rms_norm_backward(t: &Tensors, onto: Option<&Tensor>) -> Result<(), HostError> {
    let (x, weight, grad) = (span(&t.x)?, span(&t.weight)?, span(&t.grad)?);
    let onto = onto.map(span).transpose()?;
    let mut out = unset(&t.x);
    let given = RmsNormGradient { x, weight, epsilon: EPSILON as f32, grad, onto };
    drop(rows::rms_norm_backward(given, contiguous_mut(&mut out)?));
    Ok(())
}

fn swiglu(t: &Tensors) -> Result<(), HostError> {
    let mut out = unset(&t.gate);
    rows::swiglu(span(&t.gate)?, span(&t.up)?, contiguous_mut(&mut out)?);
    Ok(())
}

/// The gradient by the gate takes the place of that by the product, so that each run begins with what the one before left.
fn swiglu_backward(t: &Tensors) -> Result<(), HostError> {
    let (mut grad, mut by_up) = (t.grad_product.shallow_clone(), unset(&t.up));
    rows::swiglu_backward(span(&t.gate)?, span(&t.up)?, contiguous_mut(&mut grad)?, contiguous_mut(&mut by_up)?, None);
    Ok(())
}

fn cross_entropy(t: &Tensors) -> Result<(), HostError> {
    let count = t.logits.size()[0];
    let targets: Vec<Option<usize>> = (0..count).map(|row| Some((row % t.logits.size()[1]) as usize)).collect();
    let (factors, mut losses) = (vec![1.0; targets.len()], vec![0.0; targets.len()]);
    let mut logits = t.logits.shallow_clone();
    rows::cross_entropy_gradient(contiguous_mut(&mut logits)?, &targets, &factors, &mut losses);
    Ok(())
}
