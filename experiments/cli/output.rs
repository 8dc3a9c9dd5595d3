//! Results on standard output or in a file.

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::OnceLock;

use serde::Serialize;

use crate::error::{Failure, io_failure};

/// Why standard output took no more, if it did.
static LOST: OnceLock<String> = OnceLock::new();

/// Prints text. A reader that went away is not an error; anything else is told at the end.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            LOST.get_or_init(|| error.to_string());
        }
        _ => {}
    }
}

/// A failure when something printed was lost, as on a full disk.
///
/// # Errors
///
/// With the system's reason.
pub fn lost() -> Result<(), Failure> {
    match LOST.get() {
        Some(reason) => Err(Failure::data(format!("could not write to standard output: {reason}"))),
        None => Ok(()),
    }
}

/// Prints a value as JSON.
///
/// # Errors
///
/// When it has no JSON form.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&json_text(value)?);
    Ok(())
}

/// Writes a value as JSON to `path`, whole or not at all; `-` is standard output.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Failure> {
    if path == Path::new("-") {
        return print_json(value);
    }
    crate::atomic::write_bytes(path, json_text(value)?.as_bytes()).map_err(|error| io_failure("write", path, &error))
}

fn json_text(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::data(format!("the result has no JSON form: {error}")))?;
    Ok(text + "\n")
}
