//! What a figure says, before how it looks: data and a specification, from which the drawing, the Vega-Lite file and
//! the description for screen readers all follow.

pub(crate) mod axis;
pub(crate) mod heat;
pub(crate) mod labels;
pub(crate) mod lines;
pub(crate) mod marks;
pub(crate) mod overflow;
pub(crate) mod vega;

use crate::scene::Scene;
use crate::style::SeriesStyle;

/// Width of every figure in logical pixels.
pub(crate) const WIDTH: f64 = 780.0;

/// One figure.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    /// File name without ending; also the anchor in the page.
    pub(crate) id: String,
    /// Heading.
    pub(crate) title: String,
    /// What a reader must know to read it, below the heading.
    pub(crate) subtitle: String,
    /// What it shows, for readers who cannot see it.
    pub(crate) description: String,
    /// Data and specification.
    pub(crate) chart: Chart,
}

/// The kinds of chart.
#[derive(Debug, Clone)]
pub(crate) enum Chart {
    /// Values over a continuous axis.
    Lines(LineChart),
    /// Accuracy by depth and length.
    Heat(HeatGrid),
}

/// How an axis maps numbers to places.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    /// Evenly.
    Linear,
    /// By the logarithm to base 2, with ticks at powers of two.
    Log2,
    /// By the logarithm, with ticks at round decimal numbers.
    Log10,
}

/// How ticks are written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Format {
    /// As a context length.
    Tokens,
    /// As a number.
    Number,
    /// As percent of one.
    Percent,
}

/// One axis.
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    /// What it measures, with its unit.
    pub(crate) label: String,
    /// Mapping.
    pub(crate) scale: Scale,
    /// How its ticks are written.
    pub(crate) format: Format,
    /// Smallest number shown.
    pub(crate) low: f64,
    /// Largest number shown.
    pub(crate) high: f64,
}

/// One measured point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Datum {
    /// Place on the horizontal axis.
    pub(crate) x: f64,
    /// The number; may be not finite.
    pub(crate) y: f64,
    /// Ends of its 95 % interval, where there is one.
    pub(crate) interval: Option<(f64, f64)>,
    /// Ends of the interval of `x`, where that is measured too.
    pub(crate) across: Option<(f64, f64)>,
}

/// One variant's line.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// Name shown.
    pub(crate) label: String,
    /// Look.
    pub(crate) style: SeriesStyle,
    /// Points by growing `x`.
    pub(crate) points: Vec<Datum>,
}

/// How intervals are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Intervals {
    /// As a band behind the line.
    Band,
    /// As bars, with the series set slightly apart.
    Bars,
    /// Not in the chart.
    Hidden,
}

/// How names are attached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Naming {
    /// Beside the end of each line.
    Direct,
    /// As a list.
    Legend,
}

/// A line across the frame at a number that matters.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rule {
    /// Where.
    pub(crate) at: f64,
    /// What it is.
    pub(crate) label: String,
    /// Dash pattern.
    pub(crate) dash: &'static [f64],
}

/// What happens to points above the frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Overflow {
    /// Each is named with its value above the frame.
    Each,
    /// Of each series, the highest is named.
    Highest,
}

/// Lines over a continuous axis.
#[derive(Debug, Clone)]
pub(crate) struct LineChart {
    /// Horizontal axis.
    pub(crate) x: Axis,
    /// Vertical axis.
    pub(crate) y: Axis,
    /// Lines, in order of drawing.
    pub(crate) series: Vec<Series>,
    /// Marked places on the horizontal axis.
    pub(crate) verticals: Vec<Rule>,
    /// Marked places on the vertical axis.
    pub(crate) horizontals: Vec<Rule>,
    /// How intervals are drawn.
    pub(crate) intervals: Intervals,
    /// How names are attached.
    pub(crate) naming: Naming,
    /// How points above the frame are named.
    pub(crate) overflow: Overflow,
    /// At most this many markers a line.
    pub(crate) markers: usize,
}

/// One cell of a heat map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cell {
    /// There is no row for it.
    NotRun,
    /// Measured.
    Measured {
        /// Share between 0 and 1; may be not finite.
        share: f64,
        /// Ends of its 95 % interval.
        interval: (f64, f64),
        /// Trials.
        count: u64,
    },
}

/// The grid of one variant.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    /// Name shown.
    pub(crate) label: String,
    /// Original and trained context, where known.
    pub(crate) contexts: (usize, usize),
    /// Cells by depth, then length.
    pub(crate) cells: Vec<Vec<Cell>>,
    /// The row for all depths together; empty when there is none.
    pub(crate) together: Vec<Cell>,
}

/// Accuracy by depth and length, for one variant or several.
#[derive(Debug, Clone)]
pub(crate) struct HeatGrid {
    /// Lengths, growing.
    pub(crate) lengths: Vec<usize>,
    /// Depths as shares, growing downwards.
    pub(crate) depths: Vec<f64>,
    /// One panel a variant.
    pub(crate) panels: Vec<Panel>,
}

impl Figure {
    /// The drawing.
    pub(crate) fn scene(&self) -> Scene {
        match &self.chart {
            Chart::Lines(chart) => lines::drawn(self, chart),
            Chart::Heat(grid) => heat::drawn(self, grid),
        }
    }
}

impl Datum {
    /// A point with its interval; an interval with an end that is not finite is none.
    pub(crate) fn new(x: f64, y: f64, low: f64, high: f64) -> Self {
        let interval = (low.is_finite() && high.is_finite()).then_some((low, high));
        Self { x, y, interval, across: None }
    }

    /// A point without an interval.
    pub(crate) fn bare(x: f64, y: f64) -> Self {
        Self { x, y, interval: None, across: None }
    }
}
