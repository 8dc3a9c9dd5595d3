//! `bowline report`: figures and page again, from results alone.

use std::path::{Path, PathBuf};

use clap::Args;
use eval::report::Report as Results;

use super::output::print;
use crate::error::Failure;

/// Draws the figures and the page of one run, or of several laid over one another.
#[derive(Debug, Args)]
pub struct Report {
    /// Run folders or report.json files; several are laid over one another
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Folder to write to [default: the run folder; for several runs, `report`]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

impl Report {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When a result file is missing or damaged, or a figure cannot be drawn.
    pub fn run(self) -> Result<(), Failure> {
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

/// A report by the name of its run folder.
fn named(run: &Path) -> Result<(String, Results), Failure> {
    let file = if run.is_dir() { run.join("report.json") } else { run.to_owned() };
    let folder = file.parent().unwrap_or(Path::new("."));
    let folder = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let name = folder.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned());
    let report = Results::load(&file).map_err(|error| Failure::data(error.to_string()))?;
    Ok((name, report))
}
