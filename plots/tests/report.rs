//! What the files must hold, whatever the report.
#![allow(clippy::unwrap_used)]

#[path = "../examples/sample/report.rs"]
mod sample;

use std::fs;
use std::path::Path;

use eval::report::{Report, Row};
use plots::{PlotError, Rendered, load, render};

fn named(name: &str, report: Report) -> (String, Report) {
    (name.to_owned(), report)
}

fn drawn(report: Report) -> (tempfile::TempDir, Rendered) {
    let folder = tempfile::tempdir().unwrap();
    let rendered = render(&[named("run", report)], folder.path()).unwrap();
    (folder, rendered)
}

/// A report small enough to draw quickly: two variants, no details.
fn small() -> Report {
    let mut report = sample::sample(3);
    report.variants.retain(|v| v.name == "base" || v.name == "yarn-trained");
    let kept = |name: &str| name == "base" || name == "yarn-trained";
    report.rows.retain(|r| kept(&r.variant) && r.metric != "accuracy_forced" && r.protocol != "P1");
    report.position_loss.retain(|p| kept(&p.variant));
    report.spectra.retain(|s| kept(&s.variant));
    report.training.retain(|t| kept(&t.variant));
    report
}

fn svgs(rendered: &Rendered) -> Vec<(String, String)> {
    let paths = rendered.figures.iter().filter(|p| p.extension().is_some_and(|e| e == "svg"));
    paths.map(|p| (p.file_stem().unwrap().to_string_lossy().into_owned(), fs::read_to_string(p).unwrap())).collect()
}

/// Figures of a page without the embedded font, in whose base64 any word may occur.
fn page(rendered: &Rendered) -> String {
    let text = fs::read_to_string(&rendered.html).unwrap();
    let start = text.find("<body>").unwrap();
    text[start..].to_owned()
}

fn assert_clean(text: &str, what: &str) {
    for bad in ["NaN", "inf\"", "Infinity", "-inf", "<script"] {
        assert!(!text.contains(bad), "{what} contains {bad}");
    }
}

#[test]
fn every_figure_names_and_describes_itself() {
    let (_folder, rendered) = drawn(small());
    let all = svgs(&rendered);
    let ids: Vec<&str> = all.iter().map(|(id, _)| id.as_str()).collect();
    let expected = [
        "perplexity-p2",
        "passkey-bowline-1",
        "passkey-bowline-1-depth",
        "passkey-bowline-1-depth-base",
        "passkey-bowline-1-depth-yarn-trained",
        "tradeoff-1024",
        "position-loss-4096",
        "rope-spectrum",
        "training-loss",
    ];
    assert_eq!(ids, expected);
    for (id, text) in &all {
        assert!(text.contains("role=\"img\"") && text.contains(&format!("<title id=\"{id}-title\">")), "{id}");
        let description = text.split("<desc").nth(1).unwrap().split("</desc>").next().unwrap();
        assert!(description.len() > 60, "{id}: {description}");
        assert!(text.contains("font-family=\"DejaVu Sans, Verdana, sans-serif\""), "{id}");
        assert_clean(text, id);
    }
    for path in &rendered.figures {
        assert!(fs::metadata(path).unwrap().len() > 500, "{}", path.display());
    }
}

#[test]
fn pixels_and_specification_stand_beside_each_drawing() {
    let (_folder, rendered) = drawn(small());
    for path in &rendered.figures {
        let bytes = fs::read(path).unwrap();
        match path.extension().unwrap().to_str().unwrap() {
            "png" => {
                assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
                let width = u32::from_be_bytes(bytes[16..20].try_into().unwrap());
                assert_eq!(width, 1560, "two pixels for each logical one");
            }
            "json" => {
                let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
                assert!(value["$schema"].as_str().unwrap().contains("vega-lite"));
            }
            _ => {}
        }
    }
}

