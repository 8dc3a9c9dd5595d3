//! `bowline eval needle | multipasskey | kv | documents | ruler`, and passkey: what retrieval tasks share.

use std::path::PathBuf;

use clap::Args;
use eval::report::Row;
use eval::tasks::key_value::KeyValue;
use eval::tasks::multi_document::MultiDocument;
use eval::tasks::multipasskey::MultiPasskey;
use eval::tasks::needle::{Needle, NeedleOptions};
use eval::tasks::passkey::{Generator, Variant};
use eval::tasks::ruler::{LLAMA2_7B_CHAT_AT_4K, Ruler, RulerTask, SAMPLES, Sources, summary_rows};
use eval::{Depths, RetrievalOptions, SampleLog, Task};
use serde_json::{Value, json};

use super::{Common, Session};
use crate::error::Failure;
use crate::evaluate::passkey_depths;
use crate::evaluate::retrieval::{RetrievalRun, haystack, made, questions};

/// File of the samples in the run folder.
const SAMPLES_FILE: &str = "samples.jsonl";

/// A grid of depths.
#[derive(Debug, Args)]
pub(super) struct Grid {
    /// Depths of the grid, evenly spaced
    #[arg(long, default_value_t = 11)]
    depths: usize,
    /// Trials in each cell of the grid
    #[arg(long, default_value_t = 10)]
    trials: usize,
    #[command(flatten)]
    resume: Resume,
}

#[derive(Debug, Args)]
struct Resume {
    /// Go on from the samples in the run folder
    #[arg(long)]
    resume: bool,
}

/// The text of a haystack.
#[derive(Debug, Args)]
struct HaystackArgs {
    /// Text to hide things in: files or folders, or bundled:heldout [default: sentences made from the seed]
    #[arg(long, num_args = 1.., value_name = "PATH")]
    haystack: Vec<String>,
    /// Field or column that holds the text
    #[arg(long, default_value = "text", value_name = "NAME")]
    text_field: String,
}

#[derive(Debug, Args)]
pub(super) struct PasskeyArgs {
    #[command(flatten)]
    common: Common,
    /// Whose passkey: bowline (exact depth by length grid), pi, yarn, longlora
    #[arg(long, default_value = "bowline")]
    variant: String,
    #[command(flatten)]
    grid: Grid,
}

#[derive(Debug, Args)]
pub(super) struct NeedleArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    grid: Grid,
    #[command(flatten)]
    text: HaystackArgs,
    /// Needles that are asked for together
    #[arg(long, default_value_t = 1)]
    needles: usize,
    /// Sentences of the same form that are not asked for
    #[arg(long, default_value_t = 0)]
    distractors: usize,
    /// Digits of each number
    #[arg(long, default_value_t = 7)]
    digits: u32,
}

#[derive(Debug, Args)]
pub(super) struct MultiPasskeyArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    grid: Grid,
    #[command(flatten)]
    text: HaystackArgs,
    /// Passkeys in each prompt
    #[arg(long, default_value_t = 4)]
    keys: usize,
}

#[derive(Debug, Args)]
pub(super) struct KeyValueArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    grid: Grid,
}

#[derive(Debug, Args)]
pub(super) struct DocumentsArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    grid: Grid,
    /// Questions over documents: a SQuAD, HotpotQA or lost-in-the-middle file
    #[arg(long, value_name = "FILE")]
    questions: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct RulerArgs {
    #[command(flatten)]
    common: Common,
    /// Tasks, such as niah_single_1,vt,cwe [default: all, the two QA tasks where their files are given]
    #[arg(long, value_delimiter = ',')]
    tasks: Vec<String>,
    /// Samples of each task and length
    #[arg(long, default_value_t = SAMPLES)]
    samples: usize,
    #[command(flatten)]
    text: HaystackArgs,
    /// Questions of qa_1: a SQuAD file
    #[arg(long, value_name = "FILE")]
    squad: Option<PathBuf>,
    /// Questions of qa_2: a HotpotQA file
    #[arg(long, value_name = "FILE")]
    hotpot: Option<PathBuf>,
    /// Score from which a length counts as effective; the usual one is that of Llama-2-7B-chat at 4096 tokens
    #[arg(long, default_value_t = LLAMA2_7B_CHAT_AT_4K)]
    threshold: f64,
    #[command(flatten)]
    resume: Resume,
}

