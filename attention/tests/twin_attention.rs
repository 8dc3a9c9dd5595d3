//! The CUDA kernels' text, run lane by lane on the CPU, under the error budget of every backend.

use attention::cuda::kernels::HEAD_DIMS;
use attention::{Alibi, AttnProblem, AttnShape, DType, DocumentStarts, Mask, reference};
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

/// A problem for every head size and way of scoring, masks and element types in turn; lengths fit no tile.
pub(crate) fn for_every_kernel() -> Vec<Case> {
    let kinds = HEAD_DIMS.into_iter().flat_map(|head_dim| (0..3).map(move |scores| (head_dim, scores)));
    let case = |(number, (head_dim, scores)): (usize, (usize, usize))| {
        let shape = AttnShape { batch: 1, query_heads: 2, key_heads: 1, query_len: 65, key_len: 97, head_dim };
        let offset = shape.causal_offset();
        let mask = match number % 4 {
            0 => Mask::Causal { offset },
            1 => Mask::Window { size: 40, sinks: 2, offset },
            2 => Mask::Documents { starts: DocumentStarts::new(vec![vec![0, 31, 70]]).unwrap(), offset },
            _ => Mask::Full,
        };
        let problem = AttnProblem::new(shape).unwrap().with_mask(mask).unwrap();
        let problem = match scores {
            0 => problem,
            1 => problem.with_alibi(Alibi::new(&[0.25, 0.0625]).unwrap()).unwrap(),
            _ => problem.with_soft_cap(4.0).unwrap(),
        };
        let dtype = [DType::BF16, DType::F16][number % 2];
        Case { number, problem, dtype, sharpness: 2.0 }
    };
    kinds.enumerate().map(case).collect()
}

/// Every head size in float32, with everything that scores may have by turns.
fn in_single() -> Vec<Case> {
    let every_other = for_every_kernel().into_iter().enumerate().filter(|(number, _)| number % 3 == number / 3 % 3);
    every_other.map(|(_, case)| Case { dtype: DType::F32, ..case }).collect()
}

#[test]
fn every_kernel_text_keeps_the_error_budget_without_bank_conflicts() {
    let (mut refused, mut tightest) = (Vec::new(), (0.0, String::new()));
    let cases: Vec<Case> = small_cases().into_iter().chain(for_every_kernel()).chain(in_single()).collect();
    for case in &cases {
        let i = case.inputs();
        let judged = run(case, &i, None, 1).and_then(|answer| {
            assert_eq!(answer.bank_conflicts, 0, "{}", case.describe());
            Truth::of(case, &i).judge(case, &i, &answer)
        });
        match judged {
            Ok(used) if used > tightest.0 => tightest = (used, case.describe()),
            Ok(_) => {}
            Err(reason) => refused.push(format!("{}: {reason}", case.describe())),
        }
    }
    println!("{} cases; tightest at {:.0} % of the budget: {}", cases.len(), 100.0 * tightest.0, tightest.1);
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
