//! Perplexity protocols, retrieval tasks, statistics and the report schema; knows models only through a trait.

mod model;
pub mod report;

pub use model::{LanguageModel, ModelError, Prefix, TextCodec, TokenScore};
