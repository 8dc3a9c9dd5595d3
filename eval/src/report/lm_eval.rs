//! A report in the schema of lm-evaluation-harness, so that its readers can read ours.

use serde_json::{Map, Value, json};

use super::{Report, Row};

/// Standard errors in half a 95 % interval.
const Z_95: f64 = 1.959_963_984_540_054;

/// The results of one variant in the layout of the harness's `results_*.json` (0.4).
///
/// A task is named as in our rows, with the protocol and, where it is not accuracy, the metric behind it; the length is the
/// name of the metric, as the harness's own tasks by length have it (`"4096,none"`). The standard error is the one whose
/// normal 95 % interval is as wide as ours. Rows of single depths are left out.
#[must_use]
pub fn lm_eval_results(report: &Report, variant: &str) -> Value {
    let rows: Vec<&Row> = report.rows.iter().filter(|r| r.variant == variant && r.depth.is_none()).collect();
    let (mut results, mut versions, mut samples) = (Map::new(), Map::new(), Map::new());
    let (mut shots, mut better, mut configs, mut subtasks) = (Map::new(), Map::new(), Map::new(), Map::new());
    for row in &rows {
        let name = task_name(row);
        let task = results.entry(name.clone()).or_insert_with(|| json!({"alias": name}));
        task[format!("{},none", row.length)] = json!(row.value);
        task[format!("{}_stderr,none", row.length)] =
            if row.high > row.low { json!((row.high - row.low) / (2.0 * Z_95)) } else { json!("N/A") };
        versions.insert(name.clone(), json!(row.protocol));
        shots.insert(name.clone(), json!(0));
        subtasks.insert(name.clone(), json!([]));
        let known = better.entry(name.clone()).or_insert_with(|| json!({}));
        known[row.length.to_string()] = json!(row.metric.starts_with("accuracy"));
        configs.insert(name.clone(), json!({"task": row.task, "protocol": row.protocol, "metric": row.metric}));
        // One task has one count in this schema; lengths may differ, and then the smallest is the safe one.
        let count = samples.get(&name).and_then(|c| c["effective"].as_u64()).map_or(row.count, |c| c.min(row.count));
        samples.insert(name, json!({"original": count, "effective": count}));
    }
    let model = rows.first().map_or("", |row| row.model.as_str());
    let provenance = &report.provenance;
    let seed = provenance.seeds.values().next();
    json!({
        "results": results,
        "group_subtasks": subtasks,
        "configs": configs,
        "versions": versions,
        "n-shot": shots,
        "higher_is_better": better,
        "n-samples": samples,
        "config": {
            "model": "bowline",
            "model_args": format!("pretrained={model},variant={variant},dtype={}", provenance.dtype),
            "device": provenance.device,
            "random_seed": seed,
            "numpy_seed": seed,
            "torch_seed": seed,
            "fewshot_seed": seed,
        },
        "git_hash": provenance.commit,
        "date": unix_time(&provenance.started_at),
        "model_source": "bowline",
        "model_name": model,
        "model_name_sanitized": model.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-', "_"),
        "task_hashes": {},
        "total_evaluation_time_seconds": provenance.duration_s.to_string(),
    })
}

/// `needle bowline-1`, `passkey bowline-1 accuracy_forced`; RULER's tasks keep their bare names.
fn task_name(row: &Row) -> String {
    let mut name = row.task.clone();
    if row.protocol != "ruler-1" {
        name.push_str(&format!(" {}", row.protocol));
    }
    if row.metric != "accuracy" {
        name.push_str(&format!(" {}", row.metric));
    }
    name
}

/// Seconds since 1970 of a time such as `2026-01-02T03:04:05Z`; none for anything else.
fn unix_time(text: &str) -> Option<f64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let parts = |text: &str, by: char| text.split(by).map(|p| p.parse::<f64>().ok()).collect::<Option<Vec<f64>>>();
    let (date, time) = (parts(date, '-')?, parts(time, ':')?);
    let (&[year, month, day], &[hour, minute, second]) = (&date[..], &time[..]) else { return None };
    // Days since 1 March of year 0, in years that begin in March (Howard Hinnant's civil calendar).
    let (y, m) = if month > 2.0 { (year, month - 3.0) } else { (year - 1.0, month + 9.0) };
    let of_year = ((153.0 * m + 2.0) / 5.0).floor() + day - 1.0;
    let days = 365.0 * y + (y / 4.0).floor() - (y / 100.0).floor() + (y / 400.0).floor() + of_year - 719_468.0;
    Some(days * 86_400.0 + hour * 3600.0 + minute * 60.0 + second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::import;
    use crate::report::tests::example;

    #[test]
    fn what_is_exported_is_imported_again() {
        let mut report = example();
        let ruler = |length: usize, value: f64| Row {
            task: "niah_single_1".into(),
            protocol: "ruler-1".into(),
            metric: "accuracy".into(),
            length,
            depth: None,
            value,
            low: value - 0.02,
            high: value + 0.02,
            count: 500,
            ..report.rows[1].clone()
        };
        let more = [ruler(4096, 0.9), ruler(8192, 0.7)];
        report.rows.extend(more);
        let json = lm_eval_results(&report, "yarn");
        assert_eq!(json["n-samples"]["niah_single_1"]["effective"], 500);
        assert_eq!(json["higher_is_better"]["perplexity P2 perplexity"]["256"], false);
        assert!(
            json["results"].as_object().unwrap().keys().all(|name| !name.starts_with("passkey")),
            "depths are left out"
        );
        let rows = import::lm_eval(&json.to_string(), "", 1).unwrap();
        let found = rows.iter().find(|r| r.task == "niah_single_1" && r.length == 8192).unwrap();
        assert_eq!((found.value, found.count, found.model.as_str()), (0.7, 500, "bundled"));
        assert!((found.low - 0.68).abs() < 1e-9 && (found.high - 0.72).abs() < 1e-9);
        assert_eq!(lm_eval_results(&report, "none")["results"], json!({}));
    }

    #[test]
    fn times_are_seconds_since_1970() {
        assert_eq!(unix_time("1970-01-01T00:00:00Z"), Some(0.0));
        // date -u -d 2026-01-02T03:04:05Z +%s
        assert_eq!(unix_time("2026-01-02T03:04:05Z"), Some(1_767_323_045.0));
        assert_eq!(unix_time("2024-02-29T12:00:00Z"), Some(1_709_208_000.0));
        assert_eq!(unix_time("yesterday"), None);
    }
}