/// A task's settings, written to the report and compared on resuming.
struct Settings {
    name: &'static str,
    /// What makes two runs the same, beside model and seed.
    same: Value,
    /// What may grow from one run to the next.
    size: Value,
    resume: bool,
}

impl Settings {
    fn of_grid(name: &'static str, same: Value, common: &Common, grid: &Grid) -> Self {
        let size = json!({"lengths": common.lengths, "depths": grid.depths, "trials": grid.trials});
        Self { name, same, size, resume: grid.resume.resume }
    }

    fn config(&self, common: &Common) -> Value {
        let mut all = json!({"task": self.name, "model": common.model, "method": common.options.method});
        for part in [&self.same, &self.size] {
            for (key, value) in part.as_object().into_iter().flatten() {
                all[key] = value.clone();
            }
        }
        all
    }
}

impl Grid {
    fn options(&self, common: &Common) -> RetrievalOptions {
        RetrievalOptions {
            lengths: common.lengths.clone(),
            depths: Depths::even(self.depths),
            trials: self.trials,
            seed: common.seed,
        }
    }
}

impl Session {
    /// Runs `tasks` and writes the report; `summary` adds rows that follow from theirs.
    fn retrieve(
        &self,
        common: &Common,
        tasks: &[&dyn Task],
        options: RetrievalOptions,
        settings: &Settings,
        summary: impl Fn(&[Row]) -> Vec<Row>,
    ) -> Result<(), Failure> {
        let mut same = settings.same.clone();
        same["task"] = json!(settings.name);
        same["method"] = json!(common.options.method);
        same["seed"] = json!(common.seed);
        same["dtype"] = json!(format!("{:?}", self.model.kind()));
        for (name, hash) in &self.hashes {
            same[name] = json!(hash);
        }
        let path = self.run.join(SAMPLES_FILE);
        let begin = if settings.resume { SampleLog::resume } else { SampleLog::create };
        let mut log = begin(&path, &same).map_err(|error| Failure::data(error.to_string()))?;
        if log.known() > 0 {
            eprintln!("{} samples are known from before", log.known());
        }
        let reader = self.model.reader();
        let window = self.model.llama.config.positions.max_position_embeddings;
        let run = RetrievalRun { reader: &reader, options, labels: self.labels(common), window, stop: &self.stop };
        let mut rows = Vec::new();
        for task in tasks {
            rows.extend(run.rows(*task, &mut log)?);
        }
        rows.extend(summary(&rows));
        let report = self.report(common, rows, settings.config(common), None)?;
        self.finish(common, &report)
    }
}

/// No rows beside those of the tasks.
fn none(_: &[Row]) -> Vec<Row> {
    Vec::new()
}

impl PasskeyArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let variant: Variant = made(self.variant.parse())?;
        let session = Session::open(&self.common, "passkey")?;
        let task = made(Generator::new(session.model.tokenizer()?, variant, session.model.llama.config.bos))?;
        let options =
            RetrievalOptions { depths: passkey_depths(variant, self.grid.depths), ..self.grid.options(&self.common) };
        let settings = Settings::of_grid("passkey", json!({"variant": self.variant}), &self.common, &self.grid);
        session.retrieve(&self.common, &[&task], options, &settings, none)
    }
}

impl NeedleArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut session = Session::open(&self.common, "needle")?;
        let text = session.haystack(&self.text, self.common.seed)?;
        let Self { needles, distractors, digits, .. } = self;
        let options = NeedleOptions { needles, distractors, digits };
        let bos = session.model.llama.config.bos;
        let task = made(Needle::new(session.model.tokenizer()?, &text, options, bos))?;
        let same = json!({
            "needles": needles, "distractors": distractors, "digits": digits, "haystack": self.text.haystack,
        });
        let settings = Settings::of_grid("needle", same, &self.common, &self.grid);
        session.retrieve(&self.common, &[&task], self.grid.options(&self.common), &settings, none)
    }
}

