//! The tables of the YaRN repository: lengths in the first line, then one line for each model.

use super::{ImportError, number, records, row};
use crate::report::Row;

/// What the numbers of a table are; the file itself does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum YarnTable<'a> {
    /// Perplexities by a protocol (`P2` for its Proof-pile tables, `P1` for GovReport).
    Perplexity {
        /// Protocol.
        protocol: &'a str,
    },
    /// Shares of passkeys found.
    Passkey {
        /// Trials of each length, where known (the paper says 10, the script's default is 20).
        trials: Option<u64>,
    },
}

/// Reads a table.
///
/// # Errors
///
/// [`ImportError::Layout`] when the first line holds no lengths, [`ImportError::Number`] for anything that is not a finite
/// number (an empty cell is a length that was not run), and [`ImportError::Empty`].
pub fn yarn_csv(text: &str, table: YarnTable<'_>) -> Result<Vec<Row>, ImportError> {
    let what = "a table of lengths and models";
    let all = records(text, what)?;
    let layout = |reason: String| ImportError::Layout { what, reason };
    let Some(((_, head), models)) = all.split_first() else { return Err(ImportError::Empty) };
    let lengths = head[1..]
        .iter()
        .map(|field| field.parse::<usize>().map_err(|_| layout(format!("`{field}` in the first line is no length"))))
        .collect::<Result<Vec<_>, _>>()?;
    if lengths.is_empty() {
        return Err(layout("the first line holds no lengths".to_owned()));
    }
    let mut rows = Vec::new();
    for (line, fields) in models {
        if fields.len() > lengths.len() + 1 {
            return Err(layout(format!("line {line} has {} numbers for {} lengths", fields.len() - 1, lengths.len())));
        }
        for (index, (field, &length)) in fields[1..].iter().zip(&lengths).enumerate() {
            if field.is_empty() {
                continue;
            }
            let value = number(field, *line, index + 2)?;
            let source = "imported from a YaRN table";
            rows.push(match table {
                YarnTable::Perplexity { protocol } => {
                    let row = row(&fields[0], "perplexity", protocol, length, "perplexity_published", source);
                    Row { unit_of_count: "documents".to_owned(), ..row }.without_interval(value)
                }
                YarnTable::Passkey { trials } => {
                    let row = row(&fields[0], "passkey", "yarn-1", length, "accuracy", source);
                    match trials {
                        Some(trials) => row.of_trials(value, trials),
                        None => row.without_interval(value),
                    }
                }
            });
        }
    }
    if rows.is_empty() { Err(ImportError::Empty) } else { Ok(rows) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn perplexities_keep_every_digit_and_have_no_interval() {
        let text =
            ",2048,4096,6144\norg/A-7b,3.9184463024139404,3.5097882747650146,\norg/B-7b,4.2,77.2326889038086,1e2";
        let rows = yarn_csv(text, YarnTable::Perplexity { protocol: "P2" }).unwrap();
        assert_eq!(rows.len(), 5);
        assert_eq!(
            (rows[0].model.as_str(), rows[0].length, rows[0].value),
            ("org/A-7b", 2048, 3.918_446_302_413_940_4)
        );
        assert_eq!((rows[0].protocol.as_str(), rows[0].metric.as_str()), ("P2", "perplexity_published"));
        assert_eq!((rows[4].length, rows[4].value, rows[4].low, rows[4].count), (6144, 100.0, 100.0, 0));
        assert!(rows[4].how.as_ref().unwrap().contains("no interval"));
    }

    #[test]
    fn passkey_shares_have_the_interval_of_their_trials() {
        let rows = yarn_csv(",2048,32768\nx,1.0,0.0\n", YarnTable::Passkey { trials: Some(50) }).unwrap();
        assert!((rows[0].low - 0.9287).abs() < 1e-3 && rows[0].high == 1.0 && rows[0].count == 50);
        assert!(rows[1].value == 0.0 && rows[1].high > 0.05);
    }

    #[test]
    fn other_files_are_refused() {
        let read = |text| yarn_csv(text, YarnTable::Passkey { trials: None });
        assert_eq!(read(""), Err(ImportError::Empty));
        assert!(matches!(read("a,b\n1,2"), Err(ImportError::Layout { .. })));
        assert_eq!(read(",2048\nx,nan"), Err(ImportError::Number { line: 2, column: 2, text: "nan".into() }));
        assert!(matches!(read(",2048\nx,1,2"), Err(ImportError::Layout { .. })));
        assert_eq!(read(",2048\nx,"), Err(ImportError::Empty));
    }
}
