//! Line charts: layout and drawing.

use super::{Axis, Figure, Intervals, LineChart, Naming, Series, WIDTH, labels, marks, overflow};
use crate::clip::{self, Frame};
use crate::scene::{Align, Point, Scene, Stroke, TextStyle};
use crate::style::{Draws, GRID, INK, MUTED, RULE};
use crate::text;

/// Height of the frame unless names need more.
const FRAME_HEIGHT: f64 = 340.0;
/// Size of tick labels.
const TICK: f64 = 11.5;
/// Size of names beside lines.
const NAME: f64 = 12.0;
/// Distance between such names.
const NAME_GAP: f64 = 16.0;
/// Length of the piece of line before a name.
const SAMPLE: f64 = 26.0;
/// Distance between rows of rule labels.
const RULE_ROW: f64 = 14.0;

/// Draws heading and explanation; returns the height that they take.
pub(crate) fn heading(scene: &mut Scene, figure: &Figure) -> f64 {
    let title = text::fitted(&figure.title, 16.0, true, WIDTH - 28.0);
    scene.text((14.0, 26.0), &title, TextStyle::new(16.0, INK).bold());
    let mut y = 32.0;
    for line in text::wrapped(&figure.subtitle, 11.5, WIDTH - 28.0) {
        y += 15.0;
        scene.text((14.0, y), &line, TextStyle::new(11.5, MUTED));
    }
    y + 12.0
}

/// Draws a whole line chart.
pub(crate) fn drawn(figure: &Figure, chart: &LineChart) -> Scene {
    let mut scene = Scene::new(WIDTH);
    let top = heading(&mut scene, figure);
    let ticks: Vec<String> = chart.y.ticks().into_iter().map(|t| chart.y.written(t)).collect();
    let tick_width = ticks.iter().map(|t| text::width(t, TICK, false)).fold(28.0, f64::max);
    let names = chart.series.iter().map(|s| text::width(&s.label, NAME, false)).fold(0.0, f64::max).min(230.0);
    let strip = overflow::needed(chart);
    let left = tick_width + 48.0;
    let right = WIDTH - names - SAMPLE - 42.0;
    let rows = rule_rows(chart, left, right);
    let rule_height = rows.iter().map(|r| r + 1).max().unwrap_or(0) as f64 * RULE_ROW;
    let frame_top = top + strip + rule_height + 6.0;
    let height = FRAME_HEIGHT.max(chart.series.len() as f64 * NAME_GAP);
    let frame = Frame { left, top: frame_top, right, bottom: frame_top + height };
    scene.height = frame.bottom + 56.0;

    axes(&mut scene, chart, &frame);
    rules(&mut scene, chart, &frame, &rows);
    for series in &chart.series {
        intervals(&mut scene, chart, series, &frame);
    }
    let ends: Vec<f64> = chart.series.iter().map(|s| line(&mut scene, chart, s, &frame)).collect();
    for series in &chart.series {
        markers(&mut scene, chart, series, &frame);
    }
    overflow::draw(&mut scene, chart, &frame, top + strip);
    names_beside(&mut scene, chart, &ends, &frame);
    scene
}

/// Place of a point in logical pixels.
fn place(chart: &LineChart, frame: &Frame, x: f64, y: f64) -> Point {
    (frame.left + chart.x.share(x) * frame.width(), frame.bottom - chart.y.share(y) * frame.height())
}

/// How far a series is set aside so that bars do not cover one another.
fn aside(chart: &LineChart, series: &Series) -> f64 {
    if chart.intervals != Intervals::Bars || chart.naming == Naming::Legend {
        return 0.0;
    }
    let index = chart.series.iter().position(|s| std::ptr::eq(s, series)).unwrap_or(0) as f64;
    let count = chart.series.len() as f64;
    (index - (count - 1.0) / 2.0) * (28.0 / count).min(4.5)
}

