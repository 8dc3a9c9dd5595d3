//! Recipes and settings.

pub mod layers;
mod recipe;
mod study;

pub use recipe::{
    CheckpointPolicy, Dtype, ModelSource, NewModel, Optimizer, PositionChange, Recipe, Source, SourceKind, Stage,
};
pub use study::{Evaluation, Expectation, Study, Training, VariantSpec};
