//! `cargo xtask demo`: the proof on the bundled model, from nothing to a report.

use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::libtorch;
use crate::workspace::Workspace;

/// Sets up, builds, and becomes `bowline run demo` with `arguments` passed on.
///
/// The program replaces this one, so that its exit code and the signals it receives are its own. It runs in the root of
/// the checkout: its results lie in `runs/demo` wherever the command was given.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    libtorch::set_up(workspace)?;
    let program = workspace.build()?;
    let mut demo = workspace.program(&program);
    Err(demo.args(["run", "demo"]).args(arguments).exec())
        .with_context(|| format!("{} does not run", program.display()))
}
