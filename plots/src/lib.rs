//! Figures and one self-contained HTML report, from results alone.
//!
//! [`load()`] reads a result file, [`render`] draws it: each figure as SVG, as PNG and as a Vega-Lite specification, and
//! `report.html` with all of them, the tables beside them, the findings at the top and the provenance at the bottom.
//! Several reports are drawn into one another. The same reports always give the same bytes.
//!
//! A figure is data and a specification first (`chart`), a list of shapes second (`scene`), and meets the drawing
//! library last (`paint`), so that the library can be replaced in one place.
//!
//! ```no_run
//! let report = plots::load("runs/demo".as_ref())?;
//! let rendered = plots::render(&[("demo".to_owned(), report)], "runs/demo".as_ref())?;
//! println!("{}", rendered.html.display());
//! # Ok::<(), plots::PlotError>(())
//! ```

mod chart;
mod clip;
mod error;
mod figures;
mod html;
mod load;
mod paint;
mod scene;
mod study;
mod style;
mod text;
mod ticks;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use eval::report::Report;

pub use error::PlotError;
pub use load::load;

use chart::Figure;
use study::Study;

/// What [`render`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The figures in the order of the page: of each, SVG, PNG and Vega-Lite.
    pub figures: Vec<PathBuf>,
    /// The page.
    pub html: PathBuf,
}

/// Draws reports, given with the names of their runs, into `out_dir`: `figures/` and `report.html`.
///
/// With several reports each variant is named `run: variant`, and all share the figures. Each file appears whole or not
/// at all; other files in the folder are left alone.
///
/// # Errors
///
/// [`PlotError::NoReports`], [`PlotError::DuplicateName`], [`PlotError::Draw`] and [`PlotError::Write`].
pub fn render(reports: &[(String, Report)], out_dir: &Path) -> Result<Rendered, PlotError> {
    let study = Study::new(reports)?;
    let sections = figures::sections(&study);
    let folder = out_dir.join("figures");
    write::folder(&folder)?;
    let mut drawings = BTreeMap::new();
    let mut files = Vec::new();
    for figure in sections.iter().flat_map(|s| figures::figures(&s.parts)) {
        let svg = one(figure, &folder, &mut files)?;
        drawings.insert(figure.id.clone(), svg);
    }
    let html = out_dir.join("report.html");
    write::text(&html, &html::page(&study, &sections, &drawings))?;
    Ok(Rendered { figures: files, html })
}

/// One measured speed of attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Speed {
    /// The kind of problem; each has a figure.
    pub case: String,
    /// Backward pass; forward otherwise.
    pub backward: bool,
    /// What was measured: a backend, and how it was asked.
    pub name: String,
    /// Sequence length in tokens.
    pub length: usize,
    /// 1e12 operations a second, counted over visible pairs.
    pub tflops: f64,
    /// What the device was measured to do at best, in the same unit.
    pub peak: Option<f64>,
    /// Everything else that decides a speed, in words; speeds of unlike settings never share a figure.
    pub setting: String,
}

/// Draws speeds against length, one figure a case, as SVG, PNG and Vega-Lite; returns the files.
///
/// # Errors
///
/// [`PlotError::Draw`] and [`PlotError::Write`].
pub fn speed(speeds: &[Speed], out_dir: &Path) -> Result<Vec<PathBuf>, PlotError> {
    write::folder(out_dir)?;
    let mut files = Vec::new();
    for figure in figures::speed::figures(speeds) {
        one(&figure, out_dir, &mut files)?;
    }
    Ok(files)
}

/// Writes a figure's three files; returns its SVG.
fn one(figure: &Figure, folder: &Path, files: &mut Vec<PathBuf>) -> Result<String, PlotError> {
    let failed = |message| PlotError::Draw { figure: figure.id.clone(), message };
    let scene = figure.scene();
    let svg = paint::svg(&scene, &figure.id, &figure.title, &figure.description).map_err(failed)?;
    let path = |ending: &str| folder.join(format!("{}.{ending}", figure.id));
    write::text(&path("svg"), &svg)?;
    write::png(&path("png"), &figure.id, &paint::bitmap(&scene).map_err(failed)?)?;
    write::text(&path("vl.json"), &format!("{:#}\n", chart::vega::specification(figure)))?;
    files.extend(["svg", "png", "vl.json"].map(path));
    Ok(svg)
}
