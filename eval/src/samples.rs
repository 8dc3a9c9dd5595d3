//! Every sample of a run as one line of JSON, so that every score can be read back and an interrupted run can go on.
//!
//! The first line names the run (whatever the caller says makes it the same run: model, tokenizer, task settings); each
//! further line is a [`SampleRecord`]. A line is written and flushed when its sample is finished, so that an interruption
//! loses at most the samples that were being read; half a line at the end of a file is cut off on resuming.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::task::{Graded, Sample};

/// Version of the layout.
const VERSION: u64 = 1;

/// Why the samples of a run could not be kept or read back.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SamplesError {
    /// The file could not be read or written.
    #[error("cannot {action} {path}: {reason}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// The file does not hold samples.
    #[error("{path} line {line} does not hold a sample: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The file belongs to a run with other settings.
    #[error("{path} holds samples of another run ({what} differs); give another folder, or run without --resume")]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// Names of the settings that differ.
        what: String,
    },
    /// A kept sample was made from another prompt than the same trial gives now.
    #[error(
        "the kept sample of {task} length {length} trial {trial} was made from another prompt; the haystack, the \
         tokenizer or the program has changed, so the run cannot go on from it"
    )]
    OtherPrompt {
        /// Task.
        task: String,
        /// Context length in tokens.
        length: usize,
        /// Trial in its cell.
        trial: usize,
    },
}

/// One finished sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRecord {
    /// Task.
    pub task: String,
    /// Protocol.
    pub protocol: String,
    /// Context length that was asked for, in tokens.
    pub length: usize,
    /// Depth of the cell; none when it is drawn.
    pub depth: Option<f64>,
    /// Trial in its cell, from 0.
    pub trial: usize,
    /// Seed of the sample.
    pub seed: u64,
    /// SHA-256 of the prompt's token ids (each as four bytes, the lowest first).
    pub prompt_hash: String,
    /// Tokens of the context that the sample took.
    pub tokens: usize,
    /// Share of the haystack before the needle, as it came out.
    pub needle_depth: Option<f64>,
    /// What the output was searched for.
    pub answer: Vec<String>,
    /// What the model wrote.
    pub output: String,
    /// Metric to score, in the order of the task.
    pub scores: Map<String, Value>,
}

impl SampleRecord {
    pub(crate) fn new(cell: CellKey<'_>, seed: u64, sample: &Sample, metrics: &[&str], graded: &Graded) -> Self {
        Self {
            task: cell.task.to_owned(),
            protocol: cell.protocol.to_owned(),
            length: cell.length,
            depth: cell.depth,
            trial: cell.trial,
            seed,
            prompt_hash: prompt_hash(&sample.tokens),
            tokens: sample.length,
            needle_depth: sample.depth,
            answer: sample.references.clone(),
            output: graded.output.clone(),
            scores: metrics
                .iter()
                .zip(&graded.scores)
                .map(|(name, score)| ((*name).to_owned(), json!(score)))
                .collect(),
        }
    }

    /// Score of a metric.
    #[must_use]
    pub fn score(&self, metric: &str) -> Option<f64> {
        self.scores.get(metric).and_then(Value::as_f64)
    }
}

/// SHA-256 of token ids, in hexadecimal digits.
#[must_use]
pub fn prompt_hash(tokens: &[u32]) -> String {
    let mut hasher = Sha256::new();
    tokens.iter().for_each(|token| hasher.update(token.to_le_bytes()));
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The place of one trial in the grid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CellKey<'a> {
    pub(crate) task: &'a str,
    pub(crate) protocol: &'a str,
    pub(crate) length: usize,
    pub(crate) depth: Option<f64>,
    pub(crate) trial: usize,
}

type Place = (String, String, usize, Option<u64>, usize);

impl CellKey<'_> {
    fn place(&self) -> Place {
        let depth = self.depth.map(f64::to_bits);
        (self.task.to_owned(), self.protocol.to_owned(), self.length, depth, self.trial)
    }
}

/// Finished samples: known from an earlier run, and kept as this one goes.
#[derive(Debug, Default)]
pub struct SampleLog {
    known: HashMap<Place, SampleRecord>,
    file: Option<(PathBuf, File)>,
}

