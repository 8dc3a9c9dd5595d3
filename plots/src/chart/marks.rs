//! Markers, line samples and tints.

use crate::scene::{Point, Rgb, Scene, Stroke};
use crate::style::{PAPER, SeriesStyle, Shape, corners};

/// Radius of a marker in logical pixels.
pub(crate) const RADIUS: f64 = 3.4;

/// Draws a marker: filled, or with paper inside.
pub(crate) fn marker(scene: &mut Scene, at: Point, style: &SeriesStyle, radius: f64) {
    // A thin edge of paper keeps overlapping markers apart.
    filled(scene, at, style.shape, radius + 0.9, PAPER);
    filled(scene, at, style.shape, radius, style.color);
    if !style.filled {
        filled(scene, at, style.shape, radius * hollow(style.shape), PAPER);
    }
}

/// Radius of the hole as a share of the marker's own, so that rims look equally thick.
fn hollow(shape: Shape) -> f64 {
    match shape {
        Shape::Disc | Shape::Square | Shape::Diamond | Shape::Pentagon => 0.58,
        Shape::Up | Shape::Down | Shape::Left => 0.45,
        Shape::Star => 0.5,
    }
}

fn filled(scene: &mut Scene, at: Point, shape: Shape, radius: f64, color: Rgb) {
    if shape == Shape::Disc {
        scene.disc(at, radius, color);
    } else {
        let points = corners(shape, radius).into_iter().map(|(x, y)| (at.0 + x, at.1 + y)).collect();
        scene.polygon(points, color, 1.0);
    }
}

/// A short piece of a series' line with its marker, as in a legend; `at` is its left end, `parts` says whether
/// line and marker are drawn.
pub(crate) fn sample(scene: &mut Scene, at: Point, length: f64, style: &SeriesStyle, parts: (bool, bool)) {
    if parts.0 {
        let stroke = Stroke { color: style.color, width: 1.8, dash: style.dash };
        scene.path(vec![at, (at.0 + length, at.1)], stroke);
    }
    if parts.1 {
        marker(scene, (at.0 + length / 2.0, at.1), style, RADIUS);
    }
}
