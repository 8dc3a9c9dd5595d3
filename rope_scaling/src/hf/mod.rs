//! Positions in Hugging Face configs: every spelling in, both spellings out.
//!
//! ```
//! use rope_scaling::{RopeScaling, hf::from_hf};
//!
//! let config = serde_json::json!({
//!     "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 32768,
//!     "rope_scaling": {"type": "linear", "factor": 8.0},
//! });
//! let positions = from_hf(&config)?;
//! assert_eq!(positions.scaling, RopeScaling::Linear { factor: 8.0 });
//! assert_eq!(positions.geometry.original_context(), 4096);
//! let misspelt = serde_json::json!({
//!     "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 32768,
//!     "rope_scaling": {"type": "linaer", "factor": "8"},
//! });
//! assert_eq!(from_hf(&misspelt).unwrap_err().findings().len(), 2);
//! # Ok::<(), rope_scaling::hf::HfErrors>(())
//! ```

mod alibi;
mod declared;
mod extend;
mod factors;
mod fields;
mod finding;
mod read;
mod record;
mod suggest;
#[cfg(test)]
mod tests;
mod write;

use serde::Serialize;

use crate::encoding::PositionEncoding;
use crate::error::GeometryError;
use crate::geometry::RopeGeometry;
use crate::scaling::RopeScaling;

pub use alibi::{HfAlibi, alibi_from_hf};
pub use extend::{ExtendError, Extension, Reach, extend, original};
pub use factors::LongRopeFactors;
pub use finding::{Finding, HfErrors};
pub use read::from_hf;

/// The base that transformers assumes when a config names none.
pub const DEFAULT_BASE: f64 = 10_000.0;

/// Every top-level key of a config that speaks of rotary positions; an exporter removes them before it adds those of
/// [`HfPositions::to_hf`], as [`HfPositions::merge_into`] does.
pub const POSITION_KEYS: [&str; 8] = [
    "max_position_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rope_condense_ratio",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    record::KEY,
];

/// What a config says of rotary positions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HfPositions {
    /// What is rotated, with the original context.
    pub geometry: RopeGeometry,
    /// How frequencies are stretched.
    pub scaling: RopeScaling,
    /// The longest context the model claims, in tokens; the original context for dynamic NTK.
    pub max_position_embeddings: usize,
    /// The base of the pretraining, when the geometry's base was changed to extend the context (ABF).
    pub pretrained_base: Option<f64>,
    /// YaRN's `finetuned` key, kept as found.
    pub finetuned: Option<bool>,
    /// What a reader should know: defaults assumed, keys converted or ignored.
    pub notes: Vec<String>,
}

impl HfPositions {
    /// An unscaled model: whole heads of `head_dim` channels rotated with `base`, trained on `context` tokens.
    ///
    /// # Errors
    ///
    /// As [`RopeGeometry::new`].
    pub fn plain(head_dim: usize, base: f64, context: usize) -> Result<Self, GeometryError> {
        let geometry = RopeGeometry::new(head_dim, head_dim, base, context)?;
        Ok(Self {
            geometry,
            scaling: RopeScaling::None,
            max_position_embeddings: context,
            pretrained_base: None,
            finetuned: None,
            notes: Vec::new(),
        })
    }

    /// The encoding that these positions amount to.
    pub fn encoding(&self) -> PositionEncoding {
        PositionEncoding::Rope { geometry: self.geometry, scaling: self.scaling.clone() }
    }

    /// Whether the context was already extended: by a scheme, or by a base known to be changed.
    pub fn is_extended(&self) -> bool {
        self.scaling != RopeScaling::None || self.pretrained_base.is_some()
    }
}