fn axes(scene: &mut Scene, chart: &LineChart, frame: &Frame) {
    for tick in chart.y.ticks() {
        let y = place(chart, frame, chart.x.low, tick).1;
        scene.segment((frame.left, y), (frame.right, y), GRID, 1.0);
        let style = TextStyle::new(TICK, INK).align(Align::End);
        scene.text((frame.left - 7.0, y + 4.0), &chart.y.written(tick), style);
    }
    for (x, label) in spaced(&chart.x, frame) {
        scene.segment((x, frame.top), (x, frame.bottom), GRID, 1.0);
        scene.segment((x, frame.bottom), (x, frame.bottom + 4.0), INK, 1.0);
        scene.text((x, frame.bottom + 18.0), &label, TextStyle::new(TICK, INK).align(Align::Middle));
    }
    scene.segment((frame.left, frame.bottom), (frame.right, frame.bottom), INK, 1.0);
    scene.segment((frame.left, frame.top), (frame.left, frame.bottom), INK, 1.0);
    let middle = ((frame.left + frame.right) / 2.0, frame.bottom + 40.0);
    scene.text(middle, &chart.x.label, TextStyle::new(12.0, INK).align(Align::Middle));
    let beside = (18.0, (frame.top + frame.bottom) / 2.0);
    scene.text(beside, &chart.y.label, TextStyle::new(12.0, INK).align(Align::Middle).vertical());
}

/// Horizontal ticks whose labels do not touch.
fn spaced(axis: &Axis, frame: &Frame) -> Vec<(f64, String)> {
    let mut kept: Vec<(f64, String)> = Vec::new();
    let mut free = f64::NEG_INFINITY;
    for tick in axis.ticks() {
        let (x, label) = (frame.left + axis.share(tick) * frame.width(), axis.written(tick));
        let half = text::width(&label, TICK, false) / 2.0;
        if x - half >= free {
            free = x + half + 6.0;
            kept.push((x, label));
        }
    }
    kept
}

/// The row above the frame for each vertical rule's label, so that labels do not touch.
fn rule_rows(chart: &LineChart, left: f64, right: f64) -> Vec<usize> {
    let mut ends: Vec<f64> = Vec::new();
    let mut rows = Vec::new();
    for rule in &chart.verticals {
        let half = text::width(&rule.label, 10.5, false) / 2.0;
        let x = left + chart.x.share(rule.at) * (right - left);
        let row = ends.iter().position(|end| x - half > end + 6.0).unwrap_or(ends.len());
        if row == ends.len() {
            ends.push(0.0);
        }
        ends[row] = x + half;
        rows.push(row);
    }
    rows
}

fn rules(scene: &mut Scene, chart: &LineChart, frame: &Frame, rows: &[usize]) {
    for (rule, row) in chart.verticals.iter().zip(rows) {
        let x = frame.left + chart.x.share(rule.at) * frame.width();
        let y = frame.top - 6.0 - *row as f64 * RULE_ROW;
        let stroke = Stroke { color: RULE, width: 1.4, dash: rule.dash };
        scene.path(vec![(x, frame.bottom), (x, y + 2.0)], stroke);
        scene.text((x, y), &rule.label, TextStyle::new(10.5, MUTED).align(Align::Middle));
    }
    for rule in &chart.horizontals {
        let y = frame.bottom - chart.y.share(rule.at) * frame.height();
        if (frame.top..=frame.bottom).contains(&y) {
            let stroke = Stroke { color: RULE, width: 1.4, dash: rule.dash };
            scene.path(vec![(frame.left, y), (frame.right, y)], stroke);
            let style = TextStyle::new(10.5, MUTED).align(Align::End);
            scene.text((frame.right - 8.0, y - 5.0), &rule.label, style);
        }
    }
}

fn intervals(scene: &mut Scene, chart: &LineChart, series: &Series, frame: &Frame) {
    match chart.intervals {
        Intervals::Band => band(scene, chart, series, frame),
        Intervals::Bars => bars(scene, chart, series, frame),
        Intervals::Hidden => {}
    }
}

