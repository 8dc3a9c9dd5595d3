//! Clipping to the frame, before drawing: a backend that moves points onto the edge would draw a plateau that was
//! never measured.

use crate::scene::Point;

/// A rectangle in logical pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Frame {
    /// Left edge.
    pub(crate) left: f64,
    /// Upper edge.
    pub(crate) top: f64,
    /// Right edge.
    pub(crate) right: f64,
    /// Lower edge.
    pub(crate) bottom: f64,
}

impl Frame {
    /// Width.
    pub(crate) fn width(&self) -> f64 {
        self.right - self.left
    }

    /// Height.
    pub(crate) fn height(&self) -> f64 {
        self.bottom - self.top
    }

    /// Whether a point lies inside or on the edge.
    pub(crate) fn contains(&self, (x, y): Point) -> bool {
        let slack = 1e-6;
        (self.left - slack..=self.right + slack).contains(&x) && (self.top - slack..=self.bottom + slack).contains(&y)
    }
}

/// The part of a segment inside the frame (Liang and Barsky 1984).
pub(crate) fn segment(from: Point, to: Point, frame: &Frame) -> Option<(Point, Point)> {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let (mut enter, mut leave) = (0.0_f64, 1.0_f64);
    let edges = [
        (-dx, from.0 - frame.left),
        (dx, frame.right - from.0),
        (-dy, from.1 - frame.top),
        (dy, frame.bottom - from.1),
    ];
    for (step, room) in edges {
        if step == 0.0 {
            if room < 0.0 {
                return None;
            }
        } else if step < 0.0 {
            enter = enter.max(room / step);
        } else {
            leave = leave.min(room / step);
        }
    }
    let at = |t: f64| (from.0 + t * dx, from.1 + t * dy);
    (enter <= leave).then(|| (at(enter), at(leave)))
}

/// A line through points, cut where it leaves the frame and where a point is missing.
pub(crate) fn polyline(points: &[Option<Point>], frame: &Frame) -> Vec<Vec<Point>> {
    let mut pieces: Vec<Vec<Point>> = Vec::new();
    let mut open = false;
    for pair in points.windows(2) {
        let (Some(a), Some(b)) = (pair[0], pair[1]) else {
            open = false;
            continue;
        };
        let Some((from, to)) = segment(a, b, frame) else {
            open = false;
            continue;
        };
        match pieces.last_mut() {
            Some(piece) if open && from == a => piece.push(to),
            _ => pieces.push(vec![from, to]),
        }
        open = to == b;
    }
    pieces
}

/// Which coordinate an edge bounds, where it lies, and the sign of the side that is kept.
type Side = (fn(&Point) -> f64, f64, f64);

/// A polygon cut by the frame, one edge after the other (Sutherland and Hodgman 1974).
pub(crate) fn polygon(points: &[Point], frame: &Frame) -> Vec<Point> {
    let sides: [Side; 4] = [
        (|p| p.0, frame.left, 1.0),
        (|p| p.0, frame.right, -1.0),
        (|p| p.1, frame.top, 1.0),
        (|p| p.1, frame.bottom, -1.0),
    ];
    sides.iter().fold(points.to_vec(), |corners, (axis, edge, sign)| {
        let depth = |p: &Point| (axis(p) - edge) * sign;
        let mut kept = Vec::with_capacity(corners.len() + 2);
        for (i, b) in corners.iter().enumerate() {
            let a = &corners[(i + corners.len() - 1) % corners.len()];
            let (da, db) = (depth(a), depth(b));
            if (da < 0.0) != (db < 0.0) {
                let t = da / (da - db);
                kept.push((a.0 + t * (b.0 - a.0), a.1 + t * (b.1 - a.1)));
            }
            if db >= 0.0 {
                kept.push(*b);
            }
        }
        kept
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame { left: 0.0, top: 0.0, right: 10.0, bottom: 10.0 };

    #[test]
    fn a_steep_line_leaves_through_the_edge_and_is_not_flattened() {
        let pieces = polyline(&[Some((0.0, 5.0)), Some((4.0, -15.0)), Some((8.0, -15.0))], &FRAME);
        assert_eq!(pieces, [vec![(0.0, 5.0), (1.0, 0.0)]]);
        let clamped = [(0.0, 5.0), (4.0, 0.0), (8.0, 0.0)];
        assert_ne!(pieces[0], clamped, "moving points onto the edge is the bug this module prevents");
    }

    #[test]
    fn a_line_that_comes_back_has_two_pieces() {
        let pieces = polyline(&[Some((0.0, 5.0)), Some((5.0, -5.0)), Some((10.0, 5.0))], &FRAME);
        assert_eq!(pieces, [vec![(0.0, 5.0), (2.5, 0.0)], vec![(7.5, 0.0), (10.0, 5.0)]]);
    }

    #[test]
    fn a_missing_point_breaks_the_line() {
        let pieces = polyline(
            &[Some((0.0, 1.0)), Some((1.0, 1.0)), None, Some((3.0, 1.0)), Some((4.0, 1.0)), Some((5.0, 2.0))],
            &FRAME,
        );
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn bands_are_cut_at_the_frame() {
        let cut = polygon(&[(2.0, 5.0), (8.0, 5.0), (8.0, 50.0), (2.0, 50.0)], &FRAME);
        assert!(cut.iter().all(|p| FRAME.contains(*p)));
        assert!(cut.contains(&(8.0, 10.0)) && cut.contains(&(2.0, 10.0)));
        assert!(polygon(&[(20.0, 20.0), (30.0, 20.0), (30.0, 30.0)], &FRAME).is_empty());
    }
}
