//! `bowline plan`: what a recipe will take, before it is run.

use std::path::PathBuf;

use clap::Args;

use super::output::{print, print_json};
use crate::config::{Memory, Policy};
use crate::error::{Failure, FailureKind};
use crate::plan::{Card, Plan, chosen_memory, config_of, planned_on};
use crate::recipes;

/// What the exit codes mean here.
const AFTER_HELP: &str = "\
Exit codes: 0 the run fits the device and every check of text, disk and host memory holds; 1 the plan is printed all the \
same, and it does not fit or a check failed; 2 the recipe is wrong or its model is not known.\n\n\
No weight is read and no GPU is asked. The model's shape is that of its folder or of the Hub's cache, or one that is known by \
name: llama-7b, llama-13b, llama-2-7b, llama-2-13b, smollm2-135m, btlm-3b, each also by its names on the Hub.";

/// Says what a recipe takes: bytes by what they are for, tokens per second, hours, whether it fits, what to change.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct PlanCommand {
    /// Recipe file, or the name of one that is built in
    recipe: String,
    /// Device to plan for: h100-80g, h200-141g, a100-80g, rtx4090-24g, or cpu, which is this machine [default: the recipe's]
    #[arg(long, value_name = "NAME")]
    gpu: Option<String>,
    /// Change one value, again for each further one: `--set stage.0.length=65536`, `--set memory.activations=layers`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Print the table `[memory]` that serves the device best instead, and whether anything fits
    #[arg(long)]
    choose: bool,
    /// Run folder, whose disk is looked at [default: runs/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl PlanCommand {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When the recipe is wrong or its model not known; exit code 1 when it does not fit or a check failed.
    pub fn run(self) -> Result<(), Failure> {
        let mut recipe = recipes::training(&self.recipe, &self.settings)?;
        let config = config_of(&recipe)?;
        let card = Card::named(self.gpu.as_deref().unwrap_or_else(|| planned_on(&recipe)))?;
        if self.choose || recipe.memory.policy == Policy::Auto {
            let Some(memory) = chosen_memory(&recipe, &config, &card) else {
                return Err(Failure::new(
                    FailureKind::Threshold,
                    format!("{}: no policy of memory makes it fit {}", recipe.name, card.name),
                ));
            };
            recipe.memory = memory;
        }
        if self.choose {
            print(&table(&recipe.memory)?);
            return Ok(());
        }
        let out = self.out.unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
        let plan = Plan::new(&recipe, &config, card, &out);
        match self.json {
            true => print_json(&plan)?,
            false => print(&plan.page()),
        }
        match plan.verdict() {
            None => Ok(()),
            Some(why) => Err(Failure::new(FailureKind::Threshold, format!("{}: {why}", plan.recipe))),
        }
    }
}

/// The table as a recipe writes it.
fn table(memory: &Memory) -> Result<String, Failure> {
    let text = toml::to_string(memory).map_err(|error| Failure::config(error.to_string()))?;
    Ok(format!("[memory]\n{text}"))
}
