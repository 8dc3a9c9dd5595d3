//! The command line: one file a subcommand.

mod bench;
mod doctor;
mod eval;
mod export;
mod fetch;
mod generate;
mod inspect;
mod kernels;
mod options;
mod output;
mod plan;
pub use output::print;
mod recipes;
mod report;
mod run;
mod score;
mod search;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Failure;

/// Long context for LLaMA-family models: change how positions are encoded, train on longer text, measure what came of it.
#[derive(Debug, Parser)]
#[command(name = "bowline", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the exit codes mean.
const AFTER_HELP: &str = "MODEL is a folder, a Hub id that is in the cache (see `bowline fetch`), or `bundled`.\n\
Exit codes: 0 ok, 1 a threshold did not hold, 2 usage or configuration, 3 bad data, 4 out of memory, \
5 interrupted with a checkpoint saved.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what this machine can do: libtorch, CPU, CUDA, attention backends
    Doctor(doctor::Doctor),
    /// Show how a model encodes positions, and what that means at a context
    Inspect(inspect::Inspect),
    /// Per-token negative log-likelihood of a text, in one causal pass
    Score(score::Score),
    /// Continue a prompt
    Generate(generate::Generate),
    /// Bring a model from the Hub into the local cache
    Fetch(fetch::Fetch),
    /// Write a run or checkpoint as a model folder that other tools load
    Export(export::Export),
    /// Measure a model against context length
    Eval(eval::Eval),
    /// Find position parameters by measuring: LongRoPE's divisors
    Search(search::Search),
    /// Say what a recipe takes before it is run: memory, speed, hours, what to change
    Plan(plan::PlanCommand),
    /// List the training recipes that are built in
    Recipes(recipes::Recipes),
    /// Train a recipe
    Train(train::Train),
    /// Run a study: variants, evaluation, report
    Run(run::Run),
    /// Run a study of methods by factors, named in its table `matrix`; as `run` in all else
    Sweep(run::Run),
    /// Draw figures and the HTML page of one or several runs again
    Report(report::Report),
    /// Measure speed
    Bench(bench::Bench),
    /// Compile the CUDA kernels and judge them; needs no device
    Kernels(kernels::Kernels),
}

/// Parses the command line, runs it, and turns a failure into a sentence on standard error and an exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match dispatch(cli.command).and_then(|()| output::lost()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            crate::runtime::say!("bowline: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Doctor(command) => command.run(),
        Command::Inspect(command) => command.run(),
        Command::Score(command) => command.run(),
        Command::Generate(command) => command.run(),
        Command::Fetch(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Search(command) => command.run(),
        Command::Plan(command) => command.run(),
        Command::Recipes(command) => command.run(),
        Command::Train(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Sweep(command) => command.run(),
        Command::Report(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Kernels(command) => command.run(),
    }
}
