//! LongRoPE's search for divisors (Ding et al. 2024, arXiv 2402.13753, section 3.2 and algorithm 1).
//!
//! A divisor for every rotated pair, and how many first tokens keep unscaled positions, are found by evolution: the first
//! generation is PI, NTK and YaRN with mutations of the three, later ones are mutations and crossovers of the best seen so
//! far; the loss of a few long documents at the target length decides. Divisors never fall from one pair to the next (the
//! paper's constraint), which mutation and crossover keep by construction instead of by drawing again.
//!
//! Every child has a random stream of its own, named by generation and place, and every measured individual is a line of a
//! file. So a search that was interrupted goes on where it stopped and ends with the same bits, and one of 20 generations is
//! the beginning of one of 40.

mod evolution;
mod history;
mod individual;

pub use evolution::{Evolution, Found, Place, Settings};
pub use history::{History, Measured};
pub use individual::{Individual, START_TOKENS, Space};

use eval::EvalError;
use eval::protocols::short_text::document_losses;
use rope_scaling::hf::{Extension, HfPositions, LongRopeFactors, Reach, extend};
use rope_scaling::{PositionEncoding, RopeScaling};

use crate::error::{Failure, FailureKind};
use crate::evaluate::{Documents, failure};
use crate::model::{ModelFolder, Reader};
use crate::runtime::signals::StopFlag;

/// What a search looks for: divisors with which `model` reads `target` tokens.
#[derive(Debug)]
pub struct Goal<'a> {
    /// The model, not extended.
    pub model: &'a ModelFolder,
    /// Its positions.
    pub positions: &'a HfPositions,
    /// Tokens of the longer context.
    pub target: usize,
    /// Factor on cosine and sine; none: LongRoPE's own rule.
    pub attention_factor: Option<f64>,
    /// Whether a stop was asked for.
    pub stop: &'a StopFlag,
}

impl Goal<'_> {
    /// Longer context over the model's.
    pub fn factor(&self) -> f64 {
        self.target as f64 / self.positions.max_position_embeddings as f64
    }

    /// The individuals that stand for PI, NTK and YaRN: their frequencies as divisors.
    ///
    /// # Errors
    ///
    /// When the model is extended already, or the target is not longer than its context.
    pub fn known(&self) -> Result<Vec<(&'static str, Individual)>, Failure> {
        if self.factor() <= 1.0 {
            return Err(Failure::config(format!(
                "--target {}: must be longer than the model's context of {} tokens",
                self.target, self.positions.max_position_embeddings
            )));
        }
        let plain = RopeScaling::None.frequencies(&self.positions.geometry, 1).inv_freq;
        let divisors = |extension: Extension| -> Result<Individual, Failure> {
            let extended = self.extended(extension)?;
            let scaled = extended.scaling.frequencies(&extended.geometry, self.target).inv_freq;
            Ok(Individual {
                divisors: plain.iter().zip(scaled).map(|(p, s)| (p / s).max(1.0)).collect(),
                start_tokens: 0,
            })
        };
        Ok(vec![
            ("pi", divisors(Extension::Linear)?),
            ("ntk", divisors(Extension::Ntk)?),
            ("yarn", divisors(Extension::Yarn)?),
        ])
    }

    fn extended(&self, extension: Extension) -> Result<HfPositions, Failure> {
        extend(self.positions, &extension, Reach::Factor(self.factor()))
            .map_err(|error| Failure::config(format!("{}: {error}", extension.name())))
    }

    /// What a file says of an individual; the attention factor is written out.
    ///
    /// # Errors
    ///
    /// When the divisors do not fit the model.
    pub fn factors(&self, individual: &Individual) -> Result<LongRopeFactors, Failure> {
        let original = self.positions.max_position_embeddings;
        let mut factors = LongRopeFactors {
            short: Some(vec![1.0; individual.divisors.len()]),
            long: individual.divisors.clone(),
            factor: Some(self.factor()),
            attention_factor: self.attention_factor,
            start_tokens: individual.start_tokens,
            original_context: Some(original),
        };
        let extended = self.extended(Extension::LongRope(factors.clone()))?;
        let settled = extended.scaling.frequencies(&extended.geometry, self.target).attention_factor;
        factors.attention_factor = Some(settled);
        Ok(factors)
    }

    /// Mean loss of an individual over the first `target` tokens of `documents`, in nats per token.
    ///
    /// # Errors
    ///
    /// When the model fails or no document is long enough; exit code 5 when a signal stopped it.
    pub fn loss(&self, individual: &Individual, documents: &Documents) -> Result<f64, Failure> {
        self.loss_under(Extension::LongRope(self.factors(individual)?), documents)
    }

    /// The same under any change of positions by the goal's factor.
    ///
    /// # Errors
    ///
    /// As [`Goal::loss`].
    pub fn loss_under(&self, extension: Extension, documents: &Documents) -> Result<f64, Failure> {
        let HfPositions { geometry, scaling, .. } = self.extended(extension)?;
        let encoding = PositionEncoding::Rope { geometry, scaling };
        let reader = Reader::new(&self.model.llama, encoding, self.model.precision);
        let mut monitor = eval::Monitor::silent().with_interrupt(self.stop.atomic());
        let losses = document_losses(&reader, &documents.tokens, self.target, &mut monitor).map_err(stopped)?;
        let (sum, tokens) = losses.iter().fold((0.0, 0), |(sum, tokens), loss| (sum + loss.nll, tokens + loss.tokens));
        Ok(sum / tokens as f64)
    }
}

/// An interruption with what to do about it.
fn stopped(error: EvalError) -> Failure {
    match error {
        EvalError::Interrupted { .. } => {
            Failure::new(FailureKind::Interrupted, "interrupted; what was measured is kept: go on with --resume")
        }
        other => failure(other),
    }
}
