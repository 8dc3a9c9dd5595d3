//! What retrieval tasks beside passkey get: curves for what has a length, tables for what sums up several.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use eval::report::{Provenance, Report, Row, SCHEMA_VERSION};
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
            seeds: BTreeMap::new(),
            versions: empty(),
            hashes: empty(),
            config: serde_json::Value::Null,
        },
        variants: Vec::new(),
        rows,
        position_loss: Vec::new(),
        spectra: Vec::new(),
        training: Vec::new(),
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
        assert!(page.contains("Accuracy (generated answer), all lengths within the window"), "{task}");
        assert!(page.contains("all lengths beyond the window: lengths 512 1024 pooled"), "{task}");
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
