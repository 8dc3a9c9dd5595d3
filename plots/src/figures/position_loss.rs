//! Loss by position in the context, one figure for each length of pass.

use eval::report::PositionLoss;

use super::{Part, Table, TableCell, ceiling, context_rules, drawn, key};
use crate::chart::{Axis, Chart, Datum, Figure, Format, Intervals, LineChart, Naming, Overflow, Scale, Series};
use crate::study::{Model, Study, distinct};
use crate::ticks;

/// Figure and table for each length.
pub(crate) fn parts(study: &Study<'_>) -> Vec<Part> {
    let lengths = distinct(study.runs.iter().flat_map(|(_, r)| r.position_loss.iter().map(|p| p.length)));
    let mut parts = Vec::new();
    for length in lengths.into_iter().rev() {
        let curves: Vec<(&Model, &PositionLoss)> = study
            .models
            .iter()
            .flat_map(|m| {
                let found = study.report(m).position_loss.iter();
                found.filter(|p| p.variant == m.variant.name && p.length == length).take(1).map(move |p| (m, p))
            })
            .collect();
        if let Some(figure) = figure(study, &curves, length) {
            parts.push(Part::Figure(Box::new(figure)));
            parts.push(Part::Folded(
                "Loss by position as a table".to_owned(),
                vec![Part::Table(table(&curves, length))],
            ));
        }
    }
    parts
}

/// Buckets as (first position, position after the last).
fn buckets(curve: &PositionLoss) -> Vec<(usize, usize)> {
    let ends = curve.positions.iter().skip(1).copied().chain(std::iter::once(curve.length));
    curve.positions.iter().copied().zip(ends).collect()
}

/// Where a bucket stands on a logarithmic axis: the geometric middle of its first and last position, counted from 1.
fn middle((first, end): (usize, usize)) -> f64 {
    ((first + 1) as f64 * end.max(first + 1) as f64).sqrt()
}

fn points(curve: &PositionLoss) -> Vec<Datum> {
    let at = |list: &[f64], i: usize| list.get(i).copied().unwrap_or(f64::NAN);
    let pairs = buckets(curve).into_iter().zip(&curve.loss).enumerate();
    pairs.map(|(i, (b, loss))| Datum::new(middle(b), *loss, at(&curve.low, i), at(&curve.high, i))).collect()
}

fn figure(study: &Study<'_>, curves: &[(&Model, &PositionLoss)], length: usize) -> Option<Figure> {
    let mut series = Vec::new();
    let (mut inside, mut all) = (Vec::new(), Vec::new());
    for (model, curve) in curves {
        let points = points(curve);
        all.extend(points.iter().map(|p| p.y));
        inside.extend(points.iter().filter(|p| !super::beyond(model, p.x as usize)).map(|p| p.y));
        series.push(Series { label: model.label.clone(), style: model.style, points });
    }
    let mut x =
        Axis::of_lengths("position in the context (tokens)", series.iter().flat_map(|s| s.points.iter().map(|p| p.x)));
    // The steep fall over the first tokens is the same for all and would take most of the frame.
    let start = study.original_contexts().first().map_or(x.low, |n| (*n as f64 / 16.0).max(x.low));
    x.low = start.min(x.high / 4.0);
    // Far above is a matter of perplexity, of which the loss is the logarithm.
    let limit = ceiling(inside.into_iter().map(f64::exp), all.into_iter().map(f64::exp)).ln();
    let shown = series.iter().flat_map(|s| &s.points).filter(|p| p.x >= x.low && p.y.is_finite() && p.y <= limit);
    let (low, high) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p.y), h.max(p.y)));
    if series.is_empty() || low > high {
        return None;
    }
    let room = ((high - low) * 0.06).max(0.02);
    let documents = curves.iter().map(|(_, c)| c.documents).max().unwrap_or(0);
    let (intervals, words) = drawn(Intervals::Band, "bands are 95 % bootstrap intervals", series.len());
    let subtitle = format!(
        "Mean loss of the tokens in each stretch of positions, passes of {} tokens over {documents} documents; {words}. \
         The first positions are in the table alone.{}",
        ticks::count(length as u64),
        key(&series)
    );
    let ends: Vec<String> = series
        .iter()
        .filter_map(|s| s.points.last().map(|p| format!("{}: {} nats at the end", s.label, ticks::measured(p.y))))
        .collect();
    let description = format!("Loss by position in passes of {length} tokens. {}.", ends.join("; "));
    let y = Axis {
        label: "loss (nats per token)".to_owned(),
        scale: Scale::Linear,
        format: Format::Number,
        low: (low - room).max(0.0),
        high: high + room,
    };
    let chart = LineChart {
        verticals: context_rules(study, &x),
        x,
        y,
        horizontals: Vec::new(),
        intervals,
        naming: Naming::Direct,
        overflow: Overflow::Highest,
        markers: 14,
        series,
    };
    let title = "Loss by position".to_owned();
    Some(Figure { id: format!("position-loss-{length}"), title, subtitle, description, chart: Chart::Lines(chart) })
}

fn table(curves: &[(&Model, &PositionLoss)], length: usize) -> Table {
    let mut all: Vec<(usize, usize)> = curves.iter().flat_map(|(_, c)| buckets(c)).collect();
    all.sort_unstable();
    all.dedup();
    let mut head = vec!["positions".to_owned()];
    head.extend(curves.iter().map(|(m, _)| m.label.clone()));
    let rows = all.into_iter().map(|bucket| {
        let mut cells = vec![TableCell::head(format!("{} to {}", bucket.0, bucket.1.saturating_sub(1)))];
        cells.extend(curves.iter().map(|(model, curve)| {
            let found = buckets(curve).into_iter().position(|b| b == bucket);
            let Some(point) = found.and_then(|i| points(curve).get(i).copied()) else {
                return TableCell::plain("none");
            };
            let small = point.interval.map_or_else(String::new, |(l, h)| ticks::interval(l, h));
            let beyond = super::beyond(model, bucket.0 + 1);
            TableCell { text: ticks::measured(point.y), small, beyond, ..TableCell::default() }
        }));
        cells
    });
    let caption = format!("Loss in nats by position, passes of {length} tokens. Small print: 95 % interval.");
    Table { caption, head, rows: rows.collect() }
}
