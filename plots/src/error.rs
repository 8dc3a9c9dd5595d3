//! What can go wrong between a result file and its figures.

use std::path::PathBuf;

/// Why a report could not be read, drawn or written.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// [`crate::render`] was given nothing.
    #[error("there is no report to draw: give at least one")]
    NoReports,
    /// Two reports of an overlay carry one name, so their variants could not be told apart.
    #[error("two reports are both named \"{name}\": give each run its own name")]
    DuplicateName {
        /// The name given twice.
        name: String,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A file is not a report.
    #[error("{} is not a Bowline report: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Cause, with line and column.
        source: serde_json::Error,
    },
    /// A file was written by a newer program.
    #[error("{} has schema version {found}, this program reads up to {known}: use a newer one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Version in the file.
        found: u64,
        /// Newest version known here.
        known: u32,
    },
    /// A file or folder could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The drawing backend refused.
    #[error("cannot draw the figure {figure}: {message}")]
    Draw {
        /// Name of the figure.
        figure: String,
        /// What the backend said.
        message: String,
    },
}
