//! Saving a run, and going on from what was saved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rope_scaling::RopeScaling;
use rope_scaling::hf::HfPositions;
use serde_json::json;
use tch::{Kind, Tensor, no_grad};

use super::agreement::{Agreement, check_allowed};
use super::checkpoint::{RunState, read_state};
use super::optim::Slot;
use super::sources::TextSources;
use super::trainer::{Resume, Trainer};
use crate::disk;
use crate::error::{Failure, io_failure};
use crate::model::weights::Checkpoint;
use crate::model::{ModelFolder, Positions, kind_of};
use crate::runtime::device::kind_name;

/// The folder of a checkpoint that holds the optimizer's state.
const OPTIMIZER: &str = "optimizer";

/// What a run went on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// The checkpoint.
    pub from: PathBuf,
    /// What of the machine is not as it was, so that the last bits may differ from those of a run that was not stopped.
    pub other_machine: Option<String>,
}

impl Trainer {
    /// Takes up a checkpoint as `resume` says. Checkpoints of the run folder that the run does not go on from are set
    /// aside, since they would pass for its own.
    ///
    /// # Errors
    ///
    /// When the checkpoint is damaged (exit code 3), or belongs to another recipe, data or tokenizer: then each
    /// difference that `allowed` does not cover is named (exit code 2).
    pub fn resume(&mut self, resume: &Resume, allowed: &[String]) -> Result<Option<Resumed>, Failure> {
        check_allowed(allowed)?;
        let found = match resume {
            Resume::Never => None,
            Resume::Auto => self.store.newest_sound()?,
            Resume::From(path) => Some((path.clone(), read_state(path)?)),
        };
        let Some((from, state)) = found else {
            self.store.set_aside(None)?;
            return Ok(None);
        };
        Agreement { recipe: &self.keys, inputs: &self.inputs, allowed }.check(&from, &state)?;
        self.model.reload(&from)?;
        let stored = Checkpoint::open(&from.join(OPTIMIZER))?;
        let norm_before = state.norm_before;
        self.optimizer.restore(state.updates, norm_before, |name, tensor| fill(tensor, &stored, name))?;
        (self.step, self.tokens) = (state.step, state.tokens);
        // Last, since a run that is refused leaves the folder as it was.
        self.store.set_aside(self.store.holds(&from).then_some(state.step))?;
        let (then, now) = (state.machine, machine(&self.model));
        let other_machine = (then != now).then(|| {
            format!("the checkpoint was made on {then}, this is {now}: the last bits of what follows may differ")
        });
        Ok(Some(Resumed { from, other_machine }))
    }

    /// That the disk has room for what will be saved: told now, and not after hours.
    ///
    /// # Errors
    ///
    /// With what is free and what is needed; exit code 2.
    pub fn check_room(&self) -> Result<(), Failure> {
        self.store.check_start(self.checkpoint_bytes())
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
            updates: self.optimizer.steps(),
            tokens: self.tokens,
            norm_before: self.optimizer.norm_before(),
            recipe: self.keys.clone(),
            inputs: self.inputs.clone(),
            machine: machine(&self.model),
        };
        self.store.save(&state, self.checkpoint_bytes(), |folder| {
            self.model.write(folder)?;
            let beside = folder.join(OPTIMIZER);
            disk::make_folder(&beside).map_err(|error| io_failure("make", &beside, &error))?;
            crate::model::write_tensors(&beside, self.optimizer.state())
        })
    }

    fn checkpoint_bytes(&self) -> u64 {
        let trained: usize = self.model.llama.trained().iter().map(|(_, parameter)| parameter.numel()).sum();
        let weights = (trained * self.model.kind().elt_size_in_bytes()) as u64;
        weights + self.optimizer.slots().iter().map(Slot::bytes).sum::<u64>()
    }

    /// That every weight is finite: the loss that shows otherwise comes a step after the update that did it.
    fn check_weights(&self) -> Result<(), Failure> {
        let finite = |parameter: &Tensor| parameter.isfinite().all().int64_value(&[]) != 0;
        let parameters = self.model.llama.trained();
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

    pub(super) fn last_good(&self) -> String {
        match self.store.newest() {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "no checkpoint was saved before".to_owned(),
        }
    }
}

/// Puts the float32 weights that a bfloat16 run kept beside its checkpoint into a float32 model of it; returns whether
/// there were any.
///
/// # Errors
///
/// When they cannot be read, or are not those of this model.
pub fn restore_masters(checkpoint: &Path, model: &ModelFolder) -> Result<bool, Failure> {
    let folder = checkpoint.join(OPTIMIZER);
    if model.kind() != Kind::Float || !folder.is_dir() {
        return Ok(false);
    }
    let stored = Checkpoint::open(&folder)?;
    if !stored.names().any(|name| name.starts_with("master.")) {
        return Ok(false);
    }
    for (name, parameter) in model.llama.trained() {
        fill(&mut parameter.shallow_clone(), &stored, &format!("master.{name}"))?;
    }
    Ok(true)
}

/// Copies a stored tensor into one of the same type and shape.
fn fill(tensor: &mut Tensor, stored: &Checkpoint, name: &str) -> Result<(), Failure> {
    let view = stored.stored(name)?;
    let shape: Vec<i64> = view.shape.iter().map(|&n| n as i64).collect();
    let kind = kind_of(view.dtype);
    if shape != tensor.size() || kind != tensor.kind() {
        return Err(Failure::data(format!(
            "{}: {name} is {} {shape:?}, expected {} {:?}; was it made under the same memory.optimizer?",
            stored.dir().display(),
            view.dtype,
            kind_name(tensor.kind()),
            tensor.size()
        )));
    }
    no_grad(|| tensor.f_copy_(&Tensor::f_from_data_size(view.data, &shape, kind)?))?;
    Ok(())
}

/// Hashes of what a run is made of beside its recipe.
pub(super) fn inputs(model: &ModelFolder, sources: &TextSources) -> Result<BTreeMap<String, String>, Failure> {
    let mut inputs = BTreeMap::from([
        ("data".to_owned(), sources.fingerprint()),
        ("tokenizer".to_owned(), model.tokenizer()?.hash().to_owned()),
    ]);
    // The recipe names their file, whose content may change.
    if let Positions::Rope(rope @ HfPositions { scaling: RopeScaling::LongRope { .. }, .. }) =
        &model.llama.config.positions
    {
        let scaling = json!(rope.to_hf()).to_string();
        inputs.insert("positions".to_owned(), blake3::hash(scaling.as_bytes()).to_hex().to_string());
    }
    Ok(inputs)
}

fn machine(model: &ModelFolder) -> String {
    let device = crate::runtime::device::device_name(model.device());
    format!("{device}, {} threads", tch::get_num_threads())
}
