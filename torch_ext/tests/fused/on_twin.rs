//! The table by the host twin, gradients through libtorch's graph, and any order of warps and lanes.

use tch::{Device, Kind, Tensor};
use torch_ext::PoisonedMemory;
use torch_ext::autograd::backward;
use torch_ext::fused::kernel::Element;
use torch_ext::fused::norm::{Inputs, Norm};
use torch_ext::fused::{Use, norm_on, rms_norm};

use crate::cases::{Case, Operation, numbers, table};
use crate::twin::Twin;

/// Cases by the twin: all in bfloat16 and float32; of float16, whose text is that of bfloat16 but for one conversion, a few.
fn cases() -> Vec<Case> {
    let few = |case: &Case| case.element != Element::F16 || case.columns <= 1024;
    table().into_iter().filter(few).collect()
}

#[test]
fn every_case_passes_by_the_twin() {
    let _poisoned = PoisonedMemory::new().unwrap();
    let (mut refused, mut most) = (Vec::new(), 0.0_f64);
    for case in cases() {
        match case.judged(&Twin::PLAIN, Device::Cpu) {
            Ok(used) => {
                println!("{:.0} % {}", 100.0 * used, case.describe());
                most = most.max(used);
            }
            Err(reason) => refused.push(format!("{}: {reason}", case.describe())),
        }
    }
    println!("{} cases, at most {:.0} % of the budget used", cases().len(), 100.0 * most);
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn any_order_of_warps_and_lanes_gives_the_same_bits() {
    let norm = Operation::Norm { norm: Norm::Layer, residual: true, bias: true };
    for (operation, columns) in
        [(norm, 2000), (Operation::CrossEntropy { apart: 0, weights: true, gradient: Some(1.0) }, 1001)]
    {
        let case = Case { operation, element: Element::Bf16, rows: 17, columns };
        let run = |seed| case.answers(&Twin { seed, ..Twin::PLAIN }, Device::Cpu).unwrap();
        let bits = |seed| -> Vec<u64> {
            run(seed).iter().flat_map(|answer| answer.found.numbers.iter().map(|number| number.to_bits())).collect()
        };
        let first = bits(1);
        assert!((2..5).all(|seed| bits(seed) == first), "{case:?}");
    }
}

#[test]
fn a_norm_is_a_node_whose_stream_goes_on() {
    let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
    let leaf = |offset: f64| {
        let values = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([2, 3, 4]).sin() + offset;
        values.set_requires_grad(true)
    };
    let run = |kernels: bool| {
        let (x, residual, weight) = (leaf(0.0), leaf(0.3), (ones(&[4]) * 1.5).set_requires_grad(true));
        let (residual_, inputs) =
            (Some(&residual), Inputs { x: &x, residual: Some(&residual), weight: &weight, bias: None, epsilon: 1e-6 });
        let stream = match kernels {
            true => norm_on(Twin::PLAIN, Norm::Rms, &inputs).unwrap(),
            false => rms_norm(&x, residual_, &weight, 1e-6, Use::Never).unwrap(),
        };
        // The stream is used twice, as in a block; once more by itself alone.
        let result = (&stream.normed * 2.0 + &stream.sum * 0.5).square() + &stream.sum;
        backward(&[&result], &[Some(&ones(&[2, 3, 4]))]).unwrap();
        [x.grad(), residual.grad(), weight.grad()]
    };
    for (found, expected) in run(true).iter().zip(run(false)) {
        assert!(found.allclose(&expected, 1e-5, 1e-5, false), "{:?} {:?}", numbers(found), numbers(&expected));
    }
}

#[test]
fn the_stream_alone_passes_its_gradient_and_no_rows_give_zeros() {
    let x = Tensor::ones([2, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let residual = x.detach().set_requires_grad(true);
    let weight = Tensor::ones([4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let inputs = Inputs { x: &x, residual: Some(&residual), weight: &weight, bias: None, epsilon: 1e-6 };
    let stream = norm_on(Twin::PLAIN, Norm::Rms, &inputs).unwrap();
    backward(&[&stream.sum], &[Some(&(x.detach() * 3.0))]).unwrap();
    assert_eq!(numbers(&x.grad()), [3.0; 8]);
    assert!(residual.grad().equal(&x.grad()) && !weight.grad().defined());
    let none = Tensor::ones([0, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let inputs = Inputs { x: &none, residual: None, ..inputs };
    let stream = norm_on(Twin::PLAIN, Norm::Rms, &inputs).unwrap();
    backward(&[&stream.normed], &[Some(&none.detach())]).unwrap();
    assert_eq!(numbers(&weight.grad()), [0.0; 4]);
}
