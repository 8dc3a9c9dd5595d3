//! What is drawn, before any backend: flat shapes in logical pixels, y downwards.

/// A colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rgb(pub(crate) u8, pub(crate) u8, pub(crate) u8);

/// A point in logical pixels.
pub(crate) type Point = (f64, f64);

/// Which part of a text stands at its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Its start.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// How a text looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextStyle {
    /// Pixels per em.
    pub(crate) size: f64,
    /// Bold instead of regular.
    pub(crate) bold: bool,
    /// Ink.
    pub(crate) color: Rgb,
    /// Anchor.
    pub(crate) align: Align,
    /// Runs upwards.
    pub(crate) vertical: bool,
}

impl TextStyle {
    /// Regular, from left to right, anchored at its start.
    pub(crate) fn new(size: f64, color: Rgb) -> Self {
        Self { size, bold: false, color, align: Align::Start, vertical: false }
    }

    /// The same in bold.
    pub(crate) fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    /// The same with another anchor.
    pub(crate) fn align(self, align: Align) -> Self {
        Self { align, ..self }
    }

    /// The same running upwards.
    pub(crate) fn vertical(self) -> Self {
        Self { vertical: true, ..self }
    }
}

/// How a line looks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stroke {
    /// Ink.
    pub(crate) color: Rgb,
    /// Width in pixels.
    pub(crate) width: f64,
    /// Lengths of ink and gap in turn; empty for a whole line.
    pub(crate) dash: &'static [f64],
}

/// One shape.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// An open line through points.
    Path {
        /// Two points or more.
        points: Vec<Point>,
        /// Its look.
        stroke: Stroke,
    },
    /// A filled polygon.
    Polygon {
        /// Three points or more.
        points: Vec<Point>,
        /// Ink.
        fill: Rgb,
        /// Opacity, 0 to 1.
        alpha: f64,
    },
    /// A filled rectangle.
    Rect {
        /// Upper left corner.
        at: Point,
        /// Width and height.
        size: Point,
        /// Ink.
        fill: Rgb,
        /// Shown when pointed at, in SVG.
        tip: Option<String>,
    },
    /// A filled disc.
    Disc {
        /// Centre.
        at: Point,
        /// Radius.
        radius: f64,
        /// Ink.
        fill: Rgb,
    },
    /// A line of text with its baseline at a point.
    Text {
        /// Where its anchor stands.
        at: Point,
        /// The words.
        text: String,
        /// Its look.
        style: TextStyle,
    },
}

/// A whole figure.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    /// Width in logical pixels.
    pub(crate) width: f64,
    /// Height in logical pixels.
    pub(crate) height: f64,
    /// Shapes, undermost first.
    pub(crate) items: Vec<Item>,
}

impl Scene {
    /// An empty figure.
    pub(crate) fn new(width: f64) -> Self {
        Self { width, height: 0.0, items: Vec::new() }
    }

    /// Adds a line; one with fewer than two points, or with a point that is not finite, is left out.
    pub(crate) fn path(&mut self, points: Vec<Point>, stroke: Stroke) {
        if points.len() >= 2 && finite(&points) {
            self.items.push(Item::Path { points, stroke });
        }
    }

    /// Adds a whole line between two points.
    pub(crate) fn segment(&mut self, from: Point, to: Point, color: Rgb, width: f64) {
        self.path(vec![from, to], Stroke { color, width, dash: &[] });
    }

    /// Adds a polygon under the same conditions.
    pub(crate) fn polygon(&mut self, points: Vec<Point>, fill: Rgb, alpha: f64) {
        if points.len() >= 3 && finite(&points) {
            self.items.push(Item::Polygon { points, fill, alpha });
        }
    }

    /// Adds a rectangle.
    pub(crate) fn rect(&mut self, at: Point, size: Point, fill: Rgb, tip: Option<String>) {
        if finite(&[at, size]) {
            self.items.push(Item::Rect { at, size, fill, tip });
        }
    }

    /// Adds a disc.
    pub(crate) fn disc(&mut self, at: Point, radius: f64, fill: Rgb) {
        if finite(&[at]) {
            self.items.push(Item::Disc { at, radius, fill });
        }
    }

    /// Adds a line of text; control characters become spaces.
    pub(crate) fn text(&mut self, at: Point, text: &str, style: TextStyle) {
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if finite(&[at]) && !text.trim().is_empty() {
            self.items.push(Item::Text { at, text, style });
        }
    }
}

/// No shape may carry a coordinate that is not finite into a file.
fn finite(points: &[Point]) -> bool {
    points.iter().all(|(x, y)| x.is_finite() && y.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_without_a_place_are_left_out() {
        let mut scene = Scene::new(10.0);
        scene.segment((0.0, f64::NAN), (1.0, 1.0), Rgb(0, 0, 0), 1.0);
        scene.disc((f64::INFINITY, 0.0), 1.0, Rgb(0, 0, 0));
        scene.text((0.0, 0.0), " ", TextStyle::new(10.0, Rgb(0, 0, 0)));
        assert!(scene.items.is_empty());
        scene.segment((0.0, 0.0), (1.0, 1.0), Rgb(0, 0, 0), 1.0);
        assert_eq!(scene.items.len(), 1);
    }
}
