//! The findings, computed from the rows.

use eval::report::Row;

use super::{escaped, parts};

use crate::figures::{
    KEY_TOKENS, RATIO, Table, TableCell, beyond, capital, cell, headline, listed, named, of_ruler, shared_count,
    small_print,
};
use crate::study::{Model, Protocol, Study, distinct};
use crate::ticks;

/// Sentences, then the numbers behind them.
pub(super) fn section(study: &Study<'_>) -> String {
    let mut findings = Vec::new();
    for protocol in study.protocols(true) {
        findings.extend(perplexity(study, protocol));
    }
    for protocol in study.protocols(false).into_iter().filter(|p| !of_ruler(*p)) {
        findings.extend(retrieval(study, protocol));
    }
    let mut out = String::from("<section id=\"summary\">\n<h2>Summary</h2>\n");
    if findings.is_empty() {
        out.push_str("<p>The report has no rows, so there is nothing to sum up.</p>\n");
    } else {
        out.push_str("<ul class=\"findings\">\n");
        // A number and its percent sign stay on one line of a phone.
        let kept = |finding: &String| escaped(finding).replace(" %", "\u{a0}%");
        findings.iter().for_each(|f| out.push_str(&format!("<li>{}</li>\n", kept(f))));
        out.push_str("</ul>\n");
        tables(study).iter().for_each(|t| out.push_str(&parts::table(t)));
    }
    out.push_str("</section>\n");
    out
}

/// A measured row of a model.
type Measured<'s, 'a> = (&'s Model, &'a Row);

fn at<'s, 'a>(study: &'s Study<'a>, protocol: Protocol<'a>, metric: &str, length: usize) -> Vec<Measured<'s, 'a>> {
    let found = |m: &'s Model| study.by_length(m, protocol, metric).into_iter().find(|r| r.length == length);
    study.models.iter().filter_map(|m| found(m).map(|r| (m, r))).collect()
}

/// Lengths worth a column: the longest measured ones within each original and trained context, and the longest of all.
fn key_lengths(study: &Study<'_>, protocol: Protocol<'_>, metric: &str) -> Vec<usize> {
    let measured = distinct(study.models.iter().flat_map(|m| study.by_length(m, protocol, metric)).map(|r| r.length));
    let contexts = study.original_contexts().into_iter().chain(study.trained_contexts());
    let within = |n: usize| measured.iter().copied().filter(|l| *l <= n).max();
    distinct(contexts.filter_map(within).chain(measured.last().copied()))
}

/// The longest measured length that the variants are judged at.
fn longest_trained(study: &Study<'_>, protocol: Protocol<'_>, metric: &str) -> Option<usize> {
    let (aim, _) = study.aim();
    key_lengths(study, protocol, metric).into_iter().filter(|l| *l <= aim).max()
}

/// Names that a sentence lists one by one.
const LISTED: usize = 6;

/// Names in a row, or how many there are where a sentence would be nothing but names.
fn listed_or_counted(names: &[String], of: usize) -> String {
    if names.len() <= LISTED { listed(names) } else { format!("{} of {of} variants", names.len()) }
}

/// The first variant that was not extended, with its shortest key length and its longest measured one.
fn unchanged<'s, 'a>(
    study: &'s Study<'a>,
    protocol: Protocol<'a>,
    metric: &str,
) -> Option<(&'s Model, &'a Row, &'a Row)> {
    let keys = key_lengths(study, protocol, metric);
    let plain = |m: &&Model| m.variant.trained_tokens == 0 && m.variant.trained_context == m.variant.original_context;
    study.models.iter().filter(plain).find_map(|m| {
        let rows = study.by_length(m, protocol, metric);
        let first = rows.iter().find(|r| keys.contains(&r.length))?;
        rows.last().filter(|last| last.length > first.length).map(|last| (m, *first, *last))
    })
}

/// A ratio to three digits.
fn ratio(value: f64) -> String {
    if value.is_finite() { format!("{value:.2}") } else { "not a number of".to_owned() }
}

/// A model's numbers at the key lengths and at its longest: `64 at 256 tokens, 63 at 1K and 77 at 4K`.
fn along<'a>(
    study: &Study<'a>,
    model: &Model,
    protocol: Protocol<'a>,
    metric: &str,
    written: impl Fn(&Row) -> String,
) -> String {
    let rows = study.by_length(model, protocol, metric);
    let keys = key_lengths(study, protocol, metric);
    let last = rows.last().map(|r| r.length);
    let kept = rows.iter().filter(|r| keys.contains(&r.length) || Some(r.length) == last);
    let words = kept.enumerate().map(|(i, r)| {
        let unit = if i == 0 { " tokens" } else { "" };
        format!("{} at {}{unit}", written(r), ticks::tokens(r.length))
    });
    listed(&words.collect::<Vec<_>>())
}

