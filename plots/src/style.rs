//! Colours, dashes and markers.
//!
//! Series use the palette of Okabe and Ito (Color Universal Design, 2008), heat maps use cividis (Nunez, Anderton and
//! Renslow 2018). Both stay apart for colour-blind readers; shape and dash repeat what colour says.

use crate::scene::Rgb;

/// Background of a figure.
pub(crate) const PAPER: Rgb = Rgb(255, 255, 255);
/// Text and axes.
pub(crate) const INK: Rgb = Rgb(31, 35, 40);
/// Secondary text.
pub(crate) const MUTED: Rgb = Rgb(92, 99, 106);
/// Grid lines.
pub(crate) const GRID: Rgb = Rgb(228, 231, 235);
/// Marked context lengths.
pub(crate) const RULE: Rgb = Rgb(118, 126, 135);
/// Cells that were not run.
pub(crate) const EMPTY: Rgb = Rgb(243, 244, 246);
/// Hatching on them.
pub(crate) const HATCH: Rgb = Rgb(196, 201, 207);

/// Okabe and Ito's palette with a grey for its yellow, which no line on white can use.
pub(crate) const SERIES: [Rgb; 8] = [
    Rgb(17, 17, 17),
    Rgb(0, 114, 178),
    Rgb(213, 94, 0),
    Rgb(0, 158, 115),
    Rgb(204, 121, 167),
    Rgb(230, 159, 0),
    Rgb(86, 180, 233),
    Rgb(122, 122, 122),
];

/// Shape of a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Disc.
    Disc,
    /// Square.
    Square,
    /// Triangle pointing up.
    Up,
    /// Square on its corner.
    Diamond,
    /// Triangle pointing down.
    Down,
    /// Five corners.
    Pentagon,
    /// Five rays.
    Star,
    /// Triangle pointing left.
    Left,
}

const SHAPES: [Shape; 8] =
    [Shape::Disc, Shape::Square, Shape::Up, Shape::Diamond, Shape::Down, Shape::Pentagon, Shape::Star, Shape::Left];

const SOLID: [&[f64]; 4] = [&[], &[14.0, 3.0], &[12.0, 3.0, 2.0, 3.0], &[10.0, 2.0, 4.0, 2.0]];
const DASHED: [&[f64]; 5] =
    [&[6.0, 3.5], &[2.5, 2.5], &[8.0, 3.0, 2.0, 3.0], &[4.0, 2.0], &[8.0, 3.0, 2.0, 3.0, 2.0, 3.0]];

/// How one variant looks in every figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SeriesStyle {
    /// Ink.
    pub(crate) color: Rgb,
    /// Dash pattern; empty for a whole line.
    pub(crate) dash: &'static [f64],
    /// Marker.
    pub(crate) shape: Shape,
    /// Filled marker; hollow otherwise.
    pub(crate) filled: bool,
    /// What of it is drawn.
    pub(crate) draws: Draws,
}

/// What is drawn of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Draws {
    /// Line, markers and name.
    All,
    /// The line alone: a curve that belongs to another series, which bears the name.
    Line,
    /// Markers and name: points that no line joins.
    Markers,
}

/// Styles for variants given as (name, trained): names that differ in `-trained` alone share a colour and a shape;
/// solid and filled means trained, dashed and hollow not.
pub(crate) fn assigned(variants: &[(&str, bool)]) -> Vec<SeriesStyle> {
    let mut stems: Vec<(&str, [usize; 2])> = Vec::new();
    let mut styles = Vec::with_capacity(variants.len());
    for (name, trained) in variants {
        let stem = stem(name);
        let index = stems.iter().position(|(s, _)| *s == stem).unwrap_or_else(|| {
            stems.push((stem, [0, 0]));
            stems.len() - 1
        });
        let repeat = &mut stems[index].1[usize::from(*trained)];
        let dash = if *trained { SOLID[*repeat % SOLID.len()] } else { DASHED[(index + *repeat) % DASHED.len()] };
        let shape = SHAPES[(index + index / SHAPES.len() + 3 * *repeat) % SHAPES.len()];
        *repeat += 1;
        styles.push(SeriesStyle {
            color: SERIES[index % SERIES.len()],
            dash,
            shape,
            filled: *trained,
            draws: Draws::All,
        });
    }
    styles
}

/// A variant's name without the suffix that says whether it was trained.
fn stem(name: &str) -> &str {
    ["-trained", "_trained", "-untrained", "_untrained"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name)
}

/// Seventeen stops of cividis.
const CIVIDIS: [Rgb; 17] = [
    Rgb(0, 34, 78),
    Rgb(0, 46, 106),
    Rgb(26, 56, 111),
    Rgb(50, 67, 109),
    Rgb(67, 78, 108),
    Rgb(83, 90, 109),
    Rgb(97, 101, 111),
    Rgb(111, 112, 115),
    Rgb(125, 124, 120),
    Rgb(140, 136, 120),
    Rgb(155, 148, 118),
    Rgb(171, 160, 114),
    Rgb(188, 174, 108),
    Rgb(205, 187, 99),
    Rgb(222, 201, 88),
    Rgb(240, 216, 70),
    Rgb(254, 232, 56),
];

