//! The rotation in place against the same by libtorch's operations on whole tensors.

use attention::cuda::RotateError;
use rope_scaling::{PositionEncoding, Precision, RopeGeometry, RopeScaling};

use super::*;
use crate::model::PlanTensors;

fn plan(head_dim: usize, rotary_dim: usize) -> PlanTensors {
    plan_on(Device::Cpu, head_dim, rotary_dim)
}

fn plan_on(device: Device, head_dim: usize, rotary_dim: usize) -> PlanTensors {
    let geometry = RopeGeometry::new(head_dim, rotary_dim, 10_000.0, 512).unwrap();
    let encoding = PositionEncoding::Rope { geometry, scaling: RopeScaling::None };
    PlanTensors::new(&encoding.plan(512, Precision::HubCompatible).unwrap(), device)
}

fn cuda() -> Backend {
    Backend::from_name("cuda").unwrap()
}

/// As a projection leaves it: `[batch, heads, length, head_dim]`, heads inside positions.
fn projected(batch: i64, heads: i64, length: i64, head_dim: i64) -> Tensor {
    Tensor::randn([batch, length, heads, head_dim], (Kind::Float, Device::Cpu)).transpose(1, 2)
}

#[test]
fn it_is_the_rotation_on_whole_tensors_bit_for_bit_gradient_included() {
    for (head_dim, rotary_dim, length, offset) in [(40, 40, 37, 0), (64, 32, 9, 100), (32, 32, 300, 5), (8, 8, 1, 511)]
    {
        let plan = plan(head_dim, rotary_dim);
        let weights = projected(3, 4, length, head_dim as i64);
        let x = projected(3, 4, length, head_dim as i64);
        let [by_parts, in_place] = [false, true].map(|in_place| {
            let leaf = x.copy().set_requires_grad(true);
            // A copy in the layout of a projection, with a history.
            let x = (leaf.transpose(1, 2) * 1.0).transpose(1, 2);
            let y = if in_place {
                plan.rotated_over(x, offset, Backend::auto()).unwrap()
            } else {
                plan.rotated(&x, offset)
            };
            (&y * &weights).sum(Kind::Float).backward();
            (y.detach(), leaf.grad())
        });
        assert!(by_parts.0.equal(&in_place.0), "head {head_dim}, rotary {rotary_dim}");
        assert!(by_parts.1.equal(&in_place.1), "gradient, head {head_dim}, rotary {rotary_dim}");
    }
}

#[test]
fn the_opposite_rotation_undoes_it_and_the_same_one_does_not() {
    let (plan, x) = (plan(64, 64), projected(1, 2, 16, 64));
    let angles = |plan: &PlanTensors| plan.angles(3, 16).unwrap();
    let mut rows = x.transpose(1, 2).copy();
    let (cos, sin) = angles(&plan);
    rotate(&mut rows, Angles { cos: &cos, sin: &sin }, 1.0).unwrap();
    assert!(!rows.allclose(&x.transpose(1, 2), 1e-3, 1e-3, false));
    let mut twice = rows.copy();
    rotate(&mut twice, Angles { cos: &cos, sin: &sin }, 1.0).unwrap();
    assert!(!twice.allclose(&x.transpose(1, 2), 1e-3, 1e-3, false));
    rotate(&mut rows, Angles { cos: &cos, sin: &sin }, -1.0).unwrap();
    assert!(rows.allclose(&x.transpose(1, 2), 1e-6, 1e-6, false));
}

#[test]
fn it_writes_where_the_numbers_lie_and_leaves_other_layouts_to_libtorch() {
    let plan = plan(32, 32);
    let x = projected(1, 2, 8, 32);
    assert!(fits(&x) && !fits(&x.contiguous()) && !fits(&x.to_kind(Kind::BFloat16)));
    let place = x.data_ptr();
    let rotated = tch::no_grad(|| plan.rotated_over(x, 0, Backend::auto())).unwrap();
    assert_eq!(rotated.data_ptr(), place);
    let half = projected(1, 2, 8, 32).to_kind(Kind::BFloat16);
    let expected = plan.rotated(&half, 2);
    assert!(plan.rotated_over(half, 2, cuda()).unwrap().equal(&expected));
}

#[test]
fn the_kernel_is_chosen_by_name_or_where_its_type_is_verified() {
    let verified = |dtype, arch| dtype == DType::BF16 && arch == Arch::SM_90A;
    let libtorch = Backend::from_name("libtorch").unwrap();
    for backend in [Backend::auto(), libtorch] {
        assert!(is_chosen(backend, DType::BF16, Arch::SM_90A, verified));
        assert!(!is_chosen(backend, DType::BF16, Arch::SM_80, verified));
        assert!(!is_chosen(backend, DType::F32, Arch::SM_90A, verified));
    }
    assert!(is_chosen(cuda(), DType::F32, Arch::SM_80, verified));
}

#[test]
fn the_kernel_takes_nothing_on_the_cpu_and_says_so() {
    let x = projected(1, 2, 8, 32);
    let before = x.copy();
    let angles = Tensor::zeros([8, 16, 2], (Kind::Float, Device::Cpu));
    assert!(!goes_to_kernel(&x, &angles, cuda()));
    let error = rotated_by_kernel(&x, &angles).unwrap_err();
    let refused = RotateError::Device { tensor: "x", found: Device::Cpu };
    assert!(error.to_string().contains(&refused.to_string()), "{error}");
    assert!(x.equal(&before));
}

#[test]
fn on_a_device_the_kernel_agrees_with_whole_tensors_gradient_included() {
    if !tch::Cuda::is_available() {
        println!("skipped: no CUDA device");
        return;
    }
    let device = Device::Cuda(0);
    for (kind, allowed) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2), (Kind::Half, 4e-3)] {
        let plan = plan_on(device, 64, 32);
        let [x, weights] = [0, 1].map(|_| projected(2, 4, 37, 64).to_device(device).to_kind(kind));
        let [by_parts, in_place] = [false, true].map(|in_place| {
            let leaf = x.copy().set_requires_grad(true);
            let x = (leaf.transpose(1, 2).contiguous() * 1.0).transpose(1, 2);
            let place = x.data_ptr();
            let y = if in_place { plan.rotated_over(x, 9, cuda()).unwrap() } else { plan.rotated(&x, 9) };
            assert_eq!(y.data_ptr() == place, in_place);
            (&y * &weights).sum(Kind::Float).backward();
            (y.detach(), leaf.grad())
        });
        assert!(by_parts.0.allclose(&in_place.0, allowed, allowed, false), "{kind:?}");
        assert!(by_parts.1.allclose(&in_place.1, allowed, allowed, false), "gradient, {kind:?}");
    }
}
