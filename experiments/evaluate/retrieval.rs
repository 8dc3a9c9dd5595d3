//! Retrieval tasks on a loaded model: haystacks and questions from files, samples kept as the run goes.

use eval::haystack::Haystack;
use eval::report::Row;
use eval::tasks::qa::QaSet;
use eval::{EvalError, LanguageModel, RetrievalOptions, SampleLog, Task, retrieve_logged};

use super::{Labels, failure, watched};
use crate::data::documents;
use crate::error::{Failure, FailureKind, io_failure};
use crate::runtime::signals::StopFlag;
use crate::train::spec_at;

/// Sentences of a haystack that is made from a seed; several times what the longest usual length takes.
const GENERATED_SENTENCES: usize = 20_000;

/// Bytes of the user's text that become a haystack; more would be tokenized for nothing.
const MOST_BYTES: usize = 8 << 20;

/// The text to hide things in: the first 8 MiB of the documents at `paths`, or sentences made from the seed when there are
/// no paths. With a hash of its sentences.
///
/// # Errors
///
/// When a file cannot be read or holds no words.
pub fn haystack(paths: &[String], text_field: &str, seed: u64) -> Result<(Haystack, String), Failure> {
    let haystack = if paths.is_empty() {
        Haystack::generated(seed, GENERATED_SENTENCES)
    } else {
        let (mut texts, mut bytes) = (Vec::new(), 0);
        for document in documents(&spec_at("haystack", paths, text_field))? {
            let document = document?;
            let text = document.text()?;
            bytes += text.len();
            texts.push(text.to_owned());
            if bytes >= MOST_BYTES {
                break;
            }
        }
        Haystack::from_texts(texts).map_err(|error| Failure::data(format!("{}: {error}", paths.join(", "))))?
    };
    let mut hasher = blake3::Hasher::new();
    for sentence in haystack.sentences() {
        hasher.update(sentence.as_bytes()).update(b"\n");
    }
    let hash = hasher.finalize().to_hex().to_string();
    Ok((haystack, hash))
}

/// Reads a file of questions, with a hash of it.
///
/// # Errors
///
/// When it cannot be read or has no layout that is known.
pub fn questions(path: &std::path::Path) -> Result<(QaSet, String), Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| io_failure("read", path, &error))?;
    let set = QaSet::parse(&text).map_err(|error| Failure::data(format!("{}: {error}", path.display())))?;
    Ok((set, blake3::hash(text.as_bytes()).to_hex().to_string()))
}

/// Where and how long tasks are run.
pub struct RetrievalRun<'a> {
    /// The model.
    pub reader: &'a dyn LanguageModel,
    /// The grid.
    pub options: RetrievalOptions,
    /// Names in the rows.
    pub labels: Labels<'a>,
    /// Tokens that the model was trained to read; rows within and beyond are pooled apart.
    pub window: usize,
    /// Whether a signal asks to stop.
    pub stop: &'a StopFlag,
}

impl RetrievalRun<'_> {
    /// The rows of a task; samples known to `log` are not asked for again.
    ///
    /// # Errors
    ///
    /// As [`retrieve_logged`]; exit code 5 when a signal stopped it, with all finished samples kept.
    pub fn rows(&self, task: &dyn Task, log: &mut SampleLog) -> Result<Vec<Row>, Failure> {
        let Labels { model, variant } = self.labels;
        let label = format!("{variant} {}", task.id());
        let found =
            watched(&label, self.stop, |monitor| retrieve_logged(task, self.reader, &self.options, monitor, log));
        let found = found.map_err(|error| match error.kind() {
            FailureKind::Interrupted => Failure::new(
                FailureKind::Interrupted,
                format!("{error}; finished samples are kept: go on with --resume"),
            ),
            _ => error,
        })?;
        let mut rows = found.rows(model, variant);
        rows.extend(found.window_rows(model, variant, self.window));
        Ok(rows)
    }
}

/// What goes wrong while a task is made is a matter of its settings.
///
/// # Errors
///
/// Always; the error in the application's words.
pub fn made<T>(task: Result<T, eval::TaskError>) -> Result<T, Failure> {
    task.map_err(|error| failure(EvalError::from(error)))
}
