//! Retrieval: accuracy against length, and heat maps of depth by length.

use eval::tasks::ruler::RulerTask;

use super::tables;
use super::{Part, Table, TableCell, capital, context_rules, key};
use crate::chart::{
    Axis, Cell, Chart, Datum, Figure, HeatGrid, Intervals, LineChart, Naming, Overflow, Panel, Rule, Series,
};
use crate::study::{Model, Protocol, Study, distinct, slug};
use crate::ticks;

/// The metric that heat maps show where there are several.
pub(crate) const DRAWN: &str = "accuracy";
/// The whole answer ranked first, given the answer so far.
const FORCED: &str = "accuracy_forced";
/// Accuracy at the longest length that passes.
const EFFECTIVE: &str = "accuracy_at_effective_length";

/// Dashes of the line that an effective length stays above.
const THRESHOLD: &[f64] = &[9.0, 3.0];

/// Figures and tables of every task and protocol; the tasks of RULER, of which there are thirteen, on demand.
pub(crate) fn parts(study: &Study<'_>) -> Vec<Part> {
    let mut parts = Vec::new();
    let (single, others): (Vec<_>, Vec<_>) = study.protocols(false).into_iter().partition(|p| of_ruler(*p));
    for protocol in others {
        parts.extend(of_protocol(study, protocol));
    }
    for protocol in single {
        let name = format!("RULER's task {} ({})", protocol.task, protocol.name);
        parts.push(Part::Folded(name, of_protocol(study, protocol)));
    }
    parts
}

fn of_protocol(study: &Study<'_>, protocol: Protocol<'_>) -> Vec<Part> {
    let mut parts = Vec::new();
    let (pooled, metrics): (Vec<&str>, Vec<&str>) = study.metrics(protocol).into_iter().partition(|m| pools(m));
    let drawn = if metrics.contains(&DRAWN) { Some(DRAWN) } else { metrics.first().copied() };
    for metric in metrics {
        if let Some(figure) = lines(study, protocol, metric, Some(metric) == drawn) {
            parts.push(Part::Figure(Box::new(figure)));
        }
        let caption = format!("{} of {} ({}) by context length.", words(metric), named(protocol), protocol.name);
        parts.extend(tables::by_length(study, protocol, metric, &caption).map(Part::Table));
        parts.extend(heat_parts(study, protocol, metric, Some(metric) == drawn));
    }
    parts.extend(pooled_table(study, protocol, &pooled).map(Part::Table));
    parts
}

/// Whether a metric sums up several lengths: a number for a table, not a point of a curve over lengths.
pub(crate) fn pools(metric: &str) -> bool {
    let ends = ["_in_window", "_beyond_window", "_at_effective_length"];
    ends.iter().any(|end| metric.ends_with(end)) || metric.contains("_weighted_")
}

/// What a metric is, for a caption or a column's head.
fn words(metric: &str) -> String {
    match metric {
        "accuracy" => "Accuracy (generated answer)".to_owned(),
        FORCED => "Accuracy (every token of the answer ranked first, teacher-forced)".to_owned(),
        EFFECTIVE => "Effective length, and accuracy at it".to_owned(),
        "accuracy_weighted_inc" => "Accuracy, long lengths weighing more".to_owned(),
        "accuracy_weighted_dec" => "Accuracy, short lengths weighing more".to_owned(),
        other => other.to_owned(),
    }
}

/// What a metric over several lengths is, and over which: `teacher-forced`, `within the window`.
fn pooled_words(metric: &str) -> (String, &'static str) {
    let parts = [("_in_window", "within the window"), ("_beyond_window", "beyond the window")];
    let found = parts.into_iter().find_map(|(end, place)| Some((metric.strip_suffix(end)?, place)));
    match found {
        Some(("accuracy", place)) => ("generated".to_owned(), place),
        Some((FORCED, place)) => ("teacher-forced".to_owned(), place),
        Some((of, place)) => (words(of), place),
        None => (words(metric), ""),
    }
}

