//! The operations that `bowline bench kernels` measures, and the ways to do each.

use tch::{Device, Kind, Tensor};
use torch_ext::fused::adamw::{MixedPart, low, mixed};
use torch_ext::fused::cross_entropy::{self, Targets};
use torch_ext::fused::norm::{Gradients, Inputs, Norm};
use torch_ext::fused::{FusedError, OnDevice, Use, layer_norm, rms_norm, swiglu, swiglu_on};
use torch_ext::optim::low::zero_moment;
use torch_ext::optim::{AdamWGroup, AdamWStep, Draws, LowMoments, LowPart, Quantised, adamw_low, fused_adamw};

use super::{Job, Run, Sizes, bytes};

pub(super) const EPSILON: f64 = 1e-5;
const HEAD_DIM: i64 = 128;

/// Every operation, by kernels where there is a device for them.
pub(super) fn all<'a>(tensors: &'a Tensors, machine: Option<OnDevice>) -> Vec<Job<'a>> {
    let mut jobs = norms(tensors, machine);
    jobs.extend(swiglus(tensors, machine));
    jobs.push(entropy(tensors, machine));
    jobs.extend(rotation(tensors, machine));
    jobs.extend(adamw_mixed(tensors, machine));
    jobs.extend(adamw_of_less(tensors, machine));
    jobs
}

/// What the operations work on.
pub(super) struct Tensors {
    pub(super) x: Tensor,
    pub(super) residual: Tensor,
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) grad: Tensor,
    pub(super) gate: Tensor,
    pub(super) up: Tensor,
    pub(super) grad_product: Tensor,
    pub(super) logits: Tensor,
    pub(super) targets: Tensor,
    pub(super) parameters: i64,
}

impl Tensors {
    pub(super) fn of(sizes: &Sizes) -> Self {
        tch::manual_seed(1);
        let Sizes { tokens, hidden, inner, vocab, parameters, kind, device } = *sizes;
        let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, device)).to_kind(kind);
        let rows = (tokens / 4).max(1);
        Self {
            x: normal(&[tokens, hidden]),
            residual: normal(&[tokens, hidden]),
            weight: normal(&[hidden]),
            bias: normal(&[hidden]),
            grad: normal(&[tokens, hidden]),
            gate: normal(&[tokens, inner]),
            up: normal(&[tokens, inner]),
            grad_product: normal(&[tokens, inner]),
            logits: normal(&[rows, vocab]),
            targets: Tensor::arange(rows, (Kind::Int64, device)).remainder(vocab),
            parameters,
        }
    }
}

/// RMSNorm alone and of a sum, LayerNorm, and their gradients.
fn norms(t: &Tensors, machine: Option<OnDevice>) -> Vec<Job<'_>> {
    let stream = bytes(&t.x);
    let cases = [
        ("rms_norm", "rms_norm_backward", Norm::Rms, false),
        ("rms_norm_of_sum", "rms_norm_of_sum_backward", Norm::Rms, true),
        ("layer_norm", "layer_norm_backward", Norm::Layer, false),
    ];
    let mut jobs = Vec::new();
    for (operation, backward, norm, adds) in cases {
        let residual = adds.then_some(&t.residual);
        let bias = (norm == Norm::Layer).then_some(&t.bias);
        let inputs = Inputs { x: &t.x, residual, weight: &t.weight, bias, epsilon: EPSILON };
        let plain = move |x: &Tensor, weight: &Tensor| match norm {
            Norm::Rms => rms_norm(x, residual, weight, EPSILON, Use::Never),
            Norm::Layer => layer_norm(x, residual, weight, bias, EPSILON, Use::Never),
        };
        jobs.push(Job {
            operation,
            bytes: if adds { 4.0 } else { 2.0 } * stream,
            kernel: machine.map(|machine| -> Run<'_> { Box::new(move || norm.forward(&machine, &inputs).map(drop)) }),
            libtorch: Some(Box::new(move || tch::no_grad(|| plain(&t.x, &t.weight).map(drop)))),
            cpu: None,
        });
        let (leaf, leaf_weight) = (t.x.copy().set_requires_grad(true), t.weight.copy().set_requires_grad(true));
        let through = plain(&leaf, &leaf_weight);
        let grad_sum = adds.then_some(&t.grad);
        jobs.push(Job {
            operation: backward,
            bytes: if adds { 4.0 } else { 3.0 } * stream,
            kernel: machine.map(|machine| -> Run<'_> {
                let normed = norm.forward(&machine, &inputs);
                Box::new(move || {
                    let Ok(normed) = &normed else { return norm.forward(&machine, &inputs).map(drop) };
                    let (inputs, kept) = (Inputs { x: &normed.sum, residual: None, ..inputs }, &normed.statistics);
                    norm.backward(&machine, &inputs, Some(kept), Gradients { grad: &t.grad, grad_sum }).map(drop)
                })
            }),
            libtorch: Some(Box::new(move || {
                let Ok(through) = &through else { return plain(&leaf, &leaf_weight).map(drop) };
                // The gradient of the sum of all, which costs making one more tensor of ones.
                let all = through.normed.f_sum(Kind::Float)?;
                Ok(Tensor::f_run_backward(&[all], &[&leaf, &leaf_weight], true, false).map(drop)?)
            })),
            cpu: None,
        });
    }
    jobs
}

