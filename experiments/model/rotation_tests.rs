//! The rotation in place against the same by libtorch's operations on whole tensors.

use rope_scaling::{PositionEncoding, Precision, RopeGeometry, RopeScaling};

use super::*;
use crate::model::PlanTensors;

fn plan(head_dim: usize, rotary_dim: usize) -> PlanTensors {
    let geometry = RopeGeometry::new(head_dim, rotary_dim, 10_000.0, 512).unwrap();
    let encoding = PositionEncoding::Rope { geometry, scaling: RopeScaling::None };
    PlanTensors::new(&encoding.plan(512, Precision::HubCompatible).unwrap(), Device::Cpu)
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
            let y = if in_place { plan.rotated_over(x, offset).unwrap() } else { plan.rotated(&x, offset) };
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
    let rotated = tch::no_grad(|| plan.rotated_over(x, 0)).unwrap();
    assert_eq!(rotated.data_ptr(), place);
    let half = projected(1, 2, 8, 32).to_kind(Kind::BFloat16);
    let expected = plan.rotated(&half, 2);
    assert!(plan.rotated_over(half, 2).unwrap().equal(&expected));
}
