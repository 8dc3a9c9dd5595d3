//! What a run will take, known before it starts: bytes by what they are for, tokens per second, hours; whether it fits a
//! device, and if not, which knob to turn. From a recipe and the shape of its model alone: no weight is read, no device asked.
//!
//! [`Sizes`] counts a model under an adapter, [`StepMemory`] what a step holds, [`phases`] what it computes and moves, a
//! [`Card`] says what a device holds and how fast it is, [`Setting`] compares policies.

mod advice;
mod attention;
mod card;
mod checks;
mod memory;
mod page;
mod sizes;
mod time;

#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Serialize;

pub use advice::{Advice, Outcome, Setting, settings};
pub use card::Card;
pub use checks::{Check, Standing};
pub use memory::{Categories, Host, Moment, StepMemory, gradient_bytes, optimizer_bytes, weight_bytes};
pub use page::duration;
pub use sizes::{Sizes, Trained};
pub use time::{Phase, counted_flops, phases};

use crate::config::{Memory, Recipe};
use crate::error::Failure;
use crate::hub;
use crate::model::{ModelConfig, known_shape, known_shapes, read_config};
use crate::train::RESULT_OF;

/// What is known of a run before it starts.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Name of the recipe.
    pub recipe: String,
    /// The model, as the recipe names it.
    pub model: String,
    /// Parameters of the model.
    pub parameters: u64,
    /// Parameters that are trained.
    pub trained_parameters: u64,
    /// The device that it is planned for.
    pub device: Card,
    /// How memory is spent.
    pub memory: Memory,
    /// Bytes of the device at most.
    pub peak_bytes: u64,
    /// When that is.
    pub peak: Moment,
    /// The bytes of that moment by what they are for.
    pub categories: Categories,
    /// Every moment looked at, of every stage.
    pub moments: Vec<Moment>,
    /// Bytes of pinned host memory.
    pub host: Host,
    /// Whether the device holds it.
    pub fits: bool,
    /// Optimizer steps of all stages.
    pub steps: u64,
    /// Tokens of all stages.
    pub tokens: u64,
    /// Tokens per second, over all stages.
    pub tokens_per_second: f64,
    /// The same at the rates of the device, were nothing lost between its parts.
    pub roofline_tokens_per_second: f64,
    /// Share of the device's peak that counted arithmetic takes: three times the forward pass, attention counted causally.
    pub mfu_causal: f64,
    /// Hours of the run.
    pub hours: f64,
    /// Hours of the run by what they go into.
    pub phases: Vec<PhaseHours>,
    /// What to change, best first.
    pub advice: Vec<Advice>,
    /// Text, disk and host memory of this machine.
    pub checks: Vec<Check>,
}

/// Hours of a run that a phase takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PhaseHours {
    /// Which.
    pub name: &'static str,
    /// Hours of the run.
    pub hours: f64,
}

/// The device that a recipe is made for.
pub fn planned_on(recipe: &Recipe) -> &str {
    recipe.about.device.as_deref().unwrap_or(DEFAULT_DEVICE)
}

/// The device of a recipe that names none.
const DEFAULT_DEVICE: &str = "h100-80g";

/// Recipes that may go out from one another's results.
const RECIPES_DEEP: usize = 8;

/// The configuration of the model that a recipe starts from: of its folder, of a new model, or of a shape that is known by
/// the model's name where its checkpoint is not at hand. Another recipe's result has the shape of that recipe's model.
///
/// # Errors
///
/// When there is none, or it is wrong.
pub fn config_of(recipe: &Recipe) -> Result<ModelConfig, Failure> {
    config_within(recipe, RECIPES_DEEP)
}

fn config_within(recipe: &Recipe, depth: usize) -> Result<ModelConfig, Failure> {
    let Some(from) = &recipe.model.from else { return crate::train::new_config(recipe) };
    if let Some(name) = from.strip_prefix(RESULT_OF) {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Failure::config(format!("model.from: {from}: a recipe of a recipe, and so on without end")));
        };
        return config_within(&crate::recipes::training(name, &[])?, depth);
    }
    match hub::resolve(from) {
        Ok(files) => read_config(&files.dir),
        Err(error) => known_shape(from).unwrap_or_else(|| {
            let known: Vec<&str> = known_shapes().collect();
            let failure = Failure::from(error).to_string();
            Err(Failure::config(format!("{failure}; shapes known without a checkpoint: {}", known.join(", "))))
        }),
    }
}

