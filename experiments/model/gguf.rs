//! GGUF: one file that holds weights, mostly quantised, with their model's shape, positions and vocabulary.
//!
//! Layout (versions 2 and 3, little-endian): the letters `GGUF`, a version, the numbers of tensors and of metadata
//! pairs; the pairs; a table of tensors; then, from the next multiple of `general.alignment`, their data. Everything in it is
//! checked against the length of the file before it is used, counts by checked arithmetic, and what cannot be read here
//! without guessing is refused by name. Quantised tensors become float32, exactly: each weight is the one product and sum
//! that the format defines, rounded once.

mod bytes;
mod checkpoint;
mod config;
mod dequantise;
mod error;
mod header;
mod names;
mod reference;
mod rope;
mod types;
mod value;
mod vocabulary;

pub use checkpoint::GgufCheckpoint;
pub use config::{config_of, in_its_own_words};
pub use dequantise::dequantised;
pub use error::{GgufError, Problem};
pub use header::{Header, TensorPlace};
pub use reference::weight;
pub use types::TensorType;
pub use value::{Array, Scalar, Value};
pub use vocabulary::vocabulary;

/// The first four bytes of every file.
pub const MAGIC: [u8; 4] = *b"GGUF";
