//! The tiled forward pass over the table of cases, by every instruction set of this processor.

use attention::tiled::{self, Element, Isa, View};
use attention::{AttnProblem, DType, reference};
use half::{bf16, f16};
use ndarray::{Array3, Array4};

use crate::support::budget::{Budget, judge};
use crate::support::cases::{Case, Inputs, table};
use crate::support::plain::{self, Rounding};

/// The instruction sets to be tested here.
pub(crate) fn sets() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

/// Numbers of an array in an element type.
pub(crate) fn elements<T: Element>(array: &Array4<f64>) -> Vec<T> {
    array.iter().map(|&x| narrowed(x as f32)).collect()
}

/// One number in an element type.
pub(crate) fn narrowed<T: Element>(x: f32) -> T {
    let mut to = [T::ZERO];
    T::narrow(&[x], &mut to);
    to[0]
}

/// And back.
pub(crate) fn array4<T: Element>(numbers: &[T], dims: [usize; 4]) -> Array4<f64> {
    let mut singles = vec![0.0; numbers.len()];
    T::widen(numbers, &mut singles);
    Array4::from_shape_vec(dims, singles.into_iter().map(f64::from).collect()).unwrap()
}

/// Output and log-sum-exp; the buffers are poisoned beforehand.
pub(crate) fn attend<T: Element>(isa: Isa, problem: &AttnProblem, i: &Inputs) -> (Vec<T>, Vec<f32>) {
    let (q, k, v) = (elements::<T>(&i.q), elements::<T>(&i.k), elements::<T>(&i.v));
    let shape = problem.shape();
    let (query_dims, key_dims) = (shape.query_dims(), shape.key_dims());
    let mut output = vec![narrowed(f32::NAN); query_dims.iter().product()];
    let mut lse = vec![f32::NAN; query_dims[..3].iter().product()];
    let (q, k) = (View::contiguous(&q, query_dims), View::contiguous(&k, key_dims));
    tiled::forward_by(isa, problem, q, k, View::contiguous(&v, key_dims), &mut output, &mut lse).unwrap();
    (output, lse)
}

/// As [`attend`], as arrays, in the type of the case.
fn answer(isa: Isa, case: &Case, inputs: &Inputs) -> (Array4<f64>, Vec<f32>) {
    let dims = case.problem.shape().query_dims();
    fn as_array<T: Element>(dims: [usize; 4], (output, lse): (Vec<T>, Vec<f32>)) -> (Array4<f64>, Vec<f32>) {
        (array4(&output, dims), lse)
    }
    match case.dtype {
        DType::BF16 => as_array(dims, attend::<bf16>(isa, &case.problem, inputs)),
        DType::F16 => as_array(dims, attend::<f16>(isa, &case.problem, inputs)),
        DType::F32 | DType::F64 => as_array(dims, attend::<f32>(isa, &case.problem, inputs)),
    }
}

/// Largest distance of two log-sum-exps; infinite where only one is.
fn lse_distance(exact: &Array3<f64>, found: &[f32]) -> f64 {
    let apart = |(&exact, &found): (&f64, &f32)| match (exact.is_finite(), found.is_finite()) {
        (false, false) if exact == f64::from(found) => 0.0,
        (true, true) => (exact - f64::from(found)).abs(),
        _ => f64::INFINITY,
    };
    assert_eq!(exact.len(), found.len());
    exact.iter().zip(found).map(apart).fold(0.0, f64::max)
}

#[test]
fn every_instruction_set_keeps_the_error_budget_on_every_case() {
    let mut tightest = vec![(0.0, String::new()); Isa::ALL.len()];
    // The whole table is run through the registry; what remains here is every kind of tile for each set.
    for case in table().into_iter().filter(|case| case.work() <= 40_000_000) {
        let inputs = case.inputs();
        let exact = reference::forward(&case.problem, inputs.q.view(), inputs.k.view(), inputs.v.view()).unwrap();
        let plain = plain::forward(&case.problem, &inputs, Rounding(case.dtype), None);
        for (isa, tightest) in sets().zip(&mut tightest) {
            let (output, lse) = answer(isa, &case, &inputs);
            let judged = judge(case.dtype, Budget::RULE, &exact.output, &plain, &output);
            let accepted = judged.unwrap_or_else(|reason| panic!("{isa} on {}: {reason}", case.describe()));
            if accepted.used() > tightest.0 {
                *tightest = (accepted.used(), format!("{isa}: {}", case.describe()));
            }
            // Scores up to some 60, sums of 128 products in float32.
            let apart = lse_distance(&exact.log_sum_exp, &lse);
            assert!(apart <= 2e-5, "{isa} on {}: lse off by {apart:e}", case.describe());
        }
    }
    tightest.iter().for_each(|(used, which)| println!("{:.0} % of the budget: {which}", 100.0 * used));
}
