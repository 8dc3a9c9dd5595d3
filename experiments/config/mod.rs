//! Recipes and settings.

mod about;
mod adapter;
pub mod layers;
mod loss;
mod matrix;
mod memory;
mod method;
mod recipe;
mod study;
mod task;

pub use about::{About, ExpectedPerplexity};
pub use adapter::{Adapter, Base, TARGETS, Whole};
pub use loss::{Loss, LossKind};
pub use matrix::Matrix;
pub use memory::{Activations, Gradients, Memory, OptimizerState, Policy};
pub use method::{Method, read_factors};
pub use recipe::{
    CheckpointPolicy, Dtype, ModelSource, NewFamily, NewModel, Optimizer, PositionChange, Recipe, SkipPositions,
    Source, SourceKind, Stage,
};
pub use study::{Evaluation, Expectation, Study, Training, VariantSpec};
pub use task::TaskSpec;
