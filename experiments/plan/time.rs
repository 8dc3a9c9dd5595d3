//! Seconds of a step by phase: the arithmetic and the bytes of each over the rate that such work reaches on the device.

use serde::Serialize;

use super::card::Card;
use super::sizes::Sizes;
use crate::config::{Activations, Memory, OptimizerState, Stage};
use crate::model::Footprint;

/// A part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Phase {
    /// Which.
    pub name: &'static str,
    /// Seconds of a step at the rates of the device.
    pub seconds: f64,
}

/// Times that a backward pass of attention takes the products of a forward pass: scores once more, and four gradients.
const ATTENTION_BACKWARD: f64 = 2.5;

/// Times that bytes go through memory where libtorch runs each operation on its own, in units of fused kernels.
const UNFUSED: f64 = 3.5;

/// The phases of a step of `stage`, at the rates of `card`.
pub fn phases(sizes: &Sizes, memory: &Memory, stage: &Stage, card: &Card) -> Vec<Phase> {
    let tokens = stage.step_tokens() as f64;
    let passes = (stage.batch / stage.micro().max(1)) as f64;
    let length = stage.attended() as f64;
    let matrix = |flops: f64| flops / card.matrix_flops;
    let forward = matrix(2.0 * sizes.multiplied() as f64 * tokens);
    let weights = matrix(2.0 * sizes.multiplied_and_trained() as f64 * tokens);
    // The last product of the MLP is never computed again: no derivative reads what comes of it.
    let again = matrix(2.0 * (sizes.block_matrices - last_products(sizes)) as f64 * tokens);
    let (rate, rate_back) = card.attention_flops(length);
    // A query sees (length + 1) / 2 keys on average.
    let scores = 2.0 * score_width(sizes) * (length + 1.0) * tokens;
    let recomputes = matches!(memory.activations, Activations::Attention | Activations::Layers);
    let all = memory.activations == Activations::Layers;
    let mut phases = vec![
        Phase { name: "matrix products forward", seconds: forward },
        Phase { name: "matrix products backward", seconds: forward + weights },
        Phase { name: "attention forward", seconds: scores / rate },
        Phase { name: "attention backward", seconds: ATTENTION_BACKWARD * scores / rate_back },
        Phase { name: "matrix products again", seconds: if recomputes { again } else { 0.0 } },
        Phase { name: "attention again", seconds: if all { scores / rate } else { 0.0 } },
        Phase { name: "element by element", seconds: elementwise_bytes(sizes, memory) * tokens / card.copy_bytes },
        Phase { name: "dequantisation", seconds: passes * dequantised_bytes(sizes, memory) / card.copy_bytes },
        Phase { name: "optimizer", seconds: update_bytes(sizes, memory) / card.copy_bytes },
        Phase { name: "optimizer state over the link", seconds: moved_state(sizes, memory) / card.link_bytes },
    ];
    let hidden: f64 = phases.iter().map(|phase| phase.seconds).sum();
    let moved = (2 * sizes.footprint.layers * sizes.footprint.parked(memory)) as f64 * tokens;
    // Copied beside the arithmetic; only what outlasts it is waited for.
    phases.push(Phase { name: "offload beyond the rest", seconds: (moved / card.link_bytes - hidden).max(0.0) });
    phases.retain(|phase| phase.seconds > 0.0);
    phases
}

/// Parameters of the products that end the MLPs.
fn last_products(sizes: &Sizes) -> u64 {
    sizes.footprint.layers * sizes.footprint.hidden * sizes.footprint.inner
}

/// Numbers of all queries of a token: what each key that it sees is multiplied with.
fn score_width(sizes: &Sizes) -> f64 {
    (sizes.footprint.layers * sizes.footprint.queries) as f64
}

/// Bytes of a token through all blocks for norms with residuals (16d), rotation (8d) and SwiGLU (6f), in 16 bits: forward,
/// twice as many backward, and once more for what is computed again.
fn elementwise_bytes(sizes: &Sizes, memory: &Memory) -> f64 {
    let Footprint { layers, hidden, inner, width, .. } = sizes.footprint;
    let forward = layers * width * (12 * hidden + 3 * inner);
    let times = if memory.activations == Activations::All { 3.0 } else { 4.0 };
    UNFUSED * times * forward as f64
}

/// Bytes read and written to have NF4 matrices in 16 bits, in each direction of a pass.
fn dequantised_bytes(sizes: &Sizes, memory: &Memory) -> f64 {
    let again = if matches!(memory.activations, Activations::Attention | Activations::Layers) { 1.0 } else { 0.0 };
    (2.0 + again) * 4.5 * sizes.quantised as f64
}

/// Bytes that an update of everything trained reads and writes.
fn update_bytes(sizes: &Sizes, memory: &Memory) -> f64 {
    let width = sizes.width() as f64;
    // State and weights are read and written, gradients read.
    let each = match memory.optimizer {
        OptimizerState::Mixed => 28.0,
        OptimizerState::Bfloat16 => 8.0 + 3.0 * width,
        OptimizerState::Int8 => 4.0 + 3.0 * width,
    };
    each * sizes.trained_parameters() as f64
}

/// Bytes of optimizer state that cross the link, there and back.
fn moved_state(sizes: &Sizes, memory: &Memory) -> f64 {
    if memory.optimizer_on_host { 2.0 * super::memory::optimizer_bytes(sizes, memory) as f64 } else { 0.0 }
}

/// Arithmetic of a token that counts towards MFU: the forward pass, and as much for gradients by what is read and again for
/// those by weights, of those that are trained; attention counted causally, three times; nothing for what is computed again.
pub fn counted_flops(sizes: &Sizes, length: usize) -> f64 {
    let products = 2 * sizes.multiplied() + sizes.multiplied_and_trained();
    2.0 * products as f64 + 3.0 * 2.0 * score_width(sizes) * length as f64
}
