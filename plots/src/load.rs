//! Reads a result file, including one in which a number was not finite.
//!
//! JSON has no NaN and no infinity: a writer leaves `null` in their place. Such a place is read back as NaN, so that
//! a diverged model still has its figures, with a mark that says so.

use std::path::Path;

use eval::report::{Report, SCHEMA_VERSION};
use serde_json::Value;

use crate::PlotError;

/// Number fields that may hold `null`, by the list that they stand in.
const NUMBERS: [(&str, &[&str]); 4] = [
    ("rows", &["value", "low", "high"]),
    ("position_loss", &["loss", "low", "high"]),
    ("spectra", &["inv_freq"]),
    ("training", &["loss", "learning_rate"]),
];

/// Stands for `null` while the file passes through a type that knows finite numbers only.
const STAND_IN: f64 = -1.797_693_134_862_315e308;

/// Reads `report.json`, or the `report.json` inside a run folder.
///
/// # Errors
///
/// [`PlotError::Read`], [`PlotError::Parse`], or [`PlotError::Newer`] for a schema version that is not known here.
pub fn load(path: &Path) -> Result<Report, PlotError> {
    let path = if path.is_dir() { path.join("report.json") } else { path.to_path_buf() };
    let text = std::fs::read_to_string(&path).map_err(|source| PlotError::Read { path: path.clone(), source })?;
    let parse = |source| PlotError::Parse { path: path.clone(), source };
    let mut value: Value = serde_json::from_str(&text).map_err(parse)?;
    let found = value.get("schema_version").and_then(Value::as_u64).unwrap_or(0);
    if found > u64::from(SCHEMA_VERSION) {
        return Err(PlotError::Newer { path, found, known: SCHEMA_VERSION });
    }
    replace_nulls(&mut value);
    let mut report: Report = serde_json::from_value(value).map_err(parse)?;
    restore_nan(&mut report);
    Ok(report)
}

/// Puts the stand-in wherever a number is missing.
fn replace_nulls(report: &mut Value) {
    for (list, fields) in NUMBERS {
        let entries = report.get_mut(list).and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            for field in fields {
                match entry.get_mut(*field) {
                    Some(Value::Array(items)) => items.iter_mut().for_each(replace_null),
                    Some(item) => replace_null(item),
                    None => {}
                }
            }
        }
    }
}

fn replace_null(item: &mut Value) {
    if item.is_null() {
        *item = Value::from(STAND_IN);
    }
}

/// Turns stand-ins into NaN.
fn restore_nan(report: &mut Report) {
    let rows = report.rows.iter_mut().flat_map(|r| [&mut r.value, &mut r.low, &mut r.high]);
    let positions =
        report.position_loss.iter_mut().flat_map(|p| [&mut p.loss, &mut p.low, &mut p.high].into_iter().flatten());
    let spectra = report.spectra.iter_mut().flat_map(|s| &mut s.inv_freq);
    let training = report.training.iter_mut().flat_map(|t| [&mut t.loss, &mut t.learning_rate].into_iter().flatten());
    for number in rows.chain(positions).chain(spectra).chain(training) {
        if *number <= STAND_IN {
            *number = f64::NAN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    const ROW: &str = r#"{"model":"m","variant":"v","task":"perplexity","protocol":"P2","length":256,"depth":null,
        "metric":"perplexity","value":null,"low":1.5,"high":null,"count":3,"unit_of_count":"documents"}"#;

    fn minimal(version: u32, row: &str) -> String {
        format!(
            r#"{{"schema_version":{version},"provenance":{{"program":"p","command":[],"commit":null,"dirty":null,
            "started_at":"","duration_s":0.0,"device":"cpu","threads":1,"dtype":"float32","seeds":{{}},
            "versions":{{}},"hashes":{{}},"config":null}},"variants":[],"rows":[{row}]}}"#
        )
    }

    #[test]
    fn null_numbers_come_back_as_not_a_number() {
        let (_folder, path) = written(&minimal(1, ROW));
        let report = load(&path).unwrap();
        assert!(report.rows[0].value.is_nan() && report.rows[0].high.is_nan());
        assert_eq!(report.rows[0].low.to_bits(), 1.5_f64.to_bits());
    }

    #[test]
    fn a_run_folder_stands_for_its_report() {
        let (folder, _path) = written(&minimal(1, ROW));
        assert_eq!(load(folder.path()).unwrap().rows.len(), 1);
    }

    #[test]
    fn a_newer_schema_is_refused_by_number() {
        let (_folder, path) = written(&minimal(99, ROW));
        assert!(matches!(load(&path), Err(PlotError::Newer { found: 99, .. })));
    }

    #[test]
    fn a_null_where_a_name_belongs_is_an_error() {
        let (_folder, path) = written(&minimal(1, &ROW.replace(r#""variant":"v""#, r#""variant":null"#)));
        assert!(matches!(load(&path), Err(PlotError::Parse { .. })));
    }
}
