//! The project's own commands: `cargo xtask setup`, `test`, `demo`, `golden`, `bench` and `gpu-bundle`.
//!
//! Plain Rust with two small dependencies, so that it compiles in seconds on a machine that has nothing else yet.
//! It links no libtorch: fetching that is its first task.

mod bench;
mod bundle;
mod checks;
mod demo;
mod golden;
mod libtorch;
mod python;
mod stop;
mod workspace;

use std::process::ExitCode;

use stop::Stop;
use workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask <command>

  setup            find or fetch libtorch and link it into .libtorch; nothing to do the second time
  test             setup, then format, lints, docs, every test and a short pass of the demo
  demo [ARGS..]    setup, build, then `bowline run demo ARGS..`
  golden [ARGS..]  remake the golden data, or compare it with --check (needs Python packages)
  bench [ARGS..]   setup, then every benchmark, in the profile that everything else uses
  gpu-bundle [DIR] setup, then a folder that tests and measures the kernels on a machine with a GPU and no Rust
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(error.downcast_ref::<Stop>().map_or(1, |stop| stop.code))
        }
    }
}

/// Runs the command that `arguments` name.
fn run(arguments: &[String]) -> anyhow::Result<()> {
    let Some((command, rest)) = arguments.split_first() else {
        return Err(Stop::new(format!("no command given\n\n{USAGE}")).into());
    };
    let workspace = Workspace::find();
    match (command.as_str(), rest) {
        ("help" | "--help" | "-h", _) => {
            print!("{USAGE}");
            Ok(())
        }
        ("setup", []) => libtorch::set_up(&workspace),
        ("test", []) => checks::run(&workspace),
        ("demo", _) => demo::run(&workspace, rest),
        ("golden", _) => golden::run(&workspace, rest),
        ("bench", _) => bench::run(&workspace, rest),
        ("gpu-bundle", _) => bundle::run(&workspace, rest),
        ("setup" | "test", [extra, ..]) => stop::stop!("`cargo xtask {command}` takes no argument, got `{extra}`"),
        _ => Err(Stop::new(format!("unknown command `{command}`\n\n{USAGE}")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(arguments: &[&str]) -> (u8, String) {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let error = run(&arguments).unwrap_err();
        (error.downcast_ref::<Stop>().unwrap().code, error.to_string())
    }

    #[test]
    fn an_unknown_command_is_named_and_ends_with_two() {
        let (code, message) = refusal(&["tset"]);
        assert_eq!(code, stop::USAGE);
        assert!(message.contains("`tset`") && message.contains("usage:"), "{message}");
    }

    #[test]
    fn a_command_without_arguments_refuses_one() {
        let (code, message) = refusal(&["setup", "--fast"]);
        assert_eq!(code, stop::USAGE);
        assert!(message.contains("`--fast`"), "{message}");
    }

    #[test]
    fn no_command_prints_the_usage() {
        assert!(refusal(&[]).1.contains("cargo xtask <command>"));
    }
}