/// Bands over each run of points that have an interval.
fn band(scene: &mut Scene, chart: &LineChart, series: &Series, frame: &Frame) {
    // Many bands over one another would hide the lines.
    let alpha = if chart.series.len() > 8 { 0.06 } else { 0.12 };
    for run in series.points.split(|p| p.interval.is_none() || !p.y.is_finite()) {
        let side = |pick: fn((f64, f64)) -> f64| {
            run.iter().filter_map(move |p| p.interval.map(|i| place(chart, frame, p.x, pick(i))))
        };
        let mut outline: Vec<Point> = side(|i| i.1).collect();
        outline.extend(side(|i| i.0).rev());
        scene.polygon(clip::polygon(&outline, frame), series.style.color, alpha);
    }
}

fn bars(scene: &mut Scene, chart: &LineChart, series: &Series, frame: &Frame) {
    let shift = aside(chart, series);
    let mut bar = |from: Point, to: Point| {
        if let Some((a, b)) = clip::segment((from.0 + shift, from.1), (to.0 + shift, to.1), frame) {
            scene.segment(a, b, series.style.color, 1.1);
        }
    };
    for p in series.points.iter().filter(|p| p.y.is_finite()) {
        if let Some((low, high)) = p.interval {
            bar(place(chart, frame, p.x, low), place(chart, frame, p.x, high));
        }
        if let Some((low, high)) = p.across {
            bar(place(chart, frame, low, p.y), place(chart, frame, high, p.y));
        }
    }
}

/// Draws the line; returns the height at which it ends, for its name.
fn line(scene: &mut Scene, chart: &LineChart, series: &Series, frame: &Frame) -> f64 {
    let shift = aside(chart, series);
    let at = |p: &super::Datum| {
        let (x, y) = place(chart, frame, p.x, p.y);
        p.y.is_finite().then_some((x + shift, y))
    };
    let points: Vec<Option<Point>> = series.points.iter().map(at).collect();
    let stroke = Stroke { color: series.style.color, width: 1.8, dash: series.style.dash };
    let pieces = if series.style.draws == Draws::Markers { Vec::new() } else { clip::polyline(&points, frame) };
    for piece in pieces {
        scene.path(piece, stroke);
    }
    let last = points.iter().rev().flatten().next().map_or(frame.top, |p| p.1);
    last.clamp(frame.top, frame.bottom)
}

fn markers(scene: &mut Scene, chart: &LineChart, series: &Series, frame: &Frame) {
    if chart.markers == 0 || series.style.draws == Draws::Line {
        return;
    }
    let shift = aside(chart, series);
    let step = series.points.len().div_ceil(chart.markers).max(1);
    for point in series.points.iter().step_by(step).filter(|p| p.y.is_finite()) {
        let (x, y) = place(chart, frame, point.x, point.y);
        if frame.contains((x, y)) {
            marks::marker(scene, (x + shift, y), &series.style, marks::RADIUS);
        }
    }
}

/// Names to the right of the frame, tied to the ends of their lines.
fn names_beside(scene: &mut Scene, chart: &LineChart, ends: &[f64], frame: &Frame) {
    let direct = chart.naming == Naming::Direct;
    let (named, ends): (Vec<&Series>, Vec<f64>) =
        chart.series.iter().zip(ends).filter(|(s, _)| s.style.draws != Draws::Line).unzip();
    let listed: Vec<f64> = (0..ends.len()).map(|i| frame.top + 8.0 + i as f64 * NAME_GAP).collect();
    let places = if direct { labels::spread(&ends, NAME_GAP, frame.top + 4.0, frame.bottom - 4.0) } else { listed };
    for ((series, end), y) in named.into_iter().zip(&ends).zip(places) {
        let start = frame.right + 16.0;
        if direct {
            scene.segment((frame.right + 2.0, *end), (start - 1.0, y), RULE, 0.7);
        }
        let parts = (series.points.len() > 1, chart.markers > 0);
        marks::sample(scene, (start, y), SAMPLE, &series.style, parts);
        let name = text::fitted(&series.label, NAME, false, WIDTH - start - SAMPLE - 14.0);
        scene.text((start + SAMPLE + 7.0, y + 4.2), &name, TextStyle::new(NAME, INK));
    }
}
