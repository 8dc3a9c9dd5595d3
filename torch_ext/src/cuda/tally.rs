//! What cases on a device showed of each kernel, and the entries of the manifest that follow.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::arch::Arch;
use super::table::{TableKernel, source_hash};

/// How often each kernel passed and failed, and why.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    counts: BTreeMap<String, (usize, usize)>,
    refused: Vec<String>,
}

impl Tally {
    /// Counts a case for the kernels that it ran; what was wrong is kept with the words that `case` gives it.
    pub fn count<T: TableKernel>(&mut self, kernels: &[T], outcome: Result<(), String>, case: impl FnOnce() -> String) {
        for kernel in kernels {
            let (passed, failed) = self.counts.entry(kernel.name()).or_default();
            *(if outcome.is_ok() { passed } else { failed }) += 1;
        }
        self.refused.extend(outcome.err().map(|reason| format!("{}: {reason}", case())));
    }

    /// What was wrong, case by case.
    #[must_use]
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// A line for each kernel.
    #[must_use]
    pub fn page(&self) -> String {
        let line = |(name, (passed, failed)): (&String, &(usize, usize))| {
            format!("{name}: {passed} passed, {failed} failed\n")
        };
        self.counts.iter().map(line).collect()
    }

    /// Entries of the manifest for the kernels of a table that passed and never failed: of a device, by its name and
    /// architecture, on a day.
    #[must_use]
    pub fn entries<T: TableKernel>(&self, table: &[T], (device, arch): (&str, Arch), date: &str) -> Vec<Value> {
        let passed =
            |kernel: &&T| self.counts.get(&kernel.name()).is_some_and(|(passed, failed)| *passed > 0 && *failed == 0);
        let entry = |kernel: &T| {
            json!({
                "kernel": kernel.name(),
                "arch": arch.to_string(),
                "device": device,
                "date": date,
                "source": source_hash(kernel),
            })
        };
        table.iter().filter(passed).map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::manifest::{Manifest, tests::Probe};
    use super::*;

    #[test]
    fn what_passed_is_an_entry_that_holds_and_what_failed_once_is_none() {
        let table = [Probe];
        let entries = |tally: &Tally| tally.entries(&table, ("NVIDIA H100", Arch::SM_90A), "2026-11-25");
        let mut tally = Tally::default();
        assert!(entries(&tally).is_empty(), "never run");
        tally.count(&table, Ok(()), String::new);
        let text = json!(entries(&tally)).to_string();
        assert!(Manifest::parse(&text, &table).unwrap().verifies(&table, Arch::SM_90A), "{text}");
        tally.count(&table, Err("off by 2".to_owned()), || "case 7".to_owned());
        assert!(entries(&tally).is_empty());
        assert_eq!(
            (tally.page().as_str(), tally.refused()),
            ("probe: 1 passed, 1 failed\n", &["case 7: off by 2".to_owned()][..])
        );
    }
}
