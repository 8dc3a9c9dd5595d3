//! The training loop: one owner of model, optimizer, schedule and data position.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use attention::{DocumentStarts, Mask};
use rope_scaling::Precision;
use tch::{Device, Kind, Tensor};

use super::checkpoint::{RunState, Store, read_state};
use super::feed::{Feed, Materials, Sequence};
use super::loss::{UNCOUNTED, summed_loss};
use super::metrics::{MetricsLog, StepMetrics};
use super::optim::{AdamW, clip_factor};
use super::schedule::Schedule;
use super::sources::TextSources;
use crate::config::{Recipe, Stage};
use crate::error::{Failure, FailureKind, io_failure};
use crate::model::{ModelFolder, Pass, PlanTensors};
use crate::runtime::progress::Progress;
use crate::runtime::run_dir::RunDir;
use crate::runtime::signals::StopFlag;

/// A run in progress.
pub struct Trainer {
    recipe: Recipe,
    model: ModelFolder,
    optimizer: AdamW,
    schedule: Schedule,
    sources: TextSources,
    store: Store,
    identity: BTreeMap<String, String>,
    step: u64,
    tokens: u64,
}

/// Where a run starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// From the newest complete checkpoint of the run folder, if there is one.
    Auto,
    /// From the beginning.
    Never,
    /// From this checkpoint.
    From(PathBuf),
}