impl Plan {
    /// The plan of a recipe on a model of `config`, into the run folder `out`.
    pub fn new(recipe: &Recipe, config: &ModelConfig, card: Card, out: &Path) -> Self {
        let sizes = Sizes::of(recipe, config, &card);
        let steps: Vec<StepMemory> =
            recipe.stages.iter().map(|stage| StepMemory::new(&sizes, &recipe.memory, stage, &card)).collect();
        let peaks = steps.iter().map(StepMemory::peak);
        let peak = peaks.max_by_key(|moment| moment.categories.total()).cloned().unwrap_or_default();
        let host = steps.iter().map(|step| step.host).max_by_key(Host::total).unwrap_or_default();
        let setting = Setting { sizes: &sizes, memory: &recipe.memory, stages: &recipe.stages, card: &card };
        let phases = hours_by_phase(&setting);
        let roofline_hours: f64 = phases.iter().map(|phase| phase.hours).sum();
        let hours = roofline_hours / card.efficiency;
        let of_stage = |stage: &crate::config::Stage| {
            counted_flops(&sizes, stage.attended()) * stage.step_tokens() as f64 * stage.steps as f64
        };
        let counted: f64 = recipe.stages.iter().map(of_stage).sum();
        let per_second = |hours: f64| recipe.tokens() as f64 / (3600.0 * hours);
        let mut checks: Vec<Check> = checks::start(recipe).into_iter().chain(checks::sources(recipe)).collect();
        let checkpoint = weight_bytes(&sizes) + optimizer_bytes(&sizes, &recipe.memory);
        checks.push(checks::disk(recipe, out, checkpoint));
        checks.extend((host.total() > 0).then(|| checks::host(host.total())));
        Self {
            recipe: recipe.name.clone(),
            model: recipe.model.from.clone().unwrap_or_else(|| "new".to_owned()),
            parameters: sizes.parameters,
            trained_parameters: sizes.trained_parameters(),
            memory: recipe.memory,
            peak_bytes: peak.categories.total(),
            categories: peak.categories,
            peak: peak.clone(),
            moments: steps.into_iter().flat_map(|step| step.moments).collect(),
            host,
            fits: peak.categories.total() <= card.bytes,
            steps: recipe.steps(),
            tokens: recipe.tokens(),
            tokens_per_second: per_second(hours),
            roofline_tokens_per_second: per_second(roofline_hours),
            mfu_causal: counted / (3600.0 * hours * card.peak_flops),
            hours,
            phases,
            advice: setting.advices(),
            checks,
            device: card,
        }
    }

    /// Why the run could not start as planned; none where it fits and every check holds.
    pub fn verdict(&self) -> Option<String> {
        let failed: Vec<&str> = self.failed().map(|check| check.name.as_str()).collect();
        match (self.fits, failed.is_empty()) {
            (true, true) => None,
            (false, true) => Some(format!("does not fit {}", self.device.name)),
            (true, false) => Some(format!("failed: {}", failed.join(", "))),
            (false, false) => Some(format!("does not fit {}; failed: {}", self.device.name, failed.join(", "))),
        }
    }

    fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.standing == Standing::Failed)
    }
}

/// Hours of the run for every phase of any stage, at the rates of the device.
fn hours_by_phase(setting: &Setting<'_>) -> Vec<PhaseHours> {
    let mut all: Vec<PhaseHours> = Vec::new();
    for stage in setting.stages {
        for phase in phases(setting.sizes, setting.memory, stage, setting.card) {
            let hours = phase.seconds * stage.steps as f64 / 3600.0;
            match all.iter_mut().find(|it| it.name == phase.name) {
                Some(found) => found.hours += hours,
                None => all.push(PhaseHours { name: phase.name, hours }),
            }
        }
    }
    all
}

/// The policies that serve a device best for a recipe; none where nothing fits.
pub fn chosen_memory(recipe: &Recipe, config: &ModelConfig, card: &Card) -> Option<Memory> {
    let sizes = Sizes::of(recipe, config, card);
    Setting { sizes: &sizes, memory: &recipe.memory, stages: &recipe.stages, card }.chosen()
}
