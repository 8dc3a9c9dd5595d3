//! Saving whole or not at all; loading with a check of the layout.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Report, SCHEMA_VERSION};

/// Why a report could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The report file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The report file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is not a report.
    #[error("{path} is not a report: {source}")]
    Parse {
        /// The report file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// The file was written by a newer program, or by none of ours.
    #[error("{path} has schema version {found}, this program reads 1 to {known}")]
    Schema {
        /// The report file.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Newest version known.
        known: u32,
    },
    /// Columns of one curve differ in length.
    #[error("{path}: {curve} has columns of different lengths: {lengths:?}")]
    Ragged {
        /// The report file.
        path: PathBuf,
        /// Which curve.
        curve: String,
        /// Length of each column.
        lengths: Vec<usize>,
    },
    /// JSON has no infinity and no NaN, and no measurement should.
    #[error("{what} holds {value}, which is not a finite number")]
    NotFinite {
        /// Row or curve.
        what: String,
        /// The number.
        value: f64,
    },
    /// A table could not be formed.
    #[error("cannot form a table: {0}")]
    Table(String),
}

/// The one field that every version has.
#[derive(Deserialize)]
struct Versioned {
    schema_version: u32,
}

impl Report {
    /// Writes the report as JSON: to a temporary file beside `path`, flushed to the disk, then renamed over `path`. Whatever
    /// happens, `path` holds the old report or the new one, whole.
    ///
    /// # Errors
    ///
    /// [`ReportError::NotFinite`] or [`ReportError::Ragged`] for numbers that could not be read again, and
    /// [`ReportError::Write`].
    pub fn save(&self, path: &Path) -> Result<(), ReportError> {
        self.check_columns(path)?;
        self.check_finite()?;
        let failed = |source| ReportError::Write { path: path.to_owned(), source };
        let mut json = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        json.push(b'\n');
        write_whole(path, &json).map_err(failed)
    }

    /// Reads a report.
    ///
    /// # Errors
    ///
    /// [`ReportError::Read`], [`ReportError::Parse`], [`ReportError::Schema`] for a newer layout (checked before anything else
    /// of the content), and [`ReportError::Ragged`].
    pub fn load(path: &Path) -> Result<Self, ReportError> {
        let owned = || path.to_owned();
        let bytes = fs::read(path).map_err(|source| ReportError::Read { path: owned(), source })?;
        let failed = |source| ReportError::Parse { path: owned(), source };
        let Versioned { schema_version: found } = serde_json::from_slice(&bytes).map_err(failed)?;
        if found == 0 || found > SCHEMA_VERSION {
            return Err(ReportError::Schema { path: owned(), found, known: SCHEMA_VERSION });
        }
        let report: Self = serde_json::from_slice(&bytes).map_err(failed)?;
        report.check_columns(path)?;
        Ok(report)
    }

    fn check_columns(&self, path: &Path) -> Result<(), ReportError> {
        let check = |curve: String, lengths: Vec<usize>| {
            if lengths.windows(2).all(|pair| pair[0] == pair[1]) {
                return Ok(());
            }
            Err(ReportError::Ragged { path: path.to_owned(), curve, lengths })
        };
        for p in &self.position_loss {
            let lengths = vec![p.positions.len(), p.loss.len(), p.low.len(), p.high.len()];
            check(format!("loss by position of {}", p.variant), lengths)?;
        }
        for d in &self.document_loss {
            let lengths = std::iter::once(d.lengths.len()).chain(d.loss.iter().map(Vec::len)).collect();
            check(format!("loss by document of {}", d.variant), lengths)?;
        }
        for t in &self.training {
            let lengths = vec![t.steps.len(), t.tokens.len(), t.loss.len(), t.learning_rate.len()];
            check(format!("training curve of {}", t.variant), lengths)?;
        }
        Ok(())
    }

