//! Tokens per second, memory and shares of time of training steps.

use std::time::Instant;

use clap::Args;
use rope_scaling::Precision;
use serde::Serialize;
use tch::{Device, Kind, Tensor};
use torch_ext::memory::{reset_peak, usage};

use super::super::options::ModelOptions;
use super::super::output::{print, print_json};
use super::{drawn, settle};
use crate::config::{Gradients, Memory};
use crate::data::rng::CounterRng;
use crate::error::Failure;
use crate::model::{Footprint, Llama, ModelConfig, Pass};
use crate::train::{AdamConfig, AdamW, Decayed, Keeping, Shard, clip_factor, summed_loss};

/// Steps that are not timed.
const WARM_UP: usize = 2;

/// A learning rate so small that the weights stay where they are, however long the bench runs.
const RATE: f64 = 1e-12;

/// Training.
#[derive(Debug, Args)]
pub(super) struct TrainBench {
    /// Folder, GGUF file, Hub id in the cache, or `bundled`; with --random-weights also the name of a known shape, such as `llama-2-7b`
    #[arg(value_name = "MODEL", required_unless_present = "model_option")]
    model: Option<String>,
    /// The same as an option
    #[arg(long = "model", id = "model_option", value_name = "MODEL", conflicts_with = "model")]
    model_option: Option<String>,
    /// Take the model's shape alone, and weights drawn on the device
    #[arg(long)]
    random_weights: bool,
    /// Sequences of a step
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Tokens of a sequence
    #[arg(long, visible_alias = "length", default_value_t = 4096)]
    context: usize,
    /// Timed steps, after two that are not
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// How memory is spent: keys of a recipe's `[memory]`, `activations` by its value alone, as in
    /// `attention,offload=true,mlp_tokens=4096`
    #[arg(long, default_value = "all", value_name = "POLICY")]
    policy: String,
    /// Peak of the device in TFLOP/s, for the share of it [default: known for some devices, measured on a CPU]
    #[arg(long = "peak-tflops", value_name = "TFLOPS")]
    peak: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: ModelOptions,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    model: String,
    batch: usize,
    length: usize,
    policy: Memory,
    device: String,
    dtype: &'static str,
    backend: String,
    tokens_per_second: f64,
    /// Seconds of a step, the median.
    step_seconds: f64,
    seconds_least: f64,
    /// Arithmetic of the model, three times the forward pass and attention counted causally, over the device's peak.
    mfu_causal: Option<f64>,
    /// Bytes of tensors at most, of a step after the first.
    peak_bytes: i64,
    predicted_peak_bytes: u64,
    /// Parts of a step.
    shares: Shares,
    repeats: usize,
    threads: i32,
}

/// Parts of the time of a step.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Shares {
    data: f64,
    forward: f64,
    backward: f64,
    optimizer: f64,
}

impl Shares {
    fn list(self) -> [(&'static str, f64); 4] {
        [("forward", self.forward), ("backward", self.backward), ("optimizer", self.optimizer), ("data", self.data)]
    }

    fn total(self) -> f64 {
        self.list().iter().map(|(_, part)| part).sum()
    }

    fn over(self, whole: f64) -> Self {
        Self {
            data: self.data / whole,
            forward: self.forward / whole,
            backward: self.backward / whole,
            optimizer: self.optimizer / whole,
        }
    }
}

impl TrainBench {
    /// Measures and prints.
    ///
    /// # Errors
    ///
    /// When the model cannot be had, a policy is unknown, or memory runs out.
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.steps == 0 || self.batch == 0 || self.context == 0 {
            return Err(Failure::config("--steps, --batch and --context must be at least 1"));
        }
        let memory = policy(&self.policy)?;
        // Tensors are counted from the first question on.
        usage(Device::Cpu).map_err(|error| Failure::config(error.to_string()))?;
        let mut model = self.loaded()?;
        model.memory = memory;
        for (_, parameter) in model.parameters() {
            let _ = parameter.set_requires_grad(true);
        }
        let (device, kind) = (model.embedding.device(), model.embedding.kind());
        let measured = measured(&model, self.batch, self.context, self.steps)?;
        let mut seconds: Vec<f64> = measured.steps.iter().map(|step| step.total()).collect();
        seconds.sort_by(f64::total_cmp);
        let (median, tokens) = (seconds[seconds.len() / 2], (self.batch * self.context) as f64);
        let sum = |part: fn(&Shares) -> f64| measured.steps.iter().map(part).sum::<f64>();
        let whole = Shares {
            data: sum(|s| s.data),
            forward: sum(|s| s.forward),
            backward: sum(|s| s.backward),
            optimizer: sum(|s| s.optimizer),
        };
        let flops = counted_flops(&model.config, self.context) * tokens;
        let row = Row {
            case: "train",
            model: self.name().to_owned(),
            batch: self.batch,
            length: self.context,
            policy: memory,
            device: crate::runtime::device::device_name(device),
            dtype: crate::runtime::device::kind_name(kind),
            backend: model.attention_choice(self.context).map_or("none".into(), |it| it.backend.name().to_owned()),
            tokens_per_second: tokens / median,
            step_seconds: median,
            seconds_least: seconds[0],
            mfu_causal: self.peak_flops(device, kind).map(|peak| flops / median / peak),
            peak_bytes: measured.peak_bytes,
            predicted_peak_bytes: predicted(&model, self.batch * self.context),
            shares: whole.over(whole.total()),
            repeats: seconds.len(),
            threads: tch::get_num_threads(),
        };
        if self.json { print_json(&[row]) } else { shown(&row) }
    }

