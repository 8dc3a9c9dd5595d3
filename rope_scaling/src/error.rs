//! What can be wrong with a geometry, a scheme or a position.

use std::fmt;

use crate::alibi::AlibiError;

/// Why a [`RopeGeometry`](crate::RopeGeometry) was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GeometryError {
    /// Channels are rotated in pairs.
    #[error("head size must be even and at least 2, got {head_dim}")]
    HeadDim {
        /// Channels of a head as given.
        head_dim: usize,
    },
    /// The rotated channels are a leading part of the head.
    #[error("rotary size must be even, at least 2 and at most the head size {head_dim}, got {rotary_dim}")]
    RotaryDim {
        /// Rotated channels as given.
        rotary_dim: usize,
        /// Channels of a head.
        head_dim: usize,
    },
    /// Frequencies are powers of the base.
    #[error("RoPE base must be finite and above 0, got {base}")]
    Base {
        /// Base as given.
        base: f64,
    },
    /// A model was trained on at least one token.
    #[error("original context must be at least 1 token, got {original_context}")]
    OriginalContext {
        /// Context as given, in tokens.
        original_context: usize,
    },
}

/// One parameter of a scheme that cannot stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalingProblem {
    /// The parameter, spelt as in a Hugging Face config.
    pub parameter: &'static str,
    /// Its value as text.
    pub value: String,
    /// What it must be, as one sentence part ("must be ...").
    pub reason: String,
}

impl fmt::Display for ScalingProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, got {}", self.parameter, self.reason, self.value)
    }
}

/// Every problem of one scheme's parameters, from [`RopeScaling::validate`](crate::RopeScaling::validate).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("RoPE scheme {scheme}: {}", joined(.problems))]
pub struct ScalingError {
    /// Name of the scheme.
    pub scheme: &'static str,
    /// At least one problem.
    pub problems: Vec<ScalingProblem>,
}

fn joined(problems: &[ScalingProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Why a plan, a table row or a rotation could not be given.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PositionError {
    /// The position lies outside the table; it is never wrapped or clamped.
    #[error("position {position} is outside the rotary table, which holds {start}..{end}")]
    OutsideTable {
        /// The position asked for.
        position: usize,
        /// First position held.
        start: usize,
        /// One past the last position held.
        end: usize,
    },
    /// A plan is for at least one token and at most [`MAX_POSITIONS`](crate::MAX_POSITIONS).
    #[error("a position plan needs a length of 1 to {limit} tokens, got {length}")]
    Length {
        /// The length asked for.
        length: usize,
        /// The longest length that can be planned.
        limit: usize,
    },
    /// A head vector is shorter than the channels to rotate.
    #[error("a head of {channels} channels cannot hold {pairs} rotated pairs")]
    HeadTooShort {
        /// Channels of the vector.
        channels: usize,
        /// Pairs to rotate.
        pairs: usize,
    },
    /// The scheme's parameters cannot stand.
    #[error(transparent)]
    Scaling(#[from] ScalingError),
    /// The ALiBi settings cannot stand.
    #[error(transparent)]
    Alibi(#[from] AlibiError),
}
