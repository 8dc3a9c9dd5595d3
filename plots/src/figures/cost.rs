//! What measuring took: seconds and memory of every task on every variant.

use eval::report::Cost;

use super::{Part, Table, TableCell};
use crate::study::{Model, Study};
use crate::ticks;

/// A table for each run that says what its measurements took.
pub(crate) fn parts(study: &Study<'_>) -> Vec<Part> {
    let mut tasks: Vec<&str> = Vec::new();
    for (_, report) in study.runs {
        for cost in &report.costs {
            if !tasks.contains(&cost.task.as_str()) {
                tasks.push(&cost.task);
            }
        }
    }
    let rows: Vec<Vec<TableCell>> = study.models.iter().filter_map(|model| row(study, model, &tasks)).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let mut head = vec!["variant".to_owned()];
    head.extend(tasks.iter().map(|task| (*task).to_owned()));
    let caption =
        "Seconds by the clock. Small print: seconds a point (a length, or a length and depth, of a task), and the \
                   most memory held above what was held before, where one variant was measured at a time."
            .to_owned();
    vec![Part::Table(Table { caption, head, rows })]
}

fn row(study: &Study<'_>, model: &Model, tasks: &[&str]) -> Option<Vec<TableCell>> {
    let of_model: Vec<&Cost> =
        study.report(model).costs.iter().filter(|cost| cost.variant == model.variant.name).collect();
    if of_model.is_empty() {
        return None;
    }
    let cells = tasks.iter().map(|task| {
        let costs: Vec<&Cost> = of_model.iter().copied().filter(|cost| cost.task == *task).collect();
        if costs.is_empty() { TableCell::plain("not run") } else { cell(&costs) }
    });
    Some(std::iter::once(TableCell::head(&model.label)).chain(cells).collect())
}

/// Several costs of one task are added up; of memory the most counts.
fn cell(costs: &[&Cost]) -> TableCell {
    let seconds: f64 = costs.iter().map(|cost| cost.seconds).sum();
    let points: u64 = costs.iter().map(|cost| cost.points).sum();
    let mut small = format!("{} a point", ticks::measured(seconds / points.max(1) as f64));
    if let Some(bytes) = costs.iter().map(|cost| cost.peak_bytes).collect::<Option<Vec<u64>>>() {
        let most = bytes.into_iter().max().unwrap_or(0);
        small += &format!("; {} MB", ticks::measured(most as f64 / 1e6));
    }
    TableCell { text: ticks::measured(seconds), small, ..TableCell::default() }
}