#[test]
fn points_lie_where_their_numbers_say() {
    let mut report = small();
    report.rows.retain(|r| r.variant == "base" && r.metric == "perplexity" && r.length <= 1024);
    report.variants.retain(|v| v.name == "base");
    for (row, value) in report.rows.iter_mut().zip([80.0, 40.0, 20.0, 10.0]) {
        (row.value, row.low, row.high) = (value, value, value);
    }
    let (_folder, rendered) = drawn(report);
    let (_, text) = svgs(&rendered).into_iter().find(|(id, _)| id == "perplexity-p2").unwrap();
    let line = text.lines().find(|l| l.contains("stroke=\"#111111\"") && l.contains("<polyline")).unwrap();
    let points: Vec<(f64, f64)> = line
        .split("points=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .split_whitespace()
        .map(|p| p.split_once(',').unwrap())
        .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
        .collect();
    assert_eq!(points.len(), 4);
    let steps: Vec<(f64, f64)> = points.windows(2).map(|w| (w[1].0 - w[0].0, w[1].1 - w[0].1)).collect();
    for step in &steps {
        assert!((step.0 - steps[0].0).abs() <= 2.0, "doubling the length is one step: {steps:?}");
        assert!((step.1 - steps[0].1).abs() <= 2.0, "halving the perplexity is one step: {steps:?}");
    }
}

#[test]
fn a_diverged_model_is_named_above_the_frame_and_drawn_nowhere_in_it() {
    let mut report = small();
    for row in report.rows.iter_mut().filter(|r| r.variant == "base" && r.task == "perplexity" && r.length >= 2048) {
        (row.value, row.low, row.high) =
            if row.length == 2048 { (54_321.0, 5e4, 6e4) } else { (f64::NAN, f64::NAN, f64::INFINITY) };
    }
    let (_folder, rendered) = drawn(report);
    let (_, text) = svgs(&rendered).into_iter().find(|(id, _)| id == "perplexity-p2").unwrap();
    assert!(text.contains("54,320 \u{2191}</text>"), "the value stands above the frame");
    assert!(text.contains(">not finite</text>") && text.contains(">off scale</text>"));
    assert_clean(&text, "figure");
    let html = page(&rendered);
    assert_clean(&html, "page");
    assert!(html.contains("not finite"));
}

#[test]
fn cells_show_number_count_and_interval() {
    let (_folder, rendered) = drawn(small());
    let (_, text) = svgs(&rendered).into_iter().find(|(id, _)| id == "passkey-bowline-1-depth-base").unwrap();
    assert!(text.contains(">100</text>") && text.contains(">n=8, 68\u{2013}100</text>"));
    assert!(text.contains("base, 4096 tokens, depth 50 %: not run</title>"), "cells that were not run say so");
    assert!(text.contains(">original context 256</text>"));
    let (_, trained) = svgs(&rendered).into_iter().find(|(id, _)| id.ends_with("depth-yarn-trained")).unwrap();
    assert!(trained.contains(">original 256</text>") && trained.contains(">trained 1K</text>"));
}

#[test]
fn a_context_that_the_axis_does_not_reach_has_no_line_across_the_names() {
    let lines = |report: Report| {
        let (_folder, rendered) = drawn(report);
        let figures = svgs(&rendered).into_iter().filter(|(id, _)| id == "perplexity-p2" || id == "passkey-bowline-1");
        figures.map(|(_, text)| text).collect::<Vec<_>>()
    };
    let near = lines(small());
    assert!(near.len() == 2 && near.iter().all(|text| text.contains(">trained 1K</text>")));
    let mut report = small();
    for variant in report.variants.iter_mut().filter(|it| it.trained_context > it.original_context) {
        variant.trained_context = 65536;
    }
    assert!(lines(report).iter().all(|text| text.contains(">original 256</text>") && !text.contains("trained 64K")));
}

fn digits(row: &Row) -> [String; 3] {
    [row.value, row.low, row.high].map(|v| v.to_string())
}

#[test]
fn the_page_holds_every_row_and_all_provenance() {
    let report = small();
    let (_folder, rendered) = drawn(report.clone());
    let html = page(&rendered);
    for row in &report.rows {
        for number in digits(row) {
            assert!(html.contains(&format!("<td>{number}</td>")), "{row:?}");
        }
    }
    let p = &report.provenance;
    for word in p.hashes.values().chain(p.versions.values()).chain(&p.commit).chain([&p.program, &p.device, &p.dtype]) {
        assert!(html.contains(word.as_str()), "{word}");
    }
    for (name, seed) in &p.seeds {
        assert!(html.contains(name.as_str()) && html.contains(&seed.to_string()), "{name}");
    }
    assert!(html.contains("train.learning_rate = 0.0006"), "the resolved configuration");
    for section in ["summary", "variants", "perplexity", "retrieval", "position", "spectrum", "training", "provenance"]
    {
        assert!(html.contains(&format!("<section id=\"{section}\">")), "{section}");
    }
    assert!(html.contains("class=\"beyond\""), "numbers beyond the window are marked");
}

#[test]
fn the_page_needs_nothing_beside_it() {
    let (_folder, rendered) = drawn(small());
    let text = fs::read_to_string(&rendered.html).unwrap();
    assert!(text.starts_with("<!DOCTYPE html>") && text.contains("prefers-color-scheme:dark"));
    assert!(text.contains("name=\"viewport\"") && text.contains("@media print"));
    for outside in ["<script", "<link", "<img", "src=\"http", "url(http", "@import"] {
        assert!(!text.contains(outside), "{outside}");
    }
    let ids: Vec<&str> = text.split(" id=\"").skip(1).map(|p| p.split('"').next().unwrap()).collect();
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(ids.len(), unique.len(), "every id is there once");
}

#[test]
fn names_from_a_report_stay_words() {
    let evil = "<script>alert('x')</script>&\"";
    let mut report = small();
    report.variants[0].name = evil.to_owned();
    report.variants[0].description = evil.to_owned();
    report.rows.iter_mut().filter(|r| r.variant == "base").for_each(|r| r.variant = evil.to_owned());
    report.rows.iter_mut().for_each(|r| r.protocol = evil.to_owned());
    report.provenance.command.push(evil.to_owned());
    report.provenance.config = serde_json::json!({ evil: evil });
    report.provenance.hashes.insert(evil.to_owned(), evil.to_owned());
    let folder = tempfile::tempdir().unwrap();
    let rendered = render(&[named(evil, report)], folder.path()).unwrap();
    let html = page(&rendered);
    assert_clean(&html, "page");
    assert!(html.contains("&lt;script&gt;alert(&#39;x&#39;)"));
    for (id, text) in svgs(&rendered) {
        assert_clean(&text, &id);
    }
    for path in &rendered.figures {
        assert!(path.starts_with(folder.path().join("figures")));
    }
}

#[test]
fn the_same_report_gives_the_same_bytes() {
    let (first, rendered) = drawn(small());
    let (second, _) = drawn(small());
    let below = |path: &Path, folder: &Path| fs::read(folder.join(path.strip_prefix(first.path()).unwrap())).unwrap();
    for path in rendered.figures.iter().chain([&rendered.html]) {
        assert_eq!(below(path, first.path()), below(path, second.path()), "{}", path.display());
    }
    let before = fs::read(&rendered.html).unwrap();
    fs::remove_dir_all(first.path().join("figures")).unwrap();
    render(&[named("run", small())], first.path()).unwrap();
    assert_eq!(fs::read(&rendered.html).unwrap(), before);
    assert!(rendered.figures.iter().all(|p| p.exists()));
    let mut other = small();
    other.rows[0].value *= 1.5;
    render(&[named("run", other)], second.path()).unwrap();
    assert_ne!(fs::read(second.path().join("report.html")).unwrap(), before, "another number gives another page");
}

#[test]
fn several_runs_share_the_figures_under_their_own_names() {
    let folder = tempfile::tempdir().unwrap();
    let rendered = render(&[named("first", small()), named("second", small())], folder.path()).unwrap();
    let (_, text) = svgs(&rendered).into_iter().find(|(id, _)| id == "perplexity-p2").unwrap();
    for name in ["first: base", "second: base", "first: yarn-trained", "second: yarn-trained"] {
        assert!(text.contains(&format!(">{name}</text>")), "{name}");
    }
    let html = page(&rendered);
    assert!(html.contains("<h3>first</h3>") && html.contains("<h3>second</h3>"));
    let twice = render(&[named("a", small()), named("a", small())], folder.path());
    assert!(matches!(twice, Err(PlotError::DuplicateName { .. })));
}

#[test]
fn parts_without_data_are_a_sentence() {
    let mut report = small();
    report.rows.retain(|r| r.task == "perplexity");
    report.position_loss.clear();
    report.spectra.clear();
    report.training.clear();
    let (_folder, rendered) = drawn(report);
    let ids: Vec<String> = svgs(&rendered).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["perplexity-p2"]);
    let html = page(&rendered);
    for sentence in ["No retrieval task was run.", "No loss by position was recorded.", "No variant was trained"] {
        assert!(html.contains(sentence), "{sentence}");
    }
}

