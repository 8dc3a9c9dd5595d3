//! `bowline run`: a study from variants to report.

use std::path::PathBuf;

use clap::Args;

use super::output::print;
use crate::error::Failure;
use crate::recipes;
use crate::runtime::signals::StopFlag;
use crate::study::{StudyOptions, run_study};

/// How a study goes on.
const AFTER_HELP: &str = "\
Going on: there is no --resume; a study always goes on where it stopped. A variant whose result is in the run folder and was \
made by the same study, base and documents is kept, one whose training was stopped goes on from its newest sound checkpoint, \
and one whose recipe changed is trained anew, its old checkpoints moved to checkpoints-before-N. Give another folder with \
--out to start over.\n\n\
Stopping: SIGTERM, SIGINT (Ctrl-C), SIGUSR1 or a closed terminal save a checkpoint if a variant is being trained and exit with \
code 5; what is being evaluated is evaluated anew. The same signal once more within a second changes nothing; a later one \
exits at once.";

/// Trains and evaluates the variants of a study and writes its report.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP, after_help = "`bowline run --help` says how a study stops and goes on.")]
pub struct Run {
    /// Study file, or the name of one that is built in, such as `demo`
    study: String,
    /// Change one value, again for each further one: `--set evaluation.trials=20`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Run folder: variants, training runs, report [default: runs/NAME, with --short runs/NAME-short]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A few steps and trials, to see that all of it works
    #[arg(long)]
    short: bool,
    /// Device: cpu, cuda or cuda:N [default: cuda:0 when there is one]
    #[arg(long)]
    device: Option<String>,
    /// Untrained variants measured at a time [default: as many as cores and memory allow on a CPU, 1 on a GPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Attention backend, as the study's backend: auto, or a name that `bowline doctor` lists
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
}

impl Run {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// As training, evaluation or report say; exit code 1 when an expectation of the study does not hold.
    pub fn run(self) -> Result<(), Failure> {
        let mut study = recipes::study(&self.study, &self.settings, self.short)?;
        if let Some(backend) = self.backend {
            study.backend = backend;
        }
        let name = if self.short { format!("{}-short", study.name) } else { study.name.clone() };
        let out = self.out.unwrap_or_else(|| PathBuf::from("runs").join(name));
        let stop = StopFlag::on_signals()?;
        let summary =
            run_study(&study, &StudyOptions { out, device: self.device, jobs: self.jobs.map(usize::from) }, &stop)?;
        print(&summary);
        Ok(())
    }
}
