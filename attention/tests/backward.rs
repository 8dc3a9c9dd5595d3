//! Gradients of every backend that has them: over the table under the error budget, against libtorch's, and against
//! differences of the backend's own output; known-wrong gradients by the same judgement.

use attention::{Backend, DType, Feature, reference};
use ndarray::{Array4, Axis};
use tch::{Kind, Tensor};

use crate::support::budget::{Budget, judge};
use crate::support::cases::{Case, Inputs, table};
use crate::support::plain::Rounding;
use crate::support::plain::backward::{Bug, backward};
use crate::support::random::Random;
use crate::support::runners::torch::{array, device, gradients, kind, qkv, tensor};

/// Cases with more multiplications than this are left out: the reference behind them would take minutes.
const MOST_WORK: usize = 40_000_000;
/// The same for the reference on tensors, which is the reference once more.
const MOST_WORK_OF_THE_REFERENCE: usize = 1_000_000;

const NAMES: [&str; 3] = ["q", "k", "v"];

fn small_cases(most: usize) -> Vec<Case> {
    table().into_iter().filter(|case| case.work() <= most).collect()
}

/// Exact gradients, plain ones, and the size of the terms whose float32 rounding is left in each.
pub(crate) struct Truth {
    exact: [Array4<f64>; 3],
    plain: [Array4<f64>; 3],
    cancelling: [f64; 3],
}

impl Truth {
    pub(crate) fn of(case: &Case, i: &Inputs) -> Self {
        let problem = &case.problem;
        let grads = reference::backward(problem, i.q.view(), i.k.view(), i.v.view(), i.grad_output.view()).unwrap();
        // One term of the gradients by q, k and v whose sum may cancel: `scale |do_i . v_j| |k_j|` and its like.
        let most = |array: &Array4<f64>| array.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        let longest = |array: &Array4<f64>| most(&(array * array).sum_axis(Axis(3)).insert_axis(Axis(3))).sqrt();
        let term = problem.scale() * longest(&i.grad_output) * longest(&i.v);
        // A probability that is rebuilt as `exp(score - lse)` is off by the rounding of `lse`, times the terms of dv.
        let answer = reference::forward(problem, i.q.view(), i.k.view(), i.v.view()).unwrap();
        let lse =
            answer.log_sum_exp.iter().filter(|lse| lse.is_finite()).fold(0.0, |most: f64, lse| most.max(lse.abs()));
        let rebuilt = lse * most(&grads.v);
        Self {
            exact: [grads.q, grads.k, grads.v],
            plain: backward(problem, i, Rounding(case.dtype), None),
            cancelling: [term * most(&i.k), term * most(&i.q), rebuilt],
        }
    }

    /// Largest part of the budget that these gradients use, and where.
    pub(crate) fn judge(&self, dtype: DType, got: &[Array4<f64>; 3]) -> Result<(f64, String), String> {
        let mut tightest = (0.0, String::new());
        for (index, name) in NAMES.iter().enumerate() {
            let budget = Budget::backward(dtype, self.cancelling[index]);
            let accepted = judge(dtype, budget, &self.exact[index], &self.plain[index], &got[index]);
            let accepted = accepted.map_err(|reason| format!("by {name}: {reason}"))?;
            if accepted.used() >= tightest.0 {
                tightest = (accepted.used(), format!("by {name} ({})", accepted.bound()));
            }
        }
        Ok(tightest)
    }
}

/// What one backend's gradients come to.
#[derive(Default)]
struct Tally {
    accepted: usize,
    left_out: usize,
    without_device: usize,
    declined: Vec<String>,
    refused: Vec<String>,
    tightest: (f64, String),
    wrong_rejected: usize,
}

impl Tally {
    fn add(&mut self, backend: Backend, case: &Case, i: &Inputs, truth: &Truth) {
        if backend.name() == reference::NAME && case.work() > MOST_WORK_OF_THE_REFERENCE {
            self.left_out += 1;
            return;
        }
        if let Err(unsupported) = backend.supports(&case.problem, case.dtype) {
            if matches!(unsupported.feature, Feature::Device(_)) {
                self.without_device += 1;
                return;
            }
            return self.declined.push(format!("{}: {unsupported}", case.describe()));
        }
        let Some(found) = gradients(backend, case, i) else {
            return self.declined.push(format!("{}: no gradients", case.describe()));
        };
        assert!(found.iter().all(|grad| grad.kind() == kind(case.dtype)), "{}", case.describe());
        let found = found.map(|grad| array(&grad));
        match truth.judge(case.dtype, &found) {
            Err(reason) => self.refused.push(format!("{}, {reason}", case.describe())),
            Ok((used, which)) => {
                self.accepted += 1;
                if used > self.tightest.0 {
                    self.tightest = (used, format!("{which}, {}", case.describe()));
                }
            }
        }
        self.wrong_rejected += usize::from(truth.judge(case.dtype, &found.map(|grad| grad * 1.02)).is_err());
    }
}

#[test]
fn every_backend_with_gradients_keeps_the_budget_of_a_plain_backward() {
    let backends: Vec<Backend> = Backend::all().collect();
    let mut tallies: Vec<Tally> = backends.iter().map(|_| Tally::default()).collect();
    for case in small_cases(MOST_WORK) {
        let i = case.inputs();
        let truth = Truth::of(&case, &i);
        for (&backend, tally) in backends.iter().zip(&mut tallies) {
            tally.add(backend, &case, &i, &truth);
        }
    }
    for (backend, tally) in backends.iter().zip(&tallies) {
        let Tally { accepted, left_out, without_device, declined, refused, tightest, wrong_rejected } = tally;
        println!(
            "{}: {accepted} accepted, {} declined, {} refused, {left_out} left out, {without_device} want a device",
            backend.name(),
            declined.len(),
            refused.len()
        );
        println!("  tightest at {:.0} % of the budget: {}", 100.0 * tightest.0, tightest.1);
        println!("  2 % too large: {wrong_rejected} rejected");
        declined.iter().for_each(|line| println!("  declined {line}"));
        assert!(refused.is_empty(), "{}:\n{}", backend.name(), refused.join("\n"));
        assert!(3 * wrong_rejected >= *accepted, "the budget has no power over {}", backend.name());
    }
}

