//! Perplexity protocols, retrieval tasks, statistics and the report schema; knows models only through a trait.
//!
//! Three doors: [`perplexity`] measures documents under a named [`Protocol`], [`retrieve`] runs a [`Task`] such as
//! [`passkey`] over lengths, depths and trials, and both give [`report::Row`]s for a [`report::Report`]. The model comes
//! in as a [`LanguageModel`], so nothing here needs a tensor library.

mod error;
pub mod fakes;
pub mod haystack;
pub mod metrics;
mod model;
mod monitor;
pub mod protocols;
pub mod report;
mod rng;
mod runner;
pub mod samples;
mod task;
pub mod tasks;
mod words;

pub use error::{EvalError, TaskError};
pub use model::{LanguageModel, ModelError, Prefix, TextCodec, TokenScore};
pub use monitor::{Monitor, Progress};
pub use protocols::{Bos, Perplexity, PerplexityOptions, Point, PositionCurve, Protocol, perplexity};
pub use rng::{SplitMix64, mixed_seed};
pub use runner::{Cell, Depths, Retrieval, RetrievalOptions, retrieve, retrieve_logged};
pub use samples::{SampleLog, SampleRecord};
pub use task::{Graded, Sample, Task};
pub use tasks::passkey;