/// SwiGLU and its gradients.
fn swiglus(t: &Tensors, machine: Option<OnDevice>) -> Vec<Job<'_>> {
    let product = bytes(&t.gate);
    let leaves = [&t.gate, &t.up].map(|tensor| tensor.copy().set_requires_grad(true));
    let through = swiglu(&leaves[0], &leaves[1], Use::Never);
    vec![
        Job {
            operation: "swiglu",
            bytes: 3.0 * product,
            kernel: machine
                .map(|machine| -> Run<'_> { Box::new(move || swiglu_on(machine, &t.gate, &t.up).map(drop)) }),
            libtorch: Some(Box::new(|| tch::no_grad(|| swiglu(&t.gate, &t.up, Use::Never).map(drop)))),
            cpu: None,
        },
        Job {
            operation: "swiglu_backward",
            bytes: 5.0 * product,
            kernel: machine.map(|machine| -> Run<'_> {
                let backward = torch_ext::fused::swiglu::backward;
                Box::new(move || backward(&machine, &t.gate, &t.up, &t.grad_product, false).map(drop))
            }),
            libtorch: Some(Box::new(move || {
                let Ok(through) = &through else { return swiglu(&leaves[0], &leaves[1], Use::Never).map(drop) };
                let all = through.f_sum(Kind::Float)?;
                Ok(Tensor::f_run_backward(&[all], &[&leaves[0], &leaves[1]], true, false).map(drop)?)
            })),
            cpu: None,
        },
    ]
}

/// Losses and gradient of rows of logits; each run takes the gradient of the run before for logits.
fn entropy(t: &Tensors, machine: Option<OnDevice>) -> Job<'_> {
    let targets = || Targets { columns: &t.targets, ignored: -100, weights: None, gradient: Some(1.0) };
    Job {
        operation: "cross_entropy",
        bytes: 2.0 * bytes(&t.logits),
        kernel: machine.map(|machine| -> Run<'_> {
            Box::new(move || cross_entropy::by_kernel(&machine, &mut t.logits.shallow_clone(), &targets()).map(drop))
        }),
        libtorch: Some(Box::new(move || cross_entropy::plain(&mut t.logits.shallow_clone(), &targets()).map(drop))),
        cpu: None,
    }
}

/// Rotation of queries in place, heads inside positions as a projection leaves them; none where the width has no heads of
/// [`HEAD_DIM`].
fn rotation(t: &Tensors, machine: Option<OnDevice>) -> Option<Job<'_>> {
    let (tokens, hidden) = t.x.size2().ok()?;
    if hidden % HEAD_DIM != 0 {
        return None;
    }
    let x = t.x.view([1, tokens, hidden / HEAD_DIM, HEAD_DIM]).transpose(1, 2);
    let angles = Tensor::ones([tokens, HEAD_DIM / 2, 2], (Kind::Float, t.x.device())) * 0.5_f64.sqrt();
    let [cos, sin] = [0, 1].map(|which| angles.select(2, which).repeat([1, 2]).to_kind(t.x.kind()));
    let rotated = x.shallow_clone();
    Some(Job {
        operation: "rotate",
        bytes: 2.0 * bytes(&t.x),
        kernel: machine.map(|_| -> Run<'_> {
            Box::new(move || {
                let turned = attention::cuda::rotate(&mut x.shallow_clone(), &angles, false);
                turned.map_err(|error| FusedError::Broken { operation: "rotate", reason: error.to_string() })
            })
        }),
        libtorch: Some(Box::new(move || {
            let halves = [rotated.narrow(3, HEAD_DIM / 2, HEAD_DIM / 2).f_neg()?, rotated.narrow(3, 0, HEAD_DIM / 2)];
            Ok(rotated.f_mul(&cos)?.f_add(&Tensor::f_cat(&halves, 3)?.f_mul(&sin)?).map(drop)?)
        })),
        cpu: None,
    })
}

