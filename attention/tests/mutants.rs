//! Known-wrong attention must not pass the judgement that backends pass.

use attention::reference;
use ndarray::Array4;

use crate::support::budget::{Budget, judge};
use crate::support::cases::{Case, table};
use crate::support::plain::{self, Bug, Rounding};

/// Cases with more multiplications than this are left out, to keep fifteen mutants within seconds.
const MOST_WORK: usize = 60_000_000;

#[test]
fn every_mutant_is_rejected_by_some_case() {
    let cases: Vec<Case> = table().into_iter().filter(|case| case.work() <= MOST_WORK).collect();
    println!("{} of {} cases", cases.len(), table().len());
    let mut rejections = vec![0_usize; Bug::ALL.len()];
    for case in &cases {
        let inputs = case.inputs();
        let exact = reference::forward(&case.problem, inputs.q.view(), inputs.k.view(), inputs.v.view()).unwrap();
        let plain = plain::forward(&case.problem, &inputs, Rounding(case.dtype), None);
        let judged = |got: &Array4<f64>| judge(case.dtype, Budget::RULE, &exact.output, &plain, got);
        judged(&plain).unwrap_or_else(|reason| panic!("without a bug, {}: {reason}", case.describe()));
        for (bug, rejected) in Bug::ALL.iter().zip(&mut rejections) {
            let mutant = plain::forward(&case.problem, &inputs, Rounding(case.dtype), Some(*bug));
            *rejected += usize::from(judged(&mutant).is_err());
        }
    }
    for (bug, rejected) in Bug::ALL.iter().zip(&rejections) {
        println!("{bug:?} rejected by {rejected}");
    }
    let survivors: Vec<&Bug> = Bug::ALL.iter().zip(&rejections).filter(|(_, n)| **n == 0).map(|(bug, _)| bug).collect();
    assert!(survivors.is_empty(), "nothing rejects {survivors:?}");
}
