//! Heat maps: accuracy by depth and length, one panel or many.

use super::{Cell, Figure, HeatGrid, Panel, WIDTH, lines};
use crate::clip::{self, Frame};
use crate::scene::{Align, Point, Rgb, Scene, Stroke, TextStyle};
use crate::style::{EMPTY, HATCH, INK, MUTED, PAPER, cividis, text_on};
use crate::{text, ticks};

/// Room for depth labels left of the leftmost panels.
const DEPTHS: f64 = 66.0;
/// Room for the colour bar on the right.
const BAR: f64 = 76.0;
/// Distance between panels.
const GAP: f64 = 20.0;

/// Sizes that follow from how many panels share the width.
struct Layout {
    across: usize,
    cell: Point,
    lines: usize,
    number: f64,
}

impl Layout {
    fn of(grid: &HeatGrid) -> Self {
        let columns = grid.lengths.len().max(1) as f64;
        let room = WIDTH - DEPTHS - BAR;
        if grid.panels.len() == 1 {
            let width = (room / columns).min(116.0);
            let (lines, height) = if width >= 86.0 { (2, 36.0) } else { (3, 48.0) };
            let (lines, height) = if width < 46.0 { (1, 24.0) } else { (lines, height) };
            return Self { across: 1, cell: (width, height), lines, number: 13.0 };
        }
        let fit = |across: usize| (room - GAP * (across as f64 - 1.0)) / across as f64 / columns;
        let across = (1..=grid.panels.len().min(4)).rev().find(|n| fit(*n) >= 24.0).unwrap_or(1);
        Self { across, cell: (fit(across).min(52.0), 19.0), lines: 1, number: 9.5 }
    }

    fn panel(&self, grid: &HeatGrid) -> Point {
        let together = f64::from(u8::from(grid.panels.iter().any(|p| !p.together.is_empty())));
        let rows = grid.depths.len() as f64 + together;
        (self.cell.0 * grid.lengths.len() as f64, self.cell.1 * rows + 6.0 * together)
    }
}

/// Draws heading, panels and colour bar.
pub(crate) fn drawn(figure: &Figure, grid: &HeatGrid) -> Scene {
    let mut scene = Scene::new(WIDTH);
    let top = lines::heading(&mut scene, figure) + 8.0;
    let layout = Layout::of(grid);
    let (width, height) = layout.panel(grid);
    let many = grid.panels.len() > 1;
    let (above, below) = (if many { 36.0 } else { 20.0 }, 40.0);
    for (i, panel) in grid.panels.iter().enumerate() {
        let (column, row) = (i % layout.across, i / layout.across);
        let left = DEPTHS + column as f64 * (width + GAP);
        let corner = (left, top + above + row as f64 * (height + above + below));
        if many {
            let name = text::fitted(&panel.label, 12.0, true, width);
            scene.text((left, corner.1 - 21.0), &name, TextStyle::new(12.0, INK).bold());
        }
        draw_panel(&mut scene, grid, panel, &layout, corner, column == 0);
    }
    let rows = grid.panels.len().div_ceil(layout.across).max(1) as f64;
    let used = layout.across.min(grid.panels.len()).max(1) as f64;
    colour_bar(&mut scene, (DEPTHS + used * (width + GAP), top + above), height.clamp(80.0, 260.0));
    scene.height = top + rows * (height + above + below) + 12.0;
    scene
}

fn draw_panel(scene: &mut Scene, grid: &HeatGrid, panel: &Panel, layout: &Layout, corner: Point, leftmost: bool) {
    let (w, h) = layout.cell;
    let mut y = corner.1;
    for (depth, cells) in grid.depths.iter().zip(&panel.cells) {
        if leftmost {
            let style = TextStyle::new(10.5, INK).align(Align::End);
            scene.text((corner.0 - 6.0, y + h / 2.0 + 3.8), &format!("{} %", ticks::number(depth * 100.0)), style);
        }
        row(scene, grid, panel, cells, layout, (corner.0, y), Some(*depth));
        y += h;
    }
    let grid_bottom = y;
    if !panel.together.is_empty() {
        y += 6.0;
        if leftmost {
            let style = TextStyle::new(10.5, INK).bold().align(Align::End);
            scene.text((corner.0 - 6.0, y + h / 2.0 + 3.8), "all", style);
        }
        row(scene, grid, panel, &panel.together, layout, (corner.0, y), None);
        y += h;
    }
    let mut free = f64::NEG_INFINITY;
    for (i, length) in grid.lengths.iter().enumerate() {
        let (x, label) = (corner.0 + (i as f64 + 0.5) * w, ticks::tokens(*length));
        let half = text::width(&label, 10.5, false) / 2.0;
        if x - half > free {
            scene.text((x, y + 15.0), &label, TextStyle::new(10.5, INK).align(Align::Middle));
            free = x + half + 3.0;
        }
    }
    let middle = corner.0 + w * grid.lengths.len() as f64 / 2.0;
    let words = if grid.lengths.len() as f64 * w > 200.0 { "context length (tokens)" } else { "length (tokens)" };
    scene.text((middle, y + 31.0), words, TextStyle::new(10.5, MUTED).align(Align::Middle));
    if leftmost && !grid.depths.is_empty() {
        let place = (14.0, (corner.1 + grid_bottom) / 2.0);
        scene.text(place, "depth of the key", TextStyle::new(10.5, MUTED).align(Align::Middle).vertical());
    }
    contexts(scene, grid, panel, layout, corner, y);
}