    fn name(&self) -> &str {
        self.model.as_deref().or(self.model_option.as_deref()).unwrap_or_default()
    }

    fn loaded(&self) -> Result<Llama, Failure> {
        match self.random_weights {
            true => drawn(self.name(), &self.options),
            false => Ok(self.options.load(self.name())?.llama),
        }
    }

    /// Peak of the device in FLOP/s.
    fn peak_flops(&self, device: Device, kind: Kind) -> Option<f64> {
        match self.peak {
            Some(tera) => Some(tera * 1e12),
            None => super::attention::peak_flops(device, kind, tch::get_num_threads() as usize),
        }
    }
}

/// What some steps took.
struct Measured {
    steps: Vec<Shares>,
    peak_bytes: i64,
}

/// Steps of AdamW on random tokens.
fn measured(model: &Llama, batch: usize, length: usize, count: usize) -> Result<Measured, Failure> {
    let device = model.embedding.device();
    let config = AdamConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decayed: Decayed::Matrices };
    let keeping = Keeping { memory: model.memory, seed: 1, shard: Shard::WHOLE };
    let mut optimizer = AdamW::keeping(config, keeping, model.parameters())?;
    let plan = model.positions(&model.config.encoding().plan(length, Precision::HubCompatible)?);
    let pass = Pass { plan: &plan, offset: 0, mask: attention::Mask::Causal { offset: 0 } };
    let (mut steps, mut peak_bytes) = (Vec::new(), 0);
    for turn in 0..WARM_UP + count {
        if turn == WARM_UP {
            reset_peak(device).map_err(|error| Failure::config(error.to_string()))?;
        }
        let mut clock = Clock::new(device);
        let (inputs, targets) = tokens(model, batch, length, turn as u64);
        let data = clock.lap();
        let loss = summed_loss(model, &model.hidden(&inputs, &pass, None)?, &targets)? / (batch * length) as f64;
        let forward = clock.lap();
        // Where gradients are used in the backward pass, the optimizer's time is part of that.
        let in_backward = model.memory.gradients == Gradients::InBackward;
        match in_backward {
            true => drop(optimizer.step_in_backward(&loss, RATE, Some(1.0))?),
            false => loss.f_backward()?,
        }
        let backward = clock.lap();
        if !in_backward {
            let norm = optimizer.gradient_norm()?;
            optimizer.step(RATE, clip_factor(norm, Some(1.0)))?;
        }
        let optimizer = clock.lap();
        if turn >= WARM_UP {
            steps.push(Shares { data, forward, backward, optimizer });
            peak_bytes = usage(device).map_err(|error| Failure::config(error.to_string()))?.peak;
        }
    }
    Ok(Measured { steps, peak_bytes })
}

/// Seconds between calls, the device's work included.
struct Clock {
    device: Device,
    last: Instant,
}

impl Clock {
    fn new(device: Device) -> Self {
        Self { device, last: Instant::now() }
    }

    fn lap(&mut self) -> f64 {
        settle(self.device);
        std::mem::replace(&mut self.last, Instant::now()).elapsed().as_secs_f64()
    }
}

