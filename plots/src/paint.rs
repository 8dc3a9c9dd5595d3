//! A scene onto the drawing library's surfaces: SVG text, and pixels.
//!
//! The library counts in whole pixels, so both surfaces are larger than the figure: SVG by [`SVG_ZOOM`], undone by its
//! view box; pixels by [`OVERSAMPLE`], averaged down, which also smooths edges that the library leaves jagged.

use std::fmt::Display;

use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, FontTransform, IntoFont, RGBAColor, ShapeStyle};

use crate::html::escaped;
use crate::scene::{Align, Item, Point, Rgb, Scene, Stroke, TextStyle};
use crate::style::PAPER;
use crate::text;

/// SVG units per logical pixel.
const SVG_ZOOM: f64 = 10.0;
/// Pixels of the PNG per logical pixel.
const PNG_ZOOM: usize = 2;
/// Drawn pixels per pixel of the PNG, in each direction.
const OVERSAMPLE: usize = 2;

/// Pixels of a figure, three bytes each.
pub(crate) struct Bitmap {
    /// Red, green and blue, row by row.
    pub(crate) rgb: Vec<u8>,
    /// Width in pixels.
    pub(crate) width: u32,
    /// Height in pixels.
    pub(crate) height: u32,
}

fn style(Rgb(r, g, b): Rgb, alpha: f64, width: u32) -> ShapeStyle {
    ShapeStyle { color: RGBAColor(r, g, b, alpha), filled: true, stroke_width: width }
}

fn zoomed(points: &[Point], zoom: f64) -> Vec<(i32, i32)> {
    points.iter().map(|(x, y)| ((x * zoom).round() as i32, (y * zoom).round() as i32)).collect()
}

fn said(error: impl Display) -> String {
    error.to_string()
}

/// Draws a shape that both surfaces treat alike.
fn shape<B: DrawingBackend>(surface: &mut B, item: &Item, zoom: f64) -> Result<(), String> {
    match item {
        Item::Polygon { points, fill, alpha } => {
            surface.fill_polygon(zoomed(points, zoom), &style(*fill, *alpha, 0)).map_err(said)
        }
        Item::Rect { at, size, fill, .. } => {
            let corners = zoomed(&[*at, (at.0 + size.0, at.1 + size.1)], zoom);
            surface.draw_rect(corners[0], corners[1], &style(*fill, 1.0, 0), true).map_err(said)
        }
        Item::Disc { at, radius, fill } => {
            let centre = zoomed(&[*at], zoom)[0];
            surface.draw_circle(centre, (radius * zoom).round() as u32, &style(*fill, 1.0, 0), true).map_err(said)
        }
        Item::Path { .. } | Item::Text { .. } => Ok(()),
    }
}

/// The figure as one SVG element that names and describes itself.
///
/// # Errors
///
/// The library's words when it refuses.
pub(crate) fn svg(scene: &Scene, id: &str, title: &str, description: &str) -> Result<String, String> {
    let mut raw = String::new();
    let size = ((scene.width * SVG_ZOOM) as u32, (scene.height * SVG_ZOOM) as u32);
    let mut surface = SVGBackend::with_string(&mut raw, size);
    surface.draw_rect((0, 0), (size.0 as i32, size.1 as i32), &style(PAPER, 1.0, 0), true).map_err(said)?;
    for item in &scene.items {
        match item {
            Item::Path { points, stroke } => {
                let width = (stroke.width * SVG_ZOOM).round() as u32;
                surface.draw_path(zoomed(points, SVG_ZOOM), &style(stroke.color, 1.0, width)).map_err(said)?;
            }
            Item::Text { at, text, style } => svg_text(&mut surface, *at, text, *style)?,
            other => shape(&mut surface, other, SVG_ZOOM)?,
        }
    }
    surface.present().map_err(said)?;
    drop(surface);
    Ok(finished(&raw, scene, id, title, description))
}

