//! Perplexity against context length, one figure a protocol.

use eval::report::Row;

use super::tables;
use super::{Part, Table, ceiling, context_rules, drawn, key, listed};
use crate::chart::{Axis, Chart, Datum, Figure, Format, Intervals, LineChart, Naming, Overflow, Scale, Series};
use crate::study::{Protocol, Study, distinct};
use crate::ticks;

/// The metric that is drawn; others have tables.
pub(crate) const DRAWN: &str = "perplexity";

/// The average of the protocol's paper.
const PUBLISHED: &str = "perplexity_published";

/// LongPPL itself.
pub(crate) const KEY_TOKENS: &str = "perplexity_key_tokens";

/// What a short text costs.
pub(crate) const RATIO: &str = "perplexity_ratio";

/// Heading of a table that serves both averages.
const BOTH: &str =
    "Perplexity (every token weighs the same, and so it does in the protocol's paper: one table for both)";

/// Figure and tables of every protocol.
pub(crate) fn parts(study: &Study<'_>) -> Vec<Part> {
    let mut parts = Vec::new();
    for protocol in study.protocols(true) {
        let metrics = study.metrics(protocol);
        let headline = headline(protocol);
        let shown = if metrics.contains(&headline) { Some(headline) } else { metrics.first().copied() };
        if let Some(figure) = shown.and_then(|metric| figure(study, protocol, metric)) {
            parts.push(Part::Figure(Box::new(figure)));
        }
        let both = alike(study, protocol);
        let ways = ways(study, protocol);
        let told: String = if ways.len() > TOLD_WAYS {
            String::new()
        } else {
            ways.iter().map(|(way, names)| format!(" Computed {}: {}.", said(way), listed(names))).collect()
        };
        for metric in metrics.into_iter().filter(|&metric| !(both && metric == PUBLISHED)) {
            let heading = if both && metric == DRAWN { BOTH.to_owned() } else { heading(metric) };
            let caption = format!("{heading} by context length, protocol {}.{told}", protocol.name);
            let table = tables::by_length(study, protocol, metric, &caption);
            let table = table.map(|table| if told.is_empty() { with_ways(table, &ways) } else { table });
            parts.extend(table.map(Part::Table));
        }
    }
    parts
}

fn heading(metric: &str) -> String {
    match metric {
        DRAWN => "Perplexity (every token weighs the same)".to_owned(),
        KEY_TOKENS => "Perplexity of the tokens that need a long context".to_owned(),
        RATIO => "Perplexity over that of the model before its extension".to_owned(),
        "perplexity_before" => "Perplexity of the model before its extension".to_owned(),
        PUBLISHED => "Perplexity as published (averaged the way the protocol's paper does)".to_owned(),
        other => other.to_owned(),
    }
}

/// The metric that a protocol is there for.
pub(crate) fn headline(protocol: Protocol<'_>) -> &'static str {
    match protocol.name {
        "LongPPL" => KEY_TOKENS,
        name if name.ends_with(" short") => RATIO,
        _ => DRAWN,
    }
}

/// Whether both averages are the same everywhere, interval included.
fn alike(study: &Study<'_>, protocol: Protocol<'_>) -> bool {
    study.models.iter().all(|model| {
        let of = |metric| study.by_length(model, protocol, metric);
        let (ours, published) = (of(DRAWN), of(PUBLISHED));
        // Up to the order in which they were summed.
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs();
        let same = |(a, b): (&&Row, &&Row)| {
            a.length == b.length && near(a.value, b.value) && near(a.low, b.low) && near(a.high, b.high)
        };
        ours.len() == published.len() && ours.iter().zip(&published).all(same)
    })
}

/// Ways of computing with the names of the variants that were computed so, where rows say so.
type Ways<'a> = Vec<(&'a str, Vec<String>)>;

fn ways<'a>(study: &Study<'a>, protocol: Protocol<'a>) -> Ways<'a> {
    let mut ways: Ways<'a> = Vec::new();
    for model in &study.models {
        for row in study.of(model, protocol, DRAWN) {
            let Some(way) = row.how.as_deref() else { continue };
            let index = ways.iter().position(|(w, _)| *w == way).unwrap_or_else(|| {
                ways.push((way, Vec::new()));
                ways.len() - 1
            });
            if !ways[index].1.contains(&model.label) {
                ways[index].1.push(model.label.clone());
            }
        }
    }
    ways
}