/// Cividis at a share between 0 and 1; what lies outside takes the nearer end.
pub(crate) fn cividis(share: f64) -> Rgb {
    let place = share.clamp(0.0, 1.0) * (CIVIDIS.len() - 1) as f64;
    let below = (place.floor() as usize).min(CIVIDIS.len() - 2);
    let (a, b, t) = (CIVIDIS[below], CIVIDIS[below + 1], place - below as f64);
    let mix = |x: u8, y: u8| (f64::from(x) + (f64::from(y) - f64::from(x)) * t).round() as u8;
    Rgb(mix(a.0, b.0), mix(a.1, b.1), mix(a.2, b.2))
}

/// Black or white, whichever reads better on `ground`; at least 4.58 to 1, since the worst ground is the one that
/// lies in the geometric middle of the two.
pub(crate) fn text_on(ground: Rgb) -> Rgb {
    let (black, white) = (Rgb(0, 0, 0), Rgb(255, 255, 255));
    if contrast(ground, black) >= contrast(ground, white) { black } else { white }
}

/// Contrast ratio of the Web Content Accessibility Guidelines 2.2, 1 to 21.
pub(crate) fn contrast(a: Rgb, b: Rgb) -> f64 {
    let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
    if a > b { a / b } else { b / a }
}

/// Relative luminance of the same guidelines.
fn luminance(Rgb(r, g, b): Rgb) -> f64 {
    let linear = |c: u8| {
        let c = f64::from(c) / 255.0;
        if c <= 0.040_45 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
}

/// Corners of a marker of `radius` around the origin; none for a disc.
pub(crate) fn corners(shape: Shape, radius: f64) -> Vec<(f64, f64)> {
    let ring = |count: usize, start: f64, radius: f64| {
        (0..count).map(move |i| {
            let angle = (start + 360.0 * i as f64 / count as f64).to_radians();
            (radius * angle.cos(), radius * angle.sin())
        })
    };
    match shape {
        Shape::Disc => Vec::new(),
        Shape::Square => ring(4, 45.0, radius * 1.25).collect(),
        Shape::Diamond => ring(4, 0.0, radius * 1.3).collect(),
        Shape::Up => ring(3, -90.0, radius * 1.35).collect(),
        Shape::Down => ring(3, 90.0, radius * 1.35).collect(),
        Shape::Left => ring(3, 180.0, radius * 1.35).collect(),
        Shape::Pentagon => ring(5, -90.0, radius * 1.15).collect(),
        Shape::Star => {
            let (outer, inner) = (ring(5, -90.0, radius * 1.5), ring(5, -54.0, radius * 0.62));
            outer.zip(inner).flat_map(|(a, b)| [a, b]).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_on_every_cell() {
        for i in 0..=200 {
            let ground = cividis(f64::from(i) / 200.0);
            assert!(contrast(ground, text_on(ground)) >= 4.5, "{ground:?}");
        }
    }

    #[test]
    fn text_reads_on_paper_and_lines_stand_out_from_it() {
        assert!(contrast(INK, PAPER) > 12.0 && contrast(MUTED, PAPER) >= 4.5 && contrast(INK, EMPTY) > 12.0);
        for color in SERIES {
            assert!(contrast(color, PAPER) >= 2.0, "{color:?}");
        }
        assert!(contrast(Rgb(240, 228, 66), PAPER) < 2.0, "the yellow that was left out would fail this");
    }

    #[test]
    fn contrast_matches_the_guidelines() {
        assert!((contrast(Rgb(0, 0, 0), Rgb(255, 255, 255)) - 21.0).abs() < 1e-9);
        assert!((contrast(Rgb(119, 119, 119), Rgb(255, 255, 255)) - 4.48).abs() < 0.01);
    }

    #[test]
    fn heat_colours_grow_lighter_all_the_way() {
        let steps: Vec<f64> = (0..=100).map(|i| luminance(cividis(f64::from(i) / 100.0))).collect();
        assert!(steps.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(cividis(7.0), Rgb(254, 232, 56));
    }

    #[test]
    fn a_scheme_keeps_its_colour_when_trained() {
        let styles = assigned(&[("base", false), ("pi", false), ("yarn", false), ("pi-trained", true)]);
        assert_eq!(styles[1].color, styles[3].color);
        assert!(styles[3].dash.is_empty() && styles[3].filled && !styles[1].filled && !styles[1].dash.is_empty());
    }

    #[test]
    fn no_two_of_thirty_variants_look_alike() {
        let names: Vec<String> = (0..15).map(|i| format!("v{i}")).collect();
        let list: Vec<(&str, bool)> = names.iter().chain(&names).map(|n| (n.as_str(), true)).collect();
        let styles = assigned(&list);
        for (i, a) in styles.iter().enumerate() {
            assert!(styles[i + 1..].iter().all(|b| a != b), "{i}: {a:?}");
        }
    }
}
