//! The same chart as a Vega-Lite specification, so that others can restyle it without our code.

use serde_json::{Value, json};

use super::{Axis, Cell, Chart, Datum, Figure, HeatGrid, Intervals, LineChart, Scale};
use crate::scene::Rgb;
use crate::style::Draws;

/// The specification with its data inside.
pub(crate) fn specification(figure: &Figure) -> Value {
    let mut value = match &figure.chart {
        Chart::Lines(chart) => lines(chart),
        Chart::Heat(grid) => heat(grid),
    };
    value["$schema"] = json!("https://vega.github.io/schema/vega-lite/v5.json");
    value["title"] = json!({ "text": figure.title, "subtitle": figure.subtitle });
    value["description"] = json!(figure.description);
    value
}

fn scale(axis: &Axis) -> Value {
    let domain = json!([axis.low, axis.high]);
    match axis.scale {
        Scale::Linear => json!({ "domain": domain, "nice": false }),
        Scale::Log2 => json!({ "type": "log", "base": 2, "domain": domain, "nice": false }),
        Scale::Log10 => json!({ "type": "log", "domain": domain, "nice": false }),
    }
}

fn channel(axis: &Axis, field: &str) -> Value {
    json!({
        "field": field, "type": "quantitative", "title": axis.label, "scale": scale(axis),
        "axis": { "values": axis.ticks() },
    })
}

fn hex(Rgb(r, g, b): Rgb) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

fn record(label: &str, p: &Datum) -> Value {
    let (low, high) = p.interval.unzip();
    let (left, right) = p.across.unzip();
    json!({ "series": label, "x": p.x, "y": p.y, "low": low, "high": high, "left": left, "right": right })
}

fn lines(chart: &LineChart) -> Value {
    let records = chart.series.iter().flat_map(|s| s.points.iter().map(|p| record(&s.label, p)));
    let names: Vec<&str> = chart.series.iter().map(|s| s.label.as_str()).collect();
    let colors: Vec<String> = chart.series.iter().map(|s| hex(s.style.color)).collect();
    let dashes: Vec<&[f64]> =
        chart.series.iter().map(|s| if s.style.dash.is_empty() { &[1.0, 0.0][..] } else { s.style.dash }).collect();
    let color =
        json!({ "field": "series", "type": "nominal", "title": null, "scale": { "domain": names, "range": colors } });
    let dash =
        json!({ "field": "series", "type": "nominal", "title": null, "scale": { "domain": names, "range": dashes } });
    let (x, y) = (channel(&chart.x, "x"), channel(&chart.y, "y"));
    let mut low = channel(&chart.y, "low");
    low["title"] = y["title"].clone();
    let interval = match chart.intervals {
        Intervals::Band => Some(json!({ "type": "area", "opacity": 0.13, "clip": true })),
        Intervals::Bars => Some(json!({ "type": "rule", "clip": true })),
        Intervals::Hidden => None,
    };
    let intervals = interval.map(
        |mark| json!({ "mark": mark, "encoding": { "x": x, "y": low, "y2": { "field": "high" }, "color": color } }),
    );
    let rules = chart.verticals.iter().map(|r| {
        json!({
            "data": { "values": [{ "x": r.at }] }, "mark": { "type": "rule", "strokeDash": r.dash, "color": "#767E87" },
            "encoding": { "x": channel(&chart.x, "x") },
        })
    });
    let mut layers: Vec<Value> = intervals.into_iter().collect();
    layers.push(json!({
        "mark": { "type": "line", "clip": true }, "transform": without(chart, Draws::Markers),
        "encoding": { "x": x, "y": y, "color": color, "strokeDash": dash },
    }));
    if chart.markers > 0 {
        layers.push(json!({
            "mark": { "type": "point", "clip": true }, "transform": without(chart, Draws::Line),
            "encoding": { "x": x, "y": y, "color": color },
        }));
    }
    layers.extend(rules);
    json!({ "width": 560, "height": 340, "data": { "values": records.collect::<Vec<_>>() }, "layer": layers })
}

/// A filter of the series that are not drawn in one way; nothing when all are drawn in every way.
fn without(chart: &LineChart, draws: Draws) -> Vec<Value> {
    if chart.series.iter().all(|s| s.style.draws == Draws::All) {
        return Vec::new();
    }
    let shown: Vec<&str> = chart.series.iter().filter(|s| s.style.draws != draws).map(|s| s.label.as_str()).collect();
    vec![json!({ "filter": { "field": "series", "oneOf": shown } })]
}

fn heat(grid: &HeatGrid) -> Value {
    let mut records = Vec::new();
    for panel in &grid.panels {
        let rows = grid.depths.iter().map(|d| json!(d)).zip(&panel.cells);
        for (depth, cells) in rows.chain(std::iter::once((json!("all"), &panel.together))) {
            for (length, cell) in grid.lengths.iter().zip(cells) {
                if let Cell::Measured { share, interval, count } = cell {
                    records.push(json!({
                        "variant": panel.label, "length": length, "depth": depth, "accuracy": share,
                        "low": interval.0, "high": interval.1, "count": count,
                    }));
                }
            }
        }
    }
    json!({
        "data": { "values": records },
        "facet": { "field": "variant", "type": "nominal", "columns": 4, "title": null },
        "spec": {
            "mark": { "type": "rect", "tooltip": { "content": "data" } },
            "encoding": {
                "x": { "field": "length", "type": "ordinal", "title": "context length (tokens)" },
                "y": { "field": "depth", "type": "ordinal", "title": "depth of the key" },
                "color": {
                    "field": "accuracy", "type": "quantitative",
                    "scale": { "scheme": "cividis", "domain": [0, 1] },
                },
            },
        },
    })
}