fn perplexity(study: &Study<'_>, protocol: Protocol<'_>) -> Vec<String> {
    let metric = headline(protocol);
    let what = match metric {
        RATIO => return short_text(study, protocol),
        KEY_TOKENS => "Perplexity of key tokens",
        _ => "Perplexity",
    };
    let mut out = Vec::new();
    if let Some((model, first, last)) = unchanged(study, protocol, metric) {
        let change = if last.value.is_finite() && first.value > 0.0 {
            format!("{} times as much", ratio(last.value / first.value))
        } else {
            "no longer a number".to_owned()
        };
        out.push(format!(
            "{what} ({}): {}, not extended, has {}: {change}.",
            protocol.name,
            model.label,
            along(study, model, protocol, metric, |r| ticks::measured(r.value))
        ));
    }
    let Some(length) = longest_trained(study, protocol, metric) else { return out };
    let mut found: Vec<Measured<'_, '_>> = at(study, protocol, metric, length);
    found.retain(|(_, r)| r.value.is_finite());
    found.sort_by(|a, b| a.1.value.total_cmp(&b.1.value));
    let Some((best, row)) = found.first().copied() else { return out };
    let own = study.by_length(best, protocol, metric);
    let first = own.iter().find(|r| r.length >= best.variant.original_context.max(1) && r.length < length);
    let against = first.map_or_else(String::new, |f| {
        format!(
            " ({} times its own {} at {})",
            ratio(row.value / f.value),
            ticks::measured(f.value),
            ticks::tokens(f.length)
        )
    });
    let near: Vec<String> =
        found[1..].iter().filter(|(_, r)| r.low <= row.high).map(|(m, _)| m.label.clone()).collect();
    let settled = match near.len() {
        0 if found.len() > 1 => " No other interval reaches its own.".to_owned(),
        0 => String::new(),
        _ => format!(" The intervals of {} overlap with its own.", listed_or_counted(&near, found.len())),
    };
    out.push(format!(
        "{what} ({}) at {} tokens, {}, is lowest for {}: {}, 95 % interval {}{against}.{settled}",
        protocol.name,
        ticks::tokens(length),
        study.aim().1,
        best.label,
        ticks::measured(row.value),
        ticks::interval(row.low, row.high)
    ));
    out
}

/// What short text costs: the least and the most.
fn short_text(study: &Study<'_>, protocol: Protocol<'_>) -> Vec<String> {
    let Some(length) = longest_trained(study, protocol, RATIO) else { return Vec::new() };
    let mut found: Vec<Measured<'_, '_>> = at(study, protocol, RATIO, length);
    // What was not changed costs nothing.
    found.retain(|(m, r)| r.value.is_finite() && m.variant.scheme != "default");
    found.sort_by(|a, b| a.1.value.total_cmp(&b.1.value));
    let (Some((cheap, least)), Some((dear, most))) = (found.first(), found.last()) else { return Vec::new() };
    let times = |r: &Row| format!("{} times (95 % interval {} to {})", ratio(r.value), ratio(r.low), ratio(r.high));
    let mut words = format!(
        "Short text ({}) at {} tokens: {} has {} the perplexity of the model before",
        protocol.name,
        ticks::tokens(length),
        cheap.label,
        times(least)
    );
    if found.len() > 1 {
        words.push_str(&format!(", {} {}", dear.label, times(most)));
    }
    vec![words + "."]
}

fn retrieval(study: &Study<'_>, protocol: Protocol<'_>) -> Vec<String> {
    let metric = "accuracy";
    let mut out = Vec::new();
    let task = capital(&named(protocol));
    let share = |r: &Row| {
        format!("{} % ({} of {})", ticks::percent(r.value), ticks::number((r.value * r.count as f64).round()), r.count)
    };
    if let Some((model, ..)) = unchanged(study, protocol, metric) {
        let numbers = along(study, model, protocol, metric, share);
        out.push(format!("{task} ({}): {}, not extended, finds {numbers}.", protocol.name, model.label));
    }
    let Some(length) = longest_trained(study, protocol, metric) else { return out };
    let found = at(study, protocol, metric, length);
    let top = found.iter().map(|(_, r)| r.value).filter(|v| v.is_finite()).fold(f64::NEG_INFINITY, f64::max);
    let best: Vec<String> = found.iter().filter(|(_, r)| r.value >= top).map(|(m, _)| m.label.clone()).collect();
    if let Some((_, row)) = found.iter().find(|(_, r)| r.value >= top) {
        let range =
            format!("{}, 95 % interval {} to {} %", share(row), ticks::percent(row.low), ticks::percent(row.high));
        // A hundredth of a sample is nothing found.
        let who = match (top * row.count as f64 >= 0.5, best.len()) {
            (false, 1) => format!("{} finds none", best[0]),
            (false, _) => "no variant finds any".to_owned(),
            (true, _) => format!("most are found by {}", listed_or_counted(&best, found.len())),
        };
        let length = ticks::tokens(length);
        out.push(format!("{task} ({}) at {length} tokens, {}: {who}, {range}.", protocol.name, study.aim().1));
    }
    out
}