fn svg_text(surface: &mut SVGBackend<'_>, at: Point, words: &str, look: TextStyle) -> Result<(), String> {
    let anchor = match look.align {
        Align::Start => HPos::Left,
        Align::Middle => HPos::Center,
        Align::End => HPos::Right,
    };
    let weight = if look.bold { FontStyle::Bold } else { FontStyle::Normal };
    // The library divides by 1.24 to come from its line height to the em.
    let mut font = ("DejaVu Sans", look.size * SVG_ZOOM * 1.24, weight).into_font();
    if look.vertical {
        font = font.transform(FontTransform::Rotate270);
    }
    let Rgb(r, g, b) = look.color;
    let color = RGBAColor(r, g, b, 1.0).to_backend_color();
    let style = plotters::style::TextStyle { font, color, pos: Pos::new(anchor, VPos::Top) };
    surface.draw_text(words, &style, zoomed(&[at], SVG_ZOOM)[0]).map_err(said)
}

/// Adds to the library's output what it has no words for: name and description, dashes, tips; and drops what the root
/// element says once for all.
fn finished(raw: &str, scene: &Scene, id: &str, title: &str, description: &str) -> String {
    let mut strokes =
        scene.items.iter().filter_map(|i| if let Item::Path { stroke, .. } = i { Some(stroke) } else { None });
    let tips =
        scene.items.iter().filter_map(|i| if let Item::Rect { tip, .. } = i { Some(tip.as_deref()) } else { None });
    // The background is the first rectangle and has no tip.
    let mut tips = std::iter::once(None).chain(tips);
    let mut out = header(scene, id, title, description);
    let mut lines = raw.lines().skip(1);
    while let Some(line) = lines.next() {
        let line = line.replace(" opacity=\"1\"", "").replace(" stroke=\"none\"", "");
        if line.starts_with("<polyline") {
            out.push_str(&with_dash(&line, strokes.next()));
        } else if line.starts_with("<rect") {
            match tips.next().flatten() {
                Some(tip) => out.push_str(&line.replace("/>", &format!("><title>{}</title></rect>", escaped(tip)))),
                None => out.push_str(&line),
            }
        } else if line.starts_with("<text") {
            let line = line.replace(" dy=\"0.76em\"", "").replace(" font-family=\"DejaVu Sans\"", "");
            out.push_str(&with_short_size(&line));
            out.push_str(lines.next().unwrap_or_default());
            out.push_str(lines.next().unwrap_or_default());
        } else {
            out.push_str(&line);
        }
        out.push('\n');
    }
    out
}

fn header(scene: &Scene, id: &str, title: &str, description: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {vw} {vh}\" role=\"img\" \
         aria-labelledby=\"{id}-title {id}-desc\" font-family=\"{fonts}\" stroke-linejoin=\"round\">\n\
         <title id=\"{id}-title\">{title}</title>\n<desc id=\"{id}-desc\">{desc}</desc>\n",
        w = scene.width,
        h = scene.height,
        vw = scene.width * SVG_ZOOM,
        vh = scene.height * SVG_ZOOM,
        id = escaped(id),
        fonts = text::FAMILIES,
        title = escaped(title),
        desc = escaped(description),
    )
}

/// The library divides the size, which leaves a tail of digits: rounds it to a tenth of a unit.
fn with_short_size(line: &str) -> String {
    const MARK: &str = "font-size=\"";
    let parts =
        line.split_once(MARK).and_then(|(head, rest)| rest.split_once('"').map(|(size, tail)| (head, size, tail)));
    match parts.and_then(|(head, size, tail)| size.parse::<f64>().ok().map(|s| (head, s, tail))) {
        Some((head, size, tail)) => format!("{head}{MARK}{}\"{tail}", (size * 10.0).round() / 10.0),
        None => line.to_owned(),
    }
}

fn with_dash(line: &str, stroke: Option<&Stroke>) -> String {
    let dash = stroke.map_or(&[][..], |s| s.dash);
    if dash.is_empty() {
        return line.to_owned();
    }
    let lengths: Vec<String> = dash.iter().map(|d| format!("{}", d * SVG_ZOOM)).collect();
    line.replace("/>", &format!(" stroke-dasharray=\"{}\"/>", lengths.join(" ")))
}

