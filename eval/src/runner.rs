//! Runs a retrieval task over lengths, depths and trials.

use crate::error::{EvalError, TaskError};
use crate::metrics::{Estimate, wilson};
use crate::model::LanguageModel;
use crate::monitor::{Monitor, Steps};
use crate::report::Row;
use crate::task::Task;

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

/// One cell of the grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Context length in tokens, as asked for.
    pub length: usize,
    /// Depth, none when drawn.
    pub depth: Option<f64>,
    /// Trials run.
    pub trials: u64,
    /// Trials passed, for each metric.
    pub passed: Vec<u64>,
    /// Tokens of all samples together.
    pub tokens: u64,
}

/// What a retrieval run found.
#[derive(Debug, Clone, PartialEq)]
pub struct Retrieval {
    /// Name of the task.
    pub task: &'static str,
    /// Variant and version.
    pub protocol: String,
    /// Names of the metrics, in the order of [`Cell::passed`].
    pub metrics: &'static [&'static str],
    /// Every cell: by length, then by depth.
    pub cells: Vec<Cell>,
}

/// Runs `task` on `model`.
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
    if options.lengths.is_empty() {
        return Err(EvalError::NoLengths);
    }
    if options.trials == 0 {
        return Err(EvalError::NoTrials);
    }
    let depths = options.depths.checked()?;
    for &length in &options.lengths {
        task.sample(length, depths[0], task.trial_seed(options.seed, length, 0, 0))?;
    }
    let mut steps = Steps::new(monitor, options.lengths.len() * depths.len() * options.trials);
    let mut cells = Vec::with_capacity(options.lengths.len() * depths.len());
    for &length in &options.lengths {
        for (index, &depth) in depths.iter().enumerate() {
            cells.push(run_cell(task, model, options, (length, index, depth), &mut steps)?);
        }
    }
    Ok(Retrieval { task: task.id(), protocol: task.protocol(), metrics: task.metrics(), cells })
}

fn run_cell(
    task: &dyn Task,
    model: &dyn LanguageModel,
    options: &RetrievalOptions,
    (length, depth_index, depth): (usize, usize, Option<f64>),
    steps: &mut Steps<'_, '_>,
) -> Result<Cell, EvalError> {
    let label = format!("{} {} length {length}", task.id(), task.protocol());
    let mut cell = Cell { length, depth, trials: 0, passed: vec![0; task.metrics().len()], tokens: 0 };
    for trial in 0..options.trials {
        let (passed, tokens) = steps.step(&label, || {
            let sample = task.sample(length, depth, task.trial_seed(options.seed, length, depth_index, trial))?;
            let during = || format!("{label}, depth {:.2}, trial {trial}", sample.depth);
            let passed = task.score(model, &sample).map_err(|source| EvalError::Model { during: during(), source })?;
            Ok((passed, sample.length as u64))
        })?;
        cell.trials += 1;
        cell.tokens += tokens;
        cell.passed.iter_mut().zip(passed).for_each(|(count, passed)| *count += u64::from(passed));
    }
    Ok(cell)
}

impl Retrieval {
    /// The result rows: for each length and metric all depths together, then every depth of a grid.
    #[must_use]
    pub fn rows(&self, model: &str, variant: &str) -> Vec<Row> {
        let mut rows = Vec::new();
        for cells in self.cells.chunk_by(|a, b| a.length == b.length) {
            let together = pooled(cells);
            for (index, metric) in self.metrics.iter().enumerate() {
                let shown = cells.iter().filter(|cell| cell.depth.is_some());
                rows.extend(
                    std::iter::once(&together).chain(shown).map(|cell| self.row(model, variant, metric, index, cell)),
                );
            }
        }
        rows
    }

    fn row(&self, model: &str, variant: &str, metric: &str, index: usize, cell: &Cell) -> Row {
        let Estimate { value, low, high } = wilson(cell.passed[index], cell.trials);
        // The published variants fill a length only nearly; the row says how far.
        let mean = cell.tokens as f64 / cell.trials.max(1) as f64;
        let how = (mean != cell.length as f64).then(|| format!("{mean:.0} tokens on average"));
        Row {
            model: model.to_owned(),
            variant: variant.to_owned(),
            task: self.task.to_owned(),
            protocol: self.protocol.clone(),
            length: cell.length,
            depth: cell.depth,
            metric: metric.to_owned(),
            value,
            low,
            high,
            count: cell.trials,
            unit_of_count: "trials".to_owned(),
            how,
        }
    }
}

