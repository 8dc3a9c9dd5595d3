//! Gradients: the reference against finite differences, libtorch's autograd against the reference.

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
    use ndarray::Axis;
    use tch::Kind;

    use super::*;
    use crate::support::budget::{Budget, judge};
    use crate::support::cases::table;
    use crate::support::plain::{self, Rounding};
    use crate::support::runners::torch::{array, kind, tensor};

    /// libtorch's output and gradients by q, k and v.
    fn by_autograd(problem: &AttnProblem, i: &Inputs, kind: Kind) -> (Array4<f64>, [Array4<f64>; 3]) {
        let [q, k, v] = [&i.q, &i.k, &i.v].map(|a| tensor(a, kind).set_requires_grad(true));
        let output = Backend::from_name("libtorch").unwrap().forward(problem, &q, &k, &v).unwrap();
        (&output * tensor(&i.grad_output, kind)).sum(kind).backward();
        (array(&output), [q, k, v].map(|leaf| array(&leaf.grad())))
    }

    #[test]
    fn libtorch_in_float64_equals_the_reference_and_its_gradients() {
        for (number, problem) in tiny_problems().iter().enumerate() {
            let i = inputs(problem, number);
            let (output, found) = by_autograd(problem, &i, Kind::Double);
            let answer = reference::forward(problem, i.q.view(), i.k.view(), i.v.view()).unwrap();
            let apart = distance(&output, &answer.output);
            assert!(apart < 1e-12, "problem {number}, output: {apart:e}");
            for (name, (found, exact)) in ["q", "k", "v"].iter().zip(found.iter().zip(gradients(problem, &i))) {
                let apart = distance(found, &exact);
                assert!(apart < 1e-11, "problem {number}, by {name}: {apart:e}");
            }
        }
    }

    /// Size of one term of the gradients by q, k and v whose sum may cancel: `scale |do_i . v_j| |k_j|` and its like.
    fn cancelling(problem: &AttnProblem, i: &Inputs) -> [f64; 3] {
        let most = |array: &Array4<f64>| array.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        let norms = |array: &Array4<f64>| most(&(array * array).sum_axis(Axis(3)).mapv(f64::sqrt).insert_axis(Axis(3)));
        let term = problem.scale() * norms(&i.grad_output) * norms(&i.v);
        [term * most(&i.k), term * most(&i.q), 0.0]
    }

    #[test]
    fn autograd_keeps_the_budget_of_a_plain_backward() {
        let cases: Vec<Case> = table().into_iter().filter(|case| case.work() <= 40_000_000).collect();
        let (mut refused, mut tightest, mut wrong_rejected) = (Vec::new(), (0.0, String::new()), 0);
        for case in &cases {
            let i = case.inputs();
            let (_, found) = by_autograd(&case.problem, &i, kind(case.dtype));
            let exact = gradients(&case.problem, &i);
            let plain = plain::backward(&case.problem, &i, Rounding(case.dtype));
            let cancelling = cancelling(&case.problem, &i);
            for (index, name) in ["q", "k", "v"].iter().enumerate() {
                let budget = Budget::libtorch_backward(case.dtype, cancelling[index]);
                let judged = |got| judge(case.dtype, budget, &exact[index], &plain[index], got);
                match judged(&found[index]) {
                    Ok(accepted) if accepted.used() > tightest.0 => {
                        let which = format!("by {name}, {} ({})", case.describe(), accepted.bound());
                        tightest = (accepted.used(), which);
                    }
                    Ok(_) => {}
                    Err(reason) => refused.push(format!("by {name}, {}: {reason}", case.describe())),
                }
                wrong_rejected += usize::from(judged(&(&found[index] * 1.02)).is_err());
            }
        }
        println!("{} of {} cases; tightest at {:.0} %: {}", cases.len(), table().len(), 100.0 * tightest.0, tightest.1);
        println!("gradients 2 % too large rejected {wrong_rejected} times of {}", 3 * cases.len());
        assert!(refused.is_empty(), "{}", refused.join("\n"));
        assert!(wrong_rejected > cases.len(), "the budget has no power");
    }

    #[test]
    fn kernels_are_named() {
        let mut seen: Vec<LibTorchKernel> = Vec::new();
        for case in table() {
            let i = case.inputs();
            let [q, k, v] = [&i.q, &i.k, &i.v].map(|a| tensor(a, kind(case.dtype)));
            let kernel = LibTorch.kernel(&case.problem, &q, &k, &v).unwrap();
            println!("{kernel:?}: {}", case.describe());
            assert_eq!(kernel == LibTorchKernel::Products, case.problem.soft_cap().is_some());
            seen.push(kernel);
        }
        assert!(seen.contains(&LibTorchKernel::Flash), "on the CPU libtorch's tiled kernel takes float tensors");
    }
}
