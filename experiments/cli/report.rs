//! `bowline report`: figures and page again, from results alone; `bowline report diff`: two results against each other; `bowline
//! report expect`: results against published figures.

mod expect;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use eval::report::{Basis, Difference, Report as Results, ReportDiff, Verdict, diff};
use serde_json::json;

use super::output::{print, print_json};
use crate::error::Failure;

/// Draws the figures and the page of one run, or of several laid over one another.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Report {
    #[command(subcommand)]
    more: Option<More>,
    /// Run folders or report.json files; several are laid over one another
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Folder to write to [default: the run folder; for several runs, `report`]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum More {
    /// Compare the rows that two runs share: difference, both intervals, apart or not
    Diff(Diff),
    Expect(expect::Expect),
}

/// What a verdict means.
const DIFF_HELP: &str = "\
Rows are the same when variant, task, protocol, length, depth and metric are. Where both reports hold the losses of the same \
documents (protocol P2), a verdict on perplexity rests on them in pairs: apart when the 95 % bootstrap interval of the ratio \
leaves out 1. Any other verdict rests on the two 95 % intervals: apart when they do not touch, which finds less. Of twenty \
rows that differ by chance alone, one is apart by pairs.";

#[derive(Debug, Args)]
#[command(after_long_help = DIFF_HELP)]
struct Diff {
    /// Run folder or report.json
    first: PathBuf,
    /// Run folder or report.json to compare with it
    second: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Report {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When a result file is missing or damaged, or a figure cannot be drawn; exit code 1 when a published figure is missed.
    pub fn run(self) -> Result<(), Failure> {
        match self.more {
            Some(More::Diff(command)) => return command.run(),
            Some(More::Expect(command)) => return command.run(),
            None => {}
        }
        let reports = self.runs.iter().map(|run| named(run)).collect::<Result<Vec<_>, _>>()?;
        let out = match (&self.out, self.runs.as_slice()) {
            (Some(out), _) => out.clone(),
            (None, [run]) if run.is_dir() => run.clone(),
            (None, [file]) => file.parent().unwrap_or(Path::new(".")).to_owned(),
            (None, _) => PathBuf::from("report"),
        };
        let rendered = plots::render(&reports, &out).map_err(|error| Failure::data(error.to_string()))?;
        print(&format!("{}\n", rendered.html.display()));
        Ok(())
    }
}

impl Diff {
    fn run(self) -> Result<(), Failure> {
        let (_, first) = named(&self.first)?;
        let (_, second) = named(&self.second)?;
        let found = diff(&first, &second);
        if self.json {
            let mut value = json!(found);
            value["first"] = json!(self.first);
            value["second"] = json!(self.second);
            return print_json(&value);
        }
        print(&table(&found));
        Ok(())
    }
}

/// The comparison for the terminal.
fn table(found: &ReportDiff) -> String {
    let mut page = format!(
        "{:<16} {:<12} {:<10} {:>7} {:>6} {:<22} {:>30} {:>30} {:>10}  verdict\n",
        "variant", "task", "protocol", "length", "depth", "metric", "first", "second", "difference"
    );
    for row in &found.rows {
        let depth = row.depth.map_or_else(|| "all".to_owned(), |depth| format!("{depth:.2}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "{:<16} {:<12} {:<10} {:>7} {:>6} {:<22} {:>30} {:>30} {:>+10.4}  {}",
            row.variant,
            row.task,
            row.protocol,
            row.length,
            depth,
            row.metric,
            number(row.first),
            number(row.second),
            row.difference,
            verdict(row),
        );
    }
    let apart = found.rows.iter().filter(|row| row.verdict == Verdict::Apart).count();
    let _ = writeln!(
        page,
        "\n{} rows in both, {apart} of them apart; {} in the first alone, {} in the second alone.",
        found.rows.len(),
        found.only_first,
        found.only_second
    );
    if let Some(why) = &found.unpaired {
        let _ = writeln!(page, "Verdicts rest on intervals alone: {why}.");
    }
    page
}

fn number([value, low, high]: [f64; 3]) -> String {
    format!("{value:.4} ({low:.4} to {high:.4})")
}

fn verdict(row: &Difference) -> String {
    let word = match row.verdict {
        Verdict::Apart => "apart",
        Verdict::NotApart => "not apart",
    };
    match row.basis {
        Basis::Paired { ratio, low, high, documents } => {
            format!("{word}, over {documents} documents in pairs: ratio {ratio:.4} ({low:.4} to {high:.4})")
        }
        Basis::Intervals => format!("{word}, by intervals"),
    }
}

/// A report by the name of its run folder.
fn named(run: &Path) -> Result<(String, Results), Failure> {
    let file = if run.is_dir() { run.join("report.json") } else { run.to_owned() };
    let folder = file.parent().unwrap_or(Path::new("."));
    let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let name = folder.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned());
    let report = Results::load(&file).map_err(|error| Failure::data(error.to_string()))?;
    Ok((name, report))
}
