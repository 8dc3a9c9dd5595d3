//! Libtorch from the wheels of PyPI: fetched by pip, the C++ part unpacked, the wheels dropped.
//!
//! Each step works under a temporary name and is renamed when it is whole, so that a set-up killed at any point goes on
//! where it stood: a wheel that is there is whole, and so is the unpacked folder.

use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::source::{Install, Kind, examine};
use super::{VERSION, remove_folder};
use crate::python::Python;
use crate::stop::stop;
use crate::workspace::say;

/// Holds whole wheels until they are unpacked.
pub(crate) const WHEELS: &str = "wheels";
/// Holds whatever is half-written, in a folder for each process: the pip of a set-up that was killed may still be at work.
pub(crate) const SCRATCH: &str = "scratch";
/// Holds the unpacked wheels.
const UNPACKED: &str = "pypi";

/// What is fetched: the start of the wheel's name, what pip is asked for, its size in MB. Libtorch's CPU part needs the
/// two CUDA libraries to start, on machines without a GPU, too.
const PACKAGES: [(&str, &str, u64); 3] = [
    ("nvidia_cuda_runtime-13.0.", "nvidia-cuda-runtime==13.0.*", 3),
    ("nvidia_cuda_cupti-13.0.", "nvidia-cuda-cupti==13.0.*", 11),
    ("torch-2.11.0-", "torch==2.11.0", 531),
];

/// Free space (MB) that unpacking takes at its peak, beside the wheels.
const UNPACKED_MB: u64 = 600;
/// Free space (MB) for one copy of the wheels in pip's hands and one in ours.
const WHEELS_MB: u64 = 1200;

const UNPACK: &str = include_str!("../python/unpack.py");

/// The libtorch of PyPI in `home`, doing only the steps that are still to do.
pub(crate) fn install(home: &Path, pythons: &[Python]) -> Result<Install> {
    let unpacked = home.join(UNPACKED);
    if let Ok(install) = whole(&unpacked) {
        return Ok(install);
    }
    remove_folder(&home.join(SCRATCH))?;
    let to_fetch: Vec<_> = PACKAGES.into_iter().filter(|(prefix, ..)| wheel(home, prefix).is_none()).collect();
    need_space(home, UNPACKED_MB + if to_fetch.is_empty() { 0 } else { WHEELS_MB })?;
    let python = with_pip(pythons)?;
    for (prefix, requirement, megabytes) in to_fetch {
        fetch(home, python, prefix, requirement, megabytes)?;
    }
    unpack(home, python)?;
    whole(&unpacked)
}

/// The unpacked libtorch, examined.
fn whole(unpacked: &Path) -> Result<Install> {
    let folder = unpacked.join("torch");
    match examine(&folder) {
        Ok(version) => Ok(Install { kind: Kind::Pypi, folder, version }),
        Err(fault) => stop!("the libtorch unpacked in {} does not serve: {fault}", folder.display()),
    }
}

/// The first Python that can fetch.
pub(super) fn with_pip(pythons: &[Python]) -> Result<&Python> {
    match pythons.iter().find(|it| it.has_pip()) {
        Some(python) => Ok(python),
        None => stop!("{}", no_pip(pythons)),
    }
}

fn no_pip(pythons: &[Python]) -> String {
    let names: Vec<String> = pythons.iter().map(Python::name).collect();
    let found =
        if names.is_empty() { "no Python 3.8 or newer".into() } else { format!("no pip in {}", names.join(", ")) };
    format!(
        "libtorch {VERSION} is to be fetched with pip, but there is {found}: install it (on Debian `apt install \
         python3-pip`), or set LIBTORCH to a folder with libtorch {VERSION}"
    )
}

/// This process's own folder for what is half-written.
fn scratch(home: &Path) -> PathBuf {
    home.join(SCRATCH).join(std::process::id().to_string())
}

