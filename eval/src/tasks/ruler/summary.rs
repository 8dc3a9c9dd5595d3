//! RULER over all tasks: the mean at each length, the effective length and the weighted averages.

use std::collections::BTreeMap;

use super::RulerTask;
use crate::metrics::{Estimate, wilson_of_mean};
use crate::report::{Measurement, Row};

/// The usual threshold: what Llama-2-7B-chat scores at 4096 tokens (RULER's README).
pub const LLAMA2_7B_CHAT_AT_4K: f64 = 0.856;

/// The longest length whose value reaches `threshold`; none when no length does.
#[must_use]
pub fn effective_length(scores: &[(usize, f64)], threshold: f64) -> Option<usize> {
    scores.iter().filter(|(_, score)| *score >= threshold).map(|(length, _)| *length).max()
}

/// Rows of the whole benchmark from the rows of its tasks (one model and variant): for each length at which every measured
/// task has a row, the mean over tasks as `accuracy` of the task `ruler`; one row `accuracy_at_effective_length`, whose length
/// is the effective one (none when no length reaches `threshold`); and the two weighted averages over lengths, whose weights
/// rise (`accuracy_weighted_inc`) or fall (`accuracy_weighted_dec`) linearly with the length's rank.
///
/// The interval of a mean is Wilson's for all its samples together: the tasks' means are fixed, so the mean of thirteen
/// shares varies less than a share of as many samples.
#[must_use]
pub fn summary_rows(rows: &[Row], threshold: f64) -> Vec<Row> {
    let known = |row: &&Row| row.depth.is_none() && row.metric == "accuracy" && row.task.parse::<RulerTask>().is_ok();
    let scored: Vec<&Row> = rows.iter().filter(known).collect();
    let Some(first) = scored.first() else { return Vec::new() };
    let mut by_length: BTreeMap<usize, BTreeMap<&str, &Row>> = BTreeMap::new();
    for row in &scored {
        by_length.entry(row.length).or_default().insert(&row.task, row);
    }
    let tasks = by_length.values().map(BTreeMap::len).max().unwrap_or(0);
    by_length.retain(|_, rows| rows.len() == tasks);
    let means: Vec<(usize, Estimate, u64)> = by_length
        .iter()
        .map(|(&length, rows)| {
            let count: u64 = rows.values().map(|row| row.count).sum();
            let mean = rows.values().map(|row| row.value).sum::<f64>() / tasks as f64;
            (length, wilson_of_mean(mean * count as f64, count), count)
        })
        .collect();
    let measured = Measurement {
        model: &first.model,
        variant: &first.variant,
        task: "ruler",
        protocol: &first.protocol,
        unit_of_count: "trials",
    };
    let row = |length: usize, metric: &str, estimate: Estimate, count: u64, how: String| Row {
        how: Some(how),
        ..measured.row(length, metric, estimate, count)
    };
    let over = format!("mean of {tasks} of {} tasks", RulerTask::ALL.len());
    let mut found: Vec<Row> =
        means.iter().map(|&(length, mean, count)| row(length, "accuracy", mean, count, over.clone())).collect();
    let scores: Vec<(usize, f64)> = means.iter().map(|(length, mean, _)| (*length, mean.value)).collect();
    let passed = effective_length(&scores, threshold);
    let at = means.iter().find(|(length, ..)| Some(*length) == passed);
    found.extend(at.map(|&(length, mean, count)| {
        let how = format!("longest length with at least {:.1} %; {over}", 100.0 * threshold);
        row(length, "accuracy_at_effective_length", mean, count, how)
    }));
    if means.len() > 1 {
        let count = means.iter().map(|(.., count)| count).sum();
        let longest = means.last().map_or(0, |(length, ..)| *length);
        let rising: Vec<f64> = (1..=means.len()).map(|rank| rank as f64).collect();
        let falling: Vec<f64> = rising.iter().rev().copied().collect();
        for (metric, weights) in [("accuracy_weighted_inc", rising), ("accuracy_weighted_dec", falling)] {
            let how = format!("{} lengths weighted by rank; {over}", means.len());
            found.push(row(longest, metric, weighted(&means, &weights), count, how));
        }
    }
    found
}

/// Weighted mean of values and of the ends of their intervals: the ends together are wider than the mean's own.
fn weighted(means: &[(usize, Estimate, u64)], weights: &[f64]) -> Estimate {
    let total: f64 = weights.iter().sum();
    let of = |part: fn(&Estimate) -> f64| {
        means.iter().zip(weights).map(|((_, mean, _), weight)| part(mean) * weight).sum::<f64>() / total
    };
    Estimate { value: of(|e| e.value), low: of(|e| e.low), high: of(|e| e.high) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task_row(task: &str, length: usize, value: f64) -> Row {
        Row {
            model: "m".into(),
            variant: "v".into(),
            task: task.into(),
            protocol: "ruler-1".into(),
            length,
            depth: None,
            metric: "accuracy".into(),
            value,
            low: value,
            high: value,
            count: 100,
            unit_of_count: "trials".into(),
            how: None,
        }
    }

    #[test]
    fn the_published_effective_length_of_together_32k_comes_out() {
        // RULER's README: 88.2, 81.1, 69.4, 63.0 at 4K to 32K; claimed 32K, effective 4K.
        let scores = [(4096, 0.882), (8192, 0.811), (16_384, 0.694), (32_768, 0.630)];
        assert_eq!(effective_length(&scores, LLAMA2_7B_CHAT_AT_4K), Some(4096));
        assert_eq!(effective_length(&scores, 0.9), None);
        assert_eq!(effective_length(&[], 0.5), None);
    }

    #[test]
    fn means_are_over_tasks_and_lengths_without_all_tasks_are_left_out() {
        let rows = [
            task_row("vt", 4096, 1.0),
            task_row("cwe", 4096, 0.8),
            task_row("vt", 8192, 0.6),
            task_row("cwe", 8192, 0.4),
            task_row("vt", 16_384, 1.0),
            task_row("passkey", 4096, 0.0),
        ];
        let found = summary_rows(&rows, LLAMA2_7B_CHAT_AT_4K);
        let get =
            |metric: &str, length: usize| found.iter().find(|r| r.metric == metric && r.length == length).unwrap();
        assert!((get("accuracy", 4096).value - 0.9).abs() < 1e-12 && get("accuracy", 4096).count == 200);
        assert!((get("accuracy", 8192).value - 0.5).abs() < 1e-12);
        assert!(found.iter().all(|row| row.length != 16_384 && row.task == "ruler"));
        assert!((get("accuracy_at_effective_length", 4096).value - 0.9).abs() < 1e-12);
        // (1 * 0.9 + 2 * 0.5) / 3 and (2 * 0.9 + 1 * 0.5) / 3.
        assert!((get("accuracy_weighted_inc", 8192).value - 1.9 / 3.0).abs() < 1e-12);
        assert!((get("accuracy_weighted_dec", 8192).value - 2.3 / 3.0).abs() < 1e-12);
        assert!(found.iter().all(|row| row.low <= row.value && row.value <= row.high));
        assert!(summary_rows(&rows[5..], 0.5).is_empty());
    }
}
