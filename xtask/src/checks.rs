//! `cargo xtask test`: everything that a change must pass, the cheapest first.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::libtorch;
use crate::stop::stop;
use crate::workspace::{Workspace, run_through, say, seconds};

/// The checks that are one call of cargo each: title, arguments.
///
/// All of them build in the same profile, and no variable that is part of cargo's fingerprints differs between them and
/// a user's own `cargo build`: libtorch's bindings are compiled once. `RUSTDOCFLAGS` concerns the docs alone.
const CARGO_STEPS: [(&str, &[&str]); 4] = [
    ("format", &["fmt", "--all", "--check"]),
    ("lints", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ("docs", &["doc", "--workspace", "--no-deps", "--document-private-items"]),
    ("tests and doctests", &["test", "--workspace"]),
];

/// Runs every check; stops at the first that fails, with its exit code.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    for (component, command) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        need_component(workspace, component, command)?;
    }
    let mut log = Log::default();
    log.step("set-up", || libtorch::set_up(workspace))?;
    workspace.announce_first_build();
    for (title, arguments) in CARGO_STEPS {
        log.step(title, || run_through(title, &mut cargo_step(workspace, arguments)))?;
    }
    let program = log.step("application", || workspace.build())?;
    log.step("CUDA kernels", || run_through("CUDA kernels", workspace.program(&program).args(["kernels", "check"])))?;
    log.step("short demo", || run_through("short demo", workspace.program(&program).args(["run", "demo", "--short"])))?;
    log.summary("every check passed");
    Ok(())
}

/// Cargo with `arguments`, warnings denied in the docs.
fn cargo_step(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut cargo = workspace.cargo();
    cargo.args(arguments);
    if arguments.first() == Some(&"doc") {
        cargo.env("RUSTDOCFLAGS", "-D warnings");
    }
    cargo
}

/// Refuses to start when a part of the toolchain is absent, before minutes are spent.
fn need_component(workspace: &Workspace, component: &str, command: &str) -> Result<()> {
    let found = workspace.cargo().args([command, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|it| it.success()) {
        stop!("`cargo {command}` does not run: add it with `rustup component add {component}`");
    }
    Ok(())
}

/// What has been run so far, and how long it took.
#[derive(Default)]
struct Log {
    rows: Vec<(String, Duration, bool)>,
}

impl Log {
    /// Runs one step between two lines that name it; a failure prints the summary first.
    fn step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        say(format!("== {title}"));
        let start = Instant::now();
        let outcome = work();
        self.rows.push((title.to_owned(), start.elapsed(), outcome.is_ok()));
        match &outcome {
            Ok(_) => say(format!("== {title}: {}", seconds(start.elapsed()))),
            Err(_) => self.summary("stopped at the first failure"),
        }
        outcome
    }

    /// One line for each step, then `verdict` with the total.
    fn summary(&self, verdict: &str) {
        for line in self.lines() {
            say(line);
        }
        say(format!("{verdict}: {}", seconds(self.rows.iter().map(|row| row.1).sum())));
    }

    fn lines(&self) -> Vec<String> {
        let word = |passed: bool| if passed { "ok" } else { "FAILED" };
        let line =
            |(title, took, passed): &(String, _, _)| format!("{title:<20} {:>14}  {}", seconds(*took), word(*passed));
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stop::Stop;

    #[test]
    fn a_failing_step_is_marked_and_its_error_handed_on() {
        let mut log = Log::default();
        log.step("good", || Ok(())).unwrap();
        let error = log.step::<()>("bad", || Err(Stop::with_code(101, "no").into())).unwrap_err();
        assert_eq!(error.downcast_ref::<Stop>().unwrap().code, 101);
        let lines = log.lines();
        assert!(lines[0].starts_with("good") && lines[0].ends_with("ok"), "{lines:?}");
        assert!(lines[1].starts_with("bad") && lines[1].ends_with("FAILED"), "{lines:?}");
    }

    #[test]
    fn no_step_leaves_the_profile_that_everything_shares() {
        for (title, arguments) in CARGO_STEPS {
            assert!(!arguments.iter().any(|it| it.contains("release") || it.contains("profile")), "{title}");
        }
    }

    #[test]
    fn docs_are_the_only_step_with_flags_of_its_own() {
        let workspace = Workspace::find();
        for (title, arguments) in CARGO_STEPS {
            let step = cargo_step(&workspace, arguments);
            let flags: Vec<_> = step.get_envs().filter(|(_, value)| value.is_some()).map(|it| it.0).collect();
            let expected = if title == "docs" { vec!["RUSTDOCFLAGS"] } else { vec![] };
            let flags: Vec<_> = flags.into_iter().filter(|it| *it != "CARGO_TARGET_DIR").collect();
            assert_eq!(flags, expected, "{title}");
        }
    }
}
