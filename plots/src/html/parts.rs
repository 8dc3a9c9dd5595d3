//! Figures, tables and folded parts as HTML.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::escaped;
use crate::chart::Figure;
use crate::figures::{Part, Table, TableCell};
use crate::scene::Rgb;
use crate::study::Study;
use crate::ticks;

/// One part of a section.
pub(super) fn part(part: &Part, drawings: &BTreeMap<String, String>) -> String {
    match part {
        Part::Text(words) => format!("<p>{}</p>\n", escaped(words)),
        Part::Figure(figure) => drawings.get(&figure.id).map_or_else(String::new, |svg| chart(figure, svg)),
        Part::Table(table) => self::table(table),
        Part::Folded(name, inner) => {
            let inner: String = inner.iter().map(|p| self::part(p, drawings)).collect();
            format!("<details>\n<summary>{}</summary>\n{inner}</details>\n", escaped(name))
        }
    }
}

fn chart(figure: &Figure, svg: &str) -> String {
    let id = escaped(&figure.id);
    format!(
        "<figure id=\"figure-{id}\">\n<div class=\"scroll\" tabindex=\"0\">\n{svg}</div>\n<figcaption>{} \
         <span class=\"files\"><a href=\"figures/{id}.svg\">SVG</a> <a href=\"figures/{id}.png\">PNG</a> \
         <a href=\"figures/{id}.vl.json\">Vega-Lite</a></span></figcaption>\n</figure>\n",
        escaped(&figure.title),
    )
}

/// A table that scrolls by itself on a narrow screen.
pub(super) fn table(table: &Table) -> String {
    let caption = escaped(&table.caption);
    let mut out = format!(
        "<p class=\"caption\">{caption}{}</p>\n<div class=\"scroll\" tabindex=\"0\">\n<table aria-label=\"{caption}\">\n\
         <thead><tr>",
        if table.rows.iter().flatten().any(|c| c.beyond) {
            " <span class=\"beyond-key\">\u{2020} beyond the length that the variant was trained at.</span>"
        } else {
            ""
        }
    );
    for head in &table.head {
        // Writing into a String cannot fail.
        let _ = write!(out, "<th scope=\"col\">{}</th>", escaped(head));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        out.push_str("<tr>");
        row.iter().for_each(|c| out.push_str(&cell(c)));
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
    out
}

fn cell(cell: &TableCell) -> String {
    let small = if cell.small.is_empty() { String::new() } else { format!("<small>{}</small>", escaped(&cell.small)) };
    let text = escaped(&cell.text);
    match (cell.head, cell.beyond) {
        (true, _) => format!("<th scope=\"row\">{text}{small}</th>"),
        (_, true) => format!("<td class=\"beyond\">{text} \u{2020}{small}</td>"),
        _ => format!("<td>{text}{small}</td>"),
    }
}

/// Numbers of a list that a cell shows one by one.
const SHOWN_NUMBERS: usize = 4;

/// `text` with every longer list of numbers, such as LongRoPE's divisors, told by its size and ends; the report has them all.
fn with_short_lists(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, list, after)) =
        rest.split_once('[').and_then(|(before, from)| from.split_once(']').map(|(list, after)| (before, list, after)))
    {
        let numbers: Option<Vec<f64>> = list.split(',').map(|number| number.trim().parse().ok()).collect();
        out.push_str(before);
        match numbers.filter(|numbers| numbers.len() > SHOWN_NUMBERS) {
            Some(numbers) => {
                let least = numbers.iter().copied().fold(f64::INFINITY, f64::min);
                let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let ends = format!("{} to {}", ticks::measured(least), ticks::measured(most));
                let _ = write!(out, "[{} numbers, {ends}]", numbers.len());
            }
            None => {
                let _ = write!(out, "[{list}]");
            }
        }
        rest = after;
    }
    out + rest
}

/// What was compared.
pub(super) fn variants(study: &Study<'_>) -> String {
    if study.models.is_empty() {
        return "<section id=\"variants\">\n<h2>Variants</h2>\n<p>The report names no variant.</p>\n</section>\n"
            .to_owned();
    }
    let mut out = String::from(
        "<section id=\"variants\">\n<h2>Variants</h2>\n<div class=\"scroll\" tabindex=\"0\">\n\
         <table class=\"variants\" aria-label=\"The models compared\">\n<thead><tr><th scope=\"col\">variant</th>\
         <th scope=\"col\">what it is</th><th scope=\"col\">scheme</th><th scope=\"col\">original context (tokens)</th>\
         <th scope=\"col\">trained context (tokens)</th><th scope=\"col\">continued pretraining (tokens)</th>\
         <th scope=\"col\">model</th></tr></thead>\n<tbody>\n",
    );
    for model in &study.models {
        let v = &model.variant;
        let Rgb(r, g, b) = model.style.color;
        let fill = if model.style.filled { "swatch" } else { "swatch hollow" };
        let length = |n: usize| if n == 0 { "unknown".to_owned() } else { ticks::count(n as u64) };
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\"><span class=\"{fill}\" style=\"--swatch:#{r:02x}{g:02x}{b:02x}\"></span>{}</th>\
             <td class=\"words\">{}</td><td class=\"words\">{}<small>{}</small></td><td>{}</td><td>{}</td><td>{}</td>\
             <td class=\"words\">{}</td></tr>",
            escaped(&model.label),
            escaped(&v.description),
            escaped(&v.scheme),
            escaped(&with_short_lists(&v.parameters)),
            length(v.original_context),
            length(v.trained_context),
            if v.trained_tokens == 0 { "none".to_owned() } else { ticks::count(v.trained_tokens) },
            escaped(&v.model),
        );
    }
    out.push_str("</tbody>\n</table>\n</div>\n</section>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_told_by_its_size_and_ends() {
        let text = "long_factor = [1.02,1.03,2.5,4.0,4.19], short = [1,2], factor = 4.0, odd = [a,b,c,d,e], open = [1";
        let short =
            "long_factor = [5 numbers, 1.020 to 4.190], short = [1,2], factor = 4.0, odd = [a,b,c,d,e], open = [1";
        assert_eq!(with_short_lists(text), short);
    }
}