fn row(
    scene: &mut Scene,
    grid: &HeatGrid,
    panel: &Panel,
    cells: &[Cell],
    layout: &Layout,
    at: Point,
    depth: Option<f64>,
) {
    for (i, (cell, length)) in cells.iter().zip(&grid.lengths).enumerate() {
        let corner = (at.0 + i as f64 * layout.cell.0, at.1);
        let place = match depth {
            Some(d) => format!("{}, {} tokens, depth {} %", panel.label, length, ticks::number(d * 100.0)),
            None => format!("{}, {} tokens, all depths", panel.label, length),
        };
        draw_cell(scene, *cell, layout, corner, &place);
    }
}

fn draw_cell(scene: &mut Scene, cell: Cell, layout: &Layout, corner: Point, place: &str) {
    let (w, h) = layout.cell;
    // A hair of paper between cells.
    let (at, size) = ((corner.0 + 0.5, corner.1 + 0.5), (w - 1.0, h - 1.0));
    let centre = corner.0 + w / 2.0;
    let Cell::Measured { share, interval, count } = cell else {
        scene.rect(at, size, EMPTY, Some(format!("{place}: not run")));
        return hatch(scene, at, size);
    };
    if !share.is_finite() {
        scene.rect(at, size, EMPTY, Some(format!("{place}: not finite (n = {count})")));
        let words = if w < 60.0 { "n.f." } else { "not finite" };
        let style = TextStyle::new(layout.number.min(10.5), INK).align(Align::Middle);
        return scene.text((centre, corner.1 + h / 2.0 + 3.8), words, style);
    }
    let ground = cividis(share);
    let ink = text_on(ground);
    let number = ticks::percent(share);
    let (low, high) = (ticks::percent(interval.0), ticks::percent(interval.1));
    let known = interval.0.is_finite() && interval.1.is_finite();
    let range = if known { format!("{low}\u{2013}{high}") } else { "no interval".to_owned() };
    scene.rect(at, size, ground, Some(format!("{place}: {number} % (95 % interval {range}, n = {count})")));
    cell_words(scene, layout, (centre, corner.1), ink, &number, &[format!("n={count}"), range]);
}

/// The number, and below it count and interval where the cell is large enough.
fn cell_words(scene: &mut Scene, layout: &Layout, top: Point, ink: Rgb, number: &str, small: &[String; 2]) {
    let style = TextStyle::new(layout.number, ink).align(Align::Middle);
    let little = TextStyle::new(9.0, ink).align(Align::Middle);
    let (x, y, h) = (top.0, top.1, layout.cell.1);
    match layout.lines {
        1 => scene.text((x, y + h / 2.0 + layout.number * 0.36), number, style),
        2 => {
            scene.text((x, y + 16.0), number, style.bold());
            scene.text((x, y + 29.0), &small.join(", "), little);
        }
        _ => {
            scene.text((x, y + 16.0), number, style.bold());
            scene.text((x, y + 29.0), &small[0], little);
            scene.text((x, y + 41.0), &small[1], little);
        }
    }
}

/// Slanted lines over a cell that was not run.
fn hatch(scene: &mut Scene, at: Point, size: Point) {
    let frame = Frame { left: at.0, top: at.1, right: at.0 + size.0, bottom: at.1 + size.1 };
    let mut x = at.0 - size.1;
    while x < frame.right {
        if let Some((a, b)) = clip::segment((x, frame.bottom), (x + size.1, frame.top), &frame) {
            scene.segment(a, b, HATCH, 0.9);
        }
        x += 6.0;
    }
}

/// Lines after the columns of the original and the trained context.
fn contexts(scene: &mut Scene, grid: &HeatGrid, panel: &Panel, layout: &Layout, corner: Point, bottom: f64) {
    let (original, trained) = panel.contexts;
    let edge =
        |context: usize| corner.0 + grid.lengths.iter().filter(|l| **l <= context).count() as f64 * layout.cell.0;
    let small = layout.lines == 1 && grid.panels.len() > 1;
    let marks: Vec<(usize, &str, &'static [f64])> = if original == trained {
        vec![(original, if small { "orig." } else { "original context" }, ORIGINAL)]
    } else {
        vec![(original, if small { "orig." } else { "original" }, ORIGINAL), (trained, "trained", TRAINED)]
    };
    for (context, word, dash) in marks.into_iter().filter(|m| m.0 > 0) {
        let (x, top) = (edge(context), corner.1 - 5.0);
        scene.segment((x, top), (x, bottom + 2.0), PAPER, 4.0);
        let stroke = Stroke { color: INK, width: 1.6, dash };
        scene.path(vec![(x, bottom + 2.0), (x, top)], stroke);
        let words = if small { word.to_owned() } else { format!("{word} {}", ticks::tokens(context)) };
        let size = if small { 8.5 } else { 10.5 };
        scene.text((x, top - 3.0), &words, TextStyle::new(size, MUTED).align(Align::Middle));
    }
}

/// Dash of the original context, in every figure.
pub(crate) const ORIGINAL: &[f64] = &[2.0, 2.5];
/// Dash of the trained context, in every figure.
pub(crate) const TRAINED: &[f64] = &[7.0, 3.0];

fn colour_bar(scene: &mut Scene, at: Point, height: f64) {
    let steps = 50;
    let step = height / f64::from(steps);
    for i in 0..steps {
        let share = 1.0 - (f64::from(i) + 0.5) / f64::from(steps);
        scene.rect((at.0, at.1 + f64::from(i) * step), (12.0, step + 0.3), cividis(share), None);
    }
    for (share, label) in [(1.0, "100 %"), (0.5, "50"), (0.0, "0")] {
        let y = at.1 + (1.0 - share) * height;
        scene.text((at.0 + 16.0, y + 3.5), label, TextStyle::new(9.5, INK));
    }
}
