//! Two reports row by row: how far apart their numbers are, and whether more than chance says so.

use ndarray::Array2;
use serde::Serialize;

use super::{DocumentLoss, Report, Row};
use crate::metrics::{Bootstrap, Estimate};

/// Resamples of a paired comparison.
const RESAMPLES: usize = 2000;
/// Seed of its resamples: the same two reports always give the same verdicts.
const SEED: u64 = 1;

/// Whether two numbers differ by more than chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The interval of their paired difference leaves out 0, or their own intervals do not touch.
    Apart,
    /// It holds 0, or they touch: the numbers may be one.
    NotApart,
}

/// What a verdict rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The losses of the same documents under both: the 95 % bootstrap interval of the ratio of the perplexities.
    Paired {
        /// Perplexity of the second over that of the first.
        ratio: f64,
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
        /// Documents.
        documents: usize,
    },
    /// The two 95 % intervals, as if the samples were different ones; finds less than a paired comparison would.
    Intervals,
}

/// One number that both reports have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Name of the variant.
    pub variant: String,
    /// Task.
    pub task: String,
    /// Protocol.
    pub protocol: String,
    /// Metric.
    pub metric: String,
    /// Context length in tokens.
    pub length: usize,
    /// Depth; none means all depths together.
    pub depth: Option<f64>,
    /// The number in the first report, with its interval.
    pub first: [f64; 3],
    /// The number in the second.
    pub second: [f64; 3],
    /// Second less first.
    pub difference: f64,
    /// Whether they differ.
    pub verdict: Verdict,
    /// What says so.
    pub basis: Basis,
}

/// Two reports against each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportDiff {
    /// Rows in both, in the order of the first.
    pub rows: Vec<Difference>,
    /// Rows that the first alone has.
    pub only_first: usize,
    /// Rows that the second alone has.
    pub only_second: usize,
    /// Why nothing was compared document by document; none when something was.
    pub unpaired: Option<String>,
}

/// Compares the rows of one name in both reports: variant, task, protocol, length, depth and metric. Models may differ, as
/// when one variant was made from two.
#[must_use]
pub fn diff(first: &Report, second: &Report) -> ReportDiff {
    let unpaired = unpaired(first, second);
    let mut rows = Vec::new();
    for a in &first.rows {
        let Some(b) = second.rows.iter().find(|b| same(a, b)) else { continue };
        let paired = unpaired.is_none().then(|| paired(first, second, a)).flatten();
        rows.push(difference(a, b, paired));
    }
    let any_paired = rows.iter().any(|row| matches!(row.basis, Basis::Paired { .. }));
    let nothing = || "no perplexity has losses by document in both reports".to_owned();
    ReportDiff {
        only_first: first.rows.len() - rows.len(),
        only_second: second.rows.iter().filter(|b| !first.rows.iter().any(|a| same(a, b))).count(),
        unpaired: unpaired.or_else(|| (!any_paired).then(nothing)),
        rows,
    }
}

/// Whether two rows are the same number of two reports.
fn same(a: &Row, b: &Row) -> bool {
    let name = |row: &Row| [&row.variant, &row.task, &row.protocol, &row.metric].map(String::clone);
    // Depths of a grid are computed, so that their last bits may differ.
    let depth = match (a.depth, b.depth) {
        (Some(a), Some(b)) => (a - b).abs() < 1e-9,
        (a, b) => a.is_none() && b.is_none(),
    };
    a.length == b.length && depth && name(a) == name(b)
}

/// Why the documents cannot be paired.
fn unpaired(first: &Report, second: &Report) -> Option<String> {
    let hash = |report: &Report| report.provenance.hashes.get("documents").cloned();
    match (hash(first), hash(second)) {
        (Some(a), Some(b)) if a == b => None,
        (Some(_), Some(_)) => Some("the two were measured on different documents".to_owned()),
        _ => Some("not both reports say on which documents they were measured".to_owned()),
    }
}

/// The paired comparison of a row's perplexity; none when the reports do not hold it.
fn paired(first: &Report, second: &Report, row: &Row) -> Option<Basis> {
    if row.metric != "perplexity" || row.depth.is_some() {
        return None;
    }
    let column = |report: &Report| {
        let of_row = |d: &&DocumentLoss| d.variant == row.variant && d.protocol == row.protocol;
        let losses = report.document_loss.iter().find(of_row)?;
        let index = losses.lengths.iter().position(|length| *length == row.length)?;
        losses.loss.iter().map(|document| document.get(index).copied()).collect::<Option<Vec<f64>>>()
    };
    let (a, b) = (column(first)?, column(second)?);
    let documents = a.len();
    // One document has no spread.
    if documents != b.len() || documents < 2 {
        return None;
    }
    let apart = Array2::from_shape_fn((documents, 1), |(i, _)| b[i] - a[i]);
    let Estimate { value, low, high } = *Bootstrap::new(documents, RESAMPLES, SEED).means(apart.view()).first()?;
    Some(Basis::Paired { ratio: value.exp(), low: low.exp(), high: high.exp(), documents })
}

