//! One or several reports as one study: every variant with a name of its own and one look in all figures.

use eval::report::{Report, Row, Variant};

use crate::PlotError;
use crate::style::{SeriesStyle, assigned};

/// A variant of one run.
pub(crate) struct Model {
    /// Name shown: the variant's own, with the run before it when there are several runs.
    pub(crate) label: String,
    /// Index of its run.
    pub(crate) run: usize,
    /// What the report says of it; lengths are 0 when only its rows name it.
    pub(crate) variant: Variant,
    /// Look.
    pub(crate) style: SeriesStyle,
}

/// All runs.
pub(crate) struct Study<'a> {
    /// Reports with their names.
    pub(crate) runs: &'a [(String, Report)],
    /// Variants of all runs, in the order of the reports.
    pub(crate) models: Vec<Model>,
}

impl<'a> Study<'a> {
    /// Joins the reports.
    ///
    /// # Errors
    ///
    /// [`PlotError::NoReports`] and [`PlotError::DuplicateName`].
    pub(crate) fn new(runs: &'a [(String, Report)]) -> Result<Self, PlotError> {
        if runs.is_empty() {
            return Err(PlotError::NoReports);
        }
        for (i, (name, _)) in runs.iter().enumerate() {
            if runs[..i].iter().any(|(other, _)| other == name) {
                return Err(PlotError::DuplicateName { name: name.clone() });
            }
        }
        let listed: Vec<(usize, Variant)> = runs
            .iter()
            .enumerate()
            .flat_map(|(run, (_, report))| variants(report).into_iter().map(move |v| (run, v)))
            .collect();
        let looks: Vec<(&str, bool)> = listed.iter().map(|(_, v)| (v.name.as_str(), v.trained_tokens > 0)).collect();
        let styles = assigned(&looks);
        let label = |run: usize, v: &Variant| {
            if runs.len() > 1 { format!("{}: {}", runs[run].0, v.name) } else { v.name.clone() }
        };
        let models = listed
            .into_iter()
            .zip(styles)
            .map(|((run, variant), style)| Model { label: label(run, &variant), run, variant, style })
            .collect();
        Ok(Self { runs, models })
    }

    /// The report that a model is in.
    pub(crate) fn report(&self, model: &Model) -> &'a Report {
        &self.runs[model.run].1
    }

    /// Rows of all runs.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &'a Row> {
        self.runs.iter().flat_map(|(_, report)| &report.rows)
    }

    /// Tasks with their protocols, each once, in order of appearance: perplexity's, or all others.
    pub(crate) fn protocols(&self, perplexity: bool) -> Vec<Protocol<'a>> {
        let mut found: Vec<Protocol<'a>> = Vec::new();
        for row in self.rows().filter(|r| (r.task == "perplexity") == perplexity) {
            let protocol = Protocol { task: &row.task, name: &row.protocol };
            if !found.contains(&protocol) {
                found.push(protocol);
            }
        }
        found
    }

    /// Metrics of a protocol, each once, in order of appearance.
    pub(crate) fn metrics(&self, protocol: Protocol<'a>) -> Vec<&'a str> {
        let mut found: Vec<&str> = Vec::new();
        for row in self.rows().filter(|r| protocol.holds(r)) {
            if !found.contains(&row.metric.as_str()) {
                found.push(&row.metric);
            }
        }
        found
    }

    /// A model's rows of one protocol and metric over all depths together, one a length, shortest first.
    pub(crate) fn by_length(&self, model: &Model, protocol: Protocol<'a>, metric: &str) -> Vec<&'a Row> {
        let mut rows: Vec<&Row> = self.of(model, protocol, metric).into_iter().filter(|r| r.depth.is_none()).collect();
        rows.sort_by_key(|r| r.length);
        rows.dedup_by_key(|r| r.length);
        rows
    }

    /// A model's rows of one protocol and metric, in the order of the report.
    pub(crate) fn of(&self, model: &Model, protocol: Protocol<'a>, metric: &str) -> Vec<&'a Row> {
        let rows = self.report(model).rows.iter();
        rows.filter(|r| r.variant == model.variant.name && protocol.holds(r) && r.metric == metric).collect()
    }

    /// Original contexts of the models, each once, shortest first.
    pub(crate) fn original_contexts(&self) -> Vec<usize> {
        distinct(self.models.iter().map(|m| m.variant.original_context))
    }

    /// The length up to which variants are judged, and its name in a sentence: the longest context that any was trained at;
    /// no end where several were compared and none was trained further.
    pub(crate) fn aim(&self) -> (usize, &'static str) {
        let trained = self.models.iter().map(|m| m.variant.trained_context).max().unwrap_or(0);
        if self.models.len() > 1 && trained > 0 && self.trained_contexts().is_empty() {
            (usize::MAX, "the longest length measured")
        } else {
            (trained, "the longest trained length measured")
        }
    }

    /// Trained contexts that differ from every original one.
    pub(crate) fn trained_contexts(&self) -> Vec<usize> {
        let original = self.original_contexts();
        distinct(self.models.iter().map(|m| m.variant.trained_context).filter(|n| !original.contains(n)))
    }
}

/// A task with one way of doing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Protocol<'a> {
    /// `perplexity`, `passkey`.
    pub(crate) task: &'a str,
    /// `P2`, `bowline-1`.
    pub(crate) name: &'a str,
}

impl Protocol<'_> {
    fn holds(&self, row: &Row) -> bool {
        row.task == self.task && row.protocol == self.name
    }

    /// Its part of a file name: small letters, digits and dashes.
    pub(crate) fn slug(&self) -> String {
        slug(&format!("{} {}", self.task, self.name))
    }
}

/// Small letters, digits and single dashes; never empty.
pub(crate) fn slug(words: &str) -> String {
    let mut out = String::new();
    for c in words.chars() {
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    let out = out.trim_end_matches('-');
    if out.is_empty() { "unnamed".to_owned() } else { out.to_owned() }
}

/// Positive numbers, each once, smallest first.
pub(crate) fn distinct(numbers: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut all: Vec<usize> = numbers.filter(|n| *n > 0).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The variants that a report lists, then those which only its data name.
fn variants(report: &Report) -> Vec<Variant> {
    let mut all: Vec<Variant> = Vec::new();
    for variant in &report.variants {
        if !all.iter().any(|v| v.name == variant.name) {
            all.push(variant.clone());
        }
    }
    let rows = report.rows.iter().map(|r| (&r.variant, r.model.as_str()));
    let others = report.position_loss.iter().map(|p| &p.variant);
    let others =
        others.chain(report.spectra.iter().map(|s| &s.variant)).chain(report.training.iter().map(|t| &t.variant));
    for (name, model) in rows.chain(others.map(|v| (v, ""))) {
        if !all.iter().any(|v| v.name == *name) {
            all.push(Variant {
                name: name.clone(),
                description: "Not described in the report.".to_owned(),
                model: model.to_owned(),
                scheme: String::new(),
                parameters: String::new(),
                original_context: 0,
                trained_context: 0,
                trained_tokens: 0,
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_safe_file_names() {
        assert_eq!(slug("../../Passkey <bowline-1>"), "passkey-bowline-1");
        assert_eq!(slug("\u{4e2d}"), "unnamed");
    }

    #[test]
    fn nothing_to_draw_is_an_error() {
        assert!(matches!(Study::new(&[]), Err(PlotError::NoReports)));
    }
}
