//! `bowline eval needle | multipasskey | kv | documents | ruler`, and passkey: what retrieval tasks share.

use std::path::PathBuf;

use clap::Args;
use eval::SampleLog;
use eval::tasks::ruler::{LLAMA2_7B_CHAT_AT_4K, SAMPLES};
use serde_json::{Value, json};

use super::{Common, Session};
use crate::config::TaskSpec;
use crate::config::layers::settled;
use crate::error::Failure;
use crate::evaluate::retrieval::RetrievalRun;
use crate::evaluate::tasks::{Materials, grid, summary};

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

/// A task as it is asked for.
struct Asked {
    spec: TaskSpec,
    /// Field or column of the haystack's text.
    text_field: String,
    resume: bool,
}

impl Asked {
    /// What is wrong with the numbers and names, told before anything is loaded.
    fn check(&self) -> Result<(), Failure> {
        settled(&self.spec.findings())
    }

    /// What makes two runs the same beside model, method and seed, and what may grow from one to the next.
    fn settings(&self) -> Result<(Value, Value), Failure> {
        let mut same = serde_json::to_value(&self.spec).map_err(|error| Failure::config(error.to_string()))?;
        let mut size = json!({});
        if let Some(fields) = same.as_object_mut() {
            fields.remove("kind");
            for grows in ["lengths", "depths", "trials", "samples", "threshold", "tasks"] {
                if let Some(value) = fields.remove(grows) {
                    size[grows] = value;
                }
            }
        }
        Ok((same, size))
    }
}

impl Session {
    /// Runs the tasks that are asked for and writes the report.
    fn retrieve(mut self, common: &Common, asked: &Asked) -> Result<(), Failure> {
        let spec = &asked.spec;
        let materials = Materials::load(spec, &asked.text_field, common.seed)?;
        self.hashes.extend(materials.hashes.clone());
        let (mut same, size) = asked.settings()?;
        let mut config = json!({"task": spec.kind(), "model": common.model, "method": common.options.method});
        for (key, value) in [&same, &size].into_iter().flat_map(|part| part.as_object().into_iter().flatten()) {
            config[key] = value.clone();
        }
        same["task"] = json!(spec.kind());
        same["method"] = json!(common.options.method);
        same["seed"] = json!(common.seed);
        same["dtype"] = json!(format!("{:?}", self.model.kind()));
        for (name, hash) in &self.hashes {
            same[name] = json!(hash);
        }
        let path = self.run.join(SAMPLES_FILE);
        let tasks = materials.tasks(spec, &self.model)?;
        let begin = if asked.resume { SampleLog::resume } else { SampleLog::create };
        let mut log = begin(&path, &same).map_err(|error| Failure::data(error.to_string()))?;
        if log.known() > 0 {
            eprintln!("{} samples are known from before", log.known());
        }
        let Some(options) = grid(spec, common.seed)? else {
            return Err(Failure::config(format!("{}: is no retrieval task", spec.kind())));
        };
        let reader = self.model.reader();
        let window = self.model.llama.config.positions.context();
        let run = RetrievalRun { reader: &reader, options, labels: self.labels(common), window, stop: &self.stop };
        let mut rows = Vec::new();
        for task in &tasks {
            rows.extend(run.rows(task.as_ref(), &mut log)?);
        }
        rows.extend(summary(spec, &rows));
        let report = self.report(common, rows, config, None)?;
        self.finish(common, &report)
    }
}

impl Grid {
    fn asked(&self, spec: TaskSpec, text_field: &str) -> Asked {
        Asked { spec, text_field: text_field.to_owned(), resume: self.resume.resume }
    }
}

impl PasskeyArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { common, variant, grid } = self;
        let (lengths, depths, trials) = (common.lengths.clone(), grid.depths, grid.trials);
        let asked = grid.asked(TaskSpec::Passkey { variant, lengths, depths, trials }, "text");
        asked.check()?;
        Session::open(&common, "passkey")?.retrieve(&common, &asked)
    }
}

impl NeedleArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { common, grid, text, needles, distractors, digits } = self;
        let spec = TaskSpec::Needle {
            lengths: common.lengths.clone(),
            depths: grid.depths,
            trials: grid.trials,
            haystack: text.haystack,
            needles,
            distractors,
            digits,
        };
        let asked = grid.asked(spec, &text.text_field);
        asked.check()?;
        Session::open(&common, "needle")?.retrieve(&common, &asked)
    }
}

impl MultiPasskeyArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { common, grid, text, keys } = self;
        let spec = TaskSpec::Multipasskey {
            lengths: common.lengths.clone(),
            depths: grid.depths,
            trials: grid.trials,
            haystack: text.haystack,
            keys,
        };
        let asked = grid.asked(spec, &text.text_field);
        asked.check()?;
        Session::open(&common, "multipasskey")?.retrieve(&common, &asked)
    }
}

impl KeyValueArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { common, grid } = self;
        let (lengths, depths, trials) = (common.lengths.clone(), grid.depths, grid.trials);
        let asked = grid.asked(TaskSpec::Kv { lengths, depths, trials }, "text");
        asked.check()?;
        Session::open(&common, "kv")?.retrieve(&common, &asked)
    }
}

impl DocumentsArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { common, grid, questions } = self;
        let (lengths, depths, trials) = (common.lengths.clone(), grid.depths, grid.trials);
        let asked = grid.asked(TaskSpec::Documents { lengths, depths, trials, questions }, "text");
        asked.check()?;
        Session::open(&common, "documents")?.retrieve(&common, &asked)
    }
}

impl RulerArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { common, tasks, samples, text, squad, hotpot, threshold, resume } = self;
        let lengths = common.lengths.clone();
        let haystack = text.haystack;
        let spec = TaskSpec::Ruler { lengths, tasks, samples, haystack, squad, hotpot, threshold };
        let asked = Asked { spec, text_field: text.text_field, resume: resume.resume };
        asked.check()?;
        Session::open(&common, "ruler")?.retrieve(&common, &asked)
    }
}