/// The wheel in `home` whose name starts with `prefix`.
pub(super) fn wheel(home: &Path, prefix: &str) -> Option<PathBuf> {
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(prefix) && name.ends_with(".whl")
    };
    fs::read_dir(home.join(WHEELS)).ok()?.filter_map(|entry| Some(entry.ok()?.path())).find(named)
}

/// Fetches one wheel with pip.
pub(super) fn fetch(home: &Path, python: &Python, prefix: &str, requirement: &str, megabytes: u64) -> Result<()> {
    let scratch = scratch(home);
    let fetched = scratch.join("fetched");
    fs::create_dir_all(&fetched)?;
    fs::create_dir_all(home.join(WHEELS))?;
    say(format!("fetching {requirement} ({megabytes} MB)"));
    let mut pip = python.command();
    pip.args(["-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--dest"]).arg(&fetched);
    // Only the C++ part is used: the wheel of any one Python serves all, and a Python too new or too old is no matter.
    pip.args(["--only-binary=:all:", "--implementation=cp", "--python-version=3.11", requirement]);
    // Pip's own temporary files may fill a small /tmp, and would stay there if it were killed.
    pip.env("TMPDIR", &scratch).stdin(Stdio::null()).stderr(Stdio::piped());
    let shown = std::io::stdout().is_terminal();
    pip.stdout(if shown { Stdio::inherit() } else { Stdio::null() });
    let child = pip.spawn().context("pip does not run")?;
    let output = if shown { child.wait_with_output()? } else { watched(child, &scratch, megabytes)? };
    if !output.status.success() {
        stop!("{}", pip_fault(requirement, &String::from_utf8_lossy(&output.stderr)));
    }
    let whole = fs::read_dir(&fetched)?
        .filter_map(|it| it.ok())
        .find(|it| it.file_name().to_string_lossy().starts_with(prefix));
    let Some(whole) = whole else { stop!("pip fetched {requirement} under another name than {prefix}*.whl") };
    fs::rename(whole.path(), home.join(WHEELS).join(whole.file_name()))?;
    remove_folder(&scratch)
}

/// Waits for `child`, telling now and then how much has arrived: pip shows no bar where nobody watches.
fn watched(child: Child, scratch: &Path, megabytes: u64) -> Result<Output> {
    let (done, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while wait.recv_timeout(Duration::from_secs(10)) == Err(RecvTimeoutError::Timeout) {
                say(format!("  {} of {megabytes} MB", (folder_bytes(scratch) / 1_000_000).min(megabytes)));
            }
        });
        let output = child.wait_with_output();
        drop(done);
        output.context("pip was lost")
    })
}

/// The bytes of all files below `folder`; what vanishes meanwhile counts nothing.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(it) if it.is_dir() => folder_bytes(&entry.path()),
        Ok(it) => it.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// One sentence for pip's complaints.
fn pip_fault(requirement: &str, complaints: &str) -> String {
    let any = |marks: &[&str]| marks.iter().any(|mark| complaints.contains(mark));
    let error = complaints.lines().rev().find(|line| line.starts_with("ERROR")).or(complaints.lines().last());
    let error = error.unwrap_or("no reason given").trim_start_matches("ERROR:").trim();
    if any(&["No space left", "Disk quota exceeded"]) {
        return format!("the disk is full: {requirement} could not be fetched");
    }
    if any(&["Connection", "connection", "resolve", "timed out", "Max retries", "ProxyError", "SSLError"]) {
        return format!(
            "no connection to PyPI: pip could not fetch {requirement}; run the command again with a network (what has \
             arrived is kept), or set LIBTORCH to a folder with libtorch {VERSION}"
        );
    }
    format!("pip could not fetch {requirement}: {error}")
}

/// Unpacks the C++ part of every wheel.
fn unpack(home: &Path, python: &Python) -> Result<()> {
    let wheels: Vec<PathBuf> = PACKAGES.iter().filter_map(|(prefix, ..)| wheel(home, prefix)).collect();
    unpack_into(home, python, "libtorch", &wheels, UNPACKED)
}

