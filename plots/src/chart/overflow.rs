//! Points that the frame does not hold: each named with its value in a strip above it.

use super::marks;
use super::{LineChart, Overflow};
use crate::clip::Frame;
use crate::scene::{Align, Scene, TextStyle};
use crate::style::{INK, MUTED, SeriesStyle};
use crate::{text, ticks};

/// Height of one entry.
const LINE: f64 = 13.0;
/// Size of its text.
const SIZE: f64 = 10.0;

/// One point above the frame.
struct Entry {
    share: f64,
    value: f64,
    style: SeriesStyle,
}

/// Entries in columns by their place, highest value first; what is not finite stands on top.
fn columns(chart: &LineChart) -> Vec<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for series in &chart.series {
        let beside = |p: &&super::Datum| (0.0..=1.0).contains(&chart.x.share(p.x));
        let outside = series.points.iter().filter(beside).filter(|p| !p.y.is_finite() || p.y > chart.y.high);
        let entry = |p: &super::Datum| Entry { share: chart.x.share(p.x), value: p.y, style: series.style };
        match chart.overflow {
            Overflow::Each => entries.extend(outside.map(entry)),
            Overflow::Highest => {
                entries.extend(outside.max_by(|a, b| height(a.y).total_cmp(&height(b.y))).map(entry));
            }
        }
    }
    entries.sort_by(|a, b| a.share.total_cmp(&b.share).then(height(b.value).total_cmp(&height(a.value))));
    let mut columns: Vec<Vec<Entry>> = Vec::new();
    for entry in entries {
        match columns.last_mut() {
            Some(column) if column.iter().any(|e| (e.share - entry.share).abs() < 0.06) => column.push(entry),
            _ => columns.push(vec![entry]),
        }
    }
    columns
}

fn height(value: f64) -> f64 {
    if value.is_finite() { value } else { f64::INFINITY }
}

/// Height of the strip, 0 when every point is inside.
pub(crate) fn needed(chart: &LineChart) -> f64 {
    let most = columns(chart).iter().map(Vec::len).max().unwrap_or(0);
    if most == 0 { 0.0 } else { most as f64 * LINE + 8.0 }
}

/// Draws the strip above `frame`, its lower edge at `bottom`.
pub(crate) fn draw(scene: &mut Scene, chart: &LineChart, frame: &Frame, bottom: f64) {
    let columns = columns(chart);
    if columns.is_empty() {
        return;
    }
    let style = TextStyle::new(SIZE, MUTED).align(Align::End);
    scene.text((frame.left - 7.0, bottom - 8.0), "off scale", style);
    for column in columns {
        let names: Vec<String> = column.iter().map(|e| label(e.value)).collect();
        let widest = names.iter().map(|n| text::width(n, SIZE, false)).fold(0.0, f64::max) + 13.0;
        let middle = frame.left + column[0].share * frame.width();
        let left = (middle - widest / 2.0).clamp(frame.left, frame.right - widest.min(frame.width()));
        for (i, (entry, name)) in column.iter().zip(&names).enumerate() {
            let y = bottom - 8.0 - (column.len() - 1 - i) as f64 * LINE;
            marks::marker(scene, (left + 5.0, y - 3.5), &entry.style, 3.0);
            scene.text((left + 12.0, y), name, TextStyle::new(SIZE, INK));
        }
    }
}

/// A value with an arrow, or what it is instead of one.
fn label(value: f64) -> String {
    if value.is_finite() { format!("{} \u{2191}", ticks::measured(value)) } else { "not finite".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::{Axis, Datum, Format, Intervals, Naming, Scale, Series};
    use super::*;
    use crate::style::assigned;

    fn chart(overflow: Overflow) -> LineChart {
        let axis = |low, high| Axis { label: String::new(), scale: Scale::Linear, format: Format::Number, low, high };
        let points = [(0.0, 99.0), (20.0, 50.0), (50.0, f64::NAN), (80.0, 70.0), (90.0, 5.0)];
        let points = points.map(|(x, y)| Datum::bare(x, y)).to_vec();
        let style = assigned(&[("a", true)])[0];
        LineChart {
            x: axis(10.0, 100.0),
            y: axis(0.0, 10.0),
            series: vec![Series { label: "a".to_owned(), style, points }],
            verticals: Vec::new(),
            horizontals: Vec::new(),
            intervals: Intervals::Band,
            naming: Naming::Direct,
            overflow,
            markers: 1,
        }
    }

    fn values(overflow: Overflow) -> Vec<String> {
        columns(&chart(overflow)).iter().flatten().map(|e| label(e.value)).collect()
    }

    #[test]
    fn every_point_above_the_frame_is_named_and_none_beside_it() {
        assert_eq!(values(Overflow::Each), ["50.00 \u{2191}", "not finite", "70.00 \u{2191}"]);
    }

    #[test]
    fn the_highest_alone_is_named_where_points_are_many() {
        assert_eq!(values(Overflow::Highest), ["not finite"]);
        assert!(needed(&chart(Overflow::Highest)) > 0.0);
    }
}
