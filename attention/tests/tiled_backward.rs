//! The tiled backward pass over the table of cases, by every instruction set of this processor; determinism; views.

use attention::tiled::{self, Element, Isa, View};
use attention::{AttnProblem, DType, reference};
use half::{bf16, f16};
use ndarray::{Array4, Axis};

use crate::support::cases::{Case, Inputs, table};
use crate::tiled_forward::{array4, attend, elements, narrowed, sets};

/// Gradients by q, k and v; the buffers are poisoned beforehand.
pub(crate) fn gradients<T: Element>(isa: Isa, problem: &AttnProblem, i: &Inputs) -> [Vec<T>; 3] {
    let (output, lse) = attend::<T>(isa, problem, i);
    let [q, k, v, grad] = [&i.q, &i.k, &i.v, &i.grad_output].map(elements::<T>);
    let (queries, keys) = (problem.shape().query_dims(), problem.shape().key_dims());
    let poisoned = |dims: [usize; 4]| vec![narrowed::<T>(f32::NAN); dims.iter().product()];
    let [mut dq, mut dk, mut dv] = [poisoned(queries), poisoned(keys), poisoned(keys)];
    let query_view = |data| View::contiguous(data, queries);
    let key_view = |data| View::contiguous(data, keys);
    let (q, k, v) = (query_view(&q), key_view(&k), key_view(&v));
    let (output, grad) = (query_view(&output), query_view(&grad));
    tiled::backward_by(isa, problem, q, k, v, output, &lse, grad, &mut dq, &mut dk, &mut dv).unwrap();
    [dq, dk, dv]
}

fn answer(isa: Isa, case: &Case, inputs: &Inputs) -> [Array4<f64>; 3] {
    let shape = case.problem.shape();
    let dims = [shape.query_dims(), shape.key_dims(), shape.key_dims()];
    fn as_arrays<T: Element>(dims: [[usize; 4]; 3], grads: [Vec<T>; 3]) -> [Array4<f64>; 3] {
        [0, 1, 2].map(|index| array4(&grads[index], dims[index]))
    }
    match case.dtype {
        DType::BF16 => as_arrays(dims, gradients::<bf16>(isa, &case.problem, inputs)),
        DType::F16 => as_arrays(dims, gradients::<f16>(isa, &case.problem, inputs)),
        DType::F32 | DType::F64 => as_arrays(dims, gradients::<f32>(isa, &case.problem, inputs)),
    }
}

/// Largest difference as a part of what is allowed: roundings of the type, sums of float32 behind sharp scores, and roundings
/// of what cancels. NaN stays.
fn used(dtype: DType, cancelling: f64, exact: &Array4<f64>, found: &Array4<f64>) -> f64 {
    let largest = exact.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let allowed = (8.0 * dtype.unit_roundoff() + 2e-5) * largest + 4.0 * DType::F32.unit_roundoff() * cancelling;
    let parts = exact.iter().zip(found).map(|(x, y)| (x - y).abs() / allowed);
    parts.fold(0.0, |most, part| if part <= most { most } else { part })
}

/// Size of one term of the gradients by q, k and v whose sum may cancel: `scale |do_i . v_j| |k_j|` and its like.
fn cancelling(problem: &AttnProblem, i: &Inputs) -> [f64; 3] {
    let most = |array: &Array4<f64>| array.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    let longest = |array: &Array4<f64>| most(&(array * array).sum_axis(Axis(3)).insert_axis(Axis(3))).sqrt();
    let term = problem.scale() * longest(&i.grad_output) * longest(&i.v);
    [term * most(&i.k), term * most(&i.q), 0.0]
}

/// The judgement with the error budget is that of every backend; this one holds for each instruction set.
#[test]
fn gradients_of_every_instruction_set_are_those_of_the_reference() {
    let cases: Vec<Case> = table().into_iter().filter(|case| case.work() <= 40_000_000).collect();
    let (mut refused, mut wrong) = (Vec::new(), 0);
    for case in &cases {
        let i = case.inputs();
        let exact =
            reference::backward(&case.problem, i.q.view(), i.k.view(), i.v.view(), i.grad_output.view()).unwrap();
        let (exact, cancelling) = ([exact.q, exact.k, exact.v], cancelling(&case.problem, &i));
        for isa in sets() {
            let found = answer(isa, case, &i);
            for (index, name) in ["q", "k", "v"].iter().enumerate() {
                let used = |found: &Array4<f64>| used(case.dtype, cancelling[index], &exact[index], found);
                let part = used(&found[index]);
                if part.is_nan() || part > 1.0 {
                    refused.push(format!("{isa} by {name}, {}: {part:.2} of what is allowed", case.describe()));
                }
                wrong += usize::from(used(&(&found[index] * 1.1)) > 1.0);
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(wrong > cases.len(), "gradients a tenth too large pass");
}