/// The figure as pixels.
///
/// # Errors
///
/// The library's words when it refuses.
pub(crate) fn bitmap(scene: &Scene) -> Result<Bitmap, String> {
    let zoom = (PNG_ZOOM * OVERSAMPLE) as f64;
    let (width, height) = ((scene.width * zoom) as usize, (scene.height * zoom) as usize);
    let mut fine = vec![255_u8; width * height * 3];
    {
        let mut surface = BitMapBackend::with_buffer(&mut fine, (width as u32, height as u32));
        for item in &scene.items {
            match item {
                Item::Path { points, stroke } => bitmap_path(&mut surface, points, *stroke, zoom)?,
                Item::Text { at, text, style } => bitmap_text(&mut surface, *at, text, *style, zoom)?,
                other => shape(&mut surface, other, zoom)?,
            }
        }
        surface.present().map_err(said)?;
    }
    Ok(averaged(&fine, width, height))
}

/// A line as one quadrilateral a segment with a disc at each joint: the library's own mitres run far past sharp turns.
fn bitmap_path(surface: &mut BitMapBackend<'_>, points: &[Point], stroke: Stroke, zoom: f64) -> Result<(), String> {
    let ink = style(stroke.color, 1.0, 0);
    let half = stroke.width / 2.0;
    for piece in dashed(points, stroke.dash) {
        for pair in piece.windows(2) {
            let ((ax, ay), (bx, by)) = (pair[0], pair[1]);
            let length = (bx - ax).hypot(by - ay);
            if length == 0.0 {
                continue;
            }
            let (nx, ny) = (-(by - ay) / length * half, (bx - ax) / length * half);
            let outline = [(ax + nx, ay + ny), (bx + nx, by + ny), (bx - nx, by - ny), (ax - nx, ay - ny)];
            surface.fill_polygon(zoomed(&outline, zoom), &ink).map_err(said)?;
        }
        for joint in piece.iter().skip(1).take(piece.len().saturating_sub(2)) {
            let radius = (half * zoom).round() as u32;
            if radius > 1 {
                surface.draw_circle(zoomed(&[*joint], zoom)[0], radius, &ink, true).map_err(said)?;
            }
        }
    }
    Ok(())
}

/// Cuts a line into the inked pieces of its dash pattern.
fn dashed(points: &[Point], dash: &[f64]) -> Vec<Vec<Point>> {
    if dash.is_empty() {
        return vec![points.to_vec()];
    }
    let mut pieces = vec![vec![points[0]]];
    let (mut index, mut left) = (0, dash[0]);
    for pair in points.windows(2) {
        let ((ax, ay), (bx, by)) = (pair[0], pair[1]);
        let length = (bx - ax).hypot(by - ay);
        let mut done = 0.0;
        while length - done > left {
            done += left;
            let at = (ax + (bx - ax) * done / length, ay + (by - ay) * done / length);
            if index % 2 == 0 {
                pieces.last_mut().into_iter().for_each(|p| p.push(at));
            } else {
                pieces.push(vec![at]);
            }
            index = (index + 1) % dash.len();
            left = dash[index].max(0.1);
        }
        left -= length - done;
        if index % 2 == 0 {
            pieces.last_mut().into_iter().for_each(|p| p.push((bx, by)));
        }
    }
    pieces.retain(|p| p.len() >= 2);
    pieces
}

fn bitmap_text(
    surface: &mut BitMapBackend<'_>,
    at: Point,
    words: &str,
    look: TextStyle,
    zoom: f64,
) -> Result<(), String> {
    let Rgb(r, g, b) = look.color;
    let (width, height) = surface.get_size();
    let mut outcome = Ok(());
    text::rasterise(words, at, look, zoom, |x, y, coverage| {
        let inside = (0..width as i32).contains(&x) && (0..height as i32).contains(&y);
        if inside && coverage > 0.0 && outcome.is_ok() {
            let color = RGBAColor(r, g, b, f64::from(coverage.min(1.0))).to_backend_color();
            outcome = surface.draw_pixel((x, y), color).map_err(said);
        }
    });
    outcome
}

