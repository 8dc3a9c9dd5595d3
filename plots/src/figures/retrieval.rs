//! Retrieval: accuracy against length, and heat maps of depth by length.

use super::tables;
use super::{Part, capital, context_rules, key};
use crate::chart::{Axis, Cell, Chart, Datum, Figure, HeatGrid, Intervals, LineChart, Naming, Overflow, Panel, Series};
use crate::study::{Model, Protocol, Study, distinct, slug};
use crate::ticks;

/// The metric that heat maps show where there are several.
pub(crate) const DRAWN: &str = "accuracy";

/// Figures and tables of every task and protocol.
pub(crate) fn parts(study: &Study<'_>) -> Vec<Part> {
    let mut parts = Vec::new();
    for protocol in study.protocols(false) {
        let metrics = study.metrics(protocol);
        let drawn = if metrics.contains(&DRAWN) { Some(DRAWN) } else { metrics.first().copied() };
        for metric in metrics {
            if let Some(figure) = lines(study, protocol, metric, Some(metric) == drawn) {
                parts.push(Part::Figure(Box::new(figure)));
            }
            let caption = format!("{} of {} ({}) by context length.", words(metric), protocol.task, protocol.name);
            parts.extend(tables::by_length(study, protocol, metric, &caption).map(Part::Table));
            parts.extend(heat_parts(study, protocol, metric, Some(metric) == drawn));
        }
    }
    parts
}

fn words(metric: &str) -> String {
    match metric {
        "accuracy" => "Accuracy (generated answer)".to_owned(),
        "accuracy_forced" => "Accuracy (every token of the answer ranked first, teacher-forced)".to_owned(),
        other => other.to_owned(),
    }
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
    let trials = if least == most { least.to_string() } else { format!("{least} to {most}") };
    let task = &protocol.task;
    let subtitle = match one {
        Some(_) => {
            "Percent of keys found; below it the trials and the 95 % Wilson interval. Hatched: not run.".to_owned()
        }
        None => format!(
            "Percent of keys found, {trials} trials a cell; intervals stand in each variant's own figure and table. \
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
    let subtitle = format!(
        "{}, {}. Bars are 95 % Wilson intervals; variants are set slightly apart so that bars can be told apart.{}",
        words(metric),
        protocol.name,
        key(&series)
    );
    let description = format!("{} of {} against context length. {}.", words(metric), protocol.task, ends.join("; "));
    let id = if drawn { protocol.slug() } else { format!("{}-{}", protocol.slug(), slug(metric)) };
    let chart = LineChart {
        x,
        y: Axis::of_shares("accuracy"),
        verticals: context_rules(study),
        horizontals: Vec::new(),
        intervals: Intervals::Bars,
        naming: Naming::Direct,
        overflow: Overflow::Each,
        markers: 40,
        series,
    };
    let forced = if metric == "accuracy" { "" } else { " (teacher-forced)" };
    let title = format!("{} accuracy against context length{forced}", capital(protocol.task));
    Some(Figure { id, title, subtitle, description, chart: Chart::Lines(chart) })
}
