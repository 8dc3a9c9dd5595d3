//! `bowline bench`: how fast things are on this machine.

mod attention;
mod eval;
mod kernels;
mod loss;
mod optimizer;
mod peers;
mod score;
mod train;

use std::time::Instant;

use clap::{Args, Subcommand};
use tch::{Device, Kind};

use super::options::ModelOptions;
use crate::config::Base;
use crate::error::Failure;
use crate::model::{Llama, known_shape, read_config};

/// Measures speed on this machine.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Attention: every backend beside the best way that libtorch has for the same problem
    Attention(attention::AttentionBench),
    /// Scoring: one causal pass with the likelihood of every token
    Score(score::ScoreBench),
    /// Evaluation: curves, passkey grids and sliding windows beside the plain way to the same numbers
    Eval(eval::EvalBench),
    /// Kernels that move memory: norms, SwiGLU, cross-entropy, rotation and AdamW beside a copy
    Kernels(kernels::KernelsBench),
    /// The loss of a linear head: fused, without the logits of all tokens, beside the plain one
    Loss(loss::LossBench),
    /// Training: forward, backward and AdamW step of every parameter or of adapters; time, memory and what was predicted
    Train(train::TrainBench),
    /// The optimizer: a step under each policy of state beside float32 state
    Optimizer(optimizer::OptimizerBench),
}

impl Bench {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// When what is measured cannot be loaded or fails.
    pub fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Attention(bench) => bench.run(),
            What::Score(bench) => bench.run(),
            What::Eval(bench) => bench.run(),
            What::Kernels(bench) => bench.run(),
            What::Loss(bench) => bench.run(),
            What::Train(bench) => bench.run(),
            What::Optimizer(bench) => bench.run(),
        }
    }
}

/// A model of a known shape, or of a model's shape, with weights drawn on the device and the blocks' held as a base is;
/// bfloat16 where no type is asked for.
fn drawn(name: &str, options: &ModelOptions, base: Base) -> Result<Llama, Failure> {
    let config = match known_shape(name) {
        Some(config) => config?,
        None => read_config(&crate::hub::resolve(name)?.dir)?,
    };
    let options = options.load_options()?;
    let form = (options.kind.unwrap_or(Kind::BFloat16), options.device);
    Llama::new_drawn(config, options.backend, form, base)
}

/// Waits for what a CUDA device was given to do.
fn settle(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// Seconds of each timed run, sorted.
fn timed(warm_up: usize, repeats: usize, mut run: impl FnMut() -> Result<(), Failure>) -> Result<Vec<f64>, Failure> {
    if repeats == 0 {
        return Err(Failure::config("at least 1 repeat is needed"));
    }
    let mut seconds = Vec::with_capacity(repeats);
    for turn in 0..warm_up + repeats {
        let started = Instant::now();
        run()?;
        if turn >= warm_up {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}
