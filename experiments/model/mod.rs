//! The LLaMA family on libtorch.

mod attention;
mod block;
mod config;
mod extrapolation;
mod folder;
pub mod gguf;
mod kv_cache;
mod language_model;
mod linear;
mod llama;
mod load;
mod norm;
mod pass;
mod positions;
mod rotation;
mod sampler;
mod shapes;
mod stored;
pub mod weights;

pub use attention::{auto as auto_backend, backend_on, is_auto as is_auto_backend, libtorch_kernel};
pub use block::{Block, Heads};
pub use config::ModelConfig;
pub use extrapolation::Extrapolation;
pub use folder::{LoadOptions, ModelFolder, positions_under, read_config, write_tensors};
pub use kv_cache::KvCache;
pub use language_model::{Kept, Reader};
pub use linear::Linear;
pub use llama::Llama;
pub use load::kind_of;
pub use norm::Norm;
pub use pass::Pass;
pub use positions::PlanTensors;
pub use rotation::RotationError;
pub use sampler::Sampler;
pub use shapes::{known_shape, known_shapes};
pub use stored::Stored;