impl SampleLog {
    /// Keeps nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Keeps samples in a new file at `path`. `run` is what makes two runs the same. A file that is there keeps its
    /// samples as `PATH.old`, in place of an older one: whoever meant to go on from them has not lost them.
    ///
    /// # Errors
    ///
    /// [`SamplesError::File`].
    pub fn create(path: &Path, run: &Value) -> Result<Self, SamplesError> {
        let failed = |error| file_error("write", path, &error);
        if path.exists() {
            let mut old = path.as_os_str().to_owned();
            old.push(".old");
            fs::rename(path, old).map_err(failed)?;
        }
        let mut file = File::create(path).map_err(failed)?;
        writeln!(file, "{}", json!({"samples_version": VERSION, "run": run})).map_err(failed)?;
        Ok(Self { known: HashMap::new(), file: Some((path.to_owned(), file)) })
    }

    /// Goes on with the file at `path`, or begins it when there is none.
    ///
    /// # Errors
    ///
    /// [`SamplesError::OtherRun`] when `run` differs from what the file was begun with, [`SamplesError::Parse`] for a line
    /// that is whole and wrong, and [`SamplesError::File`].
    pub fn resume(path: &Path, run: &Value) -> Result<Self, SamplesError> {
        if !path.exists() {
            return Self::create(path, run);
        }
        let text = fs::read_to_string(path).map_err(|error| file_error("read", path, &error))?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if whole == 0 {
            return Self::create(path, run);
        }
        let (header, records) = parsed(path, &text[..whole])?;
        if header != *run {
            return Err(SamplesError::OtherRun { path: path.to_owned(), what: differing(&header, run) });
        }
        let failed = |error| file_error("write", path, &error);
        let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        file.set_len(whole as u64).map_err(failed)?;
        let known = records.into_iter().map(|record| (key_of(&record).place(), record)).collect();
        Ok(Self { known, file: Some((path.to_owned(), file)) })
    }

    /// The run that a file was begun with, and its samples in the order in which they were finished. Half a line at the
    /// end is left out.
    ///
    /// # Errors
    ///
    /// [`SamplesError::File`] and [`SamplesError::Parse`].
    pub fn load(path: &Path) -> Result<(Value, Vec<SampleRecord>), SamplesError> {
        let text = fs::read_to_string(path).map_err(|error| file_error("read", path, &error))?;
        parsed(path, &text[..text.rfind('\n').map_or(0, |end| end + 1)])
    }

    /// Samples known from before.
    #[must_use]
    pub fn known(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn find(&self, cell: CellKey<'_>) -> Option<&SampleRecord> {
        if self.known.is_empty() { None } else { self.known.get(&cell.place()) }
    }

    pub(crate) fn keep(&mut self, record: &SampleRecord) -> Result<(), SamplesError> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        let failed = |error| file_error("write", path, &error);
        let mut line = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        // One write for the line: an interruption between two would leave half of it.
        file.write_all(&line).and_then(|()| file.flush()).map_err(failed)
    }
}

fn key_of(record: &SampleRecord) -> CellKey<'_> {
    CellKey {
        task: &record.task,
        protocol: &record.protocol,
        length: record.length,
        depth: record.depth,
        trial: record.trial,
    }
}

fn parsed(path: &Path, text: &str) -> Result<(Value, Vec<SampleRecord>), SamplesError> {
    let wrong = |line: usize, reason: String| SamplesError::Parse { path: path.to_owned(), line: line + 1, reason };
    let mut lines = text.lines().enumerate();
    let first = lines.next().map_or("", |(_, line)| line);
    let header: Value = serde_json::from_str(first).map_err(|error| wrong(0, error.to_string()))?;
    if header["samples_version"] != json!(VERSION) {
        return Err(wrong(0, format!("it does not begin with samples_version {VERSION}")));
    }
    let records = lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| serde_json::from_str(line).map_err(|error| wrong(index, error.to_string())))
        .collect::<Result<_, _>>()?;
    Ok((header["run"].clone(), records))
}

