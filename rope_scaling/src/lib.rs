//! Position encodings of long-context models: RoPE scaling schemes, rotary tables, ALiBi, Hugging Face configs.
//!
//! The mathematics only: no tensor library and no files. A [`RopeGeometry`] says what is rotated, a [`RopeScaling`]
//! how its frequencies are stretched, and both together answer one question, [`Frequencies`]: one angle per token
//! for each pair of channels, and the factor on cosine and sine. [`PositionEncoding`] adds ALiBi and yields the
//! [`PositionPlan`] that a model needs at one length. [`hf`] reads all this from a `config.json` and writes it back.
//!
//! Notation of the module docs: `d` rotary channels, pair index `i` in `0..d/2`, base `theta`, `f[i] = theta^(-2i/d)`
//! the unscaled frequency, `s` the factor, `L0` the original context, `L` the length in use.
//!
//! ```
//! use rope_scaling::{PositionEncoding, Precision, RopeGeometry, RopeScaling};
//!
//! let geometry = RopeGeometry::new(128, 128, 10_000.0, 4096)?;
//! let encoding = PositionEncoding::Rope { geometry, scaling: RopeScaling::Linear { factor: 4.0 } };
//! let plan = encoding.plan(16_384, Precision::HubCompatible)?;
//! let (cos, sin) = plan.rotary().unwrap().row(16_383)?;
//! assert_eq!((cos.len(), sin.len()), (64, 64));
//! assert!(plan.rotary().unwrap().row(16_384).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod alibi;
mod describe;
mod encoding;
mod error;
mod fingerprint;
mod geometry;
pub mod hf;
mod real;
mod rotate;
mod scaling;
mod schemes;
mod table;

pub use alibi::AlibiScaling;
pub use describe::{Description, RampBounds, describe, describe_alibi};
pub use encoding::{MAX_POSITIONS, PositionEncoding, PositionPlan};
pub use error::{GeometryError, PositionError, ScalingError, ScalingProblem};
pub use geometry::RopeGeometry;
pub use rotate::rotated;
pub use scaling::{Frequencies, RopeScaling, StartFrequencies};
pub use table::{Pairing, Precision, RotaryTable};
