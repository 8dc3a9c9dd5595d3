//! The training loop: one owner of model, optimizer, schedule and data position.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rope_scaling::Precision;
use serde_json::json;

use super::agreement::{Keys, keys_of};
use super::checkpoint::Store;
use super::feed::{Feed, Materials, Sequence};
use super::metrics::MetricsLog;
use super::optim::{AdamW, Keeping, Shard};
use super::persist::inputs;
use super::schedule::Schedule;
use super::sources::TextSources;
use super::step::{NotFinite, Outcome};
use crate::config::{Gradients, Recipe, Stage};
use crate::error::{Failure, FailureKind};
use crate::model::{ModelFolder, PlanTensors, ShiftedSparse};
use crate::runtime::progress::Progress;
use crate::runtime::run_dir::RunDir;
use crate::runtime::say;
use crate::runtime::signals::StopFlag;

/// Where the sequences of a step are written whose loss or gradient is not finite.
const NOT_FINITE: &str = "not-finite.json";

/// A run in progress.
pub struct Trainer {
    pub(super) recipe: Recipe,
    pub(super) model: ModelFolder,
    pub(super) optimizer: AdamW,
    pub(super) schedule: Schedule,
    pub(super) store: Store,
    pub(super) keys: Keys,
    pub(super) inputs: BTreeMap<String, String>,
    pub(super) step: u64,
    pub(super) tokens: u64,
    sources: TextSources,
    /// Steps in a row, up to now, that were passed over.
    passed_over: u64,
}

/// Where a run starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// From the newest sound checkpoint of the run folder, if there is one.
    Auto,
    /// From the beginning.
    Never,
    /// From this checkpoint.
    From(PathBuf),
}

/// What the loop tells while it goes.
struct Tellers<'a> {
    run: &'a RunDir,
    stop: &'a StopFlag,
    log: MetricsLog,
    progress: Progress,
}

/// The steps of one stage within those of the run.
struct Span {
    index: usize,
    start: u64,
    end: u64,
}

