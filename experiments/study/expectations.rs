//! What a study expects of its own numbers, and a table of them for the terminal.

use eval::report::{Report, Row};

use crate::config::Expectation;

/// An expectation and how it came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Whether it holds.
    pub holds: bool,
    /// What was expected and what was found.
    pub sentence: String,
}

/// How every expectation came out.
pub fn outcomes(expectations: &[Expectation], report: &Report) -> Vec<Outcome> {
    expectations.iter().map(|expectation| outcome(expectation, report)).collect()
}

fn outcome(expectation: &Expectation, report: &Report) -> Outcome {
    let candidates: Vec<&str> = match expectation.variant.as_str() {
        "best trained" => report.variants.iter().filter(|v| v.trained_tokens > 0).map(|v| v.name.as_str()).collect(),
        name => vec![name],
    };
    let tried: Vec<(&str, Option<f64>)> =
        candidates.into_iter().map(|name| (name, measured(expectation, report, name))).collect();
    let within = |value: f64| {
        expectation.at_least.is_none_or(|least| value >= least) && expectation.at_most.is_none_or(|most| value <= most)
    };
    // The variant for which it holds best speaks for "best trained".
    let better = |a: f64, b: f64| if expectation.at_most.is_some() { b.total_cmp(&a) } else { a.total_cmp(&b) };
    let chosen = tried.iter().max_by(|(_, a), (_, b)| match (a, b) {
        (Some(a), Some(b)) => better(*a, *b),
        (a, b) => a.is_some().cmp(&b.is_some()),
    });
    let holds = chosen.is_some_and(|(_, value)| value.is_some_and(within));
    let (name, value) = chosen.copied().unwrap_or((expectation.variant.as_str(), None));
    let relative = expectation.relative_to.map(|length| format!(" / its value at {length}")).unwrap_or_default();
    let bounds =
        [expectation.at_least.map(|x| format!("at least {x}")), expectation.at_most.map(|x| format!("at most {x}"))];
    let bounds: Vec<String> = bounds.into_iter().flatten().collect();
    let found = value.map_or("not measured".to_owned(), |value| format!("{value:.4}"));
    Outcome {
        holds,
        sentence: format!(
            "{name}: {} at {}{relative} {}: {found}",
            expectation.metric,
            expectation.length,
            bounds.join(" and ")
        ),
    }
}

fn measured(expectation: &Expectation, report: &Report, variant: &str) -> Option<f64> {
    let value = |length| row(report, variant, &expectation.metric, length).map(|row| row.value);
    let at = value(expectation.length)?;
    match expectation.relative_to {
        None => Some(at),
        Some(length) => Some(at / value(length)?),
    }
}

/// The row of a metric at a length, all depths together.
fn row<'a>(report: &'a Report, variant: &str, metric: &str, length: usize) -> Option<&'a Row> {
    report
        .rows
        .iter()
        .find(|row| row.variant == variant && row.metric == metric && row.length == length && row.depth.is_none())
}

/// Perplexity and passkey accuracy of every variant by length.
pub fn table(report: &Report) -> String {
    let mut page = String::new();
    for (metric, title) in [("perplexity", "perplexity"), ("accuracy", "passkey accuracy, %")] {
        let mut lengths: Vec<usize> = report
            .rows
            .iter()
            .filter(|row| row.metric == metric && row.depth.is_none())
            .map(|row| row.length)
            .collect();
        lengths.sort_unstable();
        lengths.dedup();
        page += &format!("{title:<20}");
        lengths.iter().for_each(|length| page += &format!("{length:>9}"));
        page += "\n";
        for variant in &report.variants {
            page += &format!("{:<20}", variant.name);
            for &length in &lengths {
                let cell = row(report, &variant.name, metric, length).map_or("-".to_owned(), |row| {
                    if metric == "accuracy" { format!("{:.0}", row.value * 100.0) } else { format!("{:.2}", row.value) }
                });
                page += &format!("{cell:>9}");
            }
            page += "\n";
        }
        page += "\n";
    }
    page
}
