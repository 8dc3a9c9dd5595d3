//! Loss against context inside each variant's reach, with a power law and what it is worth.

use eval::metrics::Estimate;
use eval::scaling::{Measured, ScalingFit, fit};

use super::{Part, Table, TableCell, context_rules, listed, perplexity};
use crate::chart::{Axis, Chart, Datum, Figure, Format, Intervals, LineChart, Naming, Overflow, Scale, Series};
use crate::study::{Model, Protocol, Study, distinct};
use crate::style::{Draws, SeriesStyle};
use crate::ticks;

/// Places at which a fitted curve is drawn.
const CURVE: usize = 60;

/// A variant's loss inside its reach, and the law fitted to it.
struct Fitted<'m> {
    model: &'m Model,
    points: Vec<Datum>,
    fit: ScalingFit,
}

/// Figure, tables, and sentences on what cannot be leant on.
pub(crate) fn parts(study: &Study<'_>) -> Vec<Part> {
    let Some(protocol) = study.protocols(true).into_iter().find(|p| study.metrics(*p).contains(&perplexity::DRAWN))
    else {
        return Vec::new();
    };
    let mut fitted = Vec::new();
    let mut without: Vec<(String, Vec<String>)> = Vec::new();
    for model in &study.models {
        let points = points(study, model, protocol);
        let measured: Vec<Measured> = points.iter().map(|p| Measured { context: p.x, loss: p.y }).collect();
        match fit(&measured, seed(study, model)) {
            Ok(fit) => fitted.push(Fitted { model, points, fit }),
            Err(error) => {
                let why = error.to_string();
                match without.iter_mut().find(|(known, _)| *known == why) {
                    Some((_, names)) => names.push(model.label.clone()),
                    None => without.push((why, vec![model.label.clone()])),
                }
            }
        }
    }
    let mut parts = vec![Part::Text(
        "A power law with an offset, loss = (alpha / context)^beta + gamma (Xiong et al. 2023), fitted to the loss at each \
         measured context. A trained or unchanged variant is fitted up to the context that it was trained at, a variant \
         extended by a factor without training up to that factor times its context, any other method over all lengths."
            .to_owned(),
    )];
    if !fitted.is_empty() {
        parts.push(Part::Figure(Box::new(figure(study, protocol, &fitted))));
        parts.push(Part::Table(laws(&fitted, protocol)));
        parts.push(Part::Table(residuals(&fitted)));
    }
    parts.extend(fitted.iter().filter(|f| !f.fit.doubts.is_empty()).map(|f| {
        let doubts = listed(&f.fit.doubts);
        Part::Text(format!("{}: the data cannot carry this fit, because {doubts}.", f.model.label))
    }));
    parts.extend(without.iter().map(|(why, names)| Part::Text(format!("No law for {}: {why}.", listed(names)))));
    parts
}

/// The study's own seed, where its report says one.
fn seed(study: &Study<'_>, model: &Model) -> u64 {
    let seeds = &study.report(model).provenance.seeds;
    seeds.get("study").or_else(|| seeds.values().next()).copied().unwrap_or(1)
}

/// How far a variant claims to read: its trained context; its factor times the original one when it was extended without
/// training; no end when another method reads it.
fn reach(model: &Model) -> usize {
    let v = &model.variant;
    let unchanged = matches!(v.scheme.as_str(), "" | "none" | "default");
    if v.trained_tokens > 0 || unchanged || v.trained_context > v.original_context {
        return if v.trained_context == 0 { usize::MAX } else { v.trained_context };
    }
    let factor = v.parameters.split(", ").find_map(|p| p.strip_prefix("factor = ")?.parse::<f64>().ok());
    factor.filter(|f| *f >= 1.0).map_or(usize::MAX, |factor| (v.original_context as f64 * factor) as usize)
}

/// Loss in nats at each context inside the reach.
fn points(study: &Study<'_>, model: &Model, protocol: Protocol<'_>) -> Vec<Datum> {
    let reach = reach(model);
    let rows = study.by_length(model, protocol, perplexity::DRAWN).into_iter();
    let usable = rows.filter(|r| r.length <= reach && r.value.is_finite() && r.value > 0.0);
    usable.map(|r| Datum::new(r.length as f64, r.value.ln(), r.low.ln(), r.high.ln())).collect()
}