/// A way as it goes on after `computed`.
fn said(way: &str) -> String {
    if way.starts_with("against ") { way.to_owned() } else { format!("by {way}") }
}

/// Most ways that a caption tells; of more each stands beside its variant.
const TOLD_WAYS: usize = 3;

/// The table with each variant's way beside its name.
fn with_ways(mut table: Table, ways: &Ways<'_>) -> Table {
    for row in &mut table.rows {
        if let Some(head) = row.first_mut() {
            let own = ways.iter().filter(|(_, names)| names.contains(&head.text)).map(|(way, _)| *way);
            head.small = own.collect::<Vec<_>>().join("; ");
        }
    }
    table
}

fn figure(study: &Study<'_>, protocol: Protocol<'_>, metric: &str) -> Option<Figure> {
    let mut series = Vec::new();
    let (mut inside, mut all) = (Vec::new(), Vec::new());
    for model in &study.models {
        let rows = study.by_length(model, protocol, metric);
        if rows.is_empty() {
            continue;
        }
        all.extend(rows.iter().map(|r| r.value));
        inside.extend(rows.iter().filter(|r| !tables::beyond(model, r.length)).map(|r| r.value));
        let points = rows.iter().map(|r| Datum::new(r.length as f64, r.value, r.low, r.high)).collect();
        series.push(Series { label: model.label.clone(), style: model.style, points });
    }
    // Points at one length are no curve.
    if distinct(series.iter().flat_map(|s: &Series| s.points.iter().map(|p| p.x as usize))).len() < 2 {
        return None;
    }
    let lengths = series.iter().flat_map(|s| s.points.iter().map(|p| p.x));
    let x = Axis::of_lengths("context length (tokens)", lengths.clone());
    let description = description(&series, protocol);
    let (intervals, words) = drawn(Intervals::Band, "bands are 95 % intervals over documents", series.len());
    let subtitle = format!("Lower is better; {words}; both axes are logarithmic.{}", key(&series));
    let chart = LineChart {
        verticals: context_rules(study, &x),
        x,
        y: y_axis(&series, heading_of_axis(metric), ceiling(inside.into_iter(), all.into_iter())),
        horizontals: Vec::new(),
        intervals,
        naming: Naming::Direct,
        overflow: Overflow::Each,
        markers: 40,
        series,
    };
    Some(Figure {
        id: protocol.slug(),
        title: format!("Perplexity against context length ({})", protocol.name),
        subtitle,
        description,
        chart: Chart::Lines(chart),
    })
}

fn heading_of_axis(metric: &str) -> &'static str {
    match metric {
        KEY_TOKENS => "perplexity of key tokens",
        RATIO => "perplexity over that before",
        _ => "perplexity",
    }
}

/// From just below the lowest number or interval to the ceiling, or to the intervals of points below it.
fn y_axis(series: &[Series], label: &str, ceiling: f64) -> Axis {
    let kept = series.iter().flat_map(|s| &s.points).filter(|p| p.y.is_finite() && p.y > 0.0 && p.y <= ceiling);
    let ends = kept.flat_map(|p| [Some(p.y), p.interval.map(|i| i.0), p.interval.map(|i| i.1)]).flatten();
    let (low, high) = ends.filter(|v| *v > 0.0).fold((f64::INFINITY, 0.0_f64), |(l, h), v| (l.min(v), h.max(v)));
    let (low, high) = if low <= high { (low, high.min(ceiling * 1.4)) } else { (1.0, 10.0) };
    let room = (high / low).powf(0.05).max(1.015);
    Axis { label: label.to_owned(), scale: Scale::Log10, format: Format::Number, low: low / room, high: high * room }
}

fn description(series: &[Series], protocol: Protocol<'_>) -> String {
    let mut words = format!("Perplexity under protocol {} against context length. ", protocol.name);
    for s in series {
        if let (Some(first), Some(last)) = (s.points.first(), s.points.last()) {
            words.push_str(&format!(
                "{}: {} at {} tokens, {} at {}. ",
                s.label,
                ticks::measured(first.y),
                first.x,
                ticks::measured(last.y),
                last.x
            ));
        }
    }
    words.trim_end().to_owned()
}
