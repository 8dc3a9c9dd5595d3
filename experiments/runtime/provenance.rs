//! What produced a result: versions, commit, device, seeds, hashes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use eval::report::Provenance;
use tch::{Device, Kind};

use super::device::{device_name, kind_name};

/// Collects what a run must say about itself.
#[derive(Debug)]
pub struct Recorder {
    started_at: String,
    started: Instant,
    /// As the run began: a tree that changes while it runs is not what computed it.
    commit: (Option<String>, Option<bool>),
    /// Attention backend, as [`Llama::backend_record`](crate::model::Llama::backend_record) names it.
    pub backend: Option<String>,
    /// Seeds by name.
    pub seeds: BTreeMap<String, u64>,
    /// Hashes by input.
    pub hashes: BTreeMap<String, String>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// Starts the clock.
    pub fn new() -> Self {
        Self {
            started_at: now_utc(),
            started: Instant::now(),
            commit: commit(),
            backend: None,
            seeds: BTreeMap::new(),
            hashes: BTreeMap::new(),
        }
    }

    /// The finished record.
    pub fn provenance(&self, device: Device, kind: Kind, config: serde_json::Value) -> Provenance {
        let (commit, dirty) = self.commit.clone();
        Provenance {
            program: format!("bowline {}", env!("CARGO_PKG_VERSION")),
            command: command_line(),
            commit,
            dirty,
            started_at: self.started_at.clone(),
            duration_s: (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            device: device_name(device),
            threads: tch::get_num_threads().max(1) as usize,
            dtype: kind_name(kind).to_owned(),
            backend: self.backend.clone(),
            seeds: self.seeds.clone(),
            versions: versions(),
            hashes: self.hashes.clone(),
            config,
        }
    }
}

/// The command line, the program by its file name alone.
fn command_line() -> Vec<String> {
    let mut words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(program) = words.first_mut() {
        let name = Path::new(program.as_str()).file_name().map(|name| name.to_string_lossy().into_owned());
        *program = name.unwrap_or_else(|| "bowline".to_owned());
    }
    words
}

/// Versions of what computed the numbers.
pub fn versions() -> BTreeMap<String, String> {
    [
        ("bowline", env!("CARGO_PKG_VERSION").to_owned()),
        ("libtorch", torch_ext::libtorch::info().version.unwrap_or_else(|| "unknown".to_owned())),
    ]
    .into_iter()
    .map(|(name, version)| (name.to_owned(), version))
    .collect()
}

/// Commit of the source tree that this program was built in, as it stands now, and whether files differ from it.
fn commit() -> (Option<String>, Option<bool>) {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match git(&["rev-parse", "HEAD"]) {
        Some(commit) => (Some(commit), git(&["status", "--porcelain", "--untracked-files=no"]).map(|s| !s.is_empty())),
        None => (None, None),
    }
}

/// The time now, RFC 3339, UTC, whole seconds.
pub fn now_utc() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil(since / 86_400);
    let s = since % 86_400;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", s / 3600, s % 3600 / 60, s % 60)
}

/// Year, month and day of a day counted from 1970-01-01 (the usual arithmetic on 400-year eras).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_782), (2026, 11, 25));
    }
}
