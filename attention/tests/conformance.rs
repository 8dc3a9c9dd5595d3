//! Every backend of the build over the table of cases: output and log-sum-exp.

use attention::{Backend, DType, Feature, Unsupported, reference};
use ndarray::{Array4, Axis};

use crate::support::budget::{Budget, judge, judge_lse, judge_lse_within};
use crate::support::cases::{Case, Inputs, table};
use crate::support::plain::{self, Rounding};
use crate::support::runners::{Answer, run};

/// What a table run comes to.
#[derive(Default)]
struct Tally {
    accepted: usize,
    with_lse: usize,
    declined: Vec<String>,
    /// Cases declined for want of a device.
    without_device: usize,
    refused: Vec<String>,
    /// Largest part of the budget used, and by which case.
    tightest: (f64, String),
    /// The same of the log-sum-exp's bound.
    tightest_lse: (f64, String),
}

/// What is right, and what plain attention makes of it.
struct Truth {
    exact: Array4<f64>,
    lse: Array4<f64>,
    plain: Array4<f64>,
}

impl Tally {
    fn add(&mut self, backend: Backend, case: &Case, inputs: &Inputs, truth: &Truth) {
        match run(backend, case, inputs) {
            Err(Unsupported { feature: Feature::Device(_), .. }) => self.without_device += 1,
            Err(unsupported) => self.declined.push(format!("{}: {unsupported}", case.describe())),
            Ok(answer) => match self.judged(backend, case, inputs, truth, &answer) {
                Ok(()) => self.accepted += 1,
                Err(reason) => self.refused.push(format!("{}: {reason}", case.describe())),
            },
        }
    }

    fn judged(
        &mut self,
        backend: Backend,
        case: &Case,
        inputs: &Inputs,
        truth: &Truth,
        answer: &Answer,
    ) -> Result<(), String> {
        let accepted = judge(case.dtype, Budget::RULE, &truth.exact, &truth.plain, &answer.output)?;
        if accepted.used() > self.tightest.0 {
            self.tightest = (accepted.used(), format!("{} ({})", case.describe(), accepted.bound()));
        }
        if let Some(lse) = &answer.lse {
            let short_cut = backend.name() == "libtorch" && case.dtype != DType::F32;
            let extra = if short_cut { 1e-4 } else { 0.0 };
            let used = judge_lse_within(extra, &case.problem, inputs, &truth.lse, lse)?;
            self.with_lse += 1;
            if used > self.tightest_lse.0 {
                self.tightest_lse = (used, case.describe());
            }
        }
        Ok(())
    }
}

#[test]
fn every_backend_keeps_the_error_budget_on_every_case_it_takes() {
    let backends: Vec<Backend> = Backend::all().collect();
    let mut tallies: Vec<Tally> = backends.iter().map(|_| Tally::default()).collect();
    for case in table() {
        let inputs = case.inputs();
        let exact = reference::forward(&case.problem, inputs.q.view(), inputs.k.view(), inputs.v.view()).unwrap();
        let plain = plain::forward(&case.problem, &inputs, Rounding(case.dtype), None);
        let truth = Truth { exact: exact.output, lse: exact.log_sum_exp.insert_axis(Axis(3)), plain };
        for (&backend, tally) in backends.iter().zip(&mut tallies) {
            tally.add(backend, &case, &inputs, &truth);
        }
    }
    for (backend, tally) in backends.iter().zip(&tallies) {
        let Tally { accepted, with_lse, declined, without_device, refused, tightest: (used, which), tightest_lse } =
            tally;
        println!("{}: {without_device} cases skipped for want of a device", backend.name());
        println!("{}: {accepted} accepted, {} declined, {} refused", backend.name(), declined.len(), refused.len());
        println!("  tightest at {:.0} % of the budget: {which}", 100.0 * used);
        println!("  {with_lse} log-sum-exps, tightest at {:.0} %: {}", 100.0 * tightest_lse.0, tightest_lse.1);
        declined.iter().for_each(|line| println!("  declined {line}"));
        assert!(*accepted + without_device > 0, "{} took no case at all", backend.name());
        assert!(refused.is_empty(), "{}:\n{}", backend.name(), refused.join("\n"));
    }
}

#[test]
fn log_sum_exps_that_are_a_little_wrong_are_refused() {
    let mut refused = [0; 5];
    for case in table().iter().filter(|case| case.work() <= 40_000_000) {
        let inputs = case.inputs();
        let exact = reference::forward(&case.problem, inputs.q.view(), inputs.k.view(), inputs.v.view()).unwrap();
        let right = exact.log_sum_exp.insert_axis(Axis(3));
        assert!(judge_lse(&case.problem, &inputs, &right, &right).is_ok());
        let larger = right.mapv(|x| x + 1e-3);
        let in_bits = right.mapv(|x| x / std::f64::consts::LN_2);
        let blind_as_zero = right.mapv(|x| if x == f64::NEG_INFINITY { 0.0 } else { x });
        let mut one_short = right.clone();
        one_short.first_mut().into_iter().for_each(|x| *x = f64::NEG_INFINITY);
        let nan = right.mapv(|_| f64::NAN);
        for (count, wrong) in refused.iter_mut().zip([larger, in_bits, blind_as_zero, one_short, nan]) {
            *count += usize::from(judge_lse(&case.problem, &inputs, &right, &wrong).is_err());
        }
    }
    println!("1e-3 too large, in bits, zero for blind rows, one row blind, NaN: refused {refused:?} times");
    assert!(refused.iter().all(|&count| count > 0), "{refused:?}");
}
