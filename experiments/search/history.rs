//! Every measured individual as a line of JSON, so that a search can go on and its course be read.
//!
//! The first line says which search it is; each further one is a [`Measured`]. A line is written when its individual is
//! measured; half a line at the end, from a program that was killed, is cut off on resuming.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::evolution::Place;
use super::individual::Individual;
use crate::error::{Failure, io_failure};

/// Version of the layout, and of the rules by which children are drawn.
const VERSION: u64 = 1;
/// Largest file read, in bytes.
const LIMIT: u64 = 1 << 30;

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Where it stands.
    #[serde(flatten)]
    pub place: Place,
    /// Its loss in nats per token.
    pub loss: f64,
    /// What was measured.
    #[serde(flatten)]
    pub individual: Individual,
}

/// The file of a search.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    file: File,
    known: std::vec::IntoIter<Measured>,
    line: usize,
}

impl History {
    /// Begins a file at `path`; one that is there is kept as `PATH.old`. `run` is what makes two searches the same.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn create(path: &Path, run: &Value) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| io_failure("write", path, &error);
        if path.exists() {
            let mut old = path.as_os_str().to_owned();
            old.push(".old");
            std::fs::rename(path, old).map_err(failed)?;
        }
        let mut file = File::create(path).map_err(failed)?;
        writeln!(file, "{}", json!({"search_version": VERSION, "run": run})).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, known: Vec::new().into_iter(), line: 1 })
    }

    /// Goes on with the file at `path`, or begins it where there is none.
    ///
    /// # Errors
    ///
    /// When it belongs to another search or holds something else; when it cannot be read or written.
    pub fn resume(path: &Path, run: &Value) -> Result<Self, Failure> {
        if !path.exists() {
            return Self::create(path, run);
        }
        let bytes = crate::json::read_capped(path, LIMIT)?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let wrong = |line: usize, what: &str| Failure::data(format!("{} line {line}: {what}", path.display()));
        let text = std::str::from_utf8(&bytes[..whole]).map_err(|error| wrong(1, &format!("is not UTF-8: {error}")))?;
        let Some(head) = text.lines().next() else { return Self::create(path, run) };
        let head: Value = serde_json::from_str(head).map_err(|error| wrong(1, &error.to_string()))?;
        if head["search_version"] != json!(VERSION) {
            return Err(wrong(1, "is not the head of a search that this program can go on with"));
        }
        if head["run"] != *run {
            return Err(Failure::config(format!(
                "{} belongs to another search ({} differ); give another --out, or search without --resume",
                path.display(),
                differing(&head["run"], run)
            )));
        }
        let mut known: Vec<Measured> = Vec::new();
        for (index, line) in text.lines().enumerate().skip(1) {
            known.push(serde_json::from_str(line).map_err(|error| wrong(index + 1, &error.to_string()))?);
        }
        let failed = |error: std::io::Error| io_failure("write", path, &error);
        let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        file.set_len(whole as u64).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, known: known.into_iter(), line: 1 })
    }

    /// Individuals that need not be measured again.
    pub fn kept(&self) -> usize {
        self.known.len()
    }

    /// The loss of the individual at the next place: as kept, or measured now and kept.
    ///
    /// # Errors
    ///
    /// When the file has another individual there, or cannot be written; those of `measure`.
    pub fn loss(
        &mut self,
        place: &Place,
        individual: &Individual,
        measure: impl FnOnce() -> Result<f64, Failure>,
    ) -> Result<f64, Failure> {
        self.line += 1;
        if let Some(known) = self.known.next() {
            return match known.place == *place && known.individual.key() == individual.key() {
                true => Ok(known.loss),
                false => Err(Failure::data(format!(
                    "{} line {}: holds another individual than this search draws there",
                    self.path.display(),
                    self.line
                ))),
            };
        }
        let measured = Measured { place: place.clone(), loss: measure()?, individual: individual.clone() };
        let line = serde_json::to_string(&measured).map_err(|error| Failure::data(error.to_string()))?;
        writeln!(self.file, "{line}").map_err(|error| io_failure("write", &self.path, &error))?;
        Ok(measured.loss)
    }
}

/// Names of the settings that differ.
fn differing(then: &Value, now: &Value) -> String {
    let (empty, none) = (serde_json::Map::new(), &Value::Null);
    let (then, now) = (then.as_object().unwrap_or(&empty), now.as_object().unwrap_or(&empty));
    let names = now.iter().filter(|(name, value)| then.get(*name).unwrap_or(none) != *value);
    names.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn individual(first: f64) -> Individual {
        // Sums of steps do not print in few digits.
        Individual { divisors: vec![first, 0.1 + 0.2 + first, 1.0 / 3.0 + 2.0], start_tokens: 4 }
    }

    fn place(index: usize) -> Place {
        Place { iteration: 0, index, origin: "mutation".to_owned() }
    }

    #[test]
    fn what_was_measured_comes_back_with_the_same_bits_and_half_a_line_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let (path, run) = (folder.path().join("h.jsonl"), json!({"seed": 1, "target": 9}));
        let loss = |index: usize| 3.0 + 1.0 / (3.0 + index as f64);
        let mut history = History::create(&path, &run).unwrap();
        for index in 0..3 {
            history.loss(&place(index), &individual(1.0 + index as f64 / 7.0), || Ok(loss(index))).unwrap();
        }
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend(b"{\"iteration\": 0, \"ind");
        std::fs::write(&path, bytes).unwrap();
        let mut history = History::resume(&path, &run).unwrap();
        assert_eq!(history.kept(), 3);
        let never = || Err(Failure::data("measured again"));
        for index in 0..3 {
            let found = history.loss(&place(index), &individual(1.0 + index as f64 / 7.0), never).unwrap();
            assert_eq!(found.to_bits(), loss(index).to_bits());
        }
        assert!(history.loss(&place(3), &individual(2.0), never).is_err());
        history.loss(&place(3), &individual(2.0), || Ok(1.5)).unwrap();
        assert_eq!(History::resume(&path, &run).unwrap().kept(), 4);
        let mut other = History::resume(&path, &run).unwrap();
        let wrong = other.loss(&place(0), &individual(9.0), never).unwrap_err();
        assert!(wrong.to_string().contains("line 2"), "{wrong}");
    }

    #[test]
    fn another_search_and_another_file_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("h.jsonl");
        drop(History::create(&path, &json!({"seed": 1, "target": 9})).unwrap());
        let refused = History::resume(&path, &json!({"seed": 2, "target": 9})).unwrap_err();
        assert!(refused.exit_code() == 2 && refused.to_string().contains("seed differ"), "{refused}");
        std::fs::write(&path, "{}\n").unwrap();
        assert_eq!(History::resume(&path, &json!({})).unwrap_err().exit_code(), 3);
        drop(History::create(&path, &json!({})).unwrap());
        assert!(folder.path().join("h.jsonl.old").exists());
    }
}