fn figure(study: &Study<'_>, protocol: Protocol<'_>, fitted: &[Fitted<'_>]) -> Figure {
    let mut series = Vec::new();
    for f in fitted {
        let (first, last) = (f.points[0].x, f.points[f.points.len() - 1].x);
        let at = |i: usize| first * (last / first).powf(i as f64 / (CURVE - 1) as f64);
        let curve = (0..CURVE).map(|i| Datum::bare(at(i), f.fit.law.loss(at(i)))).collect();
        let name = &f.model.label;
        let (law, style) = (SeriesStyle { draws: Draws::Line, ..f.model.style }, f.model.style);
        series.push(Series { label: format!("{name}, fitted"), style: law, points: curve });
        let points = f.points.clone();
        series.push(Series { label: name.clone(), style: SeriesStyle { draws: Draws::Markers, ..style }, points });
    }
    let all = || fitted.iter().flat_map(|f| &f.points);
    let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p.y), h.max(p.y)));
    let room = ((high - low) * 0.06).max(0.02);
    let said: Vec<String> = fitted
        .iter()
        .map(|f| {
            let law = f.fit.law;
            let word = if f.fit.doubts.is_empty() { "" } else { " (in doubt)" };
            format!(
                "{}: exponent {}, offset {}{word}",
                f.model.label,
                ticks::measured(law.beta),
                ticks::measured(law.gamma)
            )
        })
        .collect();
    let y = Axis {
        label: "loss (nats per token)".to_owned(),
        scale: Scale::Linear,
        format: Format::Number,
        low: low - room,
        high: high + room,
    };
    let x = Axis::of_lengths("context length (tokens)", all().map(|p| p.x).collect::<Vec<_>>().into_iter());
    let chart = LineChart {
        verticals: context_rules(study, &x),
        x,
        y,
        horizontals: Vec::new(),
        intervals: Intervals::Bars,
        naming: Naming::Direct,
        overflow: Overflow::Highest,
        markers: 40,
        series,
    };
    Figure {
        id: format!("scaling-{}", protocol.slug()),
        title: format!("Loss against context length, with fitted power laws ({})", protocol.name),
        subtitle:
            "Markers: the logarithm of perplexity inside each variant's reach, with 95 % intervals over documents. \
                   Lines: the fitted law. Documents are shared, so that the points of one variant move together."
                .to_owned(),
        description: format!("Loss against context length with fitted power laws. {}.", said.join("; ")),
        chart: Chart::Lines(chart),
    }
}

/// The fitted numbers and a word on each fit.
fn laws(fitted: &[Fitted<'_>], protocol: Protocol<'_>) -> Table {
    let head = [
        "variant",
        "contexts",
        "exponent beta",
        "scale alpha (tokens)",
        "offset gamma (nats)",
        "scatter (nats)",
        "fit",
    ];
    let number = |e: Estimate| TableCell {
        text: ticks::measured(e.value),
        small: ticks::interval(e.low, e.high),
        ..TableCell::default()
    };
    let row = |f: &Fitted<'_>| {
        let (first, last) = (f.points[0].x as usize, f.points[f.points.len() - 1].x as usize);
        let span = format!("{} from {} to {}", f.points.len(), ticks::tokens(first), ticks::tokens(last));
        let word = if f.fit.doubts.is_empty() { "carried by the data" } else { "in doubt" };
        vec![
            TableCell::head(&f.model.label),
            TableCell::plain(span),
            number(f.fit.beta),
            number(f.fit.alpha),
            number(f.fit.gamma),
            TableCell::plain(ticks::measured(f.fit.deviation)),
            TableCell::plain(word),
        ]
    };
    Table {
        caption: format!(
            "Fitted laws, protocol {}. Small print: 95 % interval over resampled residuals, which knows nothing of other \
             documents.",
            protocol.name
        ),
        head: head.map(str::to_owned).to_vec(),
        rows: fitted.iter().map(row).collect(),
    }
}

/// What the law leaves over at each context.
fn residuals(fitted: &[Fitted<'_>]) -> Table {
    let lengths = distinct(fitted.iter().flat_map(|f| f.points.iter().map(|p| p.x as usize)));
    let mut head = vec!["variant".to_owned()];
    head.extend(lengths.iter().map(|l| ticks::tokens(*l)));
    let row = |f: &Fitted<'_>| {
        let mut cells = vec![TableCell::head(&f.model.label)];
        cells.extend(lengths.iter().map(|length| {
            let index = f.points.iter().position(|p| p.x as usize == *length);
            let left = index.and_then(|i| f.fit.residuals.get(i));
            left.map_or_else(|| TableCell::plain("not fitted"), |left| TableCell::plain(format!("{left:+.4}")))
        }));
        cells
    };
    Table {
        caption: "Residuals: measured loss less fitted, in nats, by context length.".to_owned(),
        head,
        rows: fitted.iter().map(row).collect(),
    }
}
