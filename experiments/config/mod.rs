//! Recipes and settings.

pub mod layers;
mod method;
mod recipe;
mod study;

pub use method::Method;
pub use recipe::{
    CheckpointPolicy, Dtype, ModelSource, NewModel, Optimizer, PositionChange, Recipe, Source, SourceKind, Stage,
};
pub use study::{Evaluation, Expectation, Matrix, Study, Training, VariantSpec};