const STEP: AdamWStep = AdamWStep {
    step: 1,
    learning_rate: 1e-5,
    beta1: 0.9,
    beta2: 0.95,
    weight_decay: 0.1,
    epsilon: 1e-8,
    gradient_scale: 1.0,
};

/// A step on float32 weights and moments that writes the weights in 16 bits; none for other types.
fn adamw_mixed(t: &Tensors, machine: Option<OnDevice>) -> Option<Job<'_>> {
    let (kind, device) = (t.x.kind(), t.x.device());
    if kind == Kind::Float {
        return None;
    }
    let tensor = |kind| Tensor::zeros([t.parameters], (kind, device));
    let single = || tensor(Kind::Float);
    let (parameter, gradient) = (tensor(kind), tensor(kind) + 0.001);
    let [master, mean, square] = [single(), single(), single()];
    let total = bytes(&parameter) + bytes(&gradient) + 6.0 * bytes(&master);
    let kernel = machine.map(|machine| -> Run<'_> {
        let [parameter, gradient, master, mean, square] =
            [&parameter, &gradient, &master, &mean, &square].map(Tensor::shallow_clone);
        Box::new(move || {
            let part =
                MixedPart { master: &master, parameter: &parameter, gradient: &gradient, mean: &mean, square: &square };
            mixed(&machine, &part, &STEP)
        })
    });
    let libtorch: Run<'_> = Box::new(move || {
        let wide = gradient.f_to_kind(Kind::Float)?;
        let group = AdamWGroup { parameters: &[&master], gradients: &[&wide], means: &[&mean], squares: &[&square] };
        fused_adamw(&group, &STEP)?;
        Ok(parameter.shallow_clone().f_copy_(&master)?)
    });
    Some(Job { operation: "adamw_mixed", bytes: total, kernel, libtorch: Some(libtorch), cpu: None })
}

/// Steps on moments in bfloat16 and in 8 bits; libtorch has none.
fn adamw_of_less(t: &Tensors, machine: Option<OnDevice>) -> Vec<Job<'_>> {
    let (kind, device) = (t.x.kind(), t.x.device());
    if kind == Kind::Half {
        return Vec::new();
    }
    let tensor = |kind| Tensor::zeros([t.parameters], (kind, device));
    let draws = Draws { seed: 1, step: 1, parameter: 0 };
    let mut jobs = Vec::new();
    for (operation, int8) in [("adamw_brain", false), ("adamw_int8", true)] {
        let (parameter, gradient) = (tensor(kind), tensor(kind) + 0.001);
        let state = match int8 {
            false => [tensor(Kind::BFloat16), tensor(Kind::BFloat16)].map(|moment| (moment.shallow_clone(), moment)),
            true => match [true, false].map(|signed| zero_moment(&[t.parameters], signed, device)) {
                [Ok(mean), Ok(square)] => [mean, square],
                _ => continue,
            },
        };
        let of_state: f64 =
            state.iter().map(|(codes, scales)| bytes(codes) + if int8 { bytes(scales) } else { 0.0 }).sum();
        let total = bytes(&gradient) + 2.0 * (bytes(&parameter) + of_state);
        let step = move |on: Option<OnDevice>| {
            let [(mean, of_mean), (square, of_square)] = &state;
            let moments = match int8 {
                false => LowMoments::Bfloat16 { mean, square },
                true => LowMoments::Int8 {
                    mean: Quantised { codes: mean, scales: of_mean },
                    square: Quantised { codes: square, scales: of_square },
                },
            };
            let part = LowPart { parameter: &parameter, gradient: &gradient, moments, first: 0 };
            match on {
                Some(machine) => low(&machine, &part, &STEP, &draws),
                None => Ok(adamw_low(&part, &STEP, &draws)?),
            }
        };
        let run: Run<'_> = Box::new(move || step(machine));
        let (kernel, cpu) = match (machine, device) {
            (Some(_), _) => (Some(run), None),
            (None, Device::Cpu) => (None, Some(run)),
            (None, _) => continue,
        };
        jobs.push(Job { operation, bytes: total, kernel, libtorch: None, cpu });
    }
    jobs
}