impl Trainer {
    /// A run at its first step.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub fn new(recipe: Recipe, mut model: ModelFolder, sources: TextSources, run: &Path) -> Result<Self, Failure> {
        model.llama.memory = recipe.memory;
        for (_, parameter) in model.llama.trained() {
            let _ = parameter.set_requires_grad(true);
        }
        let keeping = Keeping { memory: recipe.memory, seed: recipe.seed, shard: Shard::WHOLE };
        let mut optimizer = AdamW::keeping(recipe.optimizer.adam(), keeping, model.llama.trained())?;
        let mup = model.llama.config.mup;
        optimizer.set_rates(|name| mup.rate(name));
        let schedule = Schedule {
            peak: recipe.optimizer.learning_rate,
            warmup: recipe.optimizer.warmup_steps,
            steps: recipe.optimizer.schedule_steps.unwrap_or_else(|| recipe.steps()),
            decay: recipe.optimizer.schedule,
            final_fraction: recipe.optimizer.final_fraction,
        };
        let store = Store::new(run.join("checkpoints"), recipe.checkpoint.keep);
        let (keys, inputs) = (keys_of(&recipe)?, inputs(&model, &sources)?);
        let (step, tokens, passed_over) = (0, 0, 0);
        Ok(Self { recipe, model, optimizer, schedule, store, keys, inputs, step, tokens, sources, passed_over })
    }

    /// The model as it stands.
    pub fn model(&self) -> &ModelFolder {
        &self.model
    }

    /// Gives the model back.
    pub fn into_model(self) -> ModelFolder {
        for (_, parameter) in self.model.llama.trained() {
            let _ = parameter.set_requires_grad(false);
        }
        if let Some(adapted) = &self.model.llama.adapter {
            // Whoever reads it now wants nothing dropped.
            adapted.pass.set(0);
        }
        self.model
    }

    /// Tokens seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// That every stage has the data it asks for: told now, and not after the stages before it.
    ///
    /// # Errors
    ///
    /// When a source is smaller than one sequence of a stage, or its texts do not fit one.
    pub fn check_stages(&self) -> Result<(), Failure> {
        self.recipe.stages.iter().enumerate().try_for_each(|(index, stage)| {
            let loaders = self.sources.loaders(stage, index)?;
            Feed::new(self.materials()?, &self.recipe.sources, stage, index, &loaders)?.check()
        })
    }

    fn materials(&self) -> Result<Materials<'_>, Failure> {
        Ok(Materials {
            codec: self.model.tokenizer()?,
            bos: self.model.llama.config.bos,
            vocab: self.model.llama.config.vocab,
            seed: self.recipe.seed,
        })
    }

    /// Trains to the end, or until `stop` is raised: then a checkpoint is saved and the failure says so (exit code 5).
    ///
    /// # Errors
    ///
    /// A loss or gradient that is not finite stops the run before the optimizer moves, unless the recipe passes over it;
    /// the last checkpoint stays.
    pub fn run(&mut self, run: &RunDir, stop: &StopFlag, label: &str) -> Result<(), Failure> {
        let log = MetricsLog::open(run.path(), self.step)?;
        let progress = Progress::new(label, self.recipe.steps());
        let mut tellers = Tellers { run, stop, log, progress };
        let mut end = 0;
        for index in 0..self.recipe.stages.len() {
            let start = end;
            end += self.recipe.stages[index].steps;
            if self.step < end {
                self.run_stage(&Span { index, start, end }, &mut tellers)?;
            }
        }
        tellers.progress.finish();
        let _guard = stop.saving();
        self.save().map(drop)
    }

    fn run_stage(&mut self, span: &Span, tellers: &mut Tellers<'_>) -> Result<(), Failure> {
        let stage = self.recipe.stages[span.index].clone();
        let plan = self.plan(&stage)?;
        let loaders = self.sources.loaders(&stage, span.index)?;
        while self.step < span.end {
            let first = (self.step - span.start) * stage.batch as u64;
            let batch = {
                let feed = Feed::new(self.materials()?, &self.recipe.sources, &stage, span.index, &loaders)?;
                (first..first + stage.batch as u64).map(|n| feed.sequence(n)).collect::<Result<Vec<_>, _>>()?
            };
            match self.take_step(&stage, &plan, &batch, tellers.stop)? {
                Outcome::Moved(metrics) => {
                    self.passed_over = 0;
                    tellers.log.record(&metrics);
                    let message = format!("loss {:.3}, {:.0} tokens/s", metrics.loss, metrics.tokens_per_second);
                    tellers.progress.update(self.step, &message);
                }
                Outcome::GivenUp => return Err(self.stopped(tellers.stop)),
                Outcome::NotFinite(found) => {
                    self.write_sequences(tellers.run, span.index, first, &batch, &found)?;
                    self.pass_over(tellers.run, stage.step_tokens(), &found)?;
                }
            }
            if tellers.stop.raised() {
                return Err(self.stopped(tellers.stop));
            }
            if self.recipe.checkpoint.every > 0 && self.step.is_multiple_of(self.recipe.checkpoint.every) {
                let _guard = tellers.stop.saving();
                self.save()?;
            }
        }
        Ok(())
    }

    fn plan(&self, stage: &Stage) -> Result<PlanTensors, Failure> {
        let plan = self.model.encoding().plan(stage.reach(), Precision::HubCompatible)?;
        let sparse = stage.shifted_sparse.map(|share| ShiftedSparse::new(stage.length, share));
        let sparse = sparse.transpose().map_err(|what| Failure::config(format!("stage.shifted_sparse: {what}")))?;
        Ok(self.model.llama.positions(&plan).with_sparse(sparse))
    }

    /// Saves, and says that a signal ended the run; or that saving failed.
    fn stopped(&self, stop: &StopFlag) -> Failure {
        let _guard = stop.saving();
        let place = format!("stopped at step {} of {}", self.step, self.recipe.steps());
        match self.save() {
            Ok(path) => Failure::new(
                FailureKind::Interrupted,
                format!("{place}; saved {}. The same command goes on from there", path.display()),
            ),
            Err(failure) => failure.within(format!("{place}, but not saved")),
        }
    }

    /// Leaves a step out whose loss or gradient is not finite, if the recipe puts up with it.
    fn pass_over(&mut self, run: &RunDir, tokens: u64, found: &NotFinite) -> Result<(), Failure> {
        let NotFinite { what, value } = found;
        self.passed_over += 1;
        if self.passed_over > self.recipe.optimizer.non_finite_steps {
            return Err(Failure::data(format!(
                "the {what} of step {} is {value}; {}, and {}. Its sequences are in {}. Lower \
                 optimizer.learning_rate or set optimizer.clip_norm",
                self.step + 1,
                match (self.recipe.memory.gradients, *what) {
                    (Gradients::InBackward, "gradient norm") => "only layers behind it were updated",
                    _ => "nothing was updated",
                },
                self.last_good(),
                run.join(NOT_FINITE).display()
            )));
        }
        self.step += 1;
        self.tokens += tokens;
        let line = format!("warning: the {what} of step {} is {value}; the step was passed over", self.step);
        say!("{line}");
        run.log(&line);
        Ok(())
    }

    /// Puts the sequences of a step that went wrong where they can be looked at.
    fn write_sequences(
        &self,
        run: &RunDir,
        stage: usize,
        first: u64,
        batch: &[Sequence],
        found: &NotFinite,
    ) -> Result<(), Failure> {
        let tokens: Vec<&[u32]> = batch.iter().map(|sequence| sequence.tokens.as_slice()).collect();
        run.write_json(
            NOT_FINITE,
            &json!({
                "step": self.step + 1,
                "what": found.what,
                "value": found.value.to_string(),
                "stage": stage,
                "first_sequence": first,
                "tokens": tokens,
            }),
        )
    }
}
