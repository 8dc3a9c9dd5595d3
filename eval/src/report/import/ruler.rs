//! RULER's `summary.csv`: tasks, scores in percent, and how many predictions were empty.

use super::{ImportError, number, records, row};
use crate::report::Row;

/// Reads a summary of `model` at `length` (RULER keeps both in the folder's name, not in the file).
///
/// # Errors
///
/// [`ImportError::Layout`] when the lines `Tasks` and `Score` are missing or differ in length, [`ImportError::Number`], and
/// [`ImportError::Empty`].
pub fn ruler_summary(text: &str, model: &str, length: usize) -> Result<Vec<Row>, ImportError> {
    let what = "a RULER summary";
    let all = records(text, what)?;
    let line = |name: &str| {
        let found = all.iter().find(|(_, fields)| fields.first().is_some_and(|first| first == name));
        found.ok_or_else(|| ImportError::Layout { what, reason: format!("there is no line `{name}`") })
    };
    let (_, tasks) = line("Tasks")?;
    let (score_line, scores) = line("Score")?;
    let nulls = line("Nulls").ok().map(|(_, fields)| fields);
    if tasks.len() != scores.len() {
        let reason = format!("{} tasks and {} scores", tasks.len() - 1, scores.len() - 1);
        return Err(ImportError::Layout { what, reason });
    }
    let mut rows = Vec::new();
    for index in 1..tasks.len() {
        let score = number(&scores[index], *score_line, index + 1)? / 100.0;
        // `0/500`: empty predictions of all.
        let count = nulls.and_then(|fields| fields.get(index)?.split_once('/')?.1.trim().parse::<u64>().ok());
        let row = row(model, &tasks[index], "ruler", length, "accuracy", "imported from a RULER summary");
        rows.push(match count {
            Some(count) if count > 0 => row.of_trials(score, count),
            _ => row.without_interval(score),
        });
    }
    if rows.is_empty() { Err(ImportError::Empty) } else { Ok(rows) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_shares_with_the_interval_of_their_samples() {
        let text = "0,1,2\nTasks,niah_single_1,qa_1\nScore,100.0,41.2\nNulls,0/500,3/500\n";
        let rows = ruler_summary(text, "m", 8192).unwrap();
        assert_eq!((rows[0].task.as_str(), rows[0].value, rows[0].count), ("niah_single_1", 1.0, 500));
        assert!((rows[0].low - 0.9924).abs() < 1e-4);
        assert!((rows[1].value - 0.412).abs() < 1e-12 && rows[1].length == 8192 && rows[1].protocol == "ruler");
    }

    #[test]
    fn summaries_without_counts_have_no_interval_and_other_files_are_refused() {
        let rows = ruler_summary("Tasks,vt\nScore,12.5\n", "m", 4096).unwrap();
        assert_eq!((rows[0].value, rows[0].low, rows[0].count), (0.125, 0.125, 0));
        assert!(matches!(ruler_summary("a,b\n", "m", 1), Err(ImportError::Layout { .. })));
        assert!(matches!(ruler_summary("Tasks,vt,cwe\nScore,1\n", "m", 1), Err(ImportError::Layout { .. })));
        assert!(matches!(ruler_summary("Tasks,vt\nScore,high\n", "m", 1), Err(ImportError::Number { line: 2, .. })));
    }
}