/// Names of the settings that differ, or the word `settings` where they have no names.
fn differing(before: &Value, now: &Value) -> String {
    let (Value::Object(before), Value::Object(now)) = (before, now) else { return "settings".to_owned() };
    let mut names: Vec<&str> =
        before.keys().chain(now.keys()).filter(|key| before.get(*key) != now.get(*key)).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn file_error(action: &'static str, path: &Path, error: &std::io::Error) -> SamplesError {
    SamplesError::File { action, path: path.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(trial: usize) -> SampleRecord {
        let cell = CellKey { task: "needle", protocol: "bowline-1", length: 128, depth: Some(0.1 + 0.2), trial };
        let sample = Sample {
            tokens: vec![1, 2, 3],
            references: vec!["12".into()],
            depth: Some(0.25),
            length: 5,
            ..Sample::default()
        };
        let graded = Graded { scores: vec![1.0, 0.5], output: "12\n\"".into() };
        SampleRecord::new(cell, u64::MAX - trial as u64, &sample, &["accuracy", "accuracy_forced"], &graded)
    }

    #[test]
    fn what_is_kept_is_read_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.jsonl");
        let run = json!({"model": "m", "trials": 3});
        let mut log = SampleLog::create(&path, &run).unwrap();
        (0..3).for_each(|trial| log.keep(&record(trial)).unwrap());
        let (header, records) = SampleLog::load(&path).unwrap();
        assert_eq!((header, records), (run.clone(), (0..3).map(record).collect::<Vec<_>>()));
        let resumed = SampleLog::resume(&path, &run).unwrap();
        assert_eq!(resumed.known(), 3);
        assert_eq!(resumed.find(key_of(&record(2))), Some(&record(2)));
        assert_eq!(record(0).score("accuracy_forced"), Some(0.5));
    }

    #[test]
    fn half_a_line_is_cut_off_and_the_next_one_begins_where_it_began() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.jsonl");
        let run = json!({"model": "m"});
        let mut log = SampleLog::create(&path, &run).unwrap();
        (0..2).for_each(|trial| log.keep(&record(trial)).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 20]).unwrap();
        let mut log = SampleLog::resume(&path, &run).unwrap();
        assert_eq!(log.known(), 1);
        log.keep(&record(1)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_new_run_keeps_the_samples_of_the_one_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.jsonl");
        let run = json!({"model": "m"});
        SampleLog::create(&path, &run).unwrap().keep(&record(0)).unwrap();
        assert_eq!(SampleLog::create(&path, &run).unwrap().known(), 0);
        assert!(SampleLog::load(&path).unwrap().1.is_empty());
        assert_eq!(SampleLog::load(&folder.path().join("samples.jsonl.old")).unwrap().1, [record(0)]);
    }

    #[test]
    fn samples_of_another_run_are_refused_with_the_setting_that_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.jsonl");
        SampleLog::create(&path, &json!({"model": "m", "seed": 1})).unwrap();
        let error = SampleLog::resume(&path, &json!({"model": "m", "seed": 2})).unwrap_err();
        assert!(matches!(&error, SamplesError::OtherRun { what, .. } if what == "seed"), "{error}");
    }

    #[test]
    fn a_foreign_file_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("samples.jsonl");
        fs::write(&path, "{\"samples_version\": 1, \"run\": {}}\nnonsense\n").unwrap();
        assert!(matches!(SampleLog::load(&path), Err(SamplesError::Parse { line: 2, .. })));
        fs::write(&path, "{}\n").unwrap();
        assert!(matches!(SampleLog::resume(&path, &json!({})), Err(SamplesError::Parse { line: 1, .. })));
        fs::write(&path, "half").unwrap();
        assert_eq!(SampleLog::resume(&path, &json!({})).unwrap().known(), 0);
    }

    #[test]
    fn a_prompt_hash_is_that_of_its_ids() {
        // printf '\x01\0\0\0' | sha256sum
        assert_eq!(prompt_hash(&[1]), "67abdd721024f0ff4e0b3f4c2fc13bc5bad42d0b7851d456d88d203d15aaa450");
        assert_ne!(prompt_hash(&[1, 2]), prompt_hash(&[2, 1]));
    }
}