/// Unpacks what this project uses of `wheels` into the folder `name` of `home`, which is there only when it is whole.
pub(super) fn unpack_into(home: &Path, python: &Python, what: &str, wheels: &[PathBuf], name: &str) -> Result<()> {
    let unfinished = scratch(home).join("unpacked");
    remove_folder(&unfinished)?;
    fs::create_dir_all(&unfinished)?;
    say(format!("unpacking {what}"));
    let output = python.command().args(["-c", UNPACK]).arg(&unfinished).args(wheels).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        remove_folder(&unfinished)?;
        stop!("{}", unpack_fault(what, &complaints, wheels)?);
    }
    let unpacked = home.join(name);
    remove_folder(&unpacked)?;
    fs::rename(&unfinished, &unpacked).with_context(|| format!("cannot put the unpacked {what} in its place"))
}

/// One sentence for a wheel that cannot be unpacked; a damaged one is removed, so that the next run fetches it anew.
fn unpack_fault(what: &str, complaints: &str, wheels: &[PathBuf]) -> Result<String> {
    let reason = complaints.lines().last().unwrap_or("no reason given");
    if complaints.contains("No space left") {
        return Ok(format!("the disk is full: {what} could not be unpacked"));
    }
    let Some(damaged) = reason.strip_prefix("damaged: ") else {
        return Ok(format!("{what} could not be unpacked: {reason}"));
    };
    for wheel in wheels.iter().filter(|it| damaged.starts_with(&*it.to_string_lossy())) {
        fs::remove_file(wheel)?;
    }
    Ok(format!("a wheel is damaged and was removed; run the command again to fetch it anew ({damaged})"))
}

/// Refuses to start what the disk has no room for.
pub(super) fn need_space(folder: &Path, needed_mb: u64) -> Result<()> {
    let output = Command::new("df").args(["-P", "-k"]).arg(folder).env("LC_ALL", "C").output();
    // Without an answer the attempt is worth more than a refusal.
    let Some(free_mb) = output.ok().and_then(|it| free_megabytes(&String::from_utf8_lossy(&it.stdout))) else {
        return Ok(());
    };
    if free_mb < needed_mb {
        stop!("{} has {free_mb} MB of free disk, and set-up takes {needed_mb} MB while it works", folder.display());
    }
    Ok(())
}