#[test]
fn every_mutant_of_the_backward_is_rejected_by_some_case() {
    let cases = small_cases(20_000_000);
    println!("{} of {} cases", cases.len(), table().len());
    let mut rejections = vec![0_usize; Bug::ALL.len()];
    for case in &cases {
        let i = case.inputs();
        let truth = Truth::of(case, &i);
        truth.judge(case.dtype, &truth.plain).unwrap_or_else(|reason| panic!("{}, {reason}", case.describe()));
        for (bug, rejected) in Bug::ALL.iter().zip(&mut rejections) {
            let mutant = backward(&case.problem, &i, Rounding(case.dtype), Some(*bug));
            *rejected += usize::from(truth.judge(case.dtype, &mutant).is_err());
        }
    }
    for (bug, rejected) in Bug::ALL.iter().zip(&rejections) {
        println!("{bug:?} rejected by {rejected}");
    }
    let survivors: Vec<&Bug> = Bug::ALL.iter().zip(&rejections).filter(|(_, n)| **n == 0).map(|(bug, _)| bug).collect();
    assert!(survivors.is_empty(), "nothing rejects {survivors:?}");
}

/// `sum(output * grad_output)`, summed in float64.
fn objective(backend: Backend, case: &Case, [q, k, v]: &[Tensor; 3], grad_output: &Tensor) -> f64 {
    let output = tch::no_grad(|| backend.forward(&case.problem, q, k, v)).unwrap();
    (output.to_kind(Kind::Double) * grad_output).sum(Kind::Double).double_value(&[])
}

/// Whether a gradient is the slope of the objective along random directions, one for each of q, k and v.
///
/// float32 outputs carry noise of some 1e-7 of each term; a step of 1e-2 keeps it and the third derivative both near
/// 1e-4 of the size of a typical slope, which is `|gradient|`, since directions are standard normal.
fn slopes_agree(backend: Backend, case: &Case, i: &Inputs, gradients: &[Array4<f64>; 3]) -> Result<(), String> {
    const STEP: f64 = 1e-2;
    let inputs = qkv(backend, case, i);
    let grad_output = tensor(&i.grad_output, Kind::Double).to_device(inputs[0].device());
    let mut random = Random::new(77 + case.number as u64);
    for (index, name) in NAMES.iter().enumerate() {
        let direction = random.normal_array(gradients[index].dim().into());
        let at = |step: f64| {
            let mut moved = [&inputs[0], &inputs[1], &inputs[2]].map(Tensor::shallow_clone);
            moved[index] = &moved[index] + tensor(&direction, Kind::Float).to_device(device(backend)) * step;
            objective(backend, case, &moved, &grad_output)
        };
        let slope = (8.0 * (at(STEP) - at(-STEP)) - (at(2.0 * STEP) - at(-2.0 * STEP))) / (12.0 * STEP);
        let promised = (&gradients[index] * &direction).sum();
        let typical = gradients[index].iter().map(|g| g * g).sum::<f64>().sqrt();
        let agrees = (slope - promised).abs() <= 5e-3 * (typical + 1.0);
        if !agrees {
            return Err(format!("by {name}: slope {slope}, gradient {promised}, typical {typical}"));
        }
    }
    Ok(())
}

#[test]
fn gradients_are_the_slopes_of_the_backends_own_output() {
    let cases = small_cases(3_000_000);
    let cases: Vec<&Case> = cases.iter().filter(|case| case.dtype == DType::F32).collect();
    for backend in Backend::all() {
        let (mut agreed, mut wrong_rejected) = (0, 0);
        for case in &cases {
            if backend.supports(&case.problem, case.dtype).is_err() {
                continue;
            }
            let i = case.inputs();
            let Some(found) = gradients(backend, case, &i) else { continue };
            let found = found.map(|grad| array(&grad));
            slopes_agree(backend, case, &i, &found)
                .unwrap_or_else(|reason| panic!("{} on {}: {reason}", backend.name(), case.describe()));
            agreed += 1;
            wrong_rejected += usize::from(slopes_agree(backend, case, &i, &found.map(|grad| grad * 1.1)).is_err());
        }
        println!(
            "{}: {agreed} of {} cases, 10 % too large rejected {wrong_rejected} times",
            backend.name(),
            cases.len()
        );
        assert!(2 * wrong_rejected >= agreed, "slopes have no power over {}", backend.name());
    }
}

#[test]
fn every_backend_agrees_with_libtorchs_gradients() {
    let libtorch = Backend::from_name("libtorch").unwrap();
    for case in small_cases(3_000_000).iter().filter(|case| case.dtype == DType::F32) {
        let i = case.inputs();
        let theirs = gradients(libtorch, case, &i).unwrap();
        for backend in Backend::all().filter(|backend| backend.supports(&case.problem, case.dtype).is_ok()) {
            let Some(ours) = gradients(backend, case, &i) else { continue };
            for (name, (a, b)) in NAMES.iter().zip(ours.iter().zip(&theirs)) {
                let apart = (a.to_device(b.device()) - b).abs().max().double_value(&[]);
                let scale = 1.0 + b.abs().max().double_value(&[]);
                assert!(apart <= 2e-5 * scale, "{} on {}, by {name}: {apart:e}", backend.name(), case.describe());
            }
        }
    }
}
