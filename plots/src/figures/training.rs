//! Training curves: loss against tokens.

use eval::report::TrainingCurve;

use super::{Part, Table, TableCell};
use crate::chart::{Axis, Chart, Datum, Figure, Format, Intervals, LineChart, Naming, Overflow, Scale, Series};
use crate::study::{Model, Study};
use crate::ticks;

/// A line has at most this many points; each is the mean of the steps that it stands for.
const POINTS: usize = 60;

/// The figure and its table.
pub(crate) fn parts(study: &Study<'_>) -> Vec<Part> {
    let curves: Vec<(&Model, &TrainingCurve)> = study
        .models
        .iter()
        .flat_map(|m| {
            let found = study.report(m).training.iter();
            found.filter(|t| t.variant == m.variant.name && !t.loss.is_empty()).take(1).map(move |t| (m, t))
        })
        .collect();
    let mut parts: Vec<Part> = figure(&curves).map(|f| Part::Figure(Box::new(f))).into_iter().collect();
    if !curves.is_empty() {
        parts.push(Part::Table(table(&curves)));
    }
    parts
}

/// Means of `POINTS` stretches of the curve, with the lowest and highest step in each as the interval.
fn stretches(curve: &TrainingCurve, unit: f64) -> Vec<Datum> {
    let steps: Vec<(f64, f64)> =
        curve.tokens.iter().map(|t| *t as f64 / unit).zip(curve.loss.iter().copied()).collect();
    let size = steps.len().div_ceil(POINTS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let sum = part.iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        let (low, high) = part.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p.1), h.max(p.1)));
        let count = part.len() as f64;
        Datum::new(sum.0 / count, sum.1 / count, low, high)
    };
    steps.chunks(size).map(mean).collect()
}

/// Divisor and name for counts of tokens.
fn unit(most: u64) -> (f64, &'static str) {
    match most {
        0..100_000 => (1.0, "training tokens"),
        100_000..1_000_000_000 => (1e6, "training tokens (millions)"),
        _ => (1e9, "training tokens (billions)"),
    }
}

fn figure(curves: &[(&Model, &TrainingCurve)]) -> Option<Figure> {
    let most = curves.iter().flat_map(|(_, c)| &c.tokens).max().copied().unwrap_or(0);
    let (divisor, name) = unit(most);
    let series: Vec<Series> = curves
        .iter()
        .map(|(m, c)| Series { label: m.label.clone(), style: m.style, points: stretches(c, divisor) })
        .collect();
    let finite = || series.iter().flat_map(|s| &s.points).filter(|p| p.y.is_finite());
    let (low, high) = finite()
        .flat_map(|p| [Some(p.y), p.interval.map(|i| i.0), p.interval.map(|i| i.1)])
        .flatten()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return None;
    }
    let room = ((high - low) * 0.05).max(0.02);
    let number = |label: &str, low, high| Axis {
        label: label.to_owned(),
        scale: Scale::Linear,
        format: Format::Number,
        low,
        high,
    };
    let ends: Vec<String> =
        curves.iter().map(|(m, c)| format!("{} ends at {}", m.label, ticks::measured(last(c)))).collect();
    let chart = LineChart {
        x: number(name, 0.0, (most as f64 / divisor).max(f64::MIN_POSITIVE) * 1.02),
        y: number("training loss (nats per token)", (low - room).max(0.0), high + room),
        verticals: Vec::new(),
        horizontals: Vec::new(),
        intervals: Intervals::Band,
        naming: Naming::Direct,
        overflow: Overflow::Highest,
        markers: 0,
        series,
    };
    Some(Figure {
        id: "training-loss".to_owned(),
        title: "Training loss".to_owned(),
        subtitle: format!(
            "Lines are means over stretches of steps, at most {POINTS} a run; bands span the lowest and highest step in each."
        ),
        description: format!("Training loss against tokens. {}.", ends.join("; ")),
        chart: Chart::Lines(chart),
    })
}

/// Mean loss of the last twentieth of the steps.
fn last(curve: &TrainingCurve) -> f64 {
    let size = (curve.loss.len() / 20).max(1);
    let tail = &curve.loss[curve.loss.len().saturating_sub(size)..];
    tail.iter().sum::<f64>() / tail.len() as f64
}

fn table(curves: &[(&Model, &TrainingCurve)]) -> Table {
    let head = ["variant", "steps", "tokens", "first loss", "last loss", "highest learning rate"].map(str::to_owned);
    let rows = curves.iter().map(|(model, curve)| {
        let rate = curve.learning_rate.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        vec![
            TableCell::head(&model.label),
            TableCell::plain(ticks::count(curve.steps.last().copied().unwrap_or(0))),
            TableCell::plain(ticks::count(curve.tokens.last().copied().unwrap_or(0))),
            TableCell::plain(ticks::measured(curve.loss.first().copied().unwrap_or(f64::NAN))),
            TableCell::plain(ticks::measured(last(curve))),
            TableCell::plain(if rate.is_finite() { ticks::number(rate) } else { "not recorded".to_owned() }),
        ]
    });
    let caption = "Training. The last loss is the mean of the last twentieth of the steps.".to_owned();
    Table { caption, head: head.to_vec(), rows: rows.collect() }
}
