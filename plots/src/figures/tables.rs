//! Tables beside the figures: every number with its interval and count.

use eval::report::Row;

use crate::study::{Model, Protocol, Study, distinct};
use crate::ticks;

/// One cell.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableCell {
    /// The number or word.
    pub(crate) text: String,
    /// Interval and count, in small print.
    pub(crate) small: String,
    /// Lies beyond the length that the variant was trained at.
    pub(crate) beyond: bool,
    /// Heads its row.
    pub(crate) head: bool,
}

impl TableCell {
    /// A number or a short word.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// The name that a row stands under.
    pub(crate) fn head(text: impl Into<String>) -> Self {
        Self { text: text.into(), head: true, ..Self::default() }
    }
}

/// A table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// What it holds.
    pub(crate) caption: String,
    /// Column heads.
    pub(crate) head: Vec<String>,
    /// Rows, each as long as the head.
    pub(crate) rows: Vec<Vec<TableCell>>,
}

/// Whether a length lies beyond the context that a variant was trained at.
pub(crate) fn beyond(model: &Model, length: usize) -> bool {
    model.variant.trained_context > 0 && length > model.variant.trained_context
}

/// A row's number as the page shows it: shares in percent, anything else as it is.
pub(crate) fn shown(row: &Row) -> String {
    if is_share(row) { format!("{} %", ticks::percent(row.value)) } else { ticks::measured(row.value) }
}

fn is_share(row: &Row) -> bool {
    row.metric.starts_with("accuracy")
}

/// The count that all rows share, where they do: it then stands in the caption and not in every cell.
pub(crate) fn shared_count<'r>(mut rows: impl Iterator<Item = &'r Row>) -> Option<u64> {
    let first = rows.next()?.count;
    rows.all(|r| r.count == first).then_some(first)
}

/// The last words of a caption on small print.
pub(crate) fn small_print(shared: Option<u64>, unit: &str) -> String {
    match shared {
        Some(count) => format!("Small print: 95 % interval. Every number is over {} {unit}.", ticks::count(count)),
        None => format!("Small print: 95 % interval and number of {unit}."),
    }
}

/// A cell for a row: number, interval, and its count unless the table says it for all.
pub(crate) fn cell(model: &Model, row: &Row, with_count: bool) -> TableCell {
    let range = match (row.low.is_finite() && row.high.is_finite(), is_share(row)) {
        (false, _) => "no interval".to_owned(),
        (true, true) => format!("{} to {}", ticks::percent(row.low), ticks::percent(row.high)),
        (true, false) => ticks::interval(row.low, row.high),
    };
    let text = if row.value.is_finite() { shown(row) } else { "not finite".to_owned() };
    let small = if with_count { format!("{range}; n = {}", ticks::count(row.count)) } else { range };
    TableCell { text, small, beyond: beyond(model, row.length), ..TableCell::default() }
}

/// Variants down, lengths across, for one metric over all depths together.
pub(crate) fn by_length(study: &Study<'_>, protocol: Protocol<'_>, metric: &str, caption: &str) -> Option<Table> {
    let rows: Vec<(&Model, Vec<&Row>)> = study
        .models
        .iter()
        .map(|m| (m, study.by_length(m, protocol, metric)))
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    let lengths = distinct(rows.iter().flat_map(|(_, rows)| rows.iter().map(|r| r.length)));
    let shared = shared_count(rows.iter().flat_map(|(_, rows)| rows.iter().copied()));
    let unit = rows.iter().flat_map(|(_, r)| r).map(|r| r.unit_of_count.clone()).next()?;
    let mut head = vec!["variant".to_owned()];
    head.extend(lengths.iter().map(|l| ticks::tokens(*l)));
    let body = rows.iter().map(|(model, rows)| {
        let mut cells = vec![TableCell::head(&model.label)];
        cells.extend(lengths.iter().map(|length| {
            rows.iter()
                .find(|r| r.length == *length)
                .map_or_else(|| TableCell::plain("not run"), |r| cell(model, r, shared.is_none()))
        }));
        cells
    });
    let caption = format!("{caption} {}", small_print(shared, &unit));
    Some(Table { caption, head, rows: body.collect() })
}

/// Depths down, lengths across, for one variant.
pub(crate) fn by_depth(study: &Study<'_>, model: &Model, protocol: Protocol<'_>, metric: &str) -> Table {
    let rows = study.of(model, protocol, metric);
    let lengths = distinct(rows.iter().map(|r| r.length));
    let mut depths: Vec<Option<f64>> = rows.iter().map(|r| r.depth).collect();
    depths.sort_by(|a, b| a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY)));
    depths.dedup();
    let mut head = vec!["depth".to_owned()];
    head.extend(lengths.iter().map(|l| ticks::tokens(*l)));
    let body = depths.into_iter().map(|depth| {
        let name = depth.map_or_else(|| "all depths".to_owned(), |d| format!("{} %", ticks::number(d * 100.0)));
        let mut cells = vec![TableCell::head(name)];
        cells.extend(lengths.iter().map(|length| {
            let row = rows.iter().find(|r| r.length == *length && r.depth == depth);
            row.map_or_else(|| TableCell::plain("not run"), |r| cell(model, r, true))
        }));
        cells
    });
    let caption = format!("{}, {metric}, by depth and length. {}", model.label, small_print(None, "trials"));
    Table { caption, head, rows: body.collect() }
}