/// Inputs and targets `[batch, length]`, other ones each turn.
fn tokens(model: &Llama, batch: usize, length: usize, turn: u64) -> (Tensor, Tensor) {
    let rng = CounterRng::new(turn).stream("bench");
    let count = (batch * (length + 1)) as u64;
    let ids: Vec<i64> = (0..count).map(|i| rng.below(i, model.config.vocab as u64) as i64).collect();
    let ids = Tensor::from_slice(&ids).view([batch as i64, length as i64 + 1]).to_device(model.embedding.device());
    (ids.narrow(1, 0, length as i64), ids.narrow(1, 1, length as i64))
}

/// Arithmetic of a token in a step: three times the forward pass, attention counted causally, the embedding not at all.
fn counted_flops(config: &ModelConfig, length: usize) -> f64 {
    let footprint = Footprint::of(config, Kind::Float);
    let products = footprint.layers * footprint.block_weights() + footprint.vocab * footprint.hidden;
    let attention = footprint.layers * footprint.queries * (length as u64 + 1);
    3.0 * (2.0 * products as f64 + 2.0 * attention as f64)
}

/// Bytes of tensors at most: weights, the optimizer's state, and what a pass and its gradients take.
fn predicted(model: &Llama, tokens: usize) -> u64 {
    let (kind, device, memory) = (model.embedding.kind(), model.embedding.device(), &model.memory);
    let footprint = Footprint::of(&model.config, kind);
    let parameters = model.parameters();
    let sizes: Vec<(&str, u64)> = parameters.iter().map(|(name, t)| (name.as_str(), t.numel() as u64)).collect();
    let weights: u64 = sizes.iter().map(|(_, numel)| footprint.width * numel).sum();
    let state: u64 = sizes.iter().map(|&(_, numel)| AdamW::state_bytes(kind, numel, memory)).sum();
    let gradients = AdamW::gradient_bytes(kind, &sizes, 1, model.config.tied, memory);
    weights + state + footprint.peak(memory, tokens as u64, device, gradients)
}

/// A policy in words: `attention,offload=true`.
fn policy(text: &str) -> Result<Memory, Failure> {
    let line = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or(("activations", part));
        match value.parse::<bool>().is_ok() || value.parse::<u64>().is_ok() {
            true => format!("{key} = {value}"),
            false => format!("{key} = {value:?}"),
        }
    };
    let lines: Vec<String> = text.split(',').filter(|part| !part.is_empty()).map(line).collect();
    toml::from_str(&lines.join("\n")).map_err(|error| {
        let message = error.message().lines().next().unwrap_or("it cannot be read");
        Failure::config(format!("--policy {text}: {message}"))
    })
}

fn shown(row: &Row) -> Result<(), Failure> {
    let shares = row.shares.list().map(|(name, share)| format!("{name} {:.0} %", 100.0 * share)).join(", ");
    let mfu = row.mfu_causal.map_or_else(String::new, |mfu| format!(", {:.0} % of peak", 100.0 * mfu));
    let gib = |bytes: f64| bytes / f64::from(1 << 30);
    print(&format!(
        "{} on {}, {} x {} tokens: {:.0} tokens/s ({:.0} ms a step{mfu}; {} threads)\n{shares}\nat most {:.3} GiB of \
         tensors, predicted {:.3}\n",
        row.model,
        row.device,
        row.batch,
        row.length,
        row.tokens_per_second,
        1e3 * row.step_seconds,
        row.threads,
        gib(row.peak_bytes as f64),
        gib(row.predicted_peak_bytes as f64),
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Activations, OptimizerState};
    use crate::model::known_shape;

    #[test]
    fn a_policy_in_words_is_that_of_a_recipe() {
        let memory = policy("attention,offload=true,mlp_tokens=4096,optimizer=int8").unwrap();
        let expected = Memory {
            activations: Activations::Attention,
            offload: true,
            mlp_tokens: 4096,
            optimizer: OptimizerState::Int8,
            ..Memory::default()
        };
        assert_eq!((memory, policy("all").unwrap()), (expected, Memory::default()));
        for (wrong, word) in
            [("everything", "everything"), ("attention,ofload=true", "ofload"), ("offload=7", "offload=7")]
        {
            let error = policy(wrong).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn arithmetic_is_counted_as_published_for_llama_2_7b() {
        // 3 (13.214 G + 8.59 G) at 32K.
        let config = known_shape("llama-2-7b").unwrap().unwrap();
        assert!((counted_flops(&config, 32_768) / 65.4e9 - 1.0).abs() < 2e-3);
    }
}
