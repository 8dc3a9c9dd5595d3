//! Runs a retrieval task over lengths, depths and trials.

mod branching;
mod rows;

pub use branching::Branching;
pub use rows::{Cell, Retrieval};

use crate::error::{EvalError, TaskError};
use crate::model::{LanguageModel, ModelError, Question};
use crate::monitor::{Monitor, Steps};
use crate::samples::{CellKey, SampleLog, SampleRecord, SamplesError, prompt_hash};
use crate::task::{Graded, Sample, Task};

/// Where needles are put.
#[derive(Debug, Clone, PartialEq)]
pub enum Depths {
    /// Every one of these shares of the haystack, `trials` times each.
    Grid(Vec<f64>),
    /// Where the seed of each trial says; rows then exist for all depths together alone.
    Drawn,
}

impl Depths {
    /// `count` depths from 0 to 1 at equal distances (the middle when `count` is 1).
    #[must_use]
    pub fn even(count: usize) -> Self {
        Self::Grid(match count {
            1 => vec![0.5],
            _ => (0..count).map(|i| i as f64 / (count - 1) as f64).collect(),
        })
    }

    fn checked(&self) -> Result<Vec<Option<f64>>, EvalError> {
        match self {
            Self::Drawn => Ok(vec![None]),
            Self::Grid(depths) if depths.is_empty() => Err(EvalError::NoDepths),
            Self::Grid(depths) => match depths.iter().find(|depth| !(0.0..=1.0).contains(*depth)) {
                Some(&depth) => Err(TaskError::Depth(depth).into()),
                None => Ok(depths.iter().copied().map(Some).collect()),
            },
        }
    }
}

/// The grid of a retrieval run.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrievalOptions {
    /// Context lengths in tokens, prompt and answer together.
    pub lengths: Vec<usize>,
    /// Where needles are put.
    pub depths: Depths,
    /// Trials in each cell of the grid.
    pub trials: usize,
    /// Seed of all samples; every model that is run with it sees the same ones.
    pub seed: u64,
}

/// Runs `task` on `model`.
///
/// A trial has one seed over all depths of a grid, and what its prompts begin with in common is read once ([`Branching`]).
/// Its depths are therefore not independent of each other; trials are.
///
/// Every length is tried with a sample before the model is asked anything, so that a length that cannot be is
/// refused at once.
///
/// # Errors
///
/// [`EvalError::NoLengths`], [`EvalError::NoDepths`], [`EvalError::NoTrials`], a depth outside `[0, 1]`, a length below the
/// task's least, a failing model or tokenizer, or [`EvalError::Interrupted`].
pub fn retrieve(
    task: &dyn Task,
    model: &dyn LanguageModel,
    options: &RetrievalOptions,
    monitor: &mut Monitor<'_>,
) -> Result<Retrieval, EvalError> {
    retrieve_logged(task, model, options, monitor, &mut SampleLog::none())
}

/// As [`retrieve`], keeping every sample in `log` and asking the model for none that the log knows already.
///
/// The first known sample of each cell is made again and its prompt compared, so that a changed haystack or tokenizer
/// is noticed.
///
/// # Errors
///
/// As for [`retrieve`], and [`EvalError::Samples`] when a sample cannot be kept or does not belong to this run.
pub fn retrieve_logged(
    task: &dyn Task,
    model: &dyn LanguageModel,
    options: &RetrievalOptions,
    monitor: &mut Monitor<'_>,
    log: &mut SampleLog,
) -> Result<Retrieval, EvalError> {
    if options.lengths.is_empty() {
        return Err(EvalError::NoLengths);
    }
    if options.trials == 0 {
        return Err(EvalError::NoTrials);
    }
    let depths = options.depths.checked()?;
    for &length in &options.lengths {
        task.sample(length, depths[0], task.trial_seed(options.seed, length, 0))?;
    }
    let mut steps = Steps::new(monitor, options.lengths.len() * depths.len() * options.trials);
    let mut run = Run { task, options, log, protocol: task.protocol() };
    let mut cells = Vec::with_capacity(options.lengths.len() * depths.len());
    for &length in &options.lengths {
        cells.extend(run.length(length, &depths, &Branching::new(model, length), &mut steps)?);
    }
    let metrics = task.metrics().iter().map(|&name| name.to_owned()).collect();
    Ok(Retrieval { task: task.id().to_owned(), protocol: run.protocol, metrics, cells })
}

/// What stays the same from cell to cell.
struct Run<'r> {
    task: &'r dyn Task,
    options: &'r RetrievalOptions,
    log: &'r mut SampleLog,
    protocol: String,
}

