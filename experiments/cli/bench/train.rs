//! Tokens per second, memory and shares of time of training steps.

mod words;

use std::time::Instant;

use clap::Args;
use rope_scaling::Precision;
use serde::Serialize;
use tch::{Device, Kind, Tensor};
use torch_ext::memory::{reset_peak, usage};

use super::super::options::ModelOptions;
use super::super::output::{print, print_json};
use super::{drawn, settle};
use crate::config::{Adapter, Base, Gradients, Memory, Stage};
use crate::data::rng::CounterRng;
use crate::error::{Failure, FailureKind};
use crate::model::peft::BaseModel;
use crate::model::{Llama, Pass};
use crate::plan::{Card, Sizes, StepMemory, counted_flops};
use crate::train::{AdamConfig, AdamW, Decayed, Keeping, Shard, adapter_account, clip_factor, summed_loss};

/// Steps that are not timed.
const WARM_UP: usize = 2;

/// A learning rate so small that the weights stay where they are, however long the bench runs.
const RATE: f64 = 1e-12;

/// Seed of adapters, of what they drop, and of bits that round.
const SEED: u64 = 1;

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
    /// Train adapters and not the model: `lora` (rank 8 on attention's projections, embedding and norms whole) or `qlora` (rank
    /// 64 on every projection, the base in NF4), and keys of a recipe's `[adapter]`, as in `lora,also=norms,targets=q_proj+v_proj`
    #[arg(long, value_name = "ADAPTER")]
    adapter: Option<String>,
    /// Rank of the adapters
    #[arg(long, value_name = "N", requires = "adapter")]
    rank: Option<usize>,
    /// Fewest tokens per second that must be reached, else this ends with 1
    #[arg(long, value_name = "TOKENS")]
    bar: Option<u64>,
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
    /// None where every parameter is trained.
    adapter: Option<Adapter>,
    trained_parameters: u64,
    device: String,
    dtype: &'static str,
    backend: String,
    tokens_per_second: f64,
    /// Seconds of a step, the median.
    step_seconds: f64,
    seconds_least: f64,
    /// Arithmetic of the model, attention counted causally and nothing computed again, over the device's peak.
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
    /// When the model cannot be had, a policy or an adapter is unknown, memory runs out, or speed is below the bar.
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.steps == 0 || self.batch == 0 || self.context == 0 {
            return Err(Failure::config("--steps, --batch and --context must be at least 1"));
        }
        let memory = words::memory(&self.policy)?;
        let adapter = self.adapter.as_deref().map(|text| words::adapter(text, self.rank)).transpose()?;
        // Tensors are counted from the first question on.
        usage(Device::Cpu).map_err(|error| Failure::config(error.to_string()))?;
        let mut model = self.loaded(adapter.as_ref())?;
        model.memory = memory;
        for (_, parameter) in model.trained() {
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
        let card = Card::at(device);
        let sizes = self.sizes(&model, &card);
        let stage = Stage::plain(self.context, self.batch, self.steps as u64);
        let flops = counted_flops(&sizes, self.context) * tokens;
        let row = Row {
            case: "train",
            model: self.name().to_owned(),
            batch: self.batch,
            length: self.context,
            policy: memory,
            adapter: model.adapter.as_ref().map(|it| it.config.clone()),
            trained_parameters: sizes.trained_parameters(),
            device: crate::runtime::device::device_name(device),
            dtype: crate::runtime::device::kind_name(kind),
            backend: model.attention_choice(self.context).map_or("none".into(), |it| it.backend.name().to_owned()),
            tokens_per_second: tokens / median,
            step_seconds: median,
            seconds_least: seconds[0],
            mfu_causal: self.peak_flops(device, kind).map(|peak| flops / median / peak),
            peak_bytes: measured.peak_bytes,
            predicted_peak_bytes: StepMemory::new(&sizes, &memory, &stage, &card).peak().categories.tensors(),
            shares: whole.over(whole.total()),
            repeats: seconds.len(),
            threads: tch::get_num_threads(),
        };
        if self.json { print_json(&[&row]) } else { shown(&row, &model) }?;
        match self.bar {
            Some(bar) if row.tokens_per_second < bar as f64 => {
                let message = format!("{:.0} tokens/s, below the bar of {bar}", row.tokens_per_second);
                Err(Failure::new(FailureKind::Threshold, message))
            }
            _ => Ok(()),
        }
    }

    fn name(&self) -> &str {
        self.model.as_deref().or(self.model_option.as_deref()).unwrap_or_default()
    }

    /// The model, with the adapters that are asked for.
    fn loaded(&self, adapter: Option<&Adapter>) -> Result<Llama, Failure> {
        let mut model = match self.random_weights {
            true => drawn(self.name(), &self.options, adapter.map_or(Base::Full, |it| it.base))?,
            false => self.options.load(self.name())?.llama,
        };
        if let Some(adapter) = adapter {
            let (base, device) =
                (BaseModel { name: self.name().to_owned(), fingerprint: None }, model.embedding.device());
            model.adapt(adapter, SEED, (base, device))?;
        }
        Ok(model)
    }

    /// What bytes and arithmetic of a step on a device follow from.
    fn sizes(&self, model: &Llama, card: &Card) -> Sizes {
        let (config, adapter) = (&model.config, model.adapter.as_ref().map(|it| &it.config));
        Sizes::new(config, model.embedding.kind(), adapter).under(&self.options.backend, config, (self.context, card))
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
    let keeping = Keeping { memory: model.memory, seed: SEED, shard: Shard::WHOLE };
    let mut optimizer = AdamW::keeping(config, keeping, model.trained())?;
    let plan = model.positions(&model.config.encoding().plan(length, Precision::HubCompatible)?);
    let pass = Pass { plan: &plan, offset: 0, mask: attention::Mask::Causal { offset: 0 } };
    let (mut steps, mut peak_bytes) = (Vec::new(), 0);
    for turn in 0..WARM_UP + count {
        if turn == WARM_UP {
            reset_peak(device).map_err(|error| Failure::config(error.to_string()))?;
        }
        if let Some(adapted) = &model.adapter {
            adapted.pass.set(turn as u64 + 1);
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

fn shown(row: &Row, model: &Llama) -> Result<(), Failure> {
    let shares = row.shares.list().map(|(name, share)| format!("{name} {:.0} %", 100.0 * share)).join(", ");
    let mfu = row.mfu_causal.map_or_else(String::new, |mfu| format!(", {:.0} % of peak", 100.0 * mfu));
    let adapter = row.adapter.as_ref().map_or_else(String::new, |it| adapter_account(it, &model.config));
    let gib = |bytes: f64| bytes / f64::from(1 << 30);
    print(&format!(
        "{} on {}, {} x {} tokens: {:.0} tokens/s ({:.0} ms a step{mfu}; {} threads)\n{adapter}{shares}\nat most {:.3} GiB of \
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
