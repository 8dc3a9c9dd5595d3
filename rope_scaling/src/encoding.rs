//! A model's position encoding, and what it amounts to at one length.

use serde::Serialize;

use crate::alibi::{self, AlibiScaling};
use crate::error::PositionError;
use crate::fingerprint::Fingerprint;
use crate::geometry::RopeGeometry;
use crate::scaling::RopeScaling;
use crate::table::{Pairing, Precision, RotaryTable};

/// Longest length that can be planned: beyond it a position is no longer exact in f32.
pub const MAX_POSITIONS: usize = 1 << 24;

/// How a model knows where its tokens are.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PositionEncoding {
    /// Rotary embedding.
    Rope {
        /// What is rotated.
        geometry: RopeGeometry,
        /// How frequencies are stretched.
        scaling: RopeScaling,
    },
    /// Linear biases on the scores.
    Alibi {
        /// Query heads of the model.
        heads: u16,
        /// How slopes shrink beyond the trained context.
        scaling: AlibiScaling,
        /// Context of the pretraining, in tokens.
        original_context: usize,
    },
}

impl PositionEncoding {
    /// What the model needs for a total of `length` tokens, positions `0..length`.
    ///
    /// Tables pair channels as Hugging Face LLaMA does ([`Pairing::HalfSplit`]).
    ///
    /// # Errors
    ///
    /// A length of zero or above [`MAX_POSITIONS`], or parameters that cannot stand.
    pub fn plan(&self, length: usize, precision: Precision) -> Result<PositionPlan, PositionError> {
        if length == 0 || length > MAX_POSITIONS {
            return Err(PositionError::Length { length, limit: MAX_POSITIONS });
        }
        match self {
            Self::Rope { geometry, scaling } => plan_rope(geometry, scaling, length, precision),
            Self::Alibi { heads, scaling, .. } => plan_alibi(*heads, scaling, length),
        }
    }

    /// Whether the same position may be encoded differently at another length.
    pub fn depends_on_length(&self) -> bool {
        match self {
            Self::Rope { scaling, .. } => scaling.depends_on_length(),
            Self::Alibi { scaling, .. } => scaling.depends_on_length(),
        }
    }

    /// Context of the pretraining, in tokens.
    pub fn original_context(&self) -> usize {
        match self {
            Self::Rope { geometry, .. } => geometry.original_context(),
            Self::Alibi { original_context, .. } => *original_context,
        }
    }

    /// The scheme's name in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rope { scaling, .. } => scaling.name(),
            Self::Alibi { scaling, .. } => scaling.name(),
        }
    }
}

/// What a model needs at one length.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionPlan {
    rotary: Option<RotaryTable>,
    alibi_slopes: Option<Vec<f64>>,
    length: usize,
    fingerprint: u64,
}

impl PositionPlan {
    /// Cosine and sine of positions `0..length`, for rotary encodings.
    pub fn rotary(&self) -> Option<&RotaryTable> {
        self.rotary.as_ref()
    }

    /// Slope of each query head, already scaled, for ALiBi.
    pub fn alibi_slopes(&self) -> Option<&[f64]> {
        self.alibi_slopes.as_deref()
    }

    /// Factor on the scores besides the model's own scale. Always 1 today: the temperatures of YaRN and LongRoPE sit
    /// in the table, where transformers puts them too.
    pub fn score_factor(&self) -> f64 {
        1.0
    }

    /// The total length planned for, in tokens.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Equal for two plans exactly when both encode every position the same way.
    ///
    /// It does not depend on the length by itself: plans for 100 and 200 tokens agree unless the scheme's frequencies or
    /// slopes differ between the two. Keys cached under one fingerprint must not be used under another.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

fn plan_rope(
    geometry: &RopeGeometry,
    scaling: &RopeScaling,
    length: usize,
    precision: Precision,
) -> Result<PositionPlan, PositionError> {
    scaling.validate(geometry)?;
    let frequencies = scaling.frequencies_in(geometry, length, precision);
    let fingerprint = Fingerprint::new(1)
        .word(match precision {
            Precision::HubCompatible => 0,
            Precision::Exact => 1,
        })
        .numbers(&frequencies.inv_freq)
        .numbers(&[frequencies.attention_factor]);
    let fingerprint = match &frequencies.start {
        Some(start) => fingerprint.word(start.tokens as u64).numbers(&start.inv_freq),
        None => fingerprint,
    };
    let fingerprint = fingerprint.finish();
    let table = RotaryTable::new(&frequencies, 0..length, Pairing::HalfSplit, precision);
    Ok(PositionPlan { rotary: Some(table), alibi_slopes: None, length, fingerprint })
}

fn plan_alibi(heads: u16, scaling: &AlibiScaling, length: usize) -> Result<PositionPlan, PositionError> {
    let slopes = alibi::scaled_slopes(heads, scaling, length)?;
    let fingerprint = Fingerprint::new(2).numbers(&slopes).finish();
    Ok(PositionPlan { rotary: None, alibi_slopes: Some(slopes), length, fingerprint })
}
