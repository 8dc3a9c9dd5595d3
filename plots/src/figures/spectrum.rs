//! Rotation frequencies: the wavelength of each pair, `2 pi / inv_freq` tokens, with the original context as a line.

use std::f64::consts::TAU;

use eval::report::Spectrum;

use super::{Part, Table, TableCell, listed};
use crate::chart::heat::ORIGINAL;
use crate::chart::{Axis, Chart, Datum, Figure, Format, Intervals, LineChart, Naming, Overflow, Rule, Scale, Series};
use crate::study::{Model, Study};
use crate::ticks;

/// Variants with the same frequencies, which are drawn as one line.
struct Family<'a> {
    models: Vec<&'a Model>,
    spectrum: &'a Spectrum,
}

impl Family<'_> {
    fn label(&self) -> String {
        listed(&self.models.iter().map(|m| m.label.clone()).collect::<Vec<_>>())
    }
}

/// The figure and its table.
pub(crate) fn parts(study: &Study<'_>) -> Vec<Part> {
    let families = families(study);
    let Some(figure) = figure(study, &families) else { return Vec::new() };
    let tables = vec![Part::Table(table(&families))];
    vec![Part::Figure(Box::new(figure)), Part::Folded("Frequencies as a table".to_owned(), tables)]
}

/// Spectra whose numbers agree are one family, whatever their length; of one variant at several lengths each is its own.
fn families<'a>(study: &'a Study<'_>) -> Vec<Family<'a>> {
    let mut families: Vec<Family<'a>> = Vec::new();
    for model in &study.models {
        for spectrum in study.report(model).spectra.iter().filter(|s| s.variant == model.variant.name) {
            let same = |f: &&mut Family<'_>| f.spectrum.inv_freq == spectrum.inv_freq;
            match families.iter_mut().find(same) {
                Some(family) if family.models.iter().any(|m| std::ptr::eq(*m, model)) => {}
                Some(family) => family.models.push(model),
                None => families.push(Family { models: vec![model], spectrum }),
            }
        }
    }
    families
}

/// The families' names, with the length where one variant has several spectra.
fn labels(families: &[Family<'_>]) -> Vec<String> {
    let names: Vec<String> = families.iter().map(Family::label).collect();
    let repeated = |name: &String| names.iter().filter(|n| *n == name).count() > 1;
    let at = |f: &Family<'_>, name: &String| {
        if repeated(name) { format!("{name} at {}", ticks::tokens(f.spectrum.length)) } else { name.clone() }
    };
    families.iter().zip(&names).map(|(f, name)| at(f, name)).collect()
}

fn figure(study: &Study<'_>, families: &[Family<'_>]) -> Option<Figure> {
    let series: Vec<Series> = families
        .iter()
        .zip(labels(families))
        .map(|(family, label)| {
            let waves = family.spectrum.inv_freq.iter().enumerate();
            let points = waves.map(|(i, f)| Datum::bare(i as f64, TAU / f)).filter(|p| p.y > 0.0).collect();
            // Dashes say nothing about training here, since trained and untrained share a line.
            Series { label, style: family.models[0].style, points }
        })
        .collect();
    let finite = || series.iter().flat_map(|s| &s.points).filter(|p| p.y.is_finite());
    let pairs = finite().map(|p| p.x).fold(0.0, f64::max);
    let horizontals: Vec<Rule> = study
        .original_contexts()
        .into_iter()
        .map(|n| Rule {
            at: n as f64,
            label: format!("original context, {} tokens", ticks::count(n as u64)),
            dash: ORIGINAL,
        })
        .collect();
    let ends = finite().map(|p| p.y).chain(horizontals.iter().map(|r| r.at));
    let (low, high) = ends.fold((f64::INFINITY, 0.0_f64), |(l, h), v| (l.min(v), h.max(v)));
    finite().next()?;
    let number =
        |label: &str, scale, low, high| Axis { label: label.to_owned(), scale, format: Format::Number, low, high };
    let chart = LineChart {
        x: number("pair of dimensions (0 turns fastest)", Scale::Linear, -0.02 * pairs.max(1.0), pairs.max(1.0) * 1.02),
        y: number("wavelength (tokens)", Scale::Log10, low / 1.3, high * 1.3),
        verticals: Vec::new(),
        horizontals,
        intervals: Intervals::Band,
        naming: Naming::Direct,
        overflow: Overflow::Each,
        markers: 16,
        series,
    };
    Some(Figure {
        id: "rope-spectrum".to_owned(),
        title: "Wavelength of each rotated pair".to_owned(),
        subtitle: "Tokens for one full turn. Pairs above the dotted line never completed a turn within the original \
                   context. Variants with equal frequencies share a line."
            .to_owned(),
        description: describe(families),
        chart: Chart::Lines(chart),
    })
}

fn describe(families: &[Family<'_>]) -> String {
    let sentence = |f: &Family<'_>| {
        let longest = f.spectrum.inv_freq.iter().map(|v| TAU / v).filter(|w| w.is_finite()).fold(0.0, f64::max);
        format!(
            "{}: longest {} tokens, attention factor {}. ",
            f.label(),
            ticks::number(longest),
            ticks::number(f.spectrum.attention_factor)
        )
    };
    let words: String = families.iter().map(sentence).collect();
    format!("Wavelength of each rotated pair of dimensions by scheme. {}", words.trim_end())
}

fn table(families: &[Family<'_>]) -> Table {
    let mut head = vec!["pair".to_owned()];
    head.extend(labels(families));
    let pairs = families.iter().map(|f| f.spectrum.inv_freq.len()).max().unwrap_or(0);
    let mut rows: Vec<Vec<TableCell>> = vec![
        std::iter::once(TableCell::head("attention factor"))
            .chain(families.iter().map(|f| TableCell::plain(ticks::number(f.spectrum.attention_factor))))
            .collect(),
    ];
    rows.extend((0..pairs).map(|i| {
        let mut cells = vec![TableCell::head(i.to_string())];
        cells.extend(families.iter().map(|f| match f.spectrum.inv_freq.get(i) {
            Some(v) => TableCell { text: ticks::number(TAU / v), small: ticks::number(*v), ..TableCell::default() },
            None => TableCell::plain("none"),
        }));
        cells
    }));
    let caption = "Wavelength in tokens. Small print: radians per token.".to_owned();
    Table { caption, head, rows }
}
