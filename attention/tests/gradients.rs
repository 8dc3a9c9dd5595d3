//! Gradients in float64: the reference against finite differences, libtorch's graph against the reference.

use attention::{Alibi, AttnProblem, AttnShape, DType, DocumentStarts, Mask, reference};
use ndarray::Array4;

use crate::support::cases::{Case, Inputs};

const TINY: AttnShape = AttnShape { batch: 2, query_heads: 4, key_heads: 2, query_len: 4, key_len: 6, head_dim: 3 };

/// One problem of each kind, every option met, small enough for finite differences.
fn tiny_problems() -> Vec<AttnProblem> {
    let problem = |shape, mask| AttnProblem::new(shape).unwrap().with_mask(mask).unwrap();
    let alibi = || Alibi::new(&[0.5, 0.25, 0.125, 0.0]).unwrap();
    let starts = DocumentStarts::new(vec![vec![0, 3], vec![0, 1, 4]]).unwrap();
    let window = Mask::Window { size: 2, sinks: 1, offset: 2 };
    let square = AttnShape { query_len: 6, ..TINY };
    let few_keys = AttnShape { query_len: 6, key_len: 4, ..TINY };
    vec![
        problem(TINY, Mask::Full),
        problem(square, Mask::Causal { offset: 0 }).with_scale(1.3).unwrap(),
        problem(TINY, Mask::causal(&TINY)).with_alibi(alibi()).unwrap(),
        problem(TINY, window).with_soft_cap(0.7).unwrap(),
        problem(TINY, Mask::Documents { starts, offset: 2 }),
        problem(few_keys, Mask::causal(&few_keys)),
        problem(few_keys, Mask::causal(&few_keys)).with_alibi(alibi()).unwrap().with_soft_cap(1.5).unwrap(),
    ]
}

fn inputs(problem: &AttnProblem, number: usize) -> Inputs {
    // float64 inputs would be rounded to float32 by the table's own rule; that does no harm here.
    Case { number, problem: problem.clone(), dtype: DType::F64, sharpness: 1.5 }.inputs()
}

fn gradients(problem: &AttnProblem, i: &Inputs) -> [Array4<f64>; 3] {
    let grads = reference::backward(problem, i.q.view(), i.k.view(), i.v.view(), i.grad_output.view()).unwrap();
    [grads.q, grads.k, grads.v]
}

/// `sum(output * grad_output)`.
fn objective(problem: &AttnProblem, i: &Inputs) -> f64 {
    let answer = reference::forward(problem, i.q.view(), i.k.view(), i.v.view()).unwrap();
    (answer.output * &i.grad_output).sum()
}

/// Central differences by every element of the input that `pick` chooses.
fn differences(problem: &AttnProblem, i: &mut Inputs, pick: fn(&mut Inputs) -> &mut Array4<f64>) -> Array4<f64> {
    const STEP: f64 = 1e-5;
    let mut slopes = Array4::zeros(pick(i).dim());
    for (index, slope) in slopes.indexed_iter_mut() {
        let middle = pick(i)[index];
        let mut at = |x| {
            pick(i)[index] = x;
            objective(problem, i)
        };
        *slope = (at(middle + STEP) - at(middle - STEP)) / (2.0 * STEP);
        pick(i)[index] = middle;
    }
    slopes
}

/// Largest difference; NaN if there is one.
fn distance(a: &Array4<f64>, b: &Array4<f64>) -> f64 {
    assert_eq!(a.dim(), b.dim());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, |worst, d| if d <= worst { worst } else { d })
}

#[test]
fn the_reference_agrees_with_finite_differences_and_a_wrong_gradient_does_not() {
    for (number, problem) in tiny_problems().iter().enumerate() {
        let mut i = inputs(problem, number);
        let [dq, dk, dv] = gradients(problem, &i);
        let [q, k, v]: [fn(&mut Inputs) -> &mut Array4<f64>; 3] = [|i| &mut i.q, |i| &mut i.k, |i| &mut i.v];
        for (name, exact, pick) in [("q", dq, q), ("k", dk, k), ("v", dv, v)] {
            let slopes = differences(problem, &mut i, pick);
            let apart = distance(&exact, &slopes);
            assert!(apart < 1e-8, "problem {number}, by {name}: {apart:e}");
            let wrong = distance(&(&exact * 1.001), &slopes);
            assert!(wrong >= 1e-8, "problem {number}, by {name}: a gradient 0.1 % off passes");
        }
    }
}

#[cfg(feature = "torch")]
mod torch {
    use attention::{Backend, LibTorch, LibTorchKernel};
    use tch::Kind;

    use super::*;
    use crate::support::cases::table;
    use crate::support::runners::torch::{array, qkv, tensor};

    /// Output and gradients by q, k and v, in float64.
    fn by_autograd(name: &str, problem: &AttnProblem, i: &Inputs) -> (Array4<f64>, [Array4<f64>; 3]) {
        let [q, k, v] = [&i.q, &i.k, &i.v].map(|a| tensor(a, Kind::Double).set_requires_grad(true));
        let output = Backend::from_name(name).unwrap().forward(problem, &q, &k, &v).unwrap();
        (&output * tensor(&i.grad_output, Kind::Double)).sum(Kind::Double).backward();
        (array(&output), [q, k, v].map(|leaf| array(&leaf.grad())))
    }

    #[test]
    fn libtorchs_graph_over_libtorch_and_over_the_reference_equals_the_reference_in_float64() {
        let cases =
            tiny_problems().into_iter().flat_map(|problem| ["libtorch", "reference"].map(|n| (n, problem.clone())));
        for (number, (name, problem)) in cases.enumerate() {
            let (problem, i) = (&problem, inputs(&problem, number));
            let (output, found) = by_autograd(name, problem, &i);
            let answer = reference::forward(problem, i.q.view(), i.k.view(), i.v.view()).unwrap();
            let apart = distance(&output, &answer.output);
            assert!(apart < 1e-12, "{name}, problem {number}, output: {apart:e}");
            for (input, (found, exact)) in ["q", "k", "v"].iter().zip(found.iter().zip(gradients(problem, &i))) {
                let apart = distance(found, &exact);
                assert!(apart < 1e-11, "{name}, problem {number}, by {input}: {apart:e}");
            }
        }
    }

    #[test]
    fn kernels_are_named() {
        let mut seen: Vec<LibTorchKernel> = Vec::new();
        for case in table() {
            let i = case.inputs();
            let [q, k, v] = qkv(Backend::from_name("libtorch").unwrap(), &case, &i);
            let kernel = LibTorch.kernel(&case.problem, &q, &k, &v).unwrap();
            println!("{kernel:?}: {}", case.describe());
            assert_eq!(kernel == LibTorchKernel::Products, case.problem.soft_cap().is_some());
            seen.push(kernel);
        }
        assert!(seen.contains(&LibTorchKernel::Flash), "on the CPU libtorch's tiled kernel takes float tensors");
    }
}
