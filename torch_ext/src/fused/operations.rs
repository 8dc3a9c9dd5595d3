//! Fused operations as nodes of libtorch's graph: by kernels on CUDA where they may be used, by libtorch's own otherwise.

use tch::{Kind, TchError, Tensor};

use super::FusedError;
use super::machine::{Machine, Use};
use super::norm::{Gradients, Inputs, Norm, Normed, Statistics};
use super::swiglu as gated;
use crate::autograd::{Backward, Recorded, custom};

/// What a norm of a residual stream gives.
#[derive(Debug)]
pub struct Residual {
    /// The normed rows.
    pub normed: Tensor,
    /// What was normed, which goes on as the stream: `x`, with the residual added if there was one.
    pub sum: Tensor,
}

/// RMSNorm (Zhang and Sennrich 2019, equation 4) over the last dimension of `x`, of its sum with `residual` if there is one;
/// statistics in float32. Differentiable by all tensors.
///
/// # Errors
///
/// When tensors do not belong together; what libtorch or the device says.
pub fn rms_norm(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    epsilon: f64,
    wish: Use,
) -> Result<Residual, FusedError> {
    normed(Norm::Rms, &Inputs { x, residual, weight, bias: None, epsilon }, wish)
}

/// LayerNorm (Ba et al. 2016, equation 3) in the same way.
///
/// # Errors
///
/// As [`rms_norm`].
pub fn layer_norm(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    epsilon: f64,
    wish: Use,
) -> Result<Residual, FusedError> {
    normed(Norm::Layer, &Inputs { x, residual, weight, bias, epsilon }, wish)
}

/// SwiGLU's product (Shazeer 2020, equation 6), `silu(gate) * up`. Differentiable by both.
///
/// # Errors
///
/// As [`rms_norm`].
pub fn swiglu(gate: &Tensor, up: &Tensor, wish: Use) -> Result<Tensor, FusedError> {
    match gated::where_used(gate, wish) {
        Some(machine) => swiglu_on(machine, gate, up),
        None => Ok(gate.f_silu()?.f_mul(up)?),
    }
}

/// [`swiglu`] by the kernels of a machine.
///
/// # Errors
///
/// When they do not belong together; what the machine says.
pub fn swiglu_on<M: Machine + Clone + Send + 'static>(
    machine: M,
    gate: &Tensor,
    up: &Tensor,
) -> Result<Tensor, FusedError> {
    let forward = || {
        let product = gated::forward(&machine, gate, up)?;
        Ok::<_, FusedError>(Recorded { outputs: vec![product], saved: vec![gate.shallow_clone(), up.shallow_clone()] })
    };
    let later = machine.clone();
    let backward = move |call: Backward| {
        let (Some(grad), [gate, up]) = (&call.gradients[0], &call.saved[..]) else { return Ok(vec![None, None]) };
        let found = gated::backward(&later, gate, up, grad, false)?;
        Ok::<_, FusedError>(vec![Some(found.gate), Some(found.up)])
    };
    Ok(custom("swiglu", &[gate, up], forward, backward)?.swap_remove(0))
}

fn normed(norm: Norm, inputs: &Inputs<'_>, wish: Use) -> Result<Residual, FusedError> {
    match norm.where_used(inputs, wish) {
        Some(machine) => norm_on(machine, norm, inputs),
        None => Ok(plain(norm, inputs)?),
    }
}

/// A norm by the kernels of a machine, as [`rms_norm`] and [`layer_norm`].
///
/// # Errors
///
/// When tensors do not belong together or rows are longer than a kernel holds; what the machine says.
pub fn norm_on<M: Machine + Clone + Send + 'static>(
    machine: M,
    norm: Norm,
    inputs: &Inputs<'_>,
) -> Result<Residual, FusedError> {
    let Inputs { x, residual, weight, bias, epsilon } = *inputs;
    let given: Vec<&Tensor> = [Some(x), Some(weight), residual, bias].into_iter().flatten().collect();
    let (adds, has_bias) = (residual.is_some(), bias.is_some());
    let forward = || {
        let Normed { out, sum, statistics: Statistics { mean, rstd } } = norm.forward(&machine, inputs)?;
        let saved = [Some(&sum), Some(weight), Some(&rstd), mean.as_ref(), bias].into_iter().flatten();
        let saved = saved.map(Tensor::shallow_clone).collect();
        let outputs = if adds { vec![out, sum] } else { vec![out] };
        Ok::<_, FusedError>(Recorded { outputs, saved })
    };
    let later = machine.clone();
    let backward = move |call: Backward| {
        let grad_sum = call.gradients.get(1).and_then(Option::as_ref);
        let [of_x, of_weight, of_bias] = match &call.gradients[0] {
            Some(grad) => gradients(&later, norm, epsilon, (call.saved, has_bias), Gradients { grad, grad_sum })?,
            None => [grad_sum.map(Tensor::shallow_clone), None, None],
        };
        let of_residual = adds.then(|| of_x.as_ref().map(Tensor::shallow_clone));
        let all = [Some(of_x), Some(of_weight), of_residual, has_bias.then_some(of_bias)];
        Ok::<_, FusedError>(all.into_iter().flatten().collect())
    };
    let mut outputs = custom("norm", &given, forward, backward)?.into_iter();
    let (Some(normed), sum) = (outputs.next(), outputs.next()) else {
        return super::tensors::unfit("a norm", "gave no answer");
    };
    Ok(Residual { normed, sum: sum.unwrap_or_else(|| x.shallow_clone()) })
}

