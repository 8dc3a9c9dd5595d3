//! From folders of text to batches of tokens.

pub mod bpe;
pub mod rng;