fn pooled(cells: &[Cell]) -> Cell {
    let mut all = Cell { depth: None, ..cells[0].clone() };
    for cell in &cells[1..] {
        all.trials += cell.trials;
        all.tokens += cell.tokens;
        all.passed.iter_mut().zip(&cell.passed).for_each(|(sum, passed)| *sum += passed);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::fakes::{ByteCodec, Fake, Induction};
    use crate::passkey::{Generator, Variant};

    fn options() -> RetrievalOptions {
        RetrievalOptions { lengths: vec![150, 600], depths: Depths::even(3), trials: 4, seed: 1 }
    }

    fn model() -> Fake<Induction> {
        Induction::model(250, 257, Some(ByteCodec::BOS))
    }

    fn run(options: &RetrievalOptions) -> Result<Retrieval, EvalError> {
        let task = Generator::new(&ByteCodec, Variant::Bowline, Some(ByteCodec::BOS)).unwrap();
        retrieve(&task, &model(), options, &mut Monitor::silent())
    }

    #[test]
    fn rows_hold_all_depths_together_and_each_depth() {
        let rows = run(&options()).unwrap().rows("m", "v");
        assert_eq!(rows.len(), 2 * 2 * 4);
        let find = |length, depth, metric: &str| {
            rows.iter().find(|r| r.length == length && r.depth == depth && r.metric == metric).unwrap()
        };
        for metric in ["accuracy", "accuracy_forced"] {
            let near = find(150, None, metric);
            assert_eq!((near.value, near.count, near.high), (1.0, 12, 1.0));
            // Beyond the window of 250 only the needle at the end is seen.
            let far = find(600, None, metric);
            assert!((far.value - 1.0 / 3.0).abs() < 1e-12 && far.count == 12);
            assert_eq!((find(600, Some(0.0), metric).value, find(600, Some(1.0), metric).value), (0.0, 1.0));
            assert_eq!(find(600, Some(0.5), metric).count, 4);
        }
        assert_eq!((rows[0].protocol.as_str(), rows[0].unit_of_count.as_str()), ("bowline-1", "trials"));
        assert_eq!(rows[0].how, None);
    }

    #[test]
    fn drawn_depths_have_one_row_a_metric() {
        let task = Generator::new(&ByteCodec, Variant::Yarn, None).unwrap();
        let options = RetrievalOptions { lengths: vec![700], depths: Depths::Drawn, trials: 3, seed: 0 };
        let rows = retrieve(&task, &model(), &options, &mut Monitor::silent()).unwrap().rows("m", "v");
        assert_eq!(rows.len(), 2);
        assert!(rows.iter().all(|row| row.depth.is_none() && row.how.is_some()));
    }

    #[test]
    fn progress_counts_every_trial_and_the_flag_stops_between_trials() {
        let task = Generator::new(&ByteCodec, Variant::Bowline, None).unwrap();
        let (seen, flag) = (RefCell::new(Vec::new()), AtomicBool::new(false));
        let mut monitor = Monitor::silent().with_interrupt(&flag).with_progress(|p| {
            seen.borrow_mut().push((p.done, p.total));
            flag.store(p.done == 5, Ordering::Relaxed);
        });
        let error = retrieve(&task, &model(), &options(), &mut monitor).unwrap_err();
        let label = "passkey bowline-1 length 150".to_owned();
        assert_eq!(error, EvalError::Interrupted { done: 5, total: 24, label });
        drop(monitor);
        assert_eq!(seen.into_inner(), (1..=5).map(|done| (done, 24)).collect::<Vec<_>>());
    }

    #[test]
    fn impossible_grids_are_refused_with_their_values() {
        let with = |change: fn(&mut RetrievalOptions)| {
            let mut options = options();
            change(&mut options);
            run(&options).unwrap_err()
        };
        assert_eq!(with(|o| o.lengths.clear()), EvalError::NoLengths);
        assert_eq!(with(|o| o.trials = 0), EvalError::NoTrials);
        assert_eq!(with(|o| o.depths = Depths::even(0)), EvalError::NoDepths);
        assert_eq!(with(|o| o.depths = Depths::Grid(vec![0.5, -0.5])), TaskError::Depth(-0.5).into());
        assert_eq!(with(|o| o.depths = Depths::Grid(vec![1.01])), TaskError::Depth(1.01).into());
        let short = with(|o| o.lengths.push(20));
        assert!(
            matches!(short, EvalError::Task(TaskError::TooShort { length: 20, least, .. }) if least > 20),
            "{short}"
        );
    }

    #[test]
    fn a_failing_model_is_named_with_its_sample() {
        let task = Generator::new(&ByteCodec, Variant::Bowline, None).unwrap();
        let small = Induction::model(10, 100, None);
        let error = retrieve(&task, &small, &options(), &mut Monitor::silent()).unwrap_err();
        assert!(error.to_string().contains("length 150, depth 0.00, trial 0"), "{error}");
    }

    #[test]
    fn every_model_sees_the_same_samples() {
        assert_eq!(run(&options()), run(&options()));
        assert_eq!(Depths::even(3), Depths::Grid(vec![0.0, 0.5, 1.0]));
        assert_eq!(Depths::even(1), Depths::Grid(vec![0.5]));
    }
}
