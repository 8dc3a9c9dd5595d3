//! Which policy of memory to change: what each change gives and costs, and the set of policies that a device is best served
//! with.

use serde::Serialize;

use super::card::Card;
use super::memory::StepMemory;
use super::sizes::Sizes;
use super::time::phases;
use crate::config::{Activations, Gradients, Memory, OptimizerState, Policy, Stage};

/// A change of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// Settings, as `--set` takes them.
    pub settings: Vec<String>,
    /// Bytes of the device that the run then takes at most.
    pub peak_bytes: u64,
    /// Whether it then fits.
    pub fits: bool,
    /// Bytes of pinned host memory that it then takes.
    pub host_bytes: u64,
    /// Time of the run as a share of what it takes now.
    pub time: f64,
    /// What else it changes, if anything.
    pub remark: &'static str,
}

/// What a set of policies comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Bytes of the device at most.
    pub peak: u64,
    /// Bytes of pinned host memory.
    pub host: u64,
    /// Seconds of all steps at the rates of the device.
    pub seconds: f64,
}

impl Outcome {
    /// Of training `stages` under `memory`.
    pub fn new(sizes: &Sizes, memory: &Memory, stages: &[Stage], card: &Card) -> Self {
        let mut outcome = Self { peak: 0, host: 0, seconds: 0.0 };
        for stage in stages {
            let bytes = StepMemory::new(sizes, memory, stage, card);
            outcome.peak = outcome.peak.max(bytes.peak().categories.total());
            outcome.host = outcome.host.max(bytes.host.total());
            let step: f64 = phases(sizes, memory, stage, card).iter().map(|phase| phase.seconds).sum();
            outcome.seconds += stage.steps as f64 * step;
        }
        outcome
    }
}

/// How far apart times must be to matter: below that, policies are chosen by how little they change.
const NEAR: f64 = 1.05;

/// Tokens that go through an MLP at once where it is done piece by piece: large enough for products at full rate.
const MLP_TOKENS: usize = 4096;

/// Every set of policies that `stages` can be trained under.
fn all(stages: &[Stage], like: &Memory) -> Vec<Memory> {
    let one_pass = stages.iter().all(|stage| stage.micro() == stage.batch);
    let mut found = Vec::new();
    for optimizer in [OptimizerState::Mixed, OptimizerState::Bfloat16, OptimizerState::Int8] {
        for gradients in [Gradients::Kept, Gradients::InBackward] {
            for activations in [Activations::All, Activations::Light, Activations::Attention, Activations::Layers] {
                for bits in 0..8_u8 {
                    let [on_host, offload, tiled] = [1, 2, 4].map(|bit| bits & bit != 0);
                    let recomputes = matches!(activations, Activations::Attention | Activations::Layers);
                    if (gradients == Gradients::InBackward && !one_pass) || (offload && !recomputes) {
                        continue;
                    }
                    let mlp_tokens = if tiled { MLP_TOKENS } else { 0 };
                    found.push(Memory {
                        policy: Policy::Recipe,
                        optimizer,
                        gradients,
                        optimizer_on_host: on_host,
                        activations,
                        offload,
                        mlp_tokens,
                        ..*like
                    });
                }
            }
        }
    }
    found
}

/// The settings by which `to` differs from `from`, as `--set` takes them.
pub fn settings(from: &Memory, to: &Memory) -> Vec<String> {
    let keys = |memory: &Memory| toml::Table::try_from(memory).unwrap_or_default();
    let (from, to) = (keys(from), keys(to));
    let changed = to.iter().filter(|(key, value)| from.get(*key) != Some(value));
    let word = |value: &toml::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    changed.map(|(key, value)| format!("memory.{key}={}", word(value))).collect()
}

/// How much a change of policies changes of a run: other rounding of the optimizer most, what is only computed again least.
fn distance(settings: &[String]) -> usize {
    let of = |setting: &String| match setting.split(['.', '=']).nth(1) {
        Some("optimizer") => 3,
        Some("gradients") => 2,
        _ => 1,
    };
    settings.iter().map(of).sum()
}

