//! Result files of lm-evaluation-harness: `metric,filter` keys of today and the plain ones of its first years.

use serde_json::{Map, Value};

use super::{ImportError, row};
use crate::metrics::wilson_of_mean;
use crate::report::Row;
use crate::tasks::ruler::RulerTask;

/// Standard errors in half a 95 % interval.
const Z_95: f64 = 1.959_963_984_540_054;

/// Reads a result file. The model's name is the file's own (`model_name`, or `pretrained=` of its arguments), `model` where it
/// has none.
///
/// Tasks that are measured by length have the length as the name of a metric (`4096`), and -1 there means that it was not
/// run; such rows are left out. Other tasks take the file's `max_length`, or `length` where it has none, since a row has a
/// length. The QA tasks of RULER are scored otherwise than by RULER itself (one of k right answers counts 1/k); their rows
/// say so and have a protocol of their own.
///
/// # Errors
///
/// [`ImportError::Layout`] and [`ImportError::Empty`].
pub fn lm_eval(text: &str, model: &str, length: usize) -> Result<Vec<Row>, ImportError> {
    let what = "a result file of lm-evaluation-harness";
    let layout = |reason: String| ImportError::Layout { what, reason };
    let file: Value = serde_json::from_str(text).map_err(|error| layout(error.to_string()))?;
    let Some(results) = file["results"].as_object() else { return Err(layout("it has no `results`".to_owned())) };
    let name = model_name(&file).unwrap_or_else(|| model.to_owned());
    let length = file["max_length"].as_u64().map_or(length, |length| length as usize);
    let mut rows = Vec::new();
    for (task, metrics) in results {
        let Some(metrics) = metrics.as_object() else { return Err(layout(format!("`{task}` has no metrics"))) };
        let count = file["n-samples"][task]["effective"].as_u64();
        for (key, value) in metrics {
            let (metric, filter) = key.split_once(',').unwrap_or((key, "none"));
            let value = value.as_f64().filter(|_| !metric.ends_with("_stderr") && metric != "sample_len");
            let Some(value) = value else { continue };
            if value == -1.0 && metric.parse::<usize>().is_ok() {
                continue;
            }
            rows.push(one(&name, task, (metric, filter), value, error_of(metrics, metric, filter), count, length));
        }
    }
    if rows.is_empty() { Err(ImportError::Empty) } else { Ok(rows) }
}

fn one(
    model: &str,
    task: &str,
    (metric, filter): (&str, &str),
    value: f64,
    error: Option<f64>,
    count: Option<u64>,
    length: usize,
) -> Row {
    let ruler = task.parse::<RulerTask>().or_else(|_| task.trim_start_matches("ruler_").parse::<RulerTask>()).ok();
    let by_length = metric.parse::<usize>().ok();
    let under_scored =
        matches!(task, "ruler_qa_squad" | "ruler_qa_hotpot") || ruler.is_some_and(RulerTask::any_reference);
    let mut how = "imported from lm-evaluation-harness".to_owned();
    if filter != "none" {
        how.push_str(&format!("; filter {filter}"));
    }
    if under_scored {
        how.push_str("; one of k right answers counts 1/k, unlike RULER's own score");
    }
    let protocol = if under_scored { "lm-eval qa" } else { "lm-eval" };
    let name = if by_length.is_some() { "accuracy" } else { metric };
    let row = row(model, task, protocol, by_length.unwrap_or(length), name, &how);
    let is_share = by_length.is_some() || metric.starts_with("acc") || metric.starts_with("exact_match");
    match (error, count) {
        (Some(error), _) => {
            let row = Row { count: count.unwrap_or(0), ..row };
            Row { value, low: value - Z_95 * error, high: value + Z_95 * error, ..row }
        }
        (None, Some(count)) if is_share && count > 0 && (0.0..=1.0).contains(&value) => {
            let share = wilson_of_mean(value * count as f64, count);
            Row { value, low: share.low, high: share.high, count, ..row }
        }
        _ => Row { count: count.unwrap_or(0), ..row }.without_interval(value),
    }
}

/// The standard error of a metric; `N/A` is none.
fn error_of(metrics: &Map<String, Value>, metric: &str, filter: &str) -> Option<f64> {
    let keys = [format!("{metric}_stderr,{filter}"), format!("{metric}_stderr")];
    keys.iter().find_map(|key| metrics.get(key)?.as_f64()).filter(|error| *error > 0.0)
}

fn model_name(file: &Value) -> Option<String> {
    let given = file["model_name"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    given.or_else(|| match &file["config"]["model_args"] {
        Value::String(arguments) => {
            arguments.split(',').find_map(|argument| argument.trim().strip_prefix("pretrained=").map(str::to_owned))
        }
        arguments => arguments["pretrained"].as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_metrics_and_minus_one_is_not_a_result() {
        let text = r#"{"results": {"niah_single_1": {"alias": "niah_single_1", "sample_len": 500,
            "4096,none": 0.98, "4096_stderr,none": "N/A", "8192,none": -1, "8192_stderr,none": "N/A"},
            "ruler_qa_squad": {"4096,none": 0.2, "4096_stderr,none": "N/A"}},
            "n-samples": {"niah_single_1": {"original": 500, "effective": 500}}, "model_name": "org/m"}"#;
        let rows = lm_eval(text, "unnamed", 2048).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].model.as_str(), rows[0].length, rows[0].value), ("org/m", 4096, 0.98));
        assert_eq!((rows[0].metric.as_str(), rows[0].count, rows[0].protocol.as_str()), ("accuracy", 500, "lm-eval"));
        assert!(rows[0].low < 0.98 && rows[0].low > 0.95);
        assert_eq!(rows[1].protocol, "lm-eval qa");
        assert!(rows[1].how.as_ref().unwrap().contains("1/k"), "the harness's own rule is named");
    }

    #[test]
    fn standard_errors_become_intervals_and_the_old_layout_is_read() {
        let text = r#"{"results": {"arc_challenge": {"acc": 0.494, "acc_stderr": 0.0146, "acc_norm": 0.523}},
            "versions": {"arc_challenge": 0},
            "config": {"model_args": "pretrained=org/old,dtype=bfloat16"}}"#;
        let rows = lm_eval(text, "unnamed", 2048).unwrap();
        assert_eq!((rows.len(), rows[0].model.as_str(), rows[0].metric.as_str()), (2, "org/old", "acc"));
        assert!((rows[0].low - (0.494 - 1.96 * 0.0146)).abs() < 1e-4);
        assert_eq!((rows[1].low, rows[1].high, rows[1].length), (0.523, 0.523, 2048));
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(lm_eval("{", "m", 1), Err(ImportError::Layout { .. })));
        assert!(matches!(lm_eval("{}", "m", 1), Err(ImportError::Layout { .. })));
        assert_eq!(lm_eval(r#"{"results": {}}"#, "m", 1), Err(ImportError::Empty));
    }
}
