//! Attention's speed against length, one figure a case.

use crate::Speed;
use crate::chart::{Axis, Chart, Datum, Figure, Format, Intervals, LineChart, Naming, Overflow, Rule, Scale, Series};
use crate::style;

/// A figure for each case, in the order of their first row.
pub(crate) fn figures(speeds: &[Speed]) -> Vec<Figure> {
    let mut cases: Vec<(&str, &str)> = Vec::new();
    for speed in speeds {
        let key = (speed.case.as_str(), speed.setting.as_str());
        if !cases.contains(&key) {
            cases.push(key);
        }
    }
    let many = |case: &str| cases.iter().filter(|(name, _)| *name == case).count() > 1;
    let figure = |(index, (case, setting)): (usize, &(&str, &str))| {
        let id = if many(case) { format!("attention-{case}-{}", index + 1) } else { format!("attention-{case}") };
        figure(id, case, setting, speeds)
    };
    cases.iter().enumerate().map(figure).collect()
}

fn figure(id: String, case: &str, setting: &str, speeds: &[Speed]) -> Figure {
    let rows: Vec<&Speed> = speeds.iter().filter(|s| s.case == case && s.setting == setting).collect();
    let mut lines: Vec<(&str, bool)> = Vec::new();
    for row in &rows {
        if !lines.contains(&(row.name.as_str(), row.backward)) {
            lines.push((&row.name, row.backward));
        }
    }
    // Whole lines are forward passes.
    let styles = style::assigned(&lines.iter().map(|(name, backward)| (*name, !backward)).collect::<Vec<_>>());
    let series: Vec<Series> = lines.iter().zip(styles).map(|(line, style)| one(*line, style, &rows)).collect();
    let peak = rows.iter().filter_map(|row| row.peak).fold(f64::NEG_INFINITY, f64::max);
    let fastest = rows.iter().map(|row| row.tflops).fold(0.0, f64::max);
    let horizontals = if peak.is_finite() {
        vec![Rule { at: peak, label: "measured peak".to_owned(), dash: &[6.0, 3.0] }]
    } else {
        Vec::new()
    };
    let description: String = series.iter().map(described).collect();
    let chart = LineChart {
        x: Axis::of_lengths("sequence length (tokens)", rows.iter().map(|row| row.length as f64)),
        y: Axis {
            label: "speed (TFLOP/s of visible pairs)".to_owned(),
            scale: Scale::Linear,
            format: Format::Number,
            low: 0.0,
            high: fastest.max(peak).max(f64::MIN_POSITIVE) * 1.06,
        },
        verticals: Vec::new(),
        horizontals,
        intervals: Intervals::Band,
        naming: Naming::Legend,
        overflow: Overflow::Highest,
        markers: 40,
        series,
    };
    Figure {
        id,
        title: format!("Attention, {case}"),
        subtitle: format!("Higher is better; whole lines forward, dashed lines backward; {setting}."),
        description: format!("Speed of attention against sequence length, case {case}, {setting}. {description}"),
        chart: Chart::Lines(chart),
    }
}

fn one((name, backward): (&str, bool), style: style::SeriesStyle, rows: &[&Speed]) -> Series {
    let mine = rows.iter().filter(|row| row.name == name && row.backward == backward);
    let mut points: Vec<Datum> =
        mine.map(|row| Datum { x: row.length as f64, y: row.tflops, interval: None, across: None }).collect();
    points.sort_by(|a, b| a.x.total_cmp(&b.x));
    let pass = if backward { "backward" } else { "forward" };
    Series { label: format!("{name}, {pass}"), style, points }
}

fn described(series: &Series) -> String {
    let told: Vec<String> = series.points.iter().map(|p| format!("{:.3} at {}", p.y, p.x)).collect();
    format!("{}: {}. ", series.label, told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(case: &str, name: &str, backward: bool, length: usize, tflops: f64) -> Speed {
        let (case, name, setting) = (case.to_owned(), name.to_owned(), "head size 128".to_owned());
        Speed { case, backward, name, length, tflops, peak: Some(0.2), setting }
    }

    #[test]
    fn each_case_is_a_figure_with_a_line_for_each_contender_and_pass() {
        let rows = [
            speed("causal", "tiled", false, 8192, 0.15),
            speed("causal", "tiled", false, 4096, 0.14),
            speed("causal", "libtorch (is_causal)", true, 4096, 0.09),
            speed("alibi", "tiled", false, 4096, 0.13),
        ];
        let figures = figures(&rows);
        assert_eq!(figures.iter().map(|f| f.id.as_str()).collect::<Vec<_>>(), ["attention-causal", "attention-alibi"]);
        let Chart::Lines(chart) = &figures[0].chart else { panic!("lines") };
        assert_eq!(chart.series.len(), 2);
        assert_eq!(chart.series[0].points.iter().map(|p| p.x).collect::<Vec<_>>(), [4096.0, 8192.0]);
        assert_eq!(chart.horizontals[0].at, 0.2);
        assert!(figures[0].description.contains("0.150 at 8192"), "{}", figures[0].description);
    }
}
