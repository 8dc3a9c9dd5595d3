//! The CUDA kernels' text, run lane by lane on the CPU, under the error budget of every backend.

use attention::{DType, reference};
use ndarray::{Array4, Axis};

use crate::support::budget::{Budget, judge, judge_lse};
use crate::support::cases::{Case, Inputs, table};
use crate::support::plain::{self, Rounding, backward::backward};
use crate::twin_problem::{Answer, run};

/// Cases with more multiplications than this are left out: a lane costs some nanoseconds a step.
const MOST_WORK: usize = 6_000_000;

/// What is right, and what plain attention makes of it.
pub(crate) struct Truth {
    output: Array4<f64>,
    lse: Array4<f64>,
    gradients: [Array4<f64>; 3],
    plain_output: Array4<f64>,
    plain_gradients: [Array4<f64>; 3],
    cancelling: [f64; 3],
}

impl Truth {
    pub(crate) fn of(case: &Case, i: &Inputs) -> Self {
        let (problem, rounding) = (&case.problem, Rounding(case.dtype));
        let (q, k, v, grad_output) = (i.q.view(), i.k.view(), i.v.view(), i.grad_output.view());
        let exact = reference::forward(problem, q, k, v).unwrap();
        let grads = reference::backward(problem, q, k, v, grad_output).unwrap();
        let most = |array: &Array4<f64>| array.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
        let longest = |array: &Array4<f64>| most(&(array * array).sum_axis(Axis(3)).insert_axis(Axis(3))).sqrt();
        let term = problem.scale() * longest(&i.grad_output) * longest(&i.v);
        Self {
            output: exact.output,
            lse: exact.log_sum_exp.insert_axis(Axis(3)),
            gradients: [grads.q, grads.k, grads.v],
            plain_output: plain::forward(problem, i, rounding, None),
            plain_gradients: backward(problem, i, rounding, None),
            cancelling: [term * most(&i.k), term * most(&i.q), 0.0],
        }
    }

    /// Largest part of a budget that the answer uses.
    pub(crate) fn judge(&self, case: &Case, i: &Inputs, answer: &Answer) -> Result<f64, String> {
        let output = judge(case.dtype, Budget::RULE, &self.output, &self.plain_output, &answer.output);
        let mut used = output.map_err(|reason| format!("output: {reason}"))?.used();
        used = used.max(judge_lse(&case.problem, i, &self.lse, &answer.lse)?);
        for (index, name) in ["q", "k", "v"].iter().enumerate() {
            let budget = Budget::backward(case.dtype, self.cancelling[index]);
            let got = &answer.gradients[index];
            let gradient = judge(case.dtype, budget, &self.gradients[index], &self.plain_gradients[index], got);
            used = used.max(gradient.map_err(|reason| format!("by {name}: {reason}"))?.used());
        }
        Ok(used)
    }
}

/// The small 16-bit cases of the table.
pub(crate) fn small_cases() -> Vec<Case> {
    let small = |case: &Case| case.work() <= MOST_WORK && matches!(case.dtype, DType::BF16 | DType::F16);
    table().into_iter().filter(small).collect()
}

#[test]
fn every_kernel_text_keeps_the_error_budget_without_bank_conflicts() {
    let (mut refused, mut tightest) = (Vec::new(), (0.0, String::new()));
    let cases = small_cases();
    for case in &cases {
        let i = case.inputs();
        let start = std::time::Instant::now();
        let judged = run(case, &i, None, 1).and_then(|answer| {
            assert_eq!(answer.bank_conflicts, 0, "{}", case.describe());
            Truth::of(case, &i).judge(case, &i, &answer)
        });
        println!("{:.2} s {}: {judged:?}", start.elapsed().as_secs_f64(), case.describe());
        match judged {
            Ok(used) if used > tightest.0 => tightest = (used, case.describe()),
            Ok(_) => {}
            Err(reason) => refused.push(format!("{}: {reason}", case.describe())),
        }
    }
    println!("{} cases; tightest at {:.0} % of the budget: {}", cases.len(), 100.0 * tightest.0, tightest.1);
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
