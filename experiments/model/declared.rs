//! Positions as a model's config declares them: rotary, or ALiBi.

use rope_scaling::hf::{HfAlibi, HfPositions};
use rope_scaling::{Description, PositionEncoding};
use serde_json::{Map, Value};

use crate::error::Failure;

/// Positions as a config declares them.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// Rotary embedding.
    Rope(HfPositions),
    /// Linear biases on the scores.
    Alibi(HfAlibi),
}

impl Positions {
    /// The encoding as the core wants it.
    pub fn encoding(&self) -> PositionEncoding {
        match self {
            Self::Rope(rope) => rope.encoding(),
            Self::Alibi(alibi) => alibi.encoding(),
        }
    }

    /// The longest context that the model claims, in tokens.
    pub fn context(&self) -> usize {
        match self {
            Self::Rope(rope) => rope.max_position_embeddings,
            Self::Alibi(alibi) => alibi.max_position_embeddings,
        }
    }

    /// What is rotated.
    ///
    /// # Errors
    ///
    /// When nothing is; `what` needs it.
    pub fn rope(&self, what: &str) -> Result<&HfPositions, Failure> {
        match self {
            Self::Rope(rope) => Ok(rope),
            Self::Alibi(_) => Err(Failure::config(format!("{what}: needs rotary positions, and the model has ALiBi"))),
        }
    }

    /// What they amount to at `context` tokens, the claimed context when not given.
    pub fn describe(&self, context: Option<usize>) -> Description {
        match self {
            Self::Rope(rope) => rope_scaling::describe(rope, context),
            Self::Alibi(alibi) => rope_scaling::describe_alibi(alibi, context),
        }
    }

    /// Replaces the position keys of a config by those that say the same as this.
    pub fn merge_into(&self, config: &mut Map<String, Value>) {
        match self {
            Self::Rope(rope) => rope.merge_into(config),
            Self::Alibi(alibi) => alibi.merge_into(config),
        }
    }
}
