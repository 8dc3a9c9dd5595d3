//! Every backend of the build over the table of cases.

use attention::{Backend, reference};
use ndarray::Array4;

use crate::support::budget::{Budget, judge};
use crate::support::cases::{Case, Inputs, table};
use crate::support::plain::{self, Rounding};
use crate::support::runners::run;

/// What a table run comes to.
#[derive(Default)]
struct Tally {
    accepted: usize,
    declined: Vec<String>,
    refused: Vec<String>,
    /// Largest part of the budget used, and by which case.
    tightest: (f64, String),
}

impl Tally {
    fn add(&mut self, backend: Backend, case: &Case, inputs: &Inputs, exact: &Array4<f64>, plain: &Array4<f64>) {
        match run(backend, case, inputs) {
            Err(unsupported) => self.declined.push(format!("{}: {unsupported}", case.describe())),
            Ok(got) => match judge(case.dtype, Budget::RULE, exact, plain, &got) {
                Err(reason) => self.refused.push(format!("{}: {reason}", case.describe())),
                Ok(accepted) => {
                    self.accepted += 1;
                    if accepted.used() > self.tightest.0 {
                        self.tightest = (accepted.used(), format!("{} ({})", case.describe(), accepted.bound()));
                    }
                }
            },
        }
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
        for (&backend, tally) in backends.iter().zip(&mut tallies) {
            tally.add(backend, &case, &inputs, &exact.output, &plain);
        }
    }
    for (backend, tally) in backends.iter().zip(&tallies) {
        let Tally { accepted, declined, refused, tightest: (used, which) } = tally;
        println!("{}: {accepted} accepted, {} declined, {} refused", backend.name(), declined.len(), refused.len());
        println!("  tightest at {:.0} % of the budget: {which}", 100.0 * used);
        declined.iter().for_each(|line| println!("  declined {line}"));
        assert!(*accepted > 0, "{} took no case at all", backend.name());
        assert!(refused.is_empty(), "{}:\n{}", backend.name(), refused.join("\n"));
    }
}
