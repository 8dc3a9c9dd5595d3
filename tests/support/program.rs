//! The built program as a child process, with an environment of its own and a time limit.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// After this a child is killed and its test fails: nothing here takes a tenth of it on two busy cores.
const LIMIT: Duration = Duration::from_secs(300);

/// How a run of the program ended.
pub(crate) struct Ran {
    /// Exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Ran {
    /// This run, which must have ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {:?}\n-- out --\n{}\n-- err --\n{}\n--", self.code, self.out, self.err)
    }
}

/// `bowline ARGS` in `dir`, not yet started: no network, no cache but an empty one, one thread for each operation, so
/// that tests side by side neither starve nor disturb one another.
pub(crate) fn command(dir: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    let inherited = std::env::vars_os().map(|(name, _)| name);
    let ours = |name: &std::ffi::OsString| {
        let name = name.to_string_lossy();
        name.starts_with("HF_") || name.starts_with("BOWLINE_")
    };
    for name in inherited.filter(ours) {
        command.env_remove(name);
    }
    command.env("HF_HOME", dir.join("no-hub")).env("HF_HUB_OFFLINE", "1").env("OMP_NUM_THREADS", "1");
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command
}

/// Runs `bowline ARGS` in `dir`.
pub(crate) fn bowline(dir: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
    Running::start(command(dir, args)).finished()
}

/// A child and the files that its two streams go to. Dropped while it runs, it is killed.
pub(crate) struct Running {
    child: Child,
    out: File,
    err: File,
}

impl Running {
    /// Starts a command.
    pub(crate) fn start(mut command: Command) -> Self {
        let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        Self { child: command.spawn().unwrap(), out, err }
    }

    /// Starts a command whose standard output goes elsewhere.
    pub(crate) fn start_into(mut command: Command, out: impl Into<Stdio>) -> Self {
        let err = tempfile::tempfile().unwrap();
        command.stdout(out).stderr(err.try_clone().unwrap());
        Self { child: command.spawn().unwrap(), out: tempfile::tempfile().unwrap(), err }
    }

    /// Sends a signal by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "the process was gone before {name} came");
    }

    /// Waits until `path` holds at least `lines` lines.
    pub(crate) fn until_lines(&mut self, path: &Path, lines: usize) {
        let count = || std::fs::read_to_string(path).map_or(0, |text| text.lines().count());
        let started = Instant::now();
        while count() < lines {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "ended before {} had {lines} lines: {}", path.display(), text(&mut self.err));
            assert!(started.elapsed() < LIMIT, "{} never had {lines} lines", path.display());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for the end.
    pub(crate) fn finished(mut self) -> Ran {
        let status = self.ended();
        let streams = (text(&mut self.out), text(&mut self.err));
        let ran = Ran { code: status.and_then(|status| status.code()), out: streams.0, err: streams.1 };
        assert!(status.is_some(), "still running after {LIMIT:?}: {ran}");
        ran
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return Some(status),
                None if started.elapsed() > LIMIT => return None,
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
