//! Perplexity protocols, retrieval tasks, statistics and the report schema; knows models only through a trait.
//!
//! Three doors: [`perplexity`] measures documents under a named [`Protocol`] ([`protocols::longppl`] and
//! [`protocols::short_text`] beside it), [`retrieve`] runs a [`Task`] of [`tasks`] over lengths, depths and trials and keeps
//! its samples ([`retrieve_logged`]), and all give [`report::Row`]s for a [`report::Report`]; [`report::import`] reads the
//! results of other programs as such rows. The model comes in as a [`LanguageModel`], so nothing here needs a tensor library.

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
pub mod scaling;
mod task;
pub mod tasks;
mod words;

pub use error::{EvalError, TaskError};
pub use model::{LanguageModel, ModelError, Prefix, Question, Reply, TextCodec, TokenScore, reply_alone};
pub use monitor::{Monitor, Progress};
pub use protocols::{Bos, Perplexity, PerplexityOptions, Point, PositionCurve, Protocol, perplexity};
pub use rng::{SplitMix64, mixed_seed};
pub use runner::{Branching, Cell, Depths, Retrieval, RetrievalOptions, retrieve, retrieve_logged};
pub use samples::{SampleLog, SampleRecord};
pub use task::{Graded, Sample, Task};
pub use tasks::passkey;