/// Whether it is one of RULER's own tasks, not the mean over them.
pub(crate) fn of_ruler(protocol: Protocol<'_>) -> bool {
    protocol.task.parse::<RulerTask>().is_ok()
}

/// A task as a sentence names it.
pub(crate) fn named(protocol: Protocol<'_>) -> String {
    match protocol.task {
        "kv" => "key-value retrieval".to_owned(),
        "multi_document" => "questions over several documents".to_owned(),
        "needle" => "needle in a haystack".to_owned(),
        "ruler" => "RULER".to_owned(),
        task if of_ruler(protocol) => format!("RULER {task}"),
        task => task.to_owned(),
    }
}

/// Numbers over several lengths: variants down, what was summed up across.
fn pooled_table(study: &Study<'_>, protocol: Protocol<'_>, metrics: &[&str]) -> Option<Table> {
    let row = |model: &Model, metric: &str| study.of(model, protocol, metric).into_iter().find(|r| r.depth.is_none());
    let mut head = vec!["variant".to_owned()];
    let joined = |(what, place): (String, &str)| if place.is_empty() { what } else { format!("{what}, {place}") };
    head.extend(metrics.iter().map(|metric| joined(pooled_words(metric))));
    let mut rows = Vec::new();
    let mut ways: Vec<String> = Vec::new();
    for model in study.models.iter().filter(|m| metrics.iter().any(|metric| row(m, metric).is_some())) {
        let mut cells = vec![TableCell::head(&model.label)];
        for metric in metrics {
            let Some(found) = row(model, metric) else {
                cells.push(TableCell::plain("none"));
                continue;
            };
            let cell = TableCell { beyond: false, ..tables::cell(model, found, true) };
            let text = if *metric == EFFECTIVE {
                format!("{}: {}", ticks::tokens(found.length), cell.text)
            } else {
                cell.text
            };
            cells.push(TableCell { text, ..cell });
            // Both accuracies are of the same lengths.
            let (what, place) = pooled_words(metric);
            let of = if place.is_empty() { what } else { capital(place) };
            let way = found.how.iter().map(|how| format!("{of}: {how}."));
            ways.extend(way.filter(|way| !ways.contains(way)).collect::<Vec<_>>());
        }
        rows.push(cells);
    }
    let caption = format!(
        "{} ({}), numbers over several lengths. {} {}",
        capital(&named(protocol)),
        protocol.name,
        ways.join(" "),
        tables::small_print(None, "trials")
    );
    (!rows.is_empty()).then_some(Table { caption, head, rows })
}

/// The share that a length must reach to be an effective one, where rows say it (`at least 85.6 %`).
fn threshold(study: &Study<'_>, protocol: Protocol<'_>) -> Option<f64> {
    let rows = study.models.iter().flat_map(|m| study.of(m, protocol, EFFECTIVE));
    let said =
        rows.filter_map(|r| r.how.as_deref()?.split("at least ").nth(1)?.split(" %").next()?.parse::<f64>().ok());
    said.map(|percent| percent / 100.0).find(|share| (0.0..=1.0).contains(share))
}

/// `Effective length: base 4K, yarn 16K.`
fn effective(study: &Study<'_>, protocol: Protocol<'_>) -> String {
    let row = |m: &Model| study.of(m, protocol, EFFECTIVE).first().map(|r| ticks::tokens(r.length));
    let measured = study.models.iter().filter(|m| !study.by_length(m, protocol, DRAWN).is_empty());
    let list: Vec<String> =
        measured.map(|m| format!("{} {}", m.label, row(m).unwrap_or_else(|| "none".to_owned()))).collect();
    format!(" Effective length: {}.", list.join(", "))
}

