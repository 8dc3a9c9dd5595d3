//! `bowline train`: run a recipe.

use std::path::PathBuf;

use clap::Args;

use super::output::print;
use crate::error::Failure;
use crate::recipes;
use crate::runtime::signals::StopFlag;
use crate::train::{Resume, RunOptions, train};

/// Trains every parameter by a recipe.
#[derive(Debug, Args)]
pub struct Train {
    /// Recipe file, or the name of one that is built in
    recipe: String,
    /// Change one value: `--set optimizer.learning_rate=1e-4`, `--set stage.0.steps=10`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Where to go on: auto (newest complete checkpoint of the run folder), never, or a checkpoint folder
    #[arg(long, default_value = "auto")]
    resume: String,
    /// Run folder [default: runs/NAME]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Device: cpu, cuda or cuda:N [default: cuda:0 when there is one]
    #[arg(long)]
    device: Option<String>,
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
        let recipe = recipes::training(&self.recipe, &self.settings)?;
        let resume = match self.resume.as_str() {
            "auto" => Resume::Auto,
            "never" => Resume::Never,
            path => Resume::From(PathBuf::from(path)),
        };
        let out = self.out.unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
        let options = RunOptions { out, resume, device: self.device, dry_run: self.dry_run };
        let stop = StopFlag::on_signals()?;
        let done = train(recipe, &options, &stop)?;
        print(&format!("{}\n", done.display()));
        Ok(())
    }
}
