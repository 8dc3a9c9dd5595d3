//! Where the checkout is, and how its cargo is called.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::stop::{Stop, stop};

/// The checkout that this program was called for.
pub(crate) struct Workspace {
    root: PathBuf,
    cargo: OsString,
}

impl Workspace {
    /// The checkout that holds this program's source. Cargo names it at run time; without cargo it is the one that the
    /// program was compiled in.
    pub(crate) fn find() -> Self {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let package = PathBuf::from(package);
        let root = package.parent().map_or_else(|| package.clone(), Path::to_path_buf);
        Self { root, cargo: std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()) }
    }

    /// The folder of the root `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that set-up fills and that `.cargo/config.toml` points the bindings to.
    pub(crate) fn libtorch(&self) -> PathBuf {
        self.root.join(".libtorch")
    }

    /// Cargo, in the root of the checkout, with the same target folder as this program's own build.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = self.program(Path::new(&self.cargo));
        // Cargo reads a relative target folder from where it is called, which may not be the root.
        if let Some(target) = std::env::var_os("CARGO_TARGET_DIR")
            && let Ok(target) = std::path::absolute(target)
        {
            cargo.env("CARGO_TARGET_DIR", target);
        }
        cargo
    }

    /// A program, in the root of the checkout, as a user's own shell would call it: without the variables that cargo
    /// gave this one.
    pub(crate) fn program(&self, path: &Path) -> Command {
        let mut program = Command::new(path);
        program.current_dir(&self.root);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_cargos_own) {
                program.env_remove(&name);
            }
        }
        program
    }

    /// `cargo metadata` without dependencies, as JSON.
    pub(crate) fn metadata(&self) -> Result<Value> {
        let output = self
            .cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .stderr(Stdio::inherit())
            .output()
            .context("cargo does not run")?;
        if !output.status.success() {
            stop!("cargo cannot read the workspace in {}", self.root.display());
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")
    }

    /// Builds the application as plain `cargo build` does, cargo's progress shown, and returns the program.
    pub(crate) fn build(&self) -> Result<PathBuf> {
        self.build_with(&["build"], "bowline")
    }

    /// Calls cargo with `arguments`, which build, and returns the program `name` that came of it.
    pub(crate) fn build_with(&self, arguments: &[&str], name: &str) -> Result<PathBuf> {
        self.announce_first_build();
        let output = self
            .cargo()
            .args(arguments)
            .args(["--message-format", "json-render-diagnostics"])
            .stderr(Stdio::inherit())
            .output()
            .context("cargo does not run")?;
        if !output.status.success() {
            return Err(Stop::with_code(exit_code(output.status), "the build failed").into());
        }
        built_program(&String::from_utf8_lossy(&output.stdout), name)
            .with_context(|| format!("cargo built no program named {name}"))
    }

    /// Says what the long silence will be, if libtorch's bindings have not been compiled here before.
    pub(crate) fn announce_first_build(&self) {
        let target = self.metadata().ok().and_then(|it| it["target_directory"].as_str().map(PathBuf::from));
        let builds = target.and_then(|it| std::fs::read_dir(it.join("debug/build")).ok());
        let known = builds.is_some_and(|mut it| {
            it.any(|entry| entry.is_ok_and(|it| it.file_name().to_string_lossy().starts_with("torch-sys-")))
        });
        if !known {
            say("first build here: libtorch's bindings (torch-sys) alone take about 5 minutes on 2 cores");
        }
    }
}

/// Whether cargo sets this variable for the programs that it runs, on top of what its caller has.
fn is_cargos_own(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || matches!(name, "CARGO_MANIFEST_DIR" | "CARGO_MANIFEST_PATH" | "CARGO_PRIMARY_PACKAGE" | "LIBTORCH")
}

/// The path of the program `name` among cargo's messages.
fn built_program(messages: &str, name: &str) -> Option<PathBuf> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|message| {
        let ours = message["reason"] == "compiler-artifact" && message["target"]["name"] == name;
        message["executable"].as_str().filter(|_| ours).map(PathBuf::from)
    })
}

/// The exit code to hand on for `status`: 1 for a process that a signal ended.
pub(crate) fn exit_code(status: std::process::ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Runs `command` to its end with its output shown.
///
/// # Errors
///
/// A [`Stop`] with the command's own exit code, or one that says that `what` does not run at all.
pub(crate) fn run_through(what: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    let status = match command.status() {
        Ok(status) => status,
        Err(error) => stop!("{what} does not run: {error}"),
    };
    if status.success() {
        return Ok(());
    }
    let took = seconds(start.elapsed());
    Err(Stop::with_code(exit_code(status), format!("{what} failed after {took} ({status})")).into())
}

/// One line to the reader. It goes to standard error, as cargo's own lines do.
pub(crate) fn say(line: impl AsRef<str>) {
    eprintln!("xtask: {}", line.as_ref());
}

/// A duration for a reader: `7.3 s`, `12 min 05 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"name":"bowline","kind":["lib"]},"executable":null}
{"reason":"compiler-artifact","target":{"name":"other"},"executable":"/t/other"}
not json
{"reason":"compiler-artifact","target":{"name":"bowline","kind":["bin"]},"executable":"/a b/debug/bowline"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(built_program(messages, "bowline"), Some(PathBuf::from("/a b/debug/bowline")));
        assert_eq!(built_program(messages, "absent"), None);
    }

    #[test]
    fn only_what_cargo_added_is_taken_from_the_environment() {
        assert!(is_cargos_own("CARGO_PKG_NAME") && is_cargos_own("CARGO_MANIFEST_DIR"));
        for kept in ["CARGO_TARGET_DIR", "CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_TERM_COLOR", "CXX", "PATH"] {
            assert!(!is_cargos_own(kept), "{kept}");
        }
    }

    #[test]
    fn a_failing_command_hands_its_exit_code_on() {
        let error = run_through("it", Command::new("sh").args(["-c", "exit 7"])).unwrap_err();
        assert_eq!(error.downcast_ref::<Stop>().unwrap().code, 7);
        let absent = run_through("nothing", &mut Command::new("/no/such/program")).unwrap_err();
        assert_eq!(absent.downcast_ref::<Stop>().unwrap().code, crate::stop::USAGE);
    }

    #[test]
    fn durations_read_as_a_person_says_them() {
        assert_eq!(seconds(Duration::from_millis(7345)), "7.3 s");
        assert_eq!(seconds(Duration::from_secs(725)), "12 min 05 s");
    }
}
