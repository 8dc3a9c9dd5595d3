//! What a run says while it trains: `metrics.jsonl` and TensorBoard events.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::tensorboard;
use crate::error::{Failure, io_failure};
use crate::runtime::say;

/// One optimizer step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, this one included.
    pub step: u64,
    /// Tokens seen, this step's included.
    pub tokens: u64,
    /// Tokens of a sequence.
    pub length: usize,
    /// Mean loss per token, in nats.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Tokens per second of this step.
    pub tokens_per_second: f64,
}

/// Appends to both files; a full disk is said once and the run goes on.
#[derive(Debug)]
pub struct MetricsLog {
    lines: BufWriter<File>,
    events: BufWriter<File>,
    failed: bool,
}

impl MetricsLog {
    /// Opens the files of a run folder. Lines after `step` of an earlier run are dropped, since they will come again.
    ///
    /// # Errors
    ///
    /// When the files cannot be written to.
    pub fn open(folder: &Path, step: u64) -> Result<Self, Failure> {
        let path = folder.join("metrics.jsonl");
        let earlier = |line: &&str| serde_json::from_str(line).is_ok_and(|line: StepMetrics| line.step <= step);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let kept: String = text.lines().filter(earlier).map(|line| format!("{line}\n")).collect();
        crate::atomic::write_bytes(&path, kept.as_bytes()).map_err(|error| io_failure("write", &path, &error))?;
        let append = |path: &Path| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map(BufWriter::new).map_err(|error| io_failure("write", path, &error))
        };
        let events_folder = folder.join("tensorboard");
        std::fs::create_dir_all(&events_folder).map_err(|error| io_failure("make", &events_folder, &error))?;
        let (seconds, _) = clock();
        let events_path = events_folder.join(format!("events.out.tfevents.{seconds}.bowline"));
        let mut log = Self { lines: append(&path)?, events: append(&events_path)?, failed: false };
        let header = tensorboard::file_version(wall_time());
        log.events.write_all(&header).map_err(|error| io_failure("write", &events_path, &error))?;
        Ok(log)
    }

    /// Writes one step to both files.
    pub fn record(&mut self, metrics: &StepMetrics) {
        let scalars = [
            ("train/loss", metrics.loss),
            ("train/gradient_norm", metrics.gradient_norm),
            ("train/learning_rate", metrics.learning_rate),
            ("train/tokens_per_second", metrics.tokens_per_second),
            ("train/tokens", metrics.tokens as f64),
        ];
        let event = tensorboard::scalars(wall_time(), metrics.step, &scalars);
        let line = serde_json::to_string(metrics).map_err(std::io::Error::other);
        // A line goes out in one piece, or a disk that fills up could keep its text and lose its end.
        let written = line
            .and_then(|line| self.lines.write_all(format!("{line}\n").as_bytes()))
            .and_then(|()| self.lines.flush())
            .and_then(|()| self.events.write_all(&event))
            .and_then(|()| self.events.flush());
        if let Err(error) = written {
            if !self.failed {
                say!("warning: metrics cannot be written ({error}); training goes on without them");
            }
            self.failed = true;
        }
    }
}

/// The steps recorded in a run folder, in order.
///
/// # Errors
///
/// When the file cannot be read, or a line before the last is damaged (the last may have been cut off).
pub fn read_metrics(folder: &Path) -> Result<Vec<StepMetrics>, Failure> {
    let path = folder.join("metrics.jsonl");
    let text = std::fs::read_to_string(&path).map_err(|error| io_failure("read", &path, &error))?;
    let mut steps = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        match serde_json::from_str(line) {
            Ok(step) => steps.push(step),
            Err(_) if lines.peek().is_none() => break,
            Err(error) => return Err(Failure::data(format!("{}, line {}: {error}", path.display(), number + 1))),
        }
    }
    Ok(steps)
}

fn clock() -> (u64, u32) {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or((0, 0), |d| (d.as_secs(), d.subsec_nanos()))
}

fn wall_time() -> f64 {
    let (seconds, nanos) = clock();
    seconds as f64 + f64::from(nanos) * 1e-9
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64) -> StepMetrics {
        let (tokens, length) = (step * 8, 8);
        StepMetrics { step, tokens, length, loss: 2.5, gradient_norm: 0.5, learning_rate: 1e-3, tokens_per_second: 9.0 }
    }

    #[test]
    fn a_full_disk_costs_lines_and_not_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(folder.path(), 0).unwrap();
        log.record(&metrics(1));
        let file =
            std::mem::replace(&mut log.lines, BufWriter::new(File::options().write(true).open("/dev/full").unwrap()));
        (2..200).for_each(|step| log.record(&metrics(step)));
        assert!(log.failed);
        log.lines = file;
        log.record(&metrics(200));
        let steps: Vec<u64> = read_metrics(folder.path()).unwrap().iter().map(|line| line.step).collect();
        assert_eq!(steps, [1, 200]);
    }

    #[test]
    fn lines_that_will_come_again_and_damaged_ones_are_dropped_on_opening() {
        let folder = tempfile::tempdir().unwrap();
        let line = |step| serde_json::to_string(&metrics(step)).unwrap();
        let text = format!("{}\n{}\nhalf of a li{}\n{}\n", line(1), line(2), line(3), line(4));
        std::fs::write(folder.path().join("metrics.jsonl"), text).unwrap();
        assert!(read_metrics(folder.path()).is_err());
        drop(MetricsLog::open(folder.path(), 3).unwrap());
        assert_eq!(read_metrics(folder.path()).unwrap(), [metrics(1), metrics(2)]);
    }
}
