//! Files that appear whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use crate::PlotError;
use crate::paint::Bitmap;

fn failed(path: &Path, source: std::io::Error) -> PlotError {
    PlotError::Write { path: path.to_path_buf(), source }
}

/// Makes a folder and those above it.
///
/// # Errors
///
/// [`PlotError::Write`].
pub(crate) fn folder(path: &Path) -> Result<(), PlotError> {
    fs::create_dir_all(path).map_err(|e| failed(path, e))
}

/// A name beside `path` for what is not finished, with the same ending.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".unfinished-{}-{name}", std::process::id()))
}

/// Fills a temporary file by `fill`, then gives it its name; a failure leaves nothing behind.
fn put(path: &Path, fill: impl FnOnce(&Path) -> Result<(), PlotError>) -> Result<(), PlotError> {
    let temporary = beside(path);
    let done = fill(&temporary)
        .and_then(|()| fs::File::open(&temporary).and_then(|f| f.sync_all()).map_err(|e| failed(path, e)))
        .and_then(|()| fs::rename(&temporary, path).map_err(|e| failed(path, e)));
    if done.is_err() {
        // The first failure is the one to report, so a second one while cleaning up is dropped.
        let _ = fs::remove_file(&temporary);
    }
    done
}

/// Writes a text file.
///
/// # Errors
///
/// [`PlotError::Write`].
pub(crate) fn text(path: &Path, content: &str) -> Result<(), PlotError> {
    put(path, |temporary| fs::write(temporary, content).map_err(|e| failed(path, e)))
}

/// Writes a PNG.
///
/// # Errors
///
/// [`PlotError::Draw`], [`PlotError::Write`].
pub(crate) fn png(path: &Path, figure: &str, bitmap: &Bitmap) -> Result<(), PlotError> {
    put(path, |temporary| {
        bitmap.write(temporary).map_err(|message| PlotError::Draw { figure: figure.to_owned(), message })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.html");
        text(&path, "old").unwrap();
        let outcome = put(&path, |temporary| {
            fs::write(temporary, "half").map_err(|e| failed(temporary, e))?;
            Err(PlotError::NoReports)
        });
        assert!(outcome.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder_ = tempfile::tempdir().unwrap();
        let file = folder_.path().join("file");
        text(&file, "x").unwrap();
        let error = folder(&file.join("below")).unwrap_err().to_string();
        assert!(error.contains("below"), "{error}");
    }
}