/// One table for each protocol: key lengths, and for shares the pooled numbers within and beyond the window.
fn tables(study: &Study<'_>) -> Vec<Table> {
    let perplexity = study.protocols(true).into_iter().filter_map(|p| table(study, p, headline(p)));
    let retrieval =
        study.protocols(false).into_iter().filter(|p| !of_ruler(*p)).filter_map(|p| table(study, p, "accuracy"));
    perplexity.chain(retrieval).collect()
}

fn table(study: &Study<'_>, protocol: Protocol<'_>, metric: &str) -> Option<Table> {
    let lengths = key_lengths(study, protocol, metric);
    let pooled = metric == "accuracy";
    let mut head = vec!["variant".to_owned()];
    head.extend(lengths.iter().map(|l| format!("at {}", ticks::tokens(*l))));
    if pooled {
        head.extend(["within its window".to_owned(), "beyond it".to_owned()]);
    }
    let all = || study.models.iter().flat_map(|m| study.by_length(m, protocol, metric));
    let unit = all().next()?.unit_of_count.clone();
    // Pooled numbers have counts of their own.
    let shared = if pooled { None } else { shared_count(all()) };
    let mut rows = Vec::new();
    for model in &study.models {
        let measured = study.by_length(model, protocol, metric);
        if measured.is_empty() {
            continue;
        }
        let mut cells = vec![TableCell::head(&model.label)];
        cells.extend(lengths.iter().map(|length| {
            let row = measured.iter().find(|r| r.length == *length);
            row.map_or_else(|| TableCell::plain("not run"), |r| cell(model, r, shared.is_none()))
        }));
        if pooled {
            let (outside, inside): (Vec<&Row>, Vec<&Row>) = measured.iter().partition(|r| beyond(model, r.length));
            cells.extend([pool(&inside, false), pool(&outside, true)]);
        }
        rows.push(cells);
    }
    let what = if pooled {
        "accuracy; all lengths pooled within and beyond each variant's trained window"
    } else {
        "lower is better"
    };
    let caption = format!("{} ({}): {what}. {}", capital(&named(protocol)), protocol.name, small_print(shared, &unit));
    (!rows.is_empty()).then_some(Table { caption, head, rows })
}

/// Shares of several rows as one, with Wilson's interval.
fn pool(rows: &[&Row], beyond: bool) -> TableCell {
    let finite = rows.iter().filter(|r| r.value.is_finite());
    let (hits, count) = finite.fold((0.0, 0), |(h, n), r| (h + r.value * r.count as f64, n + r.count));
    if count == 0 {
        return TableCell::plain("not run");
    }
    let (low, high) = wilson(hits, count);
    let text = format!("{} %", ticks::percent(hits / count as f64));
    let small = format!("{} to {}; n = {}", ticks::percent(low), ticks::percent(high), ticks::count(count));
    TableCell { text, small, beyond, ..TableCell::default() }
}

/// The 95 % interval of a share (Wilson 1927, equation 4, with z = 1.96).
fn wilson(hits: f64, count: u64) -> (f64, f64) {
    let (n, z2) = (count as f64, 1.959_964_f64 * 1.959_964);
    let share = hits / n;
    let middle = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = (z2 * (share * (1.0 - share) / n + z2 / (4.0 * n * n))).sqrt() / (1.0 + z2 / n);
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_matches_published_values() {
        // Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611.
        let (low, high) = wilson(81.0, 263);
        assert!((low - 0.2553).abs() < 5e-5 && (high - 0.3662).abs() < 5e-5, "{low} {high}");
        let (low, high) = wilson(0.0, 20);
        assert!(low.abs() < 1e-12 && (high - 0.1611).abs() < 5e-5, "{low} {high}");
    }
}
