//! Perplexity protocols, retrieval tasks, statistics and the report schema; knows models only through a trait.

mod error;
pub mod fakes;
pub mod haystack;
mod model;
pub mod report;
mod rng;
mod task;
pub mod tasks;

pub use error::{EvalError, TaskError};
pub use model::{LanguageModel, ModelError, Prefix, TextCodec, TokenScore};
pub use rng::{SplitMix64, mixed_seed};
pub use task::{Sample, Task};
pub use tasks::passkey;
