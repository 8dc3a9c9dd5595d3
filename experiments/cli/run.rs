//! `bowline run`: a study from variants to report.

use std::path::PathBuf;

use clap::Args;

use super::output::print;
use crate::error::Failure;
use crate::recipes;
use crate::runtime::signals::StopFlag;
use crate::study::{StudyOptions, run_study};

/// Trains and evaluates the variants of a study and writes its report.
#[derive(Debug, Args)]
pub struct Run {
    /// Study file, or the name of one that is built in, such as `demo`
    study: String,
    /// Change one value: `--set evaluation.trials=20`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Run folder [default: runs/NAME]
    #[arg(long)]
    out: Option<PathBuf>,
    /// A few steps and trials, to see that all of it works
    #[arg(long)]
    short: bool,
    /// Device: cpu, cuda or cuda:N [default: cuda:0 when there is one]
    #[arg(long)]
    device: Option<String>,
}

impl Run {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// As training, evaluation or report say; exit code 1 when an expectation of the study does not hold.
    pub fn run(self) -> Result<(), Failure> {
        let study = recipes::study(&self.study, &self.settings, self.short)?;
        let name = if self.short { format!("{}-short", study.name) } else { study.name.clone() };
        let out = self.out.unwrap_or_else(|| PathBuf::from("runs").join(name));
        let stop = StopFlag::on_signals()?;
        let summary = run_study(&study, &StudyOptions { out, device: self.device }, &stop)?;
        print(&summary);
        Ok(())
    }
}
