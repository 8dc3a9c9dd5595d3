//! Recipes and settings.

mod adapter;
pub mod layers;
mod memory;
mod method;
mod recipe;
mod study;

pub use adapter::{Adapter, Base, Whole};
pub use memory::{Activations, Gradients, Memory, OptimizerState};
pub use method::Method;
pub use recipe::{
    CheckpointPolicy, Dtype, ModelSource, NewModel, Optimizer, PositionChange, Recipe, Source, SourceKind, Stage,
};
pub use study::{Evaluation, Expectation, Matrix, Study, Training, VariantSpec};