impl Run<'_> {
    /// The cells of one length in the order of `depths`. Each trial is asked at all depths, the deepest first: every prompt
    /// then begins as the one before it does, up to its own needle.
    fn length(
        &mut self,
        length: usize,
        depths: &[Option<f64>],
        model: &dyn LanguageModel,
        steps: &mut Steps<'_, '_>,
    ) -> Result<Vec<Cell>, EvalError> {
        let label = format!("{} {} length {length}", self.task.id(), self.protocol);
        let empty = |&depth| (Cell::empty(length, depth, self.task.metrics().len()), false);
        let mut cells: Vec<(Cell, bool)> = depths.iter().map(empty).collect();
        let mut order: Vec<usize> = (0..depths.len()).collect();
        order.sort_by(|&a, &b| depths[b].unwrap_or(0.0).total_cmp(&depths[a].unwrap_or(0.0)));
        // The prompts of a grid share what stands before their needles and are read one after another; those of drawn depths
        // share nothing and are answered together.
        let width = if depths == [None] { model.questions_at_once(length) } else { 1 };
        let trials: Vec<usize> = (0..self.options.trials).collect();
        for trials in trials.chunks(width.max(1)) {
            for &index in &order {
                let (cell, compared) = &mut cells[index];
                let found = steps
                    .steps(&label, trials.len(), || self.trials((cell.length, cell.depth), trials, model, compared))?;
                found.iter().for_each(|(scores, tokens)| cell.add(scores, *tokens));
            }
        }
        Ok(cells.into_iter().map(|(cell, _)| cell).collect())
    }

    /// Scores and tokens of some trials of one cell, from the log where they are known; the first known sample of a cell is
    /// `compared`. Those that are not known are asked together.
    fn trials(
        &mut self,
        (length, depth): (usize, Option<f64>),
        trials: &[usize],
        model: &dyn LanguageModel,
        compared: &mut bool,
    ) -> Result<Vec<(Vec<f64>, usize)>, EvalError> {
        let mut found: Vec<Option<(Vec<f64>, usize)>> = vec![None; trials.len()];
        let mut asked = Vec::new();
        for (slot, &trial) in found.iter_mut().zip(trials) {
            let seed = self.task.trial_seed(self.options.seed, length, trial);
            let place = CellKey { task: self.task.id(), protocol: &self.protocol, length, depth, trial };
            let Some(record) = self.log.find(place) else {
                asked.push((slot, place, seed, self.task.sample(length, depth, seed)?));
                continue;
            };
            if !std::mem::replace(compared, true) {
                compare(record, &self.task.sample(length, depth, seed)?)?;
            }
            let scores = self.task.metrics().iter().filter_map(|metric| record.score(metric)).collect();
            *slot = Some((scores, record.tokens));
        }
        let questions: Vec<Question<'_>> = asked.iter().map(|(.., sample)| sample.question()).collect();
        let during = || {
            let one = |(_, place, _, sample): &(_, CellKey<'_>, _, Sample)| {
                let depth = sample.depth.map_or(String::new(), |depth| format!("depth {depth:.2}, "));
                format!("{depth}trial {}", place.trial)
            };
            let all: Vec<String> = asked.iter().map(one).collect();
            format!("{} {} length {length}, {}", self.task.id(), self.protocol, all.join("; "))
        };
        let failed = |source| EvalError::Model { during: during(), source };
        let replies = if questions.is_empty() { Vec::new() } else { model.replies(&questions).map_err(failed)? };
        if replies.len() != asked.len() {
            return Err(failed(ModelError(format!("{} replies to {} questions", replies.len(), asked.len()))));
        }
        let graded = asked.iter().zip(&replies).map(|((.., sample), reply)| self.task.graded(sample, reply));
        let graded: Vec<Graded> = graded.collect::<Result<_, _>>().map_err(failed)?;
        for ((slot, place, seed, sample), graded) in asked.into_iter().zip(graded) {
            self.log.keep(&SampleRecord::new(place, seed, &sample, self.task.metrics(), &graded))?;
            *slot = Some((graded.scores, sample.length));
        }
        Ok(found.into_iter().flatten().collect())
    }
}

fn compare(record: &SampleRecord, sample: &Sample) -> Result<(), SamplesError> {
    if record.prompt_hash == prompt_hash(&sample.tokens) {
        return Ok(());
    }
    let SampleRecord { task, length, trial, .. } = record;
    Err(SamplesError::OtherPrompt { task: task.clone(), length: *length, trial: *trial })
}

#[cfg(test)]
mod branching_tests;
#[cfg(test)]
mod tests;
