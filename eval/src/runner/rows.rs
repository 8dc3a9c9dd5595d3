//! What a retrieval run found, and its result rows.

use super::Depths;
use crate::metrics::wilson_of_mean;
use crate::report::{Measurement, Row};
use crate::samples::SampleRecord;

/// One cell of the grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// Context length in tokens, as asked for.
    pub length: usize,
    /// Depth, none when drawn.
    pub depth: Option<f64>,
    /// Trials run.
    pub trials: u64,
    /// Sum of the scores of all trials, for each metric; a score lies between 0 and 1.
    pub sums: Vec<f64>,
    /// Tokens of all samples together.
    pub tokens: u64,
}

impl Cell {
    pub(super) fn empty(length: usize, depth: Option<f64>, metrics: usize) -> Self {
        Self { length, depth, trials: 0, sums: vec![0.0; metrics], tokens: 0 }
    }

    pub(super) fn add(&mut self, scores: &[f64], tokens: usize) {
        self.trials += 1;
        self.tokens += tokens as u64;
        self.sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
    }

    /// All of `cells` as one, with the length of the first.
    fn pooled(cells: &[&Self]) -> Option<Self> {
        let (first, rest) = cells.split_first()?;
        let mut all = Self { depth: None, ..(*first).clone() };
        for cell in rest {
            all.trials += cell.trials;
            all.tokens += cell.tokens;
            all.sums.iter_mut().zip(&cell.sums).for_each(|(sum, more)| *sum += more);
        }
        Some(all)
    }
}

/// What a retrieval run found.
#[derive(Debug, Clone, PartialEq)]
pub struct Retrieval {
    /// Name of the task.
    pub task: String,
    /// Variant and version.
    pub protocol: String,
    /// Names of the metrics, in the order of [`Cell::sums`].
    pub metrics: Vec<String>,
    /// Every cell: by length, then by depth.
    pub cells: Vec<Cell>,
}

impl Retrieval {
    /// The result rows: for each length and metric all depths together, then every depth of a grid.
    #[must_use]
    pub fn rows(&self, model: &str, variant: &str) -> Vec<Row> {
        let mut rows = Vec::new();
        for cells in self.cells.chunk_by(|a, b| a.length == b.length) {
            let Some(together) = Cell::pooled(&cells.iter().collect::<Vec<_>>()) else { continue };
            for (index, metric) in self.metrics.iter().enumerate() {
                let shown = cells.iter().filter(|cell| cell.depth.is_some());
                rows.extend(
                    std::iter::once(&together).chain(shown).map(|cell| self.row(model, variant, metric, index, cell)),
                );
            }
        }
        rows
    }

    /// For each metric one row of all lengths inside a window of `window` tokens (`METRIC_in_window`) and one of all
    /// lengths beyond it (`METRIC_beyond_window`): a mean over both mixes what a model learnt with what it did not. The
    /// length of such a row is the longest one in it.
    #[must_use]
    pub fn window_rows(&self, model: &str, variant: &str, window: usize) -> Vec<Row> {
        let (inside, beyond): (Vec<&Cell>, Vec<&Cell>) = self.cells.iter().partition(|cell| cell.length <= window);
        let mut rows = Vec::new();
        for (cells, name) in [(inside, "in_window"), (beyond, "beyond_window")] {
            let mut lengths: Vec<usize> = cells.iter().map(|cell| cell.length).collect();
            lengths.dedup();
            let Some(pooled) = Cell::pooled(&cells) else { continue };
            let listed = lengths.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
            let how = format!("lengths {listed} pooled; a window of {window} tokens");
            rows.extend(self.metrics.iter().enumerate().map(|(index, metric)| Row {
                length: lengths.iter().copied().max().unwrap_or(0),
                how: Some(how.clone()),
                ..self.row(model, variant, &format!("{metric}_{name}"), index, &pooled)
            }));
        }
        rows
    }

    fn row(&self, model: &str, variant: &str, metric: &str, index: usize, cell: &Cell) -> Row {
        let rate = wilson_of_mean(cell.sums[index], cell.trials);
        // Many tasks fill a length only nearly; the row says how far.
        let mean = cell.tokens as f64 / cell.trials.max(1) as f64;
        let how = (mean != cell.length as f64).then(|| format!("{mean:.0} tokens on average"));
        let (task, protocol) = (self.task.as_str(), self.protocol.as_str());
        let measured = Measurement { model, variant, task, protocol, unit_of_count: "trials" };
        Row { depth: cell.depth, how, ..measured.row(cell.length, metric, rate, cell.trials) }
    }

    /// The runs whose samples `records` are: one for each task and protocol, in order of appearance, with the cells by
    /// length and then by depth.
    #[must_use]
    pub fn from_records(records: &[SampleRecord]) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for record in records {
            let same = |run: &Self| run.task == record.task && run.protocol == record.protocol;
            let index = runs.iter().position(same).unwrap_or_else(|| {
                let metrics = record.scores.keys().cloned().collect();
                let (task, protocol) = (record.task.clone(), record.protocol.clone());
                runs.push(Self { task, protocol, metrics, cells: Vec::new() });
                runs.len() - 1
            });
            let run = &mut runs[index];
            let scores: Vec<f64> = run.metrics.iter().filter_map(|metric| record.score(metric)).collect();
            let found = run.cells.iter().position(|c| c.length == record.length && c.depth == record.depth);
            let cell = found.unwrap_or_else(|| {
                run.cells.push(Cell::empty(record.length, record.depth, run.metrics.len()));
                run.cells.len() - 1
            });
            run.cells[cell].add(&scores, record.tokens);
        }
        for run in &mut runs {
            let depth = |cell: &Cell| cell.depth.unwrap_or(-1.0);
            run.cells.sort_by(|a, b| a.length.cmp(&b.length).then(depth(a).total_cmp(&depth(b))));
        }
        runs
    }
}

impl Depths {
    /// How many depths there are; drawn ones count as one.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Grid(depths) => depths.len(),
            Self::Drawn => 1,
        }
    }
}