/// The free space (MB) in the answer of `df -P -k`.
fn free_megabytes(answer: &str) -> Option<u64> {
    let mut columns = answer.lines().last()?.split_whitespace();
    // A device or mount point may hold spaces; the share in use is the one column that ends in a percent sign.
    let columns: Vec<&str> = columns.by_ref().collect();
    let share = columns.iter().position(|it| it.ends_with('%'))?;
    let kibibytes: u64 = columns.get(share.checked_sub(1)?)?.parse().ok()?;
    Some(kibibytes * 1024 / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, script};
    use super::*;

    /// A pip that notes each call in `calls` and puts down a file of the name that is asked for; `stop_at` fails.
    fn fake_pip(folder: &Folder, stop_at: &str) -> Python {
        let body = format!(
            r#"case "$*" in *--version*) exit 0;; esac
[ "$1" = "-m" ] || {{ mkdir -p "$3/torch" && echo unpack >> "{0}/calls"; exit 0; }}
for last; do :; done
echo "$last" >> "{0}/calls"
[ "$last" = "{stop_at}" ] && {{ echo "ERROR: Max retries exceeded" >&2; exit 1; }}
while [ "$1" != "--dest" ]; do shift; done
case "$last" in torch*) name=torch-2.11.0-cp311.whl;; *runtime*) name=nvidia_cuda_runtime-13.0.9-x.whl;;
*) name=nvidia_cuda_cupti-13.0.8-x.whl;; esac
echo wheel > "$2/$name""#,
            folder.0.display()
        );
        Python::named(script(&folder.0, "python3", &body))
    }

    fn calls(folder: &Folder) -> Vec<String> {
        let text = fs::read_to_string(folder.0.join("calls")).unwrap_or_default();
        let _ = fs::remove_file(folder.0.join("calls"));
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_broken_off_download_goes_on_with_what_is_missing() {
        let folder = Folder::new("resume");
        let home = folder.0.join(".libtorch");
        fs::create_dir_all(&home).unwrap();
        let error = install(&home, &[fake_pip(&folder, "torch==2.11.0")]).unwrap_err().to_string();
        assert!(error.starts_with("no connection to PyPI"), "{error}");
        assert_eq!(calls(&folder), ["nvidia-cuda-runtime==13.0.*", "nvidia-cuda-cupti==13.0.*", "torch==2.11.0"]);
        // Left by a process that was killed: never taken for a wheel.
        fs::create_dir_all(scratch(&home).join("fetched")).unwrap();
        fs::write(scratch(&home).join("fetched/torch-2.11.0-half.whl"), "half").unwrap();
        // The second run ends at the stand-in for unpacking, which makes no libtorch.
        let error = install(&home, &[fake_pip(&folder, "")]).unwrap_err().to_string();
        assert!(error.contains("does not serve"), "{error}");
        assert_eq!(calls(&folder), ["torch==2.11.0", "unpack"]);
    }

    #[test]
    fn without_pip_the_sentence_says_what_to_install() {
        let folder = Folder::new("no pip");
        let bare = Python::named(script(&folder.0, "python3", "exit 1"));
        let message = install(&folder.0, &[bare]).unwrap_err().to_string();
        assert!(message.contains("no pip in") && message.contains("python3-pip"), "{message}");
        let message = install(&folder.0, &[]).unwrap_err().to_string();
        assert!(message.contains("no Python 3.8 or newer"), "{message}");
    }

    #[test]
    fn pips_complaints_become_one_sentence_each() {
        let network = "WARNING: Retrying ... NewConnectionError\nERROR: Could not find a version that satisfies torch\n\
                       ERROR: No matching distribution found for torch==2.11.0";
        assert!(pip_fault("torch", network).starts_with("no connection to PyPI"));
        let disk = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device";
        assert!(pip_fault("torch", disk).starts_with("the disk is full"));
        let other = "ERROR: No matching distribution found for torch==2.11.0\nnote";
        assert_eq!(
            pip_fault("torch==2.11.0", other),
            "pip could not fetch torch==2.11.0: No matching distribution found for torch==2.11.0"
        );
        assert!(pip_fault("torch", "").ends_with("no reason given"));
    }

    #[test]
    fn a_damaged_wheel_is_removed_and_no_other() {
        let folder = Folder::new("damaged");
        let wheels = [folder.0.join("a.whl"), folder.0.join("b.whl")];
        for wheel in &wheels {
            fs::write(wheel, "").unwrap();
        }
        let complaint = format!("damaged: {}: File is not a zip file\n", wheels[1].display());
        let message = unpack_fault("libtorch", &complaint, &wheels).unwrap();
        assert!(message.contains("run the command again"), "{message}");
        assert!(wheels[0].exists() && !wheels[1].exists());
        assert!(
            unpack_fault("libtorch", "x: [Errno 28] No space left on device", &wheels)
                .unwrap()
                .contains("disk is full")
        );
    }

    #[test]
    fn free_space_is_read_in_the_right_unit_and_column() {
        let answer =
            "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda 263174212 19900000 1953125 21% /a b\n";
        assert_eq!(free_megabytes(answer), Some(2000));
        assert_eq!(free_megabytes("//my share 10 5 1953125 50% /mnt\n"), Some(2000));
        assert_eq!(free_megabytes(""), None);
        assert!(need_space(Path::new("/"), u64::MAX).is_err());
    }
}
