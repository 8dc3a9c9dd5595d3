//! Rows as CSV and as a markdown table, and finding one of them.

use std::fmt::Write;

use super::{Report, ReportError, Row};

/// Columns of the CSV form: the fields of [`Row`], in order.
const COLUMNS: [&str; 13] = [
    "model",
    "variant",
    "task",
    "protocol",
    "length",
    "depth",
    "metric",
    "value",
    "low",
    "high",
    "count",
    "unit_of_count",
    "how",
];

/// What a row must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowQuery<'a> {
    /// Name of the variant.
    pub variant: &'a str,
    /// Task.
    pub task: &'a str,
    /// Metric.
    pub metric: &'a str,
    /// Protocol; none takes the first that fits.
    pub protocol: Option<&'a str>,
    /// Context length in tokens.
    pub length: usize,
    /// Depth; none is the row of all depths together.
    pub depth: Option<f64>,
}

impl RowQuery<'_> {
    fn fits(&self, row: &Row) -> bool {
        row.variant == self.variant
            && row.task == self.task
            && row.metric == self.metric
            && self.protocol.is_none_or(|protocol| row.protocol == protocol)
            && row.length == self.length
            && match (row.depth, self.depth) {
                (None, None) => true,
                // Depths of a grid are computed, so the last bits may differ from a number that was typed.
                (Some(a), Some(b)) => (a - b).abs() < 1e-9,
                _ => false,
            }
    }
}

impl Report {
    /// The first row that fits.
    #[must_use]
    pub fn find(&self, query: RowQuery<'_>) -> Option<&Row> {
        self.rows.iter().find(|row| query.fits(row))
    }
}

/// Rows as CSV with a header; numbers are written so that they read back as the same bits.
///
/// # Errors
///
/// [`ReportError::Table`] when the CSV writer fails.
pub fn csv(rows: &[Row]) -> Result<String, ReportError> {
    let failed = |error: &dyn std::fmt::Display| ReportError::Table(error.to_string());
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS).map_err(|e| failed(&e))?;
    for row in rows {
        writer.write_record(fields(row)).map_err(|e| failed(&e))?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(&e))?;
    String::from_utf8(bytes).map_err(|e| failed(&e))
}

fn fields(row: &Row) -> [String; COLUMNS.len()] {
    [
        row.model.clone(),
        row.variant.clone(),
        row.task.clone(),
        row.protocol.clone(),
        row.length.to_string(),
        row.depth.map_or_else(String::new, |depth| depth.to_string()),
        row.metric.clone(),
        row.value.to_string(),
        row.low.to_string(),
        row.high.to_string(),
        row.count.to_string(),
        row.unit_of_count.clone(),
        row.how.clone().unwrap_or_default(),
    ]
}

/// Rows as a markdown table for a reader: shares as per cent, other numbers with four decimals.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let mut table = String::from(
        "| variant | task | protocol | length | depth | metric | value | 95 % interval | count | how |\n\
         |---|---|---|---:|---:|---|---:|---:|---:|---|\n",
    );
    for row in rows {
        let shown = |value: f64| {
            if row.metric.starts_with("accuracy") { format!("{:.1} %", 100.0 * value) } else { format!("{value:.4}") }
        };
        let depth = row.depth.map_or_else(|| "all".to_owned(), |depth| format!("{depth:.2}"));
        let text = [&row.variant, &row.task, &row.protocol].map(|text| escaped(text)).join(" | ");
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| {text} | {} | {depth} | {} | {} | {} to {} | {} {} | {} |",
            row.length,
            escaped(&row.metric),
            shown(row.value),
            shown(row.low),
            shown(row.high),
            row.count,
            escaped(&row.unit_of_count),
            escaped(row.how.as_deref().unwrap_or_default()),
        );
    }
    table
}

/// A bar or a line break inside a cell would end it.
fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn csv_reads_back_field_by_field() {
        let mut report = example();
        report.rows[0].model = "a, \"quoted\" model".to_owned();
        report.rows[0].value = 0.1 + 0.2;
        let text = csv(&report.rows).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), COLUMNS);
        let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(&records[0][0], "a, \"quoted\" model");
        assert_eq!(records[0][7].parse::<f64>().unwrap(), 0.1 + 0.2);
        assert_eq!((&records[0][5], &records[1][5]), ("", "0.3"));
        assert_eq!(records.len(), report.rows.len());
    }

    #[test]
    fn markdown_has_a_line_for_each_row_and_keeps_its_cells() {
        let mut report = example();
        report.rows[0].variant = "a|b\nc".to_owned();
        let table = markdown(&report.rows);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 2 + report.rows.len());
        assert!(lines[2].starts_with("| a\\|b c | perplexity | P2 | 256 | all | perplexity | 60.5000 |"), "{table}");
        assert!(lines[3].contains("| 0.30 | accuracy | 95.0 % | 90.0 % to 98.0 % | 40 trials |"), "{table}");
    }

    #[test]
    fn rows_are_found_by_what_they_measure() {
        let report = example();
        let query = RowQuery {
            variant: "yarn",
            task: "passkey",
            metric: "accuracy",
            protocol: None,
            length: 1024,
            depth: Some(0.1 + 0.2),
        };
        assert_eq!(report.find(query), Some(&report.rows[1]));
        assert_eq!(report.find(RowQuery { depth: None, ..query }), None);
        assert_eq!(report.find(RowQuery { length: 512, ..query }), None);
        assert_eq!(report.find(RowQuery { protocol: Some("yarn-1"), ..query }), None);
    }
}
