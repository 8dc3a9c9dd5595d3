//! One task on one variant: measured, or taken from what an earlier run kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use eval::protocols::longppl::{LongPplOptions, longppl};
use eval::protocols::short_text::{document_losses, short_text};
use eval::report::{Cost, DocumentLoss, PositionLoss, Row};
use eval::samples::SamplesError;
use eval::{PerplexityOptions, SampleLog};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::config::TaskSpec;
use crate::error::{Failure, io_failure};
use crate::evaluate::retrieval::RetrievalRun;
use crate::evaluate::tasks::{Materials, grid, summary};
use crate::evaluate::{Documents, Labels, perplexity_rows, watched};
use crate::model::ModelFolder;
use crate::runtime::memory;
use crate::runtime::signals::StopFlag;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 1000;

/// Everything one task on one variant adds to the report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    key: String,
    /// Measured numbers.
    pub rows: Vec<Row>,
    /// Loss by position.
    pub position_loss: Option<PositionLoss>,
    /// Loss by document.
    pub document_loss: Option<DocumentLoss>,
    /// What it took.
    pub cost: Cost,
    /// Hashes of what was read beside model and documents.
    pub hashes: BTreeMap<String, String>,
}

/// A task on a variant, and where its result is kept.
pub struct Job {
    /// What is measured.
    pub task: TaskSpec,
    materials: Materials,
    key: String,
    path: PathBuf,
}

/// What the jobs of a variant share.
pub struct Bench<'a> {
    /// Names in the rows.
    pub labels: Labels<'a>,
    /// The variant's model.
    pub model: &'a ModelFolder,
    /// What it was made from, for what is measured beside it.
    pub base: &'a ModelFolder,
    /// The study's documents.
    pub documents: &'a Documents,
    /// Seed of samples and bootstrap.
    pub seed: u64,
    /// Whether nothing else runs in this process: memory can then be told.
    pub alone: bool,
    /// Whether a signal asks to stop.
    pub stop: &'a StopFlag,
}

impl Job {
    /// The job of a task; `decided_by` is a hash of what makes the variant, `folder` where its results are kept.
    ///
    /// # Errors
    ///
    /// When a haystack or a file of questions cannot be read.
    pub fn new(task: TaskSpec, decided_by: &str, documents: &str, seed: u64, folder: &Path) -> Result<Self, Failure> {
        let materials = Materials::load(&task, "text", seed).map_err(|failure| failure.within(task.kind()))?;
        let mut what = json!({"variant": decided_by, "task": task, "seed": seed, "read": materials.hashes});
        if grid(&task, seed)?.is_none() {
            what["documents"] = documents.into();
        }
        let key = blake3::hash(what.to_string().as_bytes()).to_hex().to_string();
        let path = folder.join(format!("{}-{}.json", task.kind(), &key[..12]));
        Ok(Self { task, materials, key, path })
    }

    /// What an earlier run kept, if it was the same.
    pub fn kept(&self) -> Option<Measured> {
        let text = std::fs::read(&self.path).ok()?;
        serde_json::from_slice::<Measured>(&text).ok().filter(|measured| measured.key == self.key)
    }

    /// Measures, and keeps the result.
    ///
    /// # Errors
    ///
    /// As the evaluation says; exit code 5 when a signal stopped it, with finished samples of retrieval kept.
    pub fn measure(&self, bench: &Bench<'_>) -> Result<Measured, Failure> {
        let before = bench.alone.then(memory::resident_bytes).flatten();
        let watched_memory = before.is_some() && memory::reset_peak();
        let started = Instant::now();
        let mut found = self.found(bench)?;
        let seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        let peak = watched_memory.then(memory::peak_bytes).flatten();
        found.cost = Cost {
            variant: bench.labels.variant.to_owned(),
            task: self.task.kind().to_owned(),
            points: points(&found.rows),
            longest: self.task.lengths().iter().copied().max().unwrap_or(0),
            seconds,
            peak_bytes: peak.zip(before).map(|(peak, before)| peak.saturating_sub(before)),
        };
        let text = serde_json::to_vec_pretty(&found).map_err(|error| Failure::data(error.to_string()))?;
        crate::atomic::write_bytes(&self.path, &text).map_err(|error| io_failure("write", &self.path, &error))?;
        Ok(found)
    }

