//! Perplexity against retrieval at one length: good perplexity does not mean that anything can be found.

use eval::report::Row;

use super::{Part, ceiling, key, listed, perplexity, retrieval, tables};
use crate::chart::{Axis, Chart, Datum, Figure, Format, Intervals, LineChart, Naming, Overflow, Scale, Series};
use crate::study::{Model, Protocol, Study};
use crate::ticks;

/// The figure, where both were measured at one length.
pub(crate) fn parts(study: &Study<'_>) -> Vec<Part> {
    let ppl = study.protocols(true).into_iter().find(|p| study.metrics(*p).contains(&perplexity::DRAWN));
    let scored = || study.protocols(false).into_iter().filter(|p| study.metrics(*p).contains(&retrieval::DRAWN));
    let Some(ppl) = ppl else { return Vec::new() };
    // A mean over many tasks says more than any one, and a task at which all fail nothing.
    let mut tasks: Vec<(Protocol<'_>, usize)> =
        scored().filter_map(|hit| length(study, ppl, hit).map(|length| (hit, length))).collect();
    tasks.sort_by_key(|(hit, _)| hit.task != "ruler");
    let found = |(hit, length): &&(Protocol<'_>, usize)| {
        let row = |model| row(study, model, *hit, retrieval::DRAWN, *length);
        study.models.iter().filter_map(row).any(|row| row.value * row.count as f64 >= 0.5)
    };
    let chosen = tasks.iter().find(found).or(tasks.first()).copied();
    let figure = chosen.and_then(|(hit, length)| figure(study, ppl, hit, length));
    figure.map(|f| Part::Figure(Box::new(f))).into_iter().collect()
}

fn row<'a>(study: &Study<'a>, model: &Model, protocol: Protocol<'a>, metric: &str, length: usize) -> Option<&'a Row> {
    study.by_length(model, protocol, metric).into_iter().find(|r| r.length == length)
}

/// The longest trained length at which a variant has both numbers, else the longest at which any has.
fn length(study: &Study<'_>, ppl: Protocol<'_>, hit: Protocol<'_>) -> Option<usize> {
    let both: Vec<usize> = study
        .models
        .iter()
        .flat_map(|m| {
            let lengths = study.by_length(m, hit, retrieval::DRAWN).into_iter().map(|r| r.length);
            lengths.filter(|l| row(study, m, ppl, perplexity::DRAWN, *l).is_some()).collect::<Vec<_>>()
        })
        .collect();
    let (longest, _) = study.aim();
    both.iter().filter(|l| **l <= longest).max().or(both.iter().max()).copied()
}

fn figure(study: &Study<'_>, ppl: Protocol<'_>, hit: Protocol<'_>, length: usize) -> Option<Figure> {
    let mut series = Vec::new();
    for model in &study.models {
        let found =
            row(study, model, ppl, perplexity::DRAWN, length).zip(row(study, model, hit, retrieval::DRAWN, length));
        let Some((p, h)) = found.filter(|(p, _)| p.value.is_finite() && p.value > 0.0) else { continue };
        let across = (p.low.is_finite() && p.high.is_finite()).then_some((p.low, p.high));
        let point = Datum { across, ..Datum::new(p.value, h.value, h.low, h.high) };
        let label = format!("{} ({}, {})", model.label, ticks::measured(p.value), tables::shown(h));
        series.push(Series { label, style: model.style, points: vec![point] });
    }
    let values = || series.iter().flat_map(|s| &s.points).map(|p| p.x);
    let limit = ceiling(values(), values());
    let (series, outside): (Vec<Series>, Vec<Series>) = series.into_iter().partition(|s| s.points[0].x <= limit);
    let outside: Vec<String> = outside.into_iter().map(|s| s.label).collect();
    let outside =
        if outside.is_empty() { String::new() } else { format!(" Off the right edge: {}.", listed(&outside)) };
    let ends = || {
        series
            .iter()
            .flat_map(|s| &s.points)
            .flat_map(|p| [p.x, p.across.map_or(p.x, |a| a.0), p.across.map_or(p.x, |a| a.1)])
    };
    let (low, high) = ends().filter(|v| *v > 0.0).fold((f64::INFINITY, 0.0_f64), |(l, h), v| (l.min(v), h.max(v)));
    if series.len() < 2 {
        return None;
    }
    let room = (high / low).powf(0.06).max(1.02);
    let subtitle = format!(
        "At {} tokens, {}. Best is the upper left; bars are 95 % intervals.{outside}{}",
        ticks::count(length as u64),
        study.aim().1,
        key(&series).replace("Solid lines and filled marks", "Filled").replace("dashed and hollow", "hollow"),
    );
    let list: Vec<String> = series.iter().map(|s| s.label.clone()).collect();
    let x = Axis {
        label: format!("perplexity ({}), lower is better", ppl.name),
        scale: Scale::Log10,
        format: Format::Number,
        low: low / room,
        high: high * room,
    };
    let chart = LineChart {
        x,
        y: Axis::of_shares(&format!("{} accuracy", retrieval::named(hit))),
        verticals: Vec::new(),
        horizontals: Vec::new(),
        intervals: Intervals::Bars,
        naming: Naming::Legend,
        overflow: Overflow::Each,
        markers: 1,
        series,
    };
    Some(Figure {
        id: format!("tradeoff-{length}"),
        title: "Perplexity against retrieval".to_owned(),
        subtitle,
        description: format!(
            "Perplexity and {} accuracy at {length} tokens: {}.",
            retrieval::named(hit),
            list.join("; ")
        ),
        chart: Chart::Lines(chart),
    })
}
