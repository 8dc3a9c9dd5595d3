//! What retrieval tasks beside passkey get: curves for what has a length, tables for what sums up several; and the law
//! that loss follows with context.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use eval::report::{Cost, Provenance, Report, Row, SCHEMA_VERSION, Variant};
use eval::scaling::Law;
use eval::tasks::ruler::{LLAMA2_7B_CHAT_AT_4K, summary_rows};
use plots::{Rendered, render};

fn row(variant: &str, task: &str, length: usize, metric: &str, value: f64) -> Row {
    Row {
        model: "m".to_owned(),
        variant: variant.to_owned(),
        task: task.to_owned(),
        protocol: format!("{task}-1"),
        length,
        depth: None,
        metric: metric.to_owned(),
        value,
        low: (value - 0.1).max(0.0),
        high: (value + 0.1).min(1.0),
        count: 20,
        unit_of_count: "trials".to_owned(),
        how: None,
    }
}

/// Scores of a task and its pooled rows, as an evaluation writes them.
fn of_task(task: &str) -> Vec<Row> {
    let pooled = |metric: &str, length, value, how: &str| Row {
        how: Some(how.to_owned()),
        ..row("base", task, length, metric, value)
    };
    let mut rows: Vec<Row> = [256, 512, 1024].map(|n| row("base", task, n, "accuracy", 256.0 / n as f64)).to_vec();
    rows.extend([256, 512, 1024].map(|n| row("base", task, n, "accuracy_forced", 0.7)));
    for metric in ["accuracy", "accuracy_forced"] {
        let how = "lengths 256 pooled; a window of 256 tokens";
        rows.push(pooled(&format!("{metric}_in_window"), 256, 1.0, how));
        rows.push(pooled(
            &format!("{metric}_beyond_window"),
            1024,
            0.375,
            "lengths 512 1024 pooled; a window of 256 tokens",
        ));
    }
    rows
}

fn ruler() -> Vec<Row> {
    let mut rows = Vec::new();
    for (variant, fall) in [("good", 0.0001), ("poor", 0.0004)] {
        let mut own: Vec<Row> = Vec::new();
        for task in ["niah_single_1", "vt"] {
            own.extend([256, 512, 1024].map(|n| Row {
                protocol: "ruler-1".to_owned(),
                ..row(variant, task, n, "accuracy", 1.0 - fall * n as f64)
            }));
        }
        own.extend(summary_rows(&own, LLAMA2_7B_CHAT_AT_4K));
        rows.extend(own);
    }
    rows
}

fn drawn(rows: Vec<Row>) -> (tempfile::TempDir, Rendered) {
    drawn_with(Vec::new(), rows)
}

fn drawn_with(variants: Vec<Variant>, rows: Vec<Row>) -> (tempfile::TempDir, Rendered) {
    drawn_at(variants, rows, Vec::new())
}

fn drawn_at(variants: Vec<Variant>, rows: Vec<Row>, costs: Vec<Cost>) -> (tempfile::TempDir, Rendered) {
    let empty = BTreeMap::new;
    let report = Report {
        schema_version: SCHEMA_VERSION,
        provenance: Provenance {
            program: "bowline".to_owned(),
            command: Vec::new(),
            commit: None,
            dirty: None,
            started_at: String::new(),
            duration_s: 0.0,
            device: "cpu".to_owned(),
            threads: 1,
            dtype: "float32".to_owned(),
            backend: None,
            seeds: BTreeMap::new(),
            versions: empty(),
            hashes: empty(),
            config: serde_json::Value::Null,
        },
        variants,
        rows,
        position_loss: Vec::new(),
        document_loss: Vec::new(),
        spectra: Vec::new(),
        training: Vec::new(),
        costs,
    };
    let folder = tempfile::tempdir().unwrap();
    let rendered = render(&[("run".to_owned(), report)], folder.path()).unwrap();
    (folder, rendered)
}