/// Small multiples of all variants, then each variant's own map and table on demand.
fn heat_parts(study: &Study<'_>, protocol: Protocol<'_>, metric: &str, drawn: bool) -> Vec<Part> {
    let measured: Vec<&Model> =
        study.models.iter().filter(|m| study.of(m, protocol, metric).iter().any(|r| r.depth.is_some())).collect();
    if measured.is_empty() {
        return Vec::new();
    }
    if !drawn {
        let tables = measured.iter().map(|m| Part::Table(tables::by_depth(study, m, protocol, metric))).collect();
        return vec![Part::Folded(format!("{} by depth and length", words(metric)), tables)];
    }
    let mut parts = Vec::new();
    if measured.len() > 1 {
        parts.push(Part::Figure(Box::new(map(study, protocol, metric, &measured, None))));
    }
    for model in &measured {
        let inner = vec![
            Part::Figure(Box::new(map(study, protocol, metric, &[*model], Some(model)))),
            Part::Table(tables::by_depth(study, model, protocol, metric)),
        ];
        if measured.len() == 1 {
            parts.extend(inner);
        } else {
            let name = format!("{}: by depth and length, with intervals and counts", model.label);
            parts.push(Part::Folded(name, inner));
        }
    }
    parts
}

fn map(study: &Study<'_>, protocol: Protocol<'_>, metric: &str, models: &[&Model], one: Option<&Model>) -> Figure {
    // One grid for all variants, so that what was not run shows in each.
    let rows = || study.models.iter().flat_map(|m| study.of(m, protocol, metric)).filter(|r| r.depth.is_some());
    let lengths = distinct(rows().map(|r| r.length));
    let mut depths: Vec<f64> = rows().filter_map(|r| r.depth).filter(|d| d.is_finite()).collect();
    depths.sort_by(f64::total_cmp);
    depths.dedup();
    let panels: Vec<Panel> = models.iter().map(|m| panel(study, protocol, metric, m, &lengths, &depths)).collect();
    let counts = panels.iter().flat_map(|p| p.cells.iter().flatten()).filter_map(|c| match c {
        Cell::Measured { count, .. } => Some(*count),
        Cell::NotRun => None,
    });
    let (least, most) = counts.fold((u64::MAX, 0), |(l, m), c| (l.min(c), m.max(c)));
    let trials = match (least, most) {
        (1, 1) => "1 trial".to_owned(),
        (least, most) if least == most => format!("{most} trials"),
        (least, most) => format!("{least} to {most} trials"),
    };
    let task = &named(protocol);
    let things = if protocol.task == "passkey" { "keys found" } else { "answers right" };
    let subtitle = match one {
        Some(_) => {
            format!("Percent of {things}; below it the trials and the 95 % Wilson interval. Hatched: not run.")
        }
        None => format!(
            "Percent of {things}, {trials} a cell; intervals stand in each variant's own figure and table. \
             Hatched: not run."
        ),
    };
    let (id, title) = match one {
        Some(m) => (
            format!("{}-depth-{}", protocol.slug(), slug(&m.label)),
            format!("{}: {task} by depth and length", m.label),
        ),
        None => (format!("{}-depth", protocol.slug()), format!("{} by depth and length", capital(task))),
    };
    let description = format!("Heat map of {task} accuracy ({}). {}", protocol.name, averages(&panels, &lengths));
    Figure { id, title, subtitle, description, chart: Chart::Heat(HeatGrid { lengths, depths, panels }) }
}

fn panel(
    study: &Study<'_>,
    protocol: Protocol<'_>,
    metric: &str,
    model: &Model,
    lengths: &[usize],
    depths: &[f64],
) -> Panel {
    let rows = study.of(model, protocol, metric);
    let cell = |depth: Option<f64>, length: usize| {
        rows.iter().find(|r| r.length == length && r.depth == depth).map_or(Cell::NotRun, |r| Cell::Measured {
            share: r.value,
            interval: (r.low, r.high),
            count: r.count,
        })
    };
    let line = |depth: Option<f64>| lengths.iter().map(|l| cell(depth, *l)).collect::<Vec<_>>();
    let together = line(None);
    Panel {
        label: model.label.clone(),
        contexts: (model.variant.original_context, model.variant.trained_context),
        cells: depths.iter().map(|d| line(Some(*d))).collect(),
        together: if together.iter().all(|c| *c == Cell::NotRun) { Vec::new() } else { together },
    }
}