#[test]
fn passkey_alone_is_enough() {
    let mut report = small();
    report.rows.retain(|r| r.task == "passkey" && r.variant == "base");
    report.variants.clear();
    report.position_loss.clear();
    report.spectra.clear();
    report.training.clear();
    let (_folder, rendered) = drawn(report);
    let ids: Vec<String> = svgs(&rendered).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["passkey-bowline-1", "passkey-bowline-1-depth-base"]);
    assert!(page(&rendered).contains("No perplexity was measured"));
}

#[test]
fn an_empty_report_is_a_page() {
    let mut report = small();
    report.variants.clear();
    report.rows.clear();
    report.position_loss.clear();
    report.spectra.clear();
    report.training.clear();
    let (_folder, rendered) = drawn(report);
    assert!(rendered.figures.is_empty() && page(&rendered).contains("The report has no rows"));
}

#[test]
fn hostile_numbers_never_reach_a_drawing() {
    let hostile = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0, 1e300, 1e-300];
    let mut report = small();
    for (i, row) in report.rows.iter_mut().enumerate() {
        row.value = hostile[i % hostile.len()];
        row.low = hostile[(i + 1) % hostile.len()];
        row.high = hostile[(i + 2) % hostile.len()];
        row.length = [0, 1, 256, usize::MAX][i % 4];
    }
    for curve in &mut report.position_loss {
        curve.loss.iter_mut().zip(hostile.iter().cycle()).for_each(|(l, h)| *l = *h);
        curve.low.truncate(2);
        curve.positions.push(usize::MAX - 1);
    }
    for spectrum in &mut report.spectra {
        spectrum.inv_freq.iter_mut().zip(hostile.iter().cycle()).for_each(|(l, h)| *l = *h);
    }
    for curve in &mut report.training {
        curve.loss.iter_mut().zip(hostile.iter().cycle()).for_each(|(l, h)| *l = *h);
        curve.tokens.truncate(20);
    }
    let (_folder, rendered) = drawn(report);
    assert_clean(&page(&rendered), "page");
    for (id, text) in svgs(&rendered) {
        assert_clean(&text, &id);
    }
}

