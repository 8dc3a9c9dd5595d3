//! Seconds of an optimizer step under each policy of state, beside float32 state.

use std::time::Instant;

use clap::Args;
use serde::Serialize;
use tch::{Kind, Tensor};

use super::super::output::{print, print_json};
use super::settle;
use crate::config::{Gradients, Memory, OptimizerState};
use crate::error::Failure;
use crate::runtime::device::device;
use crate::train::{AdamConfig, AdamW, Decayed, Keeping, Shard};

/// The optimizer.
#[derive(Debug, Args)]
pub(super) struct OptimizerBench {
    /// Millions of numbers that are moved
    #[arg(long, default_value_t = 32)]
    millions: i64,
    /// Timed steps of each policy, after one that is not
    #[arg(long, default_value_t = 7)]
    repeats: usize,
    /// `cpu`, `cuda` or `cuda:N`; by itself the fastest that is there
    #[arg(long)]
    device: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One measurement.
#[derive(Debug, Serialize)]
struct Row {
    optimizer: OptimizerState,
    weights: &'static str,
    state_bytes_per_number: f64,
    seconds_median: f64,
    seconds_least: f64,
    /// Over the median of float32 state on the same weights.
    ratio: f64,
}

/// Numbers of a matrix of the bench.
const MATRIX: [i64; 2] = [1000, 1000];

impl OptimizerBench {
    /// Measures and prints.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.millions < 1 || self.repeats < 1 {
            let (millions, repeats) = (self.millions, self.repeats);
            return Err(Failure::config(format!(
                "--millions and --repeats: at least 1 each, are {millions} and {repeats}"
            )));
        }
        let mut rows: Vec<Row> = Vec::new();
        for kind in [Kind::Float, Kind::BFloat16] {
            let plain = self.row(kind, OptimizerState::Mixed, None)?;
            let median = plain.seconds_median;
            rows.push(plain);
            for optimizer in [OptimizerState::Bfloat16, OptimizerState::Int8] {
                rows.push(self.row(kind, optimizer, Some(median))?);
            }
        }
        if self.json {
            return print_json(&rows);
        }
        for row in rows {
            let Row { optimizer, weights, state_bytes_per_number, seconds_median, ratio, .. } = row;
            let name = format!("{optimizer:?}").to_lowercase();
            print(&format!(
                "{weights} weights, {name} state ({state_bytes_per_number:.2} bytes a number): {:.1} ms a step, {ratio:.2} \
                 of mixed\n",
                seconds_median * 1e3
            ));
        }
        Ok(())
    }

    fn row(&self, kind: Kind, optimizer: OptimizerState, plain: Option<f64>) -> Result<Row, Failure> {
        let device = device(self.device.as_deref())?;
        let made = |_| Ok::<_, Failure>(Tensor::f_randn(MATRIX, (Kind::Float, device))?.f_to_kind(kind)?);
        let matrices: Vec<Tensor> = (0..self.millions).map(made).collect::<Result<_, _>>()?;
        let parameters: Vec<Tensor> = matrices.iter().map(|matrix| (matrix * 0.02).set_requires_grad(true)).collect();
        let named = parameters.iter().enumerate().map(|(at, p)| (format!("model.layers.{at}.weight"), p)).collect();
        let memory = Memory { optimizer, gradients: Gradients::Kept, ..Memory::default() };
        let config =
            AdamConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decayed: Decayed::Matrices };
        let mut adam = AdamW::keeping(config, Keeping { memory, seed: 1, shard: Shard::WHOLE }, named)?;
        let bytes: u64 = adam.slots().iter().map(|slot| slot.bytes()).sum();
        let mut seconds = Vec::with_capacity(self.repeats);
        for turn in 0..=self.repeats {
            for (parameter, gradient) in parameters.iter().zip(&matrices) {
                (parameter * gradient).f_sum(kind)?.f_backward()?;
            }
            settle(device);
            let started = Instant::now();
            adam.step(1e-4, 0.5)?;
            settle(device);
            if turn > 0 {
                seconds.push(started.elapsed().as_secs_f64());
            }
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds[seconds.len() / 2];
        Ok(Row {
            optimizer,
            weights: crate::runtime::device::kind_name(kind),
            state_bytes_per_number: bytes as f64 / (self.millions * MATRIX[0] * MATRIX[1]) as f64,
            seconds_median: median,
            seconds_least: seconds[0],
            ratio: median / plain.unwrap_or(median),
        })
    }
}
