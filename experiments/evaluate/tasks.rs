//! From the words of a study to retrieval tasks on a loaded model: one way for commands and studies.

use std::collections::BTreeMap;
use std::path::Path;

use eval::haystack::Haystack;
use eval::report::Row;
use eval::tasks::key_value::KeyValue;
use eval::tasks::multi_document::MultiDocument;
use eval::tasks::multipasskey::MultiPasskey;
use eval::tasks::needle::{Needle, NeedleOptions};
use eval::tasks::passkey::{Generator, Variant};
use eval::tasks::qa::QaSet;
use eval::tasks::ruler::{Ruler, RulerTask, Sources, summary_rows};
use eval::{Depths, RetrievalOptions, Task};

use super::passkey_depths;
use super::retrieval::{haystack, made, questions};
use crate::config::TaskSpec;
use crate::error::Failure;
use crate::model::ModelFolder;

/// What a task reads beside the model: a haystack, files of questions.
#[derive(Default)]
pub struct Materials {
    haystack: Option<Haystack>,
    questions: Option<QaSet>,
    squad: Option<QaSet>,
    hotpot: Option<QaSet>,
    /// Hashes of what was read, by name.
    pub hashes: BTreeMap<String, String>,
}

impl Materials {
    /// Reads what `spec` names; `text_field` is the field or column that holds the haystack's text.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or holds nothing of use.
    pub fn load(spec: &TaskSpec, text_field: &str, seed: u64) -> Result<Self, Failure> {
        let mut all = Self::default();
        match spec {
            TaskSpec::Needle { haystack: paths, .. }
            | TaskSpec::Multipasskey { haystack: paths, .. }
            | TaskSpec::Ruler { haystack: paths, .. } => {
                let (text, hash) = haystack(paths, text_field, seed)?;
                all.haystack = Some(text);
                all.hashes.insert("haystack".into(), hash);
            }
            _ => {}
        }
        match spec {
            TaskSpec::Documents { questions: path, .. } => all.questions = Some(all.read("questions", path)?),
            TaskSpec::Ruler { squad, hotpot, .. } => {
                all.squad = squad.as_deref().map(|path| all.read("squad", path)).transpose()?;
                all.hotpot = hotpot.as_deref().map(|path| all.read("hotpot", path)).transpose()?;
            }
            _ => {}
        }
        Ok(all)
    }

    fn read(&mut self, name: &str, path: &Path) -> Result<QaSet, Failure> {
        let (set, hash) = questions(path)?;
        self.hashes.insert(name.to_owned(), hash);
        Ok(set)
    }

    /// The tasks of `spec` for a model: thirteen at most for RULER, one for any other kind of retrieval, none for what is
    /// no retrieval.
    ///
    /// # Errors
    ///
    /// As the tasks say of their settings.
    pub fn tasks<'a>(&'a self, spec: &TaskSpec, model: &'a ModelFolder) -> Result<Vec<Box<dyn Task + 'a>>, Failure> {
        let codec = model.tokenizer()?;
        let bos = model.llama.config.bos;
        let missing = || Failure::config(format!("{}: it has been given no text", spec.kind()));
        let text = || self.haystack.as_ref().ok_or_else(missing);
        let task: Box<dyn Task + 'a> = match spec {
            TaskSpec::Passkey { variant, .. } => {
                let variant: Variant = made(variant.parse())?;
                Box::new(made(Generator::new(codec, variant, bos))?)
            }
            TaskSpec::Needle { needles, distractors, digits, .. } => {
                let options = NeedleOptions { needles: *needles, distractors: *distractors, digits: *digits };
                Box::new(made(Needle::new(codec, text()?, options, bos))?)
            }
            TaskSpec::Multipasskey { keys, .. } => Box::new(made(MultiPasskey::new(codec, text()?, *keys, bos))?),
            TaskSpec::Kv { .. } => Box::new(KeyValue::new(codec, bos)),
            TaskSpec::Documents { .. } => {
                Box::new(MultiDocument::new(codec, self.questions.as_ref().ok_or_else(missing)?, bos))
            }
            TaskSpec::Ruler { tasks, .. } => {
                let sources = Sources { text: text()?, squad: self.squad.as_ref(), hotpot: self.hotpot.as_ref() };
                let wanted = wanted(tasks, &sources)?;
                let made = wanted.into_iter().map(|task| {
                    let task = made(Ruler::new(codec, task, sources, bos))?;
                    Ok(Box::new(task) as Box<dyn Task + 'a>)
                });
                return made.collect();
            }
            TaskSpec::Perplexity { .. } | TaskSpec::Longppl { .. } | TaskSpec::ShortText { .. } => {
                return Ok(Vec::new());
            }
        };
        Ok(vec![task])
    }
}

/// RULER's tasks by name; no names: all for which there are questions.
fn wanted(names: &[String], sources: &Sources<'_>) -> Result<Vec<RulerTask>, Failure> {
    if !names.is_empty() {
        return names.iter().map(|name| made(name.parse())).collect();
    }
    let has_file = |task: &RulerTask| match task {
        RulerTask::Qa1 => sources.squad.is_some(),
        RulerTask::Qa2 => sources.hotpot.is_some(),
        _ => true,
    };
    Ok(RulerTask::ALL.into_iter().filter(has_file).collect())
}

/// The grid of a kind of retrieval; none for what is no retrieval.
///
/// # Errors
///
/// When the variant of passkey is unknown.
pub fn grid(spec: &TaskSpec, seed: u64) -> Result<Option<RetrievalOptions>, Failure> {
    let (depths, trials) = match spec {
        TaskSpec::Passkey { variant, depths, trials, .. } => (passkey_depths(made(variant.parse())?, *depths), *trials),
        TaskSpec::Needle { depths, trials, .. }
        | TaskSpec::Multipasskey { depths, trials, .. }
        | TaskSpec::Kv { depths, trials, .. }
        | TaskSpec::Documents { depths, trials, .. } => (Depths::even(*depths), *trials),
        TaskSpec::Ruler { samples, .. } => (Depths::Drawn, *samples),
        TaskSpec::Perplexity { .. } | TaskSpec::Longppl { .. } | TaskSpec::ShortText { .. } => return Ok(None),
    };
    Ok(Some(RetrievalOptions { lengths: spec.lengths().to_vec(), depths, trials, seed }))
}

/// Rows that follow from those of the tasks: RULER's mean and effective length.
pub fn summary(spec: &TaskSpec, rows: &[Row]) -> Vec<Row> {
    match spec {
        TaskSpec::Ruler { threshold, .. } => summary_rows(rows, *threshold),
        _ => Vec::new(),
    }
}