/// What is to be said of a change beside its bytes and its time.
fn remark(settings: &[String]) -> &'static str {
    let has = |key: &str| settings.iter().any(|setting| setting.starts_with(key));
    match (has("memory.optimizer="), has("memory.gradients=in-backward")) {
        (true, true) => "weights and moments are rounded stochastically; clipping goes by the norm of the step before",
        (true, false) if !has("memory.optimizer=mixed") => "weights and moments are rounded stochastically",
        (false, true) => "clipping goes by the norm of the step before",
        _ => "",
    }
}

/// What a run is trained under, and where.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// The model.
    pub sizes: &'a Sizes,
    /// The policies of the recipe.
    pub memory: &'a Memory,
    /// Its stages.
    pub stages: &'a [Stage],
    /// The device.
    pub card: &'a Card,
}

impl Setting<'_> {
    fn outcome(&self, memory: &Memory) -> Outcome {
        Outcome::new(self.sizes, memory, self.stages, self.card)
    }

    fn advice(&self, memory: &Memory, outcome: Outcome, now: Outcome) -> Advice {
        let settings = settings(self.memory, memory);
        Advice {
            peak_bytes: outcome.peak,
            fits: outcome.peak <= self.card.bytes,
            host_bytes: outcome.host,
            time: outcome.seconds / now.seconds,
            remark: remark(&settings),
            settings,
        }
    }

    /// Changes worth making, best first. For a run that does not fit: the cheapest set of changes that makes it fit, then
    /// single changes by what they give. For one that fits: what makes it faster and still fits.
    pub fn advices(&self) -> Vec<Advice> {
        let now = self.outcome(self.memory);
        let others: Vec<Advice> =
            all(self.stages, self.memory).iter().map(|memory| self.advice(memory, self.outcome(memory), now)).collect();
        if now.peak > self.card.bytes {
            let mut found: Vec<Advice> = best(&others).cloned().into_iter().collect();
            let mut single: Vec<&Advice> =
                others.iter().filter(|it| it.settings.len() == 1 && it.peak_bytes < now.peak).collect();
            single.sort_by(|a, b| b.fits.cmp(&a.fits).then(cost(a, now).total_cmp(&cost(b, now))));
            found.extend(single.into_iter().filter(|it| Some(*it) != best(&others)).cloned());
            return found;
        }
        // Rounding is not traded for speed unasked.
        let mut faster: Vec<Advice> =
            others.into_iter().filter(|it| it.fits && it.time < 1.0 / NEAR && it.remark.is_empty()).collect();
        faster.sort_by(|a, b| a.time.total_cmp(&b.time));
        faster.truncate(1);
        faster
    }

    /// The policies that serve the device best: of those that fit, about the fastest, and among those the ones that change
    /// least of the recipe. None where nothing fits.
    pub fn chosen(&self) -> Option<Memory> {
        let now = self.outcome(self.memory);
        let sets = all(self.stages, self.memory);
        let advices: Vec<Advice> = sets.iter().map(|it| self.advice(it, self.outcome(it), now)).collect();
        let chosen = best(&advices)?;
        sets.into_iter().zip(&advices).find(|(_, it)| *it == chosen).map(|(memory, _)| memory)
    }
}

/// Seconds more that a change takes for every byte that it frees.
fn cost(advice: &Advice, now: Outcome) -> f64 {
    (advice.time - 1.0).max(0.0) / (now.peak - advice.peak_bytes) as f64
}

/// Of what fits, about the fastest, and among those what changes least.
fn best(advices: &[Advice]) -> Option<&Advice> {
    let fitting = || advices.iter().filter(|it| it.fits);
    let fastest = fitting().map(|it| it.time).min_by(f64::total_cmp)?;
    let near = fitting().filter(|it| it.time <= fastest * NEAR);
    near.min_by(|a, b| distance(&a.settings).cmp(&distance(&b.settings)).then(a.time.total_cmp(&b.time)))
}