fn difference(a: &Row, b: &Row, paired: Option<Basis>) -> Difference {
    let basis = paired.unwrap_or(Basis::Intervals);
    let apart = match basis {
        Basis::Paired { low, high, .. } => low > 1.0 || high < 1.0,
        Basis::Intervals => a.high < b.low || b.high < a.low,
    };
    Difference {
        variant: a.variant.clone(),
        task: a.task.clone(),
        protocol: a.protocol.clone(),
        metric: a.metric.clone(),
        length: a.length,
        depth: a.depth,
        first: [a.value, a.low, a.high],
        second: [b.value, b.low, b.high],
        difference: b.value - a.value,
        verdict: if apart { Verdict::Apart } else { Verdict::NotApart },
        basis,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    /// A report on documents whose losses differ much more among themselves than `shift` moves them.
    fn measured(shift: f64) -> Report {
        let mut report = example();
        report.provenance.hashes.insert("documents".to_owned(), "h".to_owned());
        let loss = |i: u32| 3.0 + f64::from(i) * 0.2 + shift * (1.0 + f64::from(i % 3) * 0.1);
        report.document_loss[0].loss = (0..12).map(|i| vec![loss(i); 2]).collect();
        report
    }

    #[test]
    fn a_small_shift_of_all_documents_is_found_by_pairs_and_not_by_intervals() {
        let (first, mut second) = (measured(0.0), measured(0.02));
        let found = diff(&first, &second);
        assert_eq!((found.rows[0].verdict, found.rows[1].basis), (Verdict::Apart, Basis::Intervals));
        let Basis::Paired { ratio, low, high, documents: 12 } = found.rows[0].basis else { panic!("{found:?}") };
        assert!((ratio - 0.022_f64.exp()).abs() < 1e-9 && low > 1.0 && high < 1.03, "{found:?}");
        assert_eq!(found.unpaired, None);
        // The same numbers without pairs: the intervals overlap.
        second.provenance.hashes.insert("documents".to_owned(), "other".to_owned());
        let found = diff(&first, &second);
        assert_eq!((found.rows[0].verdict, found.rows[0].basis), (Verdict::NotApart, Basis::Intervals));
        assert!(found.unpaired.unwrap().contains("different documents"));
    }

    #[test]
    fn equal_reports_are_nowhere_apart() {
        let found = diff(&measured(0.1), &measured(0.1));
        assert!(found.rows.iter().all(|row| row.verdict == Verdict::NotApart && row.difference == 0.0), "{found:?}");
        assert_eq!((found.rows.len(), found.only_first, found.only_second), (2, 0, 0));
    }

    #[test]
    fn noise_around_nothing_is_not_apart() {
        let (first, mut second) = (measured(0.0), measured(0.0));
        for (i, document) in second.document_loss[0].loss.iter_mut().enumerate() {
            let noise = if i % 2 == 0 { 0.05 } else { -0.05 };
            document.iter_mut().for_each(|loss| *loss += noise);
        }
        assert_eq!(diff(&first, &second).rows[0].verdict, Verdict::NotApart);
    }

    #[test]
    fn rows_of_one_report_alone_are_counted() {
        let (mut first, second) = (measured(0.0), measured(0.0));
        first.rows[1].length = 4096;
        let found = diff(&first, &second);
        assert_eq!((found.rows.len(), found.only_first, found.only_second), (1, 1, 1));
        first.document_loss.clear();
        assert!(diff(&first, &second).unpaired.unwrap().contains("no perplexity has losses by document"));
        first.provenance.hashes.clear();
        assert!(diff(&first, &second).unpaired.unwrap().contains("not both reports say"));
    }

    #[test]
    fn intervals_that_do_not_touch_are_apart() {
        let (first, mut second) = (measured(0.0), measured(0.0));
        let row = &mut second.rows[1];
        (row.value, row.low, row.high) = (0.5, 0.4, 0.6);
        let found = diff(&first, &second);
        assert_eq!((found.rows[1].verdict, found.rows[1].basis), (Verdict::Apart, Basis::Intervals));
        assert!((found.rows[1].difference + 0.45).abs() < 1e-12);
    }
}
