//! Cosine and sine of every position and pair.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::error::PositionError;
use crate::real::Real;
use crate::scaling::Frequencies;

/// Which channels form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// Channel `i` with channel `i + rotary_dim / 2` (Hugging Face LLaMA).
    HalfSplit,
    /// Channel `2i` with channel `2i + 1` (the RoPE paper, GPT-J, ChatGLM2).
    Interleaved,
}

/// Where rounding happens between a frequency and its cosine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// Frequencies, phases (`position * frequency`) and the attention factor's product in f32, in the order of
    /// transformers: what published models were trained with. The phase error at 32,768 tokens is about 1e-3.
    HubCompatible,
    /// Everything in f64, rounded to f32 once, at the end.
    Exact,
}

/// Cosine and sine for a range of positions, attention factor multiplied in.
///
/// Both arrays are laid out `[positions, pairs]` whatever the [`Pairing`], which only says how to apply them.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    positions: Range<usize>,
    pairs: usize,
    pairing: Pairing,
    precision: Precision,
}

impl RotaryTable {
    /// Tabulates `frequencies` at every position of `positions`.
    ///
    /// With [`Precision::HubCompatible`], frequencies are rounded to f32 first; those of
    /// [`RopeScaling::frequencies_in`](crate::RopeScaling::frequencies_in) are f32 values already.
    pub fn new(frequencies: &Frequencies, positions: Range<usize>, pairing: Pairing, precision: Precision) -> Self {
        let pairs = frequencies.inv_freq.len();
        let (cos, sin) = match precision {
            Precision::HubCompatible => tabulate(frequencies, positions.clone(), hub_row),
            Precision::Exact => tabulate(frequencies, positions.clone(), exact_row),
        };
        Self { cos, sin, positions, pairs, pairing, precision }
    }

    /// Cosines, `[positions, pairs]`.
    pub fn cos(&self) -> &[f32] {
        &self.cos
    }

    /// Sines, `[positions, pairs]`.
    pub fn sin(&self) -> &[f32] {
        &self.sin
    }

    /// The positions held.
    pub fn positions(&self) -> Range<usize> {
        self.positions.clone()
    }

    /// Rotated pairs, `rotary_dim / 2`.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// How the table is to be applied.
    pub fn pairing(&self) -> Pairing {
        self.pairing
    }

    /// How the table was computed.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Cosines and sines of one position, `[pairs]` each.
    ///
    /// # Errors
    ///
    /// [`PositionError::OutsideTable`]; a position is never wrapped.
    pub fn row(&self, position: usize) -> Result<(&[f32], &[f32]), PositionError> {
        if !self.positions.contains(&position) {
            let Range { start, end } = self.positions;
            return Err(PositionError::OutsideTable { position, start, end });
        }
        let first = (position - self.positions.start) * self.pairs;
        let row = first..first + self.pairs;
        Ok((&self.cos[row.clone()], &self.sin[row]))
    }
}

/// Cosine and sine of one phase: position, frequency, attention factor.
type PhaseOf = fn(usize, f64, f64) -> (f32, f32);

fn tabulate(frequencies: &Frequencies, positions: Range<usize>, phase: PhaseOf) -> (Vec<f32>, Vec<f32>) {
    let entry = |position| {
        let frequencies = &frequencies;
        frequencies.at(position).iter().map(move |&frequency| phase(position, frequency, frequencies.attention_factor))
    };
    positions.flat_map(entry).unzip()
}

fn hub_row(position: usize, frequency: f64, attention_factor: f64) -> (f32, f32) {
    let phase = f32::count(position) * f32::of(frequency);
    // Cosine through f64: PyTorch's own f32 cosine is within one unit in the last place of it.
    let (sin, cos) = f64::from(phase).sin_cos();
    (f32::of(cos) * f32::of(attention_factor), f32::of(sin) * f32::of(attention_factor))
}

fn exact_row(position: usize, frequency: f64, attention_factor: f64) -> (f32, f32) {
    let (sin, cos) = (f64::count(position) * frequency).sin_cos();
    (f32::of(cos * attention_factor), f32::of(sin * attention_factor))
}
