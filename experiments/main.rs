//! The `bowline` program: parse, run, print one sentence on failure, exit with its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    bowline::cli::main()
}