fn ids(rendered: &Rendered) -> Vec<String> {
    let svg = rendered.figures.iter().filter(|p| p.extension().is_some_and(|e| e == "svg"));
    svg.map(|p| p.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

fn body(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text[text.find("<body>").unwrap()..].to_owned()
}

#[test]
fn numbers_over_several_lengths_are_in_a_table_and_in_no_figure() {
    for (task, slug) in
        [("needle", "needle"), ("kv", "kv"), ("multipasskey", "multipasskey"), ("multi_document", "multi-document")]
    {
        let (_folder, rendered) = drawn(of_task(task));
        assert_eq!(ids(&rendered), [format!("{slug}-{slug}-1"), format!("{slug}-{slug}-1-accuracy-forced")]);
        let page = body(&rendered.html);
        assert!(page.contains("generated, within the window"), "{task}");
        // Once for both accuracies, wherever the caption stands.
        let said = |words: &str| page.matches(words).count();
        assert_eq!(said("Beyond the window: lengths 512 1024 pooled"), said("numbers over several lengths"), "{task}");
        let forced = rendered.figures.iter().filter(|p| p.to_string_lossy().ends_with(".svg"));
        let titled = forced.filter(|p| fs::read_to_string(p).unwrap().contains("(teacher-forced)</title>")).count();
        assert_eq!(titled, 1, "{task}");
    }
}

#[test]
fn ruler_has_its_threshold_its_effective_lengths_and_its_tasks_on_demand() {
    let (_folder, rendered) = drawn(ruler());
    let ids = ids(&rendered);
    assert_eq!(ids, ["ruler-ruler-1", "niah-single-1-ruler-1", "vt-ruler-1"]);
    let figure =
        fs::read_to_string(rendered.figures.iter().find(|p| p.ends_with("figures/ruler-ruler-1.svg")).unwrap());
    let figure = figure.unwrap();
    assert!(figure.contains("effective: at least 85.6 %") && figure.contains("good 1K, poor 256"), "{figure}");
    let task = fs::read_to_string(rendered.figures.iter().find(|p| p.ends_with("figures/vt-ruler-1.svg")).unwrap());
    assert!(!task.unwrap().contains("effective"), "a single task has no effective length");
    let page = body(&rendered.html);
    assert!(page.contains("1K: 90 %") && page.contains("256: 90 %"), "effective lengths stand in the table");
    assert!(page.contains("Accuracy, long lengths weighing more") && page.contains("RULER&#39;s task vt"));
}

/// Perplexity whose logarithm follows `loss` at contexts of 32 to 2048 tokens.
fn curve(variant: &str, loss: impl Fn(f64) -> f64) -> Vec<Row> {
    let contexts = [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048];
    let at = |n: usize| {
        let value = loss(n as f64).exp();
        Row { low: value * 0.99, high: value * 1.01, ..row(variant, "perplexity", n, "perplexity", value) }
    };
    contexts.map(at).to_vec()
}

fn variant(name: &str, scheme: &str, parameters: &str) -> Variant {
    Variant {
        name: name.to_owned(),
        description: String::new(),
        model: "m".to_owned(),
        scheme: scheme.to_owned(),
        parameters: parameters.to_owned(),
        original_context: 256,
        trained_context: 256,
        trained_tokens: 0,
    }
}

const LAW: Law = Law { alpha: 25.4, beta: 0.45, gamma: 1.56 };

#[test]
fn a_law_is_drawn_with_its_numbers_and_what_leaves_it_is_said() {
    let mut rows = curve("lawful", |n| LAW.loss(n));
    rows.extend(curve("rising", |n| 2.0 + n.ln() * 0.01));
    let parity = |n: f64| (n.log2() * 2.0).round() as u64 % 2;
    rows.extend(curve("jagged", |n| 3.0 + 3.0 / n.sqrt() + 0.4 * parity(n) as f64));
    let (_folder, rendered) = drawn(rows);
    assert!(ids(&rendered).contains(&"scaling-perplexity-perplexity-1".to_owned()));
    let page = body(&rendered.html);
    assert!(
        page.contains("carried by the data") && page.contains("0.4500") && page.contains("1.560"),
        "the law's numbers"
    );
    assert!(page.contains("No law for rising: the loss does not fall with context"));
    assert!(page.contains("jagged: the data cannot carry this fit, because "));
    assert!(!page.contains("lawful: the data cannot"), "a fit without doubts has none");
}

#[test]
fn a_law_ends_where_the_variant_does() {
    // Follows the law to 256 and leaves it beyond, as a model does that was never taught to read further.
    let broken = |n: f64| LAW.loss(n) + if n > 256.0 { n.ln() } else { 0.0 };
    let rows: Vec<Row> = ["plain", "stretched"].iter().flat_map(|name| curve(name, broken)).collect();
    let variants = vec![variant("plain", "default", ""), variant("stretched", "yarn", "base = 10000, factor = 8.0")];
    let (_folder, rendered) = drawn_with(variants, rows);
    let page = body(&rendered.html);
    let (_, table) = page.split_once("Residuals: measured loss").unwrap();
    let (table, _) = table.split_once("</table>").unwrap();
    assert_eq!(table.matches("not fitted").count(), 0, "only the contexts of a fitted variant have columns: {table}");
    assert!(page.contains("7 from 32 to 256") && page.contains("No law for stretched"), "the reach of each");
}

#[test]
fn too_few_contexts_are_a_sentence_and_no_figure() {
    let rows = curve("short", |n| LAW.loss(n)).into_iter().take(4).collect();
    let (_folder, rendered) = drawn(rows);
    assert!(!ids(&rendered).iter().any(|id| id.starts_with("scaling")));
    assert!(body(&rendered.html).contains("No law for short: a power law with an offset has three numbers"));
}

#[test]
fn what_measuring_took_is_in_a_table() {
    let cost = |variant: &str, task: &str, points, seconds, peak_bytes| Cost {
        variant: variant.to_owned(),
        task: task.to_owned(),
        points,
        longest: 64,
        seconds,
        peak_bytes,
    };
    let rows: Vec<Row> = ["a", "b"].map(|variant| row(variant, "needle", 64, "accuracy", 0.5)).into();
    let costs = vec![
        cost("a", "needle", 4, 10.0, Some(3_000_000)),
        cost("a", "perplexity", 2, 1.0, None),
        cost("b", "needle", 4, 20.0, Some(5_000_000)),
        cost("b", "needle", 4, 60.0, Some(4_000_000)),
    ];
    let (_folder, rendered) = drawn_at(Vec::new(), rows, costs);
    let page = body(&rendered.html);
    let table = &page[page.find("id=\"cost\"").unwrap()..];
    for words in ["2.500 a point; 3.000 MB", "0.5000 a point<", "10.00 a point; 5.000 MB", "not run"] {
        assert!(table.contains(words), "{words}: {}", &table[..table.find("</section>").unwrap()]);
    }
}