    fn found(&self, bench: &Bench<'_>) -> Result<Measured, Failure> {
        match &self.task {
            TaskSpec::Perplexity { protocol, lengths, stride } => {
                let protocol = protocol.parse().map_err(crate::evaluate::failure)?;
                let options = PerplexityOptions {
                    seed: bench.seed,
                    stride: *stride,
                    ..PerplexityOptions::new(protocol, lengths.clone())
                };
                let found =
                    perplexity_rows(&bench.model.reader(), bench.documents, &options, bench.labels, bench.stop)?;
                Ok(Measured {
                    position_loss: found.position_loss,
                    document_loss: found.document_loss,
                    ..self.result(found.rows)
                })
            }
            TaskSpec::Longppl { lengths, context, stride } => {
                let of_length = |&length: &usize| {
                    let options = LongPplOptions {
                        context: *context,
                        stride: *stride,
                        seed: bench.seed,
                        resamples: RESAMPLES,
                        ..LongPplOptions::new(length)
                    };
                    let reader = bench.model.reader();
                    let found = watched(&bench.label("LongPPL"), bench.stop, |monitor| {
                        longppl(&reader, &reader, &bench.documents.tokens, &options, monitor)
                    })?;
                    Ok(found.rows(bench.labels.model, bench.labels.variant))
                };
                self.of_lengths(lengths, of_length)
            }
            TaskSpec::ShortText { lengths } => self.of_lengths(lengths, |&length| bench.short_text(length)),
            _ => self.retrieved(bench),
        }
    }

    fn of_lengths(
        &self,
        lengths: &[usize],
        rows: impl FnMut(&usize) -> Result<Vec<Row>, Failure>,
    ) -> Result<Measured, Failure> {
        let rows = lengths.iter().map(rows).collect::<Result<Vec<_>, _>>()?;
        Ok(self.result(rows.into_iter().flatten().collect()))
    }

    fn retrieved(&self, bench: &Bench<'_>) -> Result<Measured, Failure> {
        let Some(options) = grid(&self.task, bench.seed)? else { return Ok(self.result(Vec::new())) };
        let mut log = self.samples()?;
        let window = bench.model.llama.config.positions.context();
        let reader = bench.model.reader();
        let run = RetrievalRun { reader: &reader, options, labels: bench.labels, window, stop: bench.stop };
        let mut rows = Vec::new();
        for task in self.materials.tasks(&self.task, bench.model)? {
            rows.extend(run.rows(task.as_ref(), &mut log)?);
        }
        rows.extend(summary(&self.task, &rows));
        Ok(self.result(rows))
    }

    /// The samples of this job, begun or gone on with.
    fn samples(&self) -> Result<SampleLog, Failure> {
        let path = self.path.with_extension("samples.jsonl");
        let same = json!({"key": self.key});
        let log = match SampleLog::resume(&path, &same) {
            // Names are heads of keys: another job may have had this one.
            Err(SamplesError::OtherRun { .. }) => SampleLog::create(&path, &same),
            log => log,
        };
        log.map_err(|error| Failure::data(error.to_string()))
    }

    fn result(&self, rows: Vec<Row>) -> Measured {
        Measured {
            key: self.key.clone(),
            rows,
            position_loss: None,
            document_loss: None,
            cost: Cost::default(),
            hashes: self.materials.hashes.clone(),
        }
    }
}

/// Places in the plane of lengths and depths that rows have numbers for, task by task.
fn points(rows: &[Row]) -> u64 {
    let gridded = rows.iter().any(|row| row.depth.is_some());
    let places = rows.iter().filter(|row| row.depth.is_some() == gridded);
    let place = |row: &Row| (row.task.clone(), row.protocol.clone(), row.length, row.depth.map(f64::to_bits));
    places.map(place).collect::<BTreeSet<_>>().len() as u64
}

impl Bench<'_> {
    fn label(&self, task: &str) -> String {
        format!("{} {task}", self.labels.variant)
    }

    fn short_text(&self, length: usize) -> Result<Vec<Row>, Failure> {
        let mut losses = Vec::new();
        for model in [self.base, self.model] {
            let reader = model.reader();
            losses.push(watched(&self.label("short text"), self.stop, |monitor| {
                document_losses(&reader, &self.documents.tokens, length, monitor)
            })?);
        }
        let found = short_text(&losses[0], &losses[1], RESAMPLES, self.seed);
        let found = found.ok_or_else(|| Failure::data(format!("no document has {length} tokens for both models")))?;
        Ok(found.rows(self.labels.model, self.labels.variant, length, self.labels.model))
    }
}