/// Each pixel the mean of [`OVERSAMPLE`] by [`OVERSAMPLE`] drawn ones.
fn averaged(fine: &[u8], width: usize, height: usize) -> Bitmap {
    let (w, h) = (width / OVERSAMPLE, height / OVERSAMPLE);
    let mut rgb = Vec::with_capacity(w * h * 3);
    for y in 0..h {
        for x in 0..w {
            for channel in 0..3 {
                let mut sum = 0_usize;
                for dy in 0..OVERSAMPLE {
                    for dx in 0..OVERSAMPLE {
                        let place = (y * OVERSAMPLE + dy) * width + x * OVERSAMPLE + dx;
                        sum += usize::from(fine[place * 3 + channel]);
                    }
                }
                rgb.push((sum / (OVERSAMPLE * OVERSAMPLE)) as u8);
            }
        }
    }
    Bitmap { rgb, width: w as u32, height: h as u32 }
}

impl Bitmap {
    /// Writes a PNG; `path` must end in `.png`, from which the library takes the format.
    ///
    /// # Errors
    ///
    /// The library's words when it refuses.
    pub(crate) fn write(&self, path: &std::path::Path) -> Result<(), String> {
        let mut surface = BitMapBackend::new(path, (self.width, self.height));
        surface.blit_bitmap((0, 0), (self.width, self.height), &self.rgb).map_err(said)?;
        surface.present().map_err(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLACK: Rgb = Rgb(0, 0, 0);

    fn scene() -> Scene {
        let mut scene = Scene::new(100.0);
        scene.height = 50.0;
        let stroke = Stroke { color: BLACK, width: 2.0, dash: &[4.0, 2.0] };
        scene.path(vec![(10.0, 10.0), (90.0, 10.0)], stroke);
        scene.rect((10.0, 20.0), (20.0, 20.0), Rgb(0, 114, 178), Some("a <tip>".to_owned()));
        scene.text((50.0, 40.0), "a < b & c", TextStyle::new(12.0, BLACK));
        scene
    }

    #[test]
    fn svg_names_itself_and_escapes_words() {
        let text = svg(&scene(), "f", "Title & more", "What it shows").unwrap();
        assert!(text.starts_with("<svg xmlns"), "{text}");
        assert!(text.contains("role=\"img\"") && text.contains("<title id=\"f-title\">Title &amp; more</title>"));
        assert!(text.contains("stroke-dasharray=\"40 20\""), "{text}");
        assert!(text.contains("<title>a &lt;tip&gt;</title></rect>"), "{text}");
        assert!(text.contains("a &lt; b &amp; c</text>"), "{text}");
        assert!(text.contains("font-size=\"120\"") && text.contains("viewBox=\"0 0 1000 500\""), "{text}");
        assert!(!text.contains("NaN") && text.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn pixels_are_where_the_shapes_are() {
        let bitmap = bitmap(&scene()).unwrap();
        let at = |x: usize, y: usize| {
            let place = (y * 2 * bitmap.width as usize + x * 2) * 3;
            Rgb(bitmap.rgb[place], bitmap.rgb[place + 1], bitmap.rgb[place + 2])
        };
        assert_eq!(at(20, 30), Rgb(0, 114, 178));
        assert_eq!(at(5, 5), Rgb(255, 255, 255));
        assert_eq!((at(12, 10), at(15, 10)), (BLACK, Rgb(255, 255, 255)), "ink, then the gap of a dash");
        let text_ink = (31..48).flat_map(|y| (50..95).map(move |x| (x, y))).filter(|(x, y)| at(*x, *y).0 < 100).count();
        assert!(text_ink > 20, "{text_ink}");
    }

    #[test]
    fn dashes_cover_their_share_of_a_line() {
        let pieces = dashed(&[(0.0, 0.0), (10.0, 0.0), (10.0, 8.0)], &[4.0, 2.0]);
        let ink: f64 = pieces.iter().flat_map(|p| p.windows(2)).map(|w| (w[1].0 - w[0].0).hypot(w[1].1 - w[0].1)).sum();
        assert!((ink - 12.0).abs() < 1e-9, "{pieces:?}");
    }
}
