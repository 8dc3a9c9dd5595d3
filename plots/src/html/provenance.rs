//! What produced the numbers, and all of them.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use eval::report::{Provenance, Report};
use serde_json::Value;

use super::escaped;
use crate::study::Study;
use crate::ticks;

/// One line below the heading for each run.
pub(super) fn line(study: &Study<'_>) -> String {
    let mut out = String::new();
    for (name, report) in study.runs {
        let p = &report.provenance;
        let words = [
            name.as_str(),
            &p.program,
            &format!("started {}", p.started_at),
            &format!("took {}", duration(p.duration_s)),
            &p.device,
            &p.dtype,
        ];
        let kept: Vec<String> = words.iter().filter(|w| !w.is_empty()).map(|w| escaped(w)).collect();
        // Writing into a String cannot fail.
        let _ = writeln!(out, "<p class=\"run\">{}</p>", kept.join(" \u{b7} "));
    }
    out
}

fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "an unknown time".to_owned();
    }
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// The section with everything on each run.
pub(super) fn section(study: &Study<'_>) -> String {
    let mut out = String::from("<section id=\"provenance\">\n<h2>Provenance</h2>\n");
    for (name, report) in study.runs {
        let _ = writeln!(out, "<h3>{}</h3>", escaped(name));
        out.push_str(&facts(&report.provenance));
        let p = &report.provenance;
        out.push_str(&map("Seeds", &p.seeds));
        out.push_str(&map("Hashes of inputs", &p.hashes));
        out.push_str(&map("Versions", &p.versions));
        let _ = writeln!(
            out,
            "<details>\n<summary>Resolved configuration</summary>\n<pre>{}</pre>\n</details>",
            escaped(&settings(&p.config))
        );
        out.push_str(&rows(report));
    }
    out.push_str("</section>\n");
    out
}

fn facts(p: &Provenance) -> String {
    let state = match (&p.commit, p.dirty) {
        (None, _) => "not known".to_owned(),
        (Some(commit), Some(true)) => format!("{commit}, with changes that are not in it"),
        (Some(commit), Some(false)) => format!("{commit}, unchanged"),
        (Some(commit), None) => commit.clone(),
    };
    let pairs = [
        ("program", p.program.clone()),
        ("command", p.command.join(" ")),
        ("source commit", state),
        ("started", p.started_at.clone()),
        ("duration", duration(p.duration_s)),
        ("device", p.device.clone()),
        ("threads", p.threads.to_string()),
        ("element type", p.dtype.clone()),
        ("attention", p.backend.clone().unwrap_or_else(|| "not recorded".to_owned())),
    ];
    list("Run", pairs.iter().map(|(k, v)| (*k, v.as_str())))
}

fn map<V: Display>(caption: &str, entries: &BTreeMap<String, V>) -> String {
    if entries.is_empty() {
        return format!("<p>{caption}: none recorded.</p>\n");
    }
    let shown: Vec<(&str, String)> = entries.iter().map(|(k, v)| (k.as_str(), v.to_string())).collect();
    list(caption, shown.iter().map(|(k, v)| (*k, v.as_str())))
}

fn list<'a>(caption: &str, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = format!(
        "<p class=\"caption\">{caption}</p>\n<div class=\"scroll\" tabindex=\"0\">\n<table class=\"facts\" aria-label=\"{caption}\">\n<tbody>\n"
    );
    for (key, value) in pairs {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"words\"><code>{}</code></td></tr>",
            escaped(key),
            escaped(value)
        );
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
    out
}

/// The configuration as one `path = value` a line, in its own order.
fn settings(config: &Value) -> String {
    let mut out = String::new();
    flatten(config, "", &mut out);
    if out.is_empty() { "none recorded".to_owned() } else { out }
}

fn flatten(value: &Value, path: &str, out: &mut String) {
    match value {
        Value::Null if path.is_empty() => {}
        Value::Object(fields) if !fields.is_empty() => {
            for (key, inner) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(inner, &path, out);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (i, inner) in items.iter().enumerate() {
                flatten(inner, &format!("{path}[{i}]"), out);
            }
        }
        other => {
            let _ = writeln!(out, "{path} = {other}");
        }
    }
}

/// Every row with every digit.
fn rows(report: &Report) -> String {
    let digits = |v: f64| if v.is_finite() { v.to_string() } else { "not finite".to_owned() };
    let mut out = format!(
        "<details>\n<summary>All {} rows, every digit</summary>\n<div class=\"scroll\" tabindex=\"0\">\n<table \
         class=\"all\">\n<thead><tr>",
        ticks::count(report.rows.len() as u64)
    );
    let heads = "variant,task,protocol,length,depth,metric,value,low,high,count,counted,how computed,model";
    heads.split(',').for_each(|h| out.push_str(&format!("<th scope=\"col\">{h}</th>")));
    out.push_str("</tr></thead>\n<tbody>\n");
    for r in &report.rows {
        let cells = [
            r.variant.clone(),
            r.task.clone(),
            r.protocol.clone(),
            r.length.to_string(),
            r.depth.map_or_else(|| "all".to_owned(), digits),
            r.metric.clone(),
            digits(r.value),
            digits(r.low),
            digits(r.high),
            r.count.to_string(),
            r.unit_of_count.clone(),
            r.how.clone().unwrap_or_default(),
            r.model.clone(),
        ];
        let line: String = cells.iter().map(|c| format!("<td>{}</td>", escaped(c))).collect();
        let _ = writeln!(out, "<tr>{line}</tr>");
    }
    out.push_str("</tbody>\n</table>\n</div>\n</details>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_keep_their_order_and_name_their_place() {
        let config = serde_json::json!({ "model": { "path": "x", "rope": { "factor": 4.0 } }, "lengths": [1, 2], "runs": [{ "a": 1 }] });
        assert_eq!(settings(&config), "model.path = \"x\"\nmodel.rope.factor = 4.0\nlengths = [1,2]\nruns[0].a = 1\n");
        assert_eq!(settings(&Value::Null), "none recorded");
    }

    #[test]
    fn durations_read_as_people_say_them() {
        assert_eq!([42.4, 312.0, 7322.0].map(duration), ["42 s", "5 min 12 s", "2 h 2 min"]);
    }
}
