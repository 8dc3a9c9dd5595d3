//! One self-contained page: no script, no file beside it needed, every word from the report escaped.

mod parts;
mod provenance;
mod summary;

use std::collections::BTreeMap;

use crate::figures::Section;
use crate::study::Study;
use crate::text;

const STYLE: &str = include_str!("page.css");

/// Text made safe for content and attributes.
pub(crate) fn escaped(words: &str) -> String {
    let mut out = String::with_capacity(words.len());
    for c in words.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' => out.push(c),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// The whole page; `drawings` holds the SVG of each figure by its id.
pub(crate) fn page(study: &Study<'_>, sections: &[Section], drawings: &BTreeMap<String, String>) -> String {
    let names: Vec<String> = study.runs.iter().map(|(name, _)| name.clone()).collect();
    let title = format!("Context length study: {}", crate::figures::listed(&names));
    let mut body = format!("<header>\n<h1>{}</h1>\n{}</header>\n", escaped(&title), provenance::line(study));
    body.push_str(&contents(sections));
    body.push_str("<main>\n");
    body.push_str(&summary::section(study));
    body.push_str(&parts::variants(study));
    for section in sections {
        body.push_str(&format!("<section id=\"{}\">\n<h2>{}</h2>\n", section.id, section.title));
        section.parts.iter().for_each(|p| body.push_str(&parts::part(p, drawings)));
        body.push_str("</section>\n");
    }
    body.push_str(&provenance::section(study));
    body.push_str("</main>\n");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}</title>\n<style>\n{}{STYLE}</style>\n</head>\n\
         <body>\n{body}</body>\n</html>\n",
        escaped(&title),
        font_faces(),
    )
}

/// Links to the sections.
fn contents(sections: &[Section]) -> String {
    let link = |id: &str, title: &str| format!("<a href=\"#{id}\">{title}</a>\n");
    let mut out = String::from("<nav aria-label=\"Sections\">\n");
    out.push_str(&link("summary", "Summary"));
    out.push_str(&link("variants", "Variants"));
    sections.iter().for_each(|s| out.push_str(&link(s.id, s.title)));
    out.push_str(&link("provenance", "Provenance"));
    out.push_str("</nav>\n");
    out
}

/// The embedded font for the page, so that text in figures has the width that it was placed with.
fn font_faces() -> String {
    let face = |weight: &str, bytes: &[u8]| {
        format!(
            "@font-face{{font-family:\"DejaVu Sans\";font-weight:{weight};\
             src:url(data:font/ttf;base64,{}) format(\"truetype\")}}\n",
            base64(bytes)
        )
    };
    face("400", text::REGULAR) + &face("700", text::BOLD)
}

/// RFC 4648 base64.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0_u32, |w, b| (w << 8) | u32::from(*b)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_standard() {
        let pairs = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, coded) in pairs {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn markup_does_not_survive() {
        assert_eq!(escaped("<script>\"&'\u{1}"), "&lt;script&gt;&quot;&amp;&#39; ");
    }
}