/// One sentence a panel: the mean of its cells at each length.
fn averages(panels: &[Panel], lengths: &[usize]) -> String {
    let mut out = String::new();
    for panel in panels {
        let at = |column: usize| {
            let shares: Vec<f64> = panel
                .cells
                .iter()
                .filter_map(|line| match line.get(column) {
                    Some(Cell::Measured { share, .. }) if share.is_finite() => Some(*share),
                    _ => None,
                })
                .collect();
            let mean = shares.iter().sum::<f64>() / shares.len() as f64;
            if shares.is_empty() { "not run".to_owned() } else { format!("{} %", ticks::percent(mean)) }
        };
        let list: Vec<String> = lengths.iter().enumerate().map(|(i, l)| format!("{} at {l} tokens", at(i))).collect();
        out.push_str(&format!("{}: {}. ", panel.label, list.join(", ")));
    }
    out.trim_end().to_owned()
}

/// Accuracy over all depths against length.
fn lines(study: &Study<'_>, protocol: Protocol<'_>, metric: &str, drawn: bool) -> Option<Figure> {
    let mut series = Vec::new();
    for model in &study.models {
        let rows = study.by_length(model, protocol, metric);
        if !rows.is_empty() {
            let points = rows.iter().map(|r| Datum::new(r.length as f64, r.value, r.low, r.high)).collect();
            series.push(Series { label: model.label.clone(), style: model.style, points });
        }
    }
    if series.is_empty() {
        return None;
    }
    let lengths = series.iter().flat_map(|s| s.points.iter().map(|p| p.x));
    let x = Axis::of_lengths("context length (tokens)", lengths.clone());
    let ends = series.iter().filter_map(|s| s.points.last().map(|p| (s, p)));
    let ends: Vec<String> =
        ends.map(|(s, p)| format!("{}: {} % at {} tokens", s.label, ticks::percent(p.y), p.x)).collect();
    let threshold = threshold(study, protocol).filter(|_| metric == DRAWN);
    let bars = "bars are 95 % Wilson intervals, and variants are set slightly apart so that bars can be told apart";
    let (intervals, said) = super::drawn(Intervals::Bars, bars, series.len());
    let subtitle = format!(
        "{}, {}; {said}.{}{}",
        words(metric),
        protocol.name,
        key(&series),
        threshold.map_or_else(String::new, |_| effective(study, protocol)),
    );
    let description = format!("{} of {} against context length. {}.", words(metric), named(protocol), ends.join("; "));
    let id = if drawn { protocol.slug() } else { format!("{}-{}", protocol.slug(), slug(metric)) };
    let chart = LineChart {
        verticals: context_rules(study, &x),
        x,
        y: Axis::of_shares("accuracy"),
        horizontals: threshold.map(threshold_rule).into_iter().collect(),
        intervals,
        naming: Naming::Direct,
        overflow: Overflow::Each,
        markers: 40,
        series,
    };
    let kind = match metric {
        "accuracy" => String::new(),
        FORCED => " (teacher-forced)".to_owned(),
        other => format!(" ({other})"),
    };
    let title = format!("{}: accuracy against context length{kind}", capital(&named(protocol)));
    Some(Figure { id, title, subtitle, description, chart: Chart::Lines(chart) })
}

fn threshold_rule(share: f64) -> Rule {
    let label = format!("effective: at least {} %", ticks::number(share * 100.0));
    Rule { at: share, label, dash: THRESHOLD }
}
