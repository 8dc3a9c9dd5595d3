//! The LLaMA family on libtorch.

mod attention;
mod config;
mod extrapolation;
mod folder;
mod kv_cache;
mod language_model;
mod llama;
mod load;
mod positions;
mod rotation;
mod sampler;
pub mod weights;

pub use attention::{auto as auto_backend, backend_on, is_auto as is_auto_backend, libtorch_kernel};
pub use config::ModelConfig;
pub use extrapolation::Extrapolation;
pub use folder::{LoadOptions, ModelFolder, positions_under, read_config, write_tensors};
pub use kv_cache::KvCache;
pub use language_model::{Kept, Reader};
pub use llama::{Block, Linear, Llama, Pass};
pub use load::kind_of;
pub use positions::PlanTensors;
pub use rotation::RotationError;
pub use sampler::Sampler;