impl Trainer {
    /// A run at its first step.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub fn new(recipe: Recipe, model: ModelFolder, sources: TextSources, run: &Path) -> Result<Self, Failure> {
        for (_, parameter) in model.llama.parameters() {
            let _ = parameter.set_requires_grad(true);
        }
        let optimizer = AdamW::new(recipe.optimizer.adam(), model.llama.parameters())?;
        let schedule = Schedule {
            peak: recipe.optimizer.learning_rate,
            warmup: recipe.optimizer.warmup_steps,
            steps: recipe.optimizer.schedule_steps.unwrap_or_else(|| recipe.steps()),
            decay: recipe.optimizer.schedule,
            final_fraction: recipe.optimizer.final_fraction,
        };
        let store = Store::new(run.join("checkpoints"), recipe.checkpoint.keep);
        let identity = identity(&recipe, &model, &sources)?;
        Ok(Self { recipe, model, optimizer, schedule, sources, store, identity, step: 0, tokens: 0 })
    }

    /// The model as it stands.
    pub fn model(&self) -> &ModelFolder {
        &self.model
    }

    /// Gives the model back.
    pub fn into_model(self) -> ModelFolder {
        for (_, parameter) in self.model.llama.parameters() {
            let _ = parameter.set_requires_grad(false);
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

    /// Takes up a checkpoint as `resume` says; returns where it was taken from. Checkpoints of the run folder that the
    /// run does not go on from are set aside, since they would pass for its own.
    ///
    /// # Errors
    ///
    /// When the checkpoint is damaged, or belongs to another recipe, data or tokenizer: the differences are named.
    pub fn resume(&mut self, resume: &Resume) -> Result<Option<PathBuf>, Failure> {
        let path = match resume {
            Resume::Never => None,
            Resume::Auto => self.store.newest(),
            Resume::From(path) => Some(path.clone()),
        };
        let Some(path) = path else {
            if *resume == Resume::Never {
                self.store.set_aside()?;
            }
            return Ok(None);
        };
        let state = read_state(&path)?;
        self.check_identity(&path, &state)?;
        if !self.store.holds(&path) {
            self.store.set_aside()?;
        }
        self.model.reload(&path)?;
        let moments = crate::model::weights::Checkpoint::open(&path.join("optimizer"))?;
        self.optimizer.restore(state.step, |name, mean, square| {
            let read = |what: &str, into: &mut Tensor| -> Result<(), Failure> {
                let view = moments.tensor(&format!("{what}.{name}"))?;
                let shape: Vec<i64> = view.shape.iter().map(|&n| n as i64).collect();
                into.f_copy_(&Tensor::f_from_data_size(view.data, &shape, Kind::Float)?)?;
                Ok(())
            };
            read("mean", mean)?;
            read("square", square)
        })?;
        (self.step, self.tokens) = (state.step, state.tokens);
        Ok(Some(path))
    }

    fn check_identity(&self, path: &Path, state: &RunState) -> Result<(), Failure> {
        let differing: Vec<&str> = self
            .identity
            .iter()
            .filter(|(what, hash)| state.identity.get(*what) != Some(*hash))
            .map(|(what, _)| what.as_str())
            .collect();
        match differing.is_empty() {
            true => Ok(()),
            false => Err(Failure::config(format!(
                "{} was written by another run: {} changed since; use --resume never, or another run folder",
                path.display(),
                differing.join(", ")
            ))),
        }
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
    /// A loss or gradient that is not finite stops the run before the optimizer moves; the last checkpoint stays.
    pub fn run(&mut self, run: &RunDir, stop: &StopFlag, label: &str) -> Result<(), Failure> {
        let total = self.recipe.steps();
        let mut log = MetricsLog::open(run.path(), self.step)?;
        let mut progress = Progress::new(label, total);
        let mut end_of_stage = 0;
        for index in 0..self.recipe.stages.len() {
            let start_of_stage = end_of_stage;
            end_of_stage += self.recipe.stages[index].steps;
            if self.step >= end_of_stage {
                continue;
            }
            let (stage, plan) = (self.recipe.stages[index].clone(), self.plan(self.recipe.stages[index].length)?);
            let loaders = self.sources.loaders(&stage, index)?;
            while self.step < end_of_stage {
                let first = (self.step - start_of_stage) * stage.batch as u64;
                let batch = {
                    let feed = Feed::new(self.materials()?, &self.recipe.sources, &stage, index, &loaders)?;
                    (first..first + stage.batch as u64).map(|n| feed.sequence(n)).collect::<Result<Vec<_>, _>>()?
                };
                let metrics = self.take_step(&stage, &plan, &batch)?;
                log.record(&metrics);
                let message = format!("loss {:.3}, {:.0} tokens/s", metrics.loss, metrics.tokens_per_second);
                progress.update(self.step, &message);
                let due = self.recipe.checkpoint.every > 0 && self.step.is_multiple_of(self.recipe.checkpoint.every);
                if due || stop.raised() {
                    let path = self.save()?;
                    if stop.raised() {
                        progress.finish();
                        return Err(Failure::new(
                            FailureKind::Interrupted,
                            format!("stopped at step {} of {total}; saved {}", self.step, path.display()),
                        ));
                    }
                }
            }
        }
        progress.finish();
        self.save()?;
        Ok(())
    }

    fn plan(&self, length: usize) -> Result<PlanTensors, Failure> {
        let plan = self.model.encoding().plan(length, Precision::HubCompatible)?;
        Ok(PlanTensors::new(&plan, self.model.device()))
    }

    /// One optimizer step on `batch`.
    ///
    /// # Errors
    ///
    /// When loss or gradient are not finite; nothing has moved then.
    pub fn take_step(&mut self, stage: &Stage, plan: &PlanTensors, batch: &[Sequence]) -> Result<StepMetrics, Failure> {
        let started = Instant::now();
        let counted: usize = batch.iter().map(|sequence| sequence.counted(stage.length)).sum();
        let mut loss = 0.0;
        for micro in batch.chunks(stage.micro()) {
            let (inputs, targets) = self.tensors(micro, stage.length);
            let pass = Pass { plan, offset: 0, mask: mask(micro, stage)? };
            let hidden = self.model.llama.hidden(&inputs, &pass, None)?;
            // Averaged over the counted tokens of the whole step, however it is cut into passes.
            let mean = summed_loss(&self.model.llama, &hidden, &targets) / counted.max(1) as f64;
            loss += mean.double_value(&[]);
            self.check_finite("loss", loss)?;
            mean.f_backward()?;
        }
        let norm = self.optimizer.gradient_norm();
        self.check_finite("gradient norm", norm)?;
        let learning_rate = self.schedule.at(self.step);
        self.optimizer.step(learning_rate, clip_factor(norm, self.recipe.optimizer.clip_norm));
        self.step += 1;
        self.tokens += stage.step_tokens();
        Ok(StepMetrics {
            step: self.step,
            tokens: self.tokens,
            length: stage.length,
            loss,
            gradient_norm: norm,
            learning_rate,
            tokens_per_second: stage.step_tokens() as f64 / started.elapsed().as_secs_f64(),
        })
    }

    fn check_finite(&mut self, what: &str, value: f64) -> Result<(), Failure> {
        if value.is_finite() {
            return Ok(());
        }
        self.optimizer.forget_gradients();
        let kept = self.last_good();
        Err(Failure::data(format!(
            "the {what} of step {} is {value}; nothing was updated, and {kept}. Lower optimizer.learning_rate or set \
             optimizer.clip_norm",
            self.step + 1
        )))
    }

    /// That every weight is finite: the loss that shows otherwise comes a step after the update that did it.
    fn check_weights(&self) -> Result<(), Failure> {
        let finite = |parameter: &Tensor| parameter.isfinite().all().int64_value(&[]) != 0;
        let parameters = self.model.llama.parameters();
        match parameters.iter().find(|(_, parameter)| !finite(parameter)) {
            None => Ok(()),
            Some((name, _)) => Err(Failure::data(format!(
                "step {} left a number in {name} that is not finite; nothing was saved, and {}. Lower \
                 optimizer.learning_rate or set optimizer.clip_norm",
                self.step,
                self.last_good()
            ))),
        }
    }

    fn last_good(&self) -> String {
        match self.store.newest() {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "no checkpoint was saved before".to_owned(),
        }
    }

    /// Inputs and targets `[batch, length]`.
    fn tensors(&self, batch: &[Sequence], length: usize) -> (Tensor, Tensor) {
        let shape = [batch.len() as i64, length as i64];
        let tensor = |ids: Vec<i64>| Tensor::from_slice(&ids).view(shape).to_device(self.model.device());
        let inputs = batch.iter().flat_map(|s| s.tokens[..length].iter().map(|&id| i64::from(id)));
        let targets = batch.iter().flat_map(|s| {
            let target = |place: usize| if place < s.counted_from { UNCOUNTED } else { i64::from(s.tokens[place]) };
            (1..=length).map(target)
        });
        (tensor(inputs.collect()), tensor(targets.collect()))
    }

    /// Writes a checkpoint of this moment.
    ///
    /// # Errors
    ///
    /// When a weight is not finite, there is no room, or writing fails.
    pub fn save(&self) -> Result<PathBuf, Failure> {
        self.check_weights()?;
        let state = RunState {
            step: self.step,
            tokens: self.tokens,
            identity: self.identity.clone(),
            machine: machine(self.model.device()),
        };
        let numbers = self.model.llama.config.parameter_count();
        self.store.save(&state, numbers * (8 + 4), |folder| {
            self.model.write(folder)?;
            let moments = folder.join("optimizer");
            std::fs::create_dir_all(&moments).map_err(|error| io_failure("make", &moments, &error))?;
            let tensors = self.optimizer.slots().iter().flat_map(|slot| {
                [(format!("mean.{}", slot.name), &slot.mean), (format!("square.{}", slot.name), &slot.square)]
            });
            crate::model::write_tensors(&moments, tensors)
        })
    }
}

/// Which keys are seen: causal, or causal within each document of each sequence.
fn mask(batch: &[Sequence], stage: &Stage) -> Result<Mask, Failure> {
    if !stage.document_mask {
        return Ok(Mask::Causal { offset: 0 });
    }
    let rows = batch
        .iter()
        .map(|sequence| sequence.starts.iter().copied().filter(|&start| start < stage.length).collect())
        .collect();
    let starts = DocumentStarts::new(rows).map_err(|error| Failure::data(error.to_string()))?;
    Ok(Mask::Documents { starts, offset: 0 })
}

fn identity(recipe: &Recipe, model: &ModelFolder, sources: &TextSources) -> Result<BTreeMap<String, String>, Failure> {
    let mut settled = recipe.clone();
    settled.checkpoint = Default::default();
    settled.description.clear();
    let text = toml::to_string(&settled).map_err(|error| Failure::config(error.to_string()))?;
    let recipe_hash = blake3::hash(text.as_bytes()).to_hex().to_string();
    Ok(BTreeMap::from([
        ("recipe".to_owned(), recipe_hash),
        ("data".to_owned(), sources.fingerprint()),
        ("tokenizer".to_owned(), model.tokenizer()?.hash().to_owned()),
    ]))
}

fn machine(device: Device) -> String {
    format!("{}, {} threads", crate::runtime::device::device_name(device), tch::get_num_threads())
}