#[test]
fn a_report_written_as_json_is_drawn_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut report = small();
    report.rows[0].value = f64::NAN;
    fs::write(folder.path().join("report.json"), serde_json::to_string(&report).unwrap()).unwrap();
    let loaded = load(folder.path()).unwrap();
    assert!(loaded.rows[0].value.is_nan());
    assert_eq!(loaded.rows[1..], report.rows[1..]);
    assert!(render(&[named("run", loaded)], folder.path()).unwrap().html.exists());
}

/// The small report with `count` copies of its trained variant beside the base.
fn crowded(count: usize) -> Report {
    let mut report = small();
    let (variants, rows) = (report.variants.clone(), report.rows.clone());
    report.position_loss.clear();
    report.spectra.clear();
    report.training.clear();
    for index in 1..count {
        let name = format!("copy-{index}");
        let of_copy = |v: &str| v == "yarn-trained";
        report.variants.extend(variants.iter().filter(|v| of_copy(&v.name)).cloned().map(|mut v| {
            v.name.clone_from(&name);
            v
        }));
        report.rows.extend(rows.iter().filter(|r| of_copy(&r.variant)).cloned().map(|mut r| {
            r.variant.clone_from(&name);
            r
        }));
    }
    report
}

#[test]
fn intervals_of_more_lines_than_can_be_told_apart_stand_in_the_table_alone() {
    let specification = |count: usize| {
        let (folder, _rendered) = drawn(crowded(count));
        fs::read_to_string(folder.path().join("figures/perplexity-p2.vl.json")).unwrap()
    };
    let few = specification(11);
    assert!(few.contains("\"area\"") && few.contains("bands are 95 % intervals"));
    let many = specification(12);
    assert!(!many.contains("\"area\"") && many.contains("the 95 % intervals of 13 lines stand in the table alone"));
}

#[test]
fn one_table_serves_two_averages_that_are_the_same() {
    let mut report = small();
    // A caption stands in its table and in the table's label.
    let tables = |report: Report| page(&drawn(report).1).matches("by context length, protocol P2").count() / 2;
    assert_eq!(tables(report.clone()), 2, "the sample's averages differ by 1.2 %");
    let ours: Vec<Row> = report.rows.iter().filter(|r| r.metric == "perplexity").cloned().collect();
    for row in report.rows.iter_mut().filter(|r| r.metric == "perplexity_published") {
        let same =
            ours.iter().find(|r| (&r.variant, r.length, &r.protocol) == (&row.variant, row.length, &row.protocol));
        let same = same.unwrap();
        (row.value, row.low, row.high) = (same.value, same.low, same.high);
    }
    assert_eq!(tables(report.clone()), 1);
    // One number apart is two tables again.
    report.rows.iter_mut().find(|r| r.metric == "perplexity_published").unwrap().value += 0.01;
    assert_eq!(tables(report), 2);
}
