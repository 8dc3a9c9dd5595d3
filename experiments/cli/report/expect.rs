//! `bowline report expect`: results beside the perplexities that were published for a recipe's model.

use std::path::PathBuf;

use clap::Args;
use eval::report::{Report, Row};
use serde::Serialize;
use serde_json::json;

use super::super::output::{print, print_json};
use super::named;
use crate::config::{ExpectedPerplexity, Recipe};
use crate::error::{Failure, FailureKind};
use crate::recipes;

/// What is compared, and what a verdict means.
const HELP: &str = "\
The published figures are the [[expected]] of the recipe: `bowline recipes` prints them. A report does not say which data set its \
documents are, so --dataset does, once for each run, in the same order. What is compared is perplexity_published, averaged as in \
print, where the report has it, else perplexity; at the same protocol and length.\n\n\
Exit codes: 0 every published figure was measured and lies in its band; 1 one lies outside, or was not measured: the table is \
printed all the same; 2 the recipe has no published figures, or a data set is none of them; 3 a report cannot be read.";

/// Hold results against the perplexities published for a recipe's model: inside the band, outside, not measured.
#[derive(Debug, Args)]
#[command(after_long_help = HELP, after_help = "`bowline report expect --help` says what is compared.")]
pub(super) struct Expect {
    /// Recipe file, or the name of one that is built in
    recipe: String,
    /// Run folders or report.json files
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Data set that a run's documents are, as the recipe calls it; once for each run
    #[arg(long = "dataset", value_name = "NAME", required = true)]
    datasets: Vec<String>,
    /// Variant of the reports that the recipe made [default: the only one]
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a published figure compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    Inside,
    Outside,
    NotMeasured,
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Self::Inside => "inside",
            Self::Outside => "OUTSIDE",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A published figure and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Held {
    #[serde(flatten)]
    band: ExpectedPerplexity,
    /// Run, metric, value and its 95 % interval.
    measured: Option<Measured>,
    verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Measured {
    run: String,
    variant: String,
    metric: String,
    value: f64,
    low: f64,
    high: f64,
}

/// The results on one data set.
struct Run {
    name: String,
    dataset: String,
    variant: String,
    report: Report,
}

impl Expect {
    pub(super) fn run(self) -> Result<(), Failure> {
        let recipe = recipes::training(&self.recipe, &[])?;
        self.check_datasets(&recipe)?;
        let runs = self.runs.iter().zip(&self.datasets).map(|(path, dataset)| {
            let (name, report) = named(path)?;
            let variant = variant_of(&report, self.variant.as_deref()).map_err(|failure| failure.within(&name))?;
            Ok(Run { name, dataset: dataset.clone(), variant, report })
        });
        let runs = runs.collect::<Result<Vec<Run>, Failure>>()?;
        let held: Vec<Held> = recipe.expected.into_iter().map(|band| hold(band, &runs)).collect();
        let count = |verdict: Verdict| held.iter().filter(|it| it.verdict == verdict).count();
        let [inside, outside, missing] = [Verdict::Inside, Verdict::Outside, Verdict::NotMeasured].map(count);
        match self.json {
            true => print_json(&json!({
                "recipe": recipe.name, "bands": held, "inside": inside, "outside": outside, "not_measured": missing,
            }))?,
            false => print(&page(&held)),
        }
        if outside + missing == 0 {
            return Ok(());
        }
        let sentence = format!(
            "{}: of {} published figures {inside} inside their bands, {outside} outside, {missing} not measured",
            recipe.name,
            held.len()
        );
        Err(Failure::new(FailureKind::Threshold, sentence))
    }

    fn check_datasets(&self, recipe: &Recipe) -> Result<(), Failure> {
        let mut known: Vec<&str> = recipe.expected.iter().map(|band| band.dataset.as_str()).collect();
        known.sort_unstable();
        known.dedup();
        if known.is_empty() {
            return Err(Failure::config(format!(
                "{}: has no [[expected]], so there is nothing to compare",
                self.recipe
            )));
        }
        let known = known.join(", ");
        if let Some(other) = self.datasets.iter().find(|name| !recipe.expected.iter().any(|it| it.dataset == **name)) {
            return Err(Failure::config(format!("--dataset {other}: {} has figures on {known}", self.recipe)));
        }
        if self.datasets.len() != self.runs.len() {
            return Err(Failure::config(format!(
                "--dataset: once for each run, are {} for {} runs; {} has figures on {known}",
                self.datasets.len(),
                self.runs.len(),
                self.recipe
            )));
        }
        Ok(())
    }
}

/// The variant that is meant: the one asked for, or the only one.
fn variant_of(report: &Report, asked: Option<&str>) -> Result<String, Failure> {
    let names: Vec<&str> = report.variants.iter().map(|variant| variant.name.as_str()).collect();
    match (asked, names.as_slice()) {
        (Some(asked), names) if names.contains(&asked) => Ok(asked.to_owned()),
        (None, [only]) => Ok((*only).to_owned()),
        (Some(asked), names) => Err(Failure::config(format!("--variant {asked}: there are {}", names.join(", ")))),
        (None, names) => Err(Failure::config(format!(
            "holds {} variants; say which one the recipe made by --variant: {}",
            names.len(),
            names.join(", ")
        ))),
    }
}

/// A published figure beside the measurement of the same data set, protocol and length.
fn hold(band: ExpectedPerplexity, runs: &[Run]) -> Held {
    let of_set = runs.iter().filter(|run| run.dataset == band.dataset);
    let measured = of_set.filter_map(|run| measured(&band, run)).next();
    let verdict = match &measured {
        None => Verdict::NotMeasured,
        Some(Measured { value, .. }) if (band.low..=band.high).contains(value) => Verdict::Inside,
        Some(_) => Verdict::Outside,
    };
    Held { band, measured, verdict }
}

fn measured(band: &ExpectedPerplexity, run: &Run) -> Option<Measured> {
    let is_it = |row: &&Row, metric: &str| {
        row.variant == run.variant
            && row.metric == metric
            && row.protocol == band.protocol
            && row.length == band.length
            && row.depth.is_none()
    };
    let row = |metric: &str| run.report.rows.iter().find(|row| is_it(row, metric));
    let row = row("perplexity_published").or_else(|| row("perplexity"))?;
    let (metric, variant) = (row.metric.clone(), row.variant.clone());
    Some(Measured { run: run.name.clone(), variant, metric, value: row.value, low: row.low, high: row.high })
}

/// The table for the terminal.
fn page(held: &[Held]) -> String {
    let mut page = format!(
        "{:<12} {:<8} {:>7} {:>17} {:>28}  {:<12}  source\n",
        "dataset", "protocol", "length", "published", "measured", "verdict"
    );
    for Held { band, measured, verdict } in held {
        let published = format!("{} to {}", band.low, band.high);
        let found = measured
            .as_ref()
            .map_or_else(|| "-".to_owned(), |it| format!("{:.4} ({:.4} to {:.4})", it.value, it.low, it.high));
        page += &format!(
            "{:<12} {:<8} {:>7} {published:>17} {found:>28}  {:<12}  {}\n",
            band.dataset,
            band.protocol,
            band.length,
            verdict.words(),
            band.source
        );
    }
    page
}
