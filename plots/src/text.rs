//! The embedded font: widths, and glyphs as coverage.
//!
//! Text is rasterised here rather than by the drawing library, which drops the space to the left of each glyph and so
//! sets words unevenly.

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};

use crate::scene::{Align, Point, TextStyle};

/// Regular face, embedded in every binary and page.
pub(crate) const REGULAR: &[u8] = include_bytes!("../fonts/DejaVuSans.ttf");
/// Bold face.
pub(crate) const BOLD: &[u8] = include_bytes!("../fonts/DejaVuSans-Bold.ttf");
/// Families for SVG: ours, one with the same widths, and whatever there is.
pub(crate) const FAMILIES: &str = "DejaVu Sans, Verdana, sans-serif";

/// The face for a weight. A broken embedded file would be a broken build, which a test of this module shows.
fn face(bold: bool) -> Option<FontRef<'static>> {
    FontRef::try_from_slice(if bold { BOLD } else { REGULAR }).ok()
}

/// The scale that gives `size` pixels per em; the font crate counts from descender to ascender.
fn scale(font: &FontRef<'_>, size: f64) -> PxScale {
    let em = font.units_per_em().unwrap_or(2048.0);
    PxScale::from(size as f32 * font.height_unscaled() / em)
}

/// Width of a line of text in pixels.
pub(crate) fn width(text: &str, size: f64, bold: bool) -> f64 {
    let Some(font) = face(bold) else { return 0.0 };
    let scaled = font.as_scaled(scale(&font, size));
    text.chars().map(|c| f64::from(scaled.h_advance(font.glyph_id(c)))).sum()
}

/// `text`, cut with an ellipsis where it is wider than `most` pixels.
pub(crate) fn fitted(text: &str, size: f64, bold: bool, most: f64) -> String {
    if width(text, size, bold) <= most {
        return text.to_owned();
    }
    let mut kept: Vec<char> = text.chars().collect();
    while kept.pop().is_some() {
        let cut = format!("{}\u{2026}", kept.iter().collect::<String>().trim_end());
        if width(&cut, size, bold) <= most {
            return cut;
        }
    }
    String::new()
}

/// Breaks `text` into lines of at most `most` pixels at spaces.
pub(crate) fn wrapped(text: &str, size: f64, most: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(&format!("{line} {word}"), size, false) <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Calls `pixel(x, y, coverage)` for every pixel that a text touches, its size and place multiplied by `zoom`.
pub(crate) fn rasterise(text: &str, at: Point, style: TextStyle, zoom: f64, mut pixel: impl FnMut(i32, i32, f32)) {
    let Some(font) = face(style.bold) else { return };
    let scale = scale(&font, style.size * zoom);
    let scaled = font.as_scaled(scale);
    let whole = width(text, style.size, style.bold) * zoom;
    let mut pen = match style.align {
        Align::Start => 0.0,
        Align::Middle => -whole / 2.0,
        Align::End => -whole,
    };
    let (x0, y0) = (at.0 * zoom, at.1 * zoom);
    for c in text.chars() {
        let id = font.glyph_id(c);
        let glyph = id.with_scale_and_position(scale, point(pen as f32, 0.0));
        if let Some(outline) = font.outline_glyph(glyph) {
            let corner = outline.px_bounds().min;
            outline.draw(|gx, gy, coverage| {
                let (along, across) = (f64::from(corner.x) + f64::from(gx), f64::from(corner.y) + f64::from(gy));
                let (x, y) = if style.vertical { (x0 + across, y0 - along) } else { (x0 + along, y0 + across) };
                pixel(x.round() as i32, y.round() as i32, coverage);
            });
        }
        pen += f64::from(scaled.h_advance(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_faces_load_and_hold_the_letters_we_use() {
        for bold in [false, true] {
            let font = face(bold).unwrap();
            for c in "Az09%\u{d7}\u{2013}\u{2026}\u{2264}\u{221e}\u{e9}\u{3c0}\u{25b2}\u{2192}".chars() {
                assert_ne!(font.glyph_id(c).0, 0, "{c}");
            }
        }
    }

    #[test]
    fn widths_scale_with_size_and_bold_is_wider() {
        let small = width("Perplexity", 10.0, false);
        assert!((width("Perplexity", 20.0, false) / small - 2.0).abs() < 1e-3);
        assert!(width("Perplexity", 10.0, true) > small);
        assert!((50.0..62.0).contains(&small), "{small}");
    }

    #[test]
    fn long_names_are_cut_to_fit() {
        let cut = fitted("a-very-long-variant-name-indeed", 12.0, false, 80.0);
        assert!(cut.ends_with('\u{2026}') && width(&cut, 12.0, false) <= 80.0);
        assert_eq!(fitted("yarn", 12.0, false, 80.0), "yarn");
    }

    #[test]
    fn wrapping_keeps_every_word() {
        let text = "one two three four five six seven";
        let lines = wrapped(text, 12.0, 90.0);
        assert!(lines.len() > 1 && lines.iter().all(|l| width(l, 12.0, false) <= 90.0));
        assert_eq!(lines.join(" "), text);
    }
}
