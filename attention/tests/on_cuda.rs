//! Every CUDA kernel on a device, forward and backward: the table of cases, and a few problems for each kernel that the
//! table does not reach; and rotation in place. What passed becomes entries of the manifest `kernels.json`.
//!
//! Without a device nothing is run, and the count of what was skipped is printed. With `BOWLINE_VERIFIED` set the entries are
//! written to the file that it names; `BOWLINE_DATE` is the day that they carry.

use attention::cuda::kernels::{Generation, HEAD_DIMS, Kernel, Scores};
use attention::cuda::{backend_of, every_kernel, kernels_of, launched, rotate};
use attention::{Alibi, AttnProblem, AttnShape, Backend, DType, DocumentStarts, Mask, reference};
use ndarray::Axis;
use torch_ext::cuda::{Arch, Device, TableKernel, Tally};

use crate::backward::Truth;
use crate::support::budget::{Budget, judge, judge_lse};
use crate::support::cases::{Case, Inputs, table};
use crate::support::plain::{self, Rounding};
use crate::support::runners::run;
use crate::support::runners::torch::{array, gradients};
use crate::support::turns::{Turn, turns};

/// Cases with more multiplications than this are left out: the reference behind them would take minutes.
const MOST_WORK: usize = 40_000_000;

const GENERATIONS: [Generation; 2] = [Generation::First, Generation::Second];

/// Problems for every element type, head size and way of scoring, under masks in turn; lengths fit no tile.
fn for_every_kernel(first: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        for head_dim in HEAD_DIMS {
            for scores in [Scores::Plain, Scores::Alibi, Scores::Capped] {
                for (query_len, key_len) in [(65, 97), (131, 131)] {
                    let number = first + cases.len();
                    let shape = AttnShape { batch: 1, query_heads: 4, key_heads: 2, query_len, key_len, head_dim };
                    let problem =
                        scored(AttnProblem::new(shape).unwrap().with_mask(mask(&shape, number)).unwrap(), scores);
                    cases.push(Case { number, problem, dtype, sharpness: 2.0 });
                }
            }
        }
    }
    cases
}

fn mask(shape: &AttnShape, number: usize) -> Mask {
    let offset = shape.causal_offset();
    match number % 4 {
        0 => Mask::Causal { offset },
        1 => Mask::Window { size: 40, sinks: 2, offset },
        2 => Mask::Documents { starts: DocumentStarts::new(vec![vec![0, 31, 70]; shape.batch]).unwrap(), offset },
        _ => Mask::Full,
    }
}

fn scored(problem: AttnProblem, scores: Scores) -> AttnProblem {
    match scores {
        Scores::Plain => problem,
        Scores::Alibi => problem.with_alibi(Alibi::new(&[0.25, 0.0625, 0.5, 0.125]).unwrap()).unwrap(),
        Scores::Capped => problem.with_soft_cap(4.0).unwrap(),
    }
}

/// The cases that this test runs where there is a device.
fn cases() -> Vec<Case> {
    let mut cases = table();
    cases.extend(for_every_kernel(cases.len()));
    let has_kernels = |case: &Case| kernels_of(Generation::First, &case.problem, case.dtype).is_some();
    cases.into_iter().filter(|case| has_kernels(case) && case.work() <= MOST_WORK).collect()
}

/// Output and log-sum-exp of a case under the budget.
fn forward(cuda: Backend, case: &Case, i: &Inputs) -> Result<(), String> {
    let exact = reference::forward(&case.problem, i.q.view(), i.k.view(), i.v.view()).unwrap();
    let plain = plain::forward(&case.problem, i, Rounding(case.dtype), None);
    let answer = run(cuda, case, i).map_err(|unsupported| unsupported.to_string())?;
    judge(case.dtype, Budget::RULE, &exact.output, &plain, &answer.output)?;
    let lse = answer.lse.ok_or("no log-sum-exp")?;
    judge_lse(&case.problem, i, &exact.log_sum_exp.insert_axis(Axis(3)), &lse).map(drop)
}

/// Gradients of a case under the budget.
fn backward(cuda: Backend, case: &Case, i: &Inputs) -> Result<(), String> {
    let found = gradients(cuda, case, i).ok_or("no gradients")?;
    Truth::of(case, i).judge(case.dtype, &found.map(|grad| array(&grad))).map(drop)
}

/// A rotation of a tensor on the device, which must leave what lies beside the tensor.
fn turned(turn: &Turn) -> Result<(), String> {
    let before = turn.whole();
    let device = tch::Device::Cuda(0);
    let (after, angles) = (before.to_device(device), turn.angles().to_device(device));
    rotate(&mut turn.x(&after), &angles, turn.inverse).map_err(|error| error.to_string())?;
    turn.judge(&before, &after)
}

#[test]
fn every_kernel_passes_on_a_device() {
    let cuda = backend_of(Generation::First);
    let cases = cases();
    if let Err(unsupported) = cuda.supports(&cases[0].problem, cases[0].dtype) {
        println!("{} cases of {} kernels skipped: {unsupported}", cases.len(), every_kernel().len());
        return;
    }
    let device = Device::get(0).unwrap();
    let mut tally = Tally::default();
    let generations = if device.arch() == Arch::SM_90A { &GENERATIONS[..] } else { &GENERATIONS[..1] };
    for (case, generation) in
        cases.iter().flat_map(|case| generations.iter().map(move |&generation| (case, generation)))
    {
        let Some(kernels) = kernels_of(generation, &case.problem, case.dtype) else { continue };
        let (inputs, cuda) = (case.inputs(), backend_of(generation));
        for (pass, kernels, work) in [
            ("forward", &kernels[..1], forward as fn(Backend, &Case, &Inputs) -> Result<(), String>),
            ("backward", &kernels[1..], backward),
        ] {
            let case_name = || format!("{pass} by {}, {}", cuda.name(), case.describe());
            tally.count(kernels, work(cuda, case, &inputs), case_name);
        }
    }
    for turn in turns() {
        tally.count(&[turn.kernel()], turned(&turn), || format!("{turn:?}"));
    }
    print!("{}", tally.page());
    if let Some(file) = std::env::var_os("BOWLINE_VERIFIED") {
        let date = std::env::var("BOWLINE_DATE").unwrap_or_else(|_| "undated".to_owned());
        let entries = tally.entries(&every_kernel(), (device.name(), device.arch()), &date);
        std::fs::write(file, serde_json::to_string_pretty(&entries).unwrap() + "\n").unwrap();
    }
    let refused = tally.refused();
    assert!(refused.is_empty(), "{} on {}:\n{}", device.name(), device.arch(), refused.join("\n"));
    let made = every_kernel().iter().filter(|kernel| kernel.is_for(device.arch())).count();
    assert_eq!(launched(0).len(), made, "every kernel was run");
}

#[test]
fn the_cases_reach_every_kernel() {
    let reached: std::collections::BTreeSet<String> = cases()
        .iter()
        .flat_map(|case| GENERATIONS.iter().filter_map(|&generation| kernels_of(generation, &case.problem, case.dtype)))
        .flatten()
        .chain(turns().iter().map(Turn::kernel))
        .map(|kernel| kernel.name())
        .collect();
    let all: std::collections::BTreeSet<String> = every_kernel().iter().map(Kernel::name).collect();
    assert_eq!(reached, all);
}
