//! `bowline train`: run a recipe.

use std::path::PathBuf;

use clap::Args;

use super::output::print;
use crate::error::Failure;
use crate::recipes;
use crate::runtime::signals::StopFlag;
use crate::train::{Resume, RunOptions, train};

/// What stops a run, and how it goes on.
const AFTER_HELP: &str = "\
Going on: `--resume auto` takes the newest checkpoint of the run folder whose every file has its recorded hash, passes over \
damaged ones with a warning, and starts at step 0 where there is none. `--resume never` starts at step 0. `--resume PATH` \
takes that checkpoint, such as runs/NAME/checkpoints/step-100; if it is damaged, that is an error (exit code 3). \
Checkpoints that a run does not go on from are moved to checkpoints-before-N, never deleted. On a CPU with the same \
number of threads, a run that was stopped and went on ends with the same bits as one that was not.\n\n\
A changed recipe: a checkpoint fits the recipe that it was made by, else every key that differs is listed with both values \
(exit code 2). Free to change are name, description, held_out and checkpoint.*; and steps may be added to the last stage, \
or stages behind it, where the learning rate does not come down to the last step (optimizer.schedule = \"constant\", or \
optimizer.schedule_steps given).\n\n\
Stopping: SIGTERM, SIGINT (Ctrl-C), SIGUSR1 or a closed terminal let the step in hand end, save a checkpoint and exit with \
code 5. The same signal once more within a second changes nothing; a later one exits at once, and the checkpoints saved \
before stay whole.";

/// Trains every parameter of a model, or adapters, by a recipe.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP, after_help = "`bowline train --help` says how a run stops and goes on.")]
pub struct Train {
    /// Recipe file, or the name of one that is built in
    recipe: String,
    /// Change one value, again for each further one: `--set optimizer.learning_rate=1e-4`, `--set stage.0.steps=10`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Where to go on: auto (newest sound checkpoint of the run folder), never, or a checkpoint folder
    #[arg(long, default_value = "auto", value_name = "auto|never|PATH")]
    resume: String,
    /// Go on although this key of the recipe (or all below it, such as `optimizer`) differs from the checkpoint's, again
    /// for each further one; `data` for the text
    #[arg(long = "allow-change", value_name = "KEY")]
    allow_changes: Vec<String>,
    /// Run folder: checkpoints, metrics, log, report [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Device: cpu, cuda or cuda:N [default: cuda:0 when there is one]
    #[arg(long)]
    device: Option<String>,
    /// Attention backend, as the recipe's model.backend: auto, or a name that `bowline doctor` lists
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Read the recipe, the data and the model, print what would be done, and stop
    #[arg(long)]
    dry_run: bool,
}

impl Train {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// As the recipe, data, model or training say; exit code 5 when a signal stopped it.
    pub fn run(self) -> Result<(), Failure> {
        let mut recipe = recipes::training(&self.recipe, &self.settings)?;
        if let Some(backend) = self.backend {
            recipe.model.backend = backend;
        }
        let resume = match self.resume.as_str() {
            "auto" => Resume::Auto,
            "never" => Resume::Never,
            path => Resume::From(PathBuf::from(path)),
        };
        let out = self.out.unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
        let options =
            RunOptions { out, resume, allow_changes: self.allow_changes, device: self.device, dry_run: self.dry_run };
        let stop = StopFlag::on_signals()?;
        let done = train(recipe, &options, &stop)?;
        print(&format!("{}\n", done.display()));
        Ok(())
    }
}