    fn check_finite(&self) -> Result<(), ReportError> {
        let check = |what: &dyn Fn() -> String, mut values: &mut dyn Iterator<Item = f64>| {
            let bad = Iterator::find(&mut values, |value| !value.is_finite());
            bad.map_or(Ok(()), |value| Err(ReportError::NotFinite { what: what(), value }))
        };
        for r in &self.rows {
            let what = || format!("row {} {} {} {} at length {}", r.variant, r.task, r.protocol, r.metric, r.length);
            check(&what, &mut [r.value, r.low, r.high].into_iter().chain(r.depth))?;
        }
        for p in &self.position_loss {
            let mut values = p.loss.iter().chain(&p.low).chain(&p.high).copied();
            check(&|| format!("loss by position of {}", p.variant), &mut values)?;
        }
        for d in &self.document_loss {
            let mut values = d.loss.iter().flatten().copied();
            check(&|| format!("loss by document of {}", d.variant), &mut values)?;
        }
        for s in &self.spectra {
            let mut values = s.inv_freq.iter().copied().chain([s.attention_factor]);
            check(&|| format!("spectrum of {}", s.variant), &mut values)?;
        }
        for t in &self.training {
            let mut values = t.loss.iter().chain(&t.learning_rate).copied();
            check(&|| format!("training curve of {}", t.variant), &mut values)?;
        }
        for c in &self.costs {
            check(&|| format!("cost of {} {}", c.variant, c.task), &mut std::iter::once(c.seconds))?;
        }
        check(&|| "provenance duration_s".to_owned(), &mut std::iter::once(self.provenance.duration_s))
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".report-").suffix(".tmp");
    // A temporary file is private by default; a result is as readable as any other file of its owner.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The rename itself is in the folder; without this a power cut could undo it.
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn a_saved_report_reads_back_equal_and_leaves_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        example().save(&path).unwrap();
        example().save(&path).unwrap();
        assert_eq!(Report::load(&path).unwrap(), example());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_save_keeps_the_old_report() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        example().save(&path).unwrap();
        let mut broken = example();
        broken.rows[0].value = f64::NAN;
        let error = broken.save(&path).unwrap_err();
        assert!(error.to_string().contains("row yarn perplexity P2 perplexity at length 256 holds NaN"), "{error}");
        broken.rows[0].value = f64::INFINITY;
        assert!(broken.save(&path).is_err());
        assert_eq!(Report::load(&path).unwrap(), example());
    }

    #[test]
    fn a_missing_folder_is_named() {
        let error = example().save(Path::new("no/such/folder/report.json")).unwrap_err();
        assert!(error.to_string().contains("no/such/folder/report.json"), "{error}");
        assert!(matches!(Report::load(Path::new("no/such/report.json")), Err(ReportError::Read { .. })));
    }

    #[test]
    fn newer_and_foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let load = |text: &str| {
            fs::write(&path, text).unwrap();
            Report::load(&path).unwrap_err()
        };
        let newer = load(r#"{"schema_version": 99, "rows": "in a way of the future"}"#);
        assert!(matches!(newer, ReportError::Schema { found: 99, known: SCHEMA_VERSION, .. }), "{newer}");
        assert!(matches!(load(r#"{"schema_version": 0}"#), ReportError::Schema { found: 0, .. }));
        assert!(load("{}").to_string().contains("missing field `schema_version`"));
        assert!(matches!(load(""), ReportError::Parse { .. }));
        let half = serde_json::to_string(&example()).unwrap();
        assert!(matches!(load(&half[..half.len() / 2]), ReportError::Parse { .. }));
    }

    #[test]
    fn curves_with_a_missing_column_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let mut report = example();
        report.position_loss[0].low.pop();
        let saved = report.save(&path).unwrap_err();
        assert!(matches!(&saved, ReportError::Ragged { lengths, .. } if lengths == &[2, 2, 1, 2]), "{saved}");
        fs::write(&path, serde_json::to_vec(&report).unwrap()).unwrap();
        assert!(matches!(Report::load(&path), Err(ReportError::Ragged { .. })));
        let mut report = example();
        report.document_loss[0].loss[1].push(1.0);
        assert!(matches!(report.save(&path), Err(ReportError::Ragged { lengths, .. }) if lengths == [2, 2, 3]));
    }

    #[test]
    fn a_report_without_losses_by_document_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        let mut value = serde_json::to_value(example()).unwrap();
        value.as_object_mut().unwrap().remove("document_loss").unwrap();
        fs::write(&path, value.to_string()).unwrap();
        assert_eq!(Report::load(&path).unwrap(), Report { document_loss: Vec::new(), ..example() });
    }
}