/// Gradients by what was normed, weight and bias, from what forward saved.
fn gradients<M: Machine>(
    machine: &M,
    norm: Norm,
    epsilon: f64,
    (saved, has_bias): (Vec<Tensor>, bool),
    given: Gradients<'_>,
) -> Result<[Option<Tensor>; 3], FusedError> {
    let mut saved = saved.into_iter();
    let (Some(sum), Some(weight), Some(rstd)) = (saved.next(), saved.next(), saved.next()) else {
        return super::tensors::unfit("a norm's backward", "was given nothing that forward saved");
    };
    let mean = if norm == Norm::Layer { saved.next() } else { None };
    let bias = if has_bias { saved.next() } else { None };
    let inputs = Inputs { x: &sum, residual: None, weight: &weight, bias: bias.as_ref(), epsilon };
    let found = norm.backward(machine, &inputs, Some(&Statistics { mean, rstd }), given)?;
    Ok([Some(found.x), Some(found.weight), found.bias])
}

/// A norm by libtorch's operations.
fn plain(norm: Norm, inputs: &Inputs<'_>) -> Result<Residual, TchError> {
    let Inputs { x, residual, weight, bias, epsilon } = *inputs;
    let sum = residual.map_or_else(|| Ok(x.shallow_clone()), |residual| x.f_add(residual))?;
    let columns = weight.size();
    let normed = match norm {
        Norm::Layer => sum.f_layer_norm(&columns[..], Some(weight), bias, epsilon, true)?,
        Norm::Rms if matches!(x.kind(), Kind::Float | Kind::Double) => {
            sum.f_rms_norm(&columns[..], Some(weight), epsilon)?
        }
        Norm::Rms => {
            let rows = sum.f_to_kind(Kind::Float)?.f_rms_norm(&columns[..], None::<&Tensor>, epsilon)?;
            rows.f_to_kind(x.kind())?.f_mul(weight)?
        }
    };
    Ok(Residual { normed, sum })
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn on_the_cpu_operations_are_libtorchs_with_its_gradients() {
        let leaf = |values: &[f64]| Tensor::from_slice(values).view([1, -1]).set_requires_grad(true);
        let (x, residual) = (leaf(&[1.0, 2.0]), leaf(&[2.0, 2.0]));
        let weight = Tensor::from_slice(&[1.0, 10.0]).set_requires_grad(true);
        // The sum is (3, 4), its mean square 12.5.
        let Residual { normed, sum } = rms_norm(&x, Some(&residual), &weight, 0.0, Use::Asked).unwrap();
        let root = 12.5_f64.sqrt();
        assert!((&normed - Tensor::from_slice(&[3.0 / root, 40.0 / root])).abs().max().double_value(&[]) < 1e-12);
        assert_eq!(Vec::<f64>::try_from(sum.view(-1)).unwrap(), [3.0, 4.0]);
        normed.sum(Kind::Double).backward();
        assert!((weight.grad().double_value(&[0]) - 3.0 / root).abs() < 1e-12);
        assert!(x.grad().equal(&residual.grad()));
    }

    #[test]
    fn layer_norm_and_swiglu_by_hand() {
        let x = Tensor::from_slice(&[1.0_f32, 3.0]).view([1, 2]);
        let (weight, bias) = (Tensor::from_slice(&[2.0_f32, 2.0]), Tensor::from_slice(&[0.5_f32, 0.0]));
        let Residual { normed, sum } = layer_norm(&x, None, &weight, Some(&bias), 0.0, Use::Verified).unwrap();
        assert_eq!(Vec::<f32>::try_from(normed.view(-1)).unwrap(), [-1.5, 2.0]);
        assert!(sum.equal(&x));
        let zero = Tensor::zeros([1], (Kind::Float, Device::Cpu));
        assert_eq!(swiglu(&zero, &x.narrow(1, 1, 1).view(-1), Use::Verified).unwrap().double_value(&[0]), 0.0);
        let large = Tensor::from_slice(&[40.0_f32]);
        assert_eq!(swiglu(&large, &large, Use::Never).unwrap().double_value(&[0]), 1600.0);
    }
}