impl MultiPasskeyArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut session = Session::open(&self.common, "multipasskey")?;
        let text = session.haystack(&self.text, self.common.seed)?;
        let bos = session.model.llama.config.bos;
        let task = made(MultiPasskey::new(session.model.tokenizer()?, &text, self.keys, bos))?;
        let same = json!({"keys": self.keys, "haystack": self.text.haystack});
        let settings = Settings::of_grid("multipasskey", same, &self.common, &self.grid);
        session.retrieve(&self.common, &[&task], self.grid.options(&self.common), &settings, none)
    }
}

impl KeyValueArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let session = Session::open(&self.common, "kv")?;
        let task = KeyValue::new(session.model.tokenizer()?, session.model.llama.config.bos);
        let settings = Settings::of_grid("kv", json!({}), &self.common, &self.grid);
        session.retrieve(&self.common, &[&task], self.grid.options(&self.common), &settings, none)
    }
}

impl DocumentsArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (set, hash) = questions(&self.questions)?;
        let mut session = Session::open(&self.common, "documents")?;
        session.hashes.insert("questions".into(), hash);
        let task = MultiDocument::new(session.model.tokenizer()?, &set, session.model.llama.config.bos);
        let settings = Settings::of_grid("documents", json!({"questions": self.questions}), &self.common, &self.grid);
        session.retrieve(&self.common, &[&task], self.grid.options(&self.common), &settings, none)
    }
}

impl RulerArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (squad, hotpot) = (self.squad.as_deref().map(questions), self.hotpot.as_deref().map(questions));
        let (squad, hotpot) = (squad.transpose()?, hotpot.transpose()?);
        let has_file = |task: &RulerTask| match task {
            RulerTask::Qa1 => squad.is_some(),
            RulerTask::Qa2 => hotpot.is_some(),
            _ => true,
        };
        let wanted: Vec<RulerTask> = if self.tasks.is_empty() {
            RulerTask::ALL.into_iter().filter(has_file).collect()
        } else {
            self.tasks.iter().map(|name| made(name.parse())).collect::<Result<_, _>>()?
        };
        let mut session = Session::open(&self.common, "ruler")?;
        let text = session.haystack(&self.text, self.common.seed)?;
        for (name, set) in [("squad", &squad), ("hotpot", &hotpot)] {
            session.hashes.extend(set.as_ref().map(|(_, hash)| (name.to_owned(), hash.clone())));
        }
        let sources = Sources {
            text: &text,
            squad: squad.as_ref().map(|(set, _)| set),
            hotpot: hotpot.as_ref().map(|(set, _)| set),
        };
        let bos = session.model.llama.config.bos;
        let codec = session.model.tokenizer()?;
        let tasks = wanted.iter().map(|&task| made(Ruler::new(codec, task, sources, bos)));
        let tasks = tasks.collect::<Result<Vec<_>, _>>()?;
        let tasks: Vec<&dyn Task> = tasks.iter().map(|task| task as &dyn Task).collect();
        let options = RetrievalOptions {
            lengths: self.common.lengths.clone(),
            depths: Depths::Drawn,
            trials: self.samples,
            seed: self.common.seed,
        };
        let settings = Settings {
            name: "ruler",
            same: json!({"haystack": self.text.haystack}),
            size: json!({
                "lengths": self.common.lengths, "samples": self.samples, "threshold": self.threshold,
                "tasks": wanted.iter().map(|task| task.name()).collect::<Vec<_>>(),
            }),
            resume: self.resume.resume,
        };
        session.retrieve(&self.common, &tasks, options, &settings, |rows| summary_rows(rows, self.threshold))
    }
}

impl Session {
    /// The haystack that the options ask for; its hash is recorded.
    fn haystack(&mut self, text: &HaystackArgs, seed: u64) -> Result<eval::haystack::Haystack, Failure> {
        let (haystack, hash) = haystack(&text.haystack, &text.text_field, seed)?;
        self.hashes.insert("haystack".into(), hash);
        Ok(haystack)
    }
}
