//! Options that several commands share.

use clap::{Args, ValueEnum};
use rope_scaling::Precision;
use tch::Kind;

use crate::config::Method;
use crate::error::Failure;
use crate::model::{LoadOptions, ModelFolder, backend_on};
use crate::runtime::device::device;

/// How a model is loaded and read.
#[derive(Debug, Clone, Args)]
pub struct ModelOptions {
    /// Device: cpu, cuda or cuda:N [default: cuda:0 when there is one]
    #[arg(long)]
    pub device: Option<String>,
    /// Element type of the weights [default: float32 on cpu, the file's elsewhere]
    #[arg(long)]
    pub dtype: Option<DtypeName>,
    /// Attention backend: auto, the fastest that is right for device and problem, or a name that `bowline doctor` lists
    #[arg(long, default_value = "auto", value_name = "NAME")]
    pub backend: String,
    /// Read the model by a method without training: pi, ntk, dynamic-ntk, yarn, dynamic-yarn, ntk-by-parts or
    /// llama3 with `:factor=N`, `abf:factor=N,base=B`, `longrope:factors=FILE`, `self-extend:group=G,window=W`,
    /// `rerope:window=W`, `lm-infinite:window=W,sinks=S`, `streaming:window=W,sinks=S`, `dca:chunk=C,local=W`
    #[arg(long, value_name = "NAME:OPTIONS")]
    pub method: Option<String>,
    /// Read long texts in pieces of N tokens: less memory, the same answers [default: 4096 of more than 8192]
    #[arg(long, value_name = "N")]
    pub chunk: Option<usize>,
    /// How rotary angles are computed
    #[arg(long, default_value = "hub")]
    pub precision: PrecisionName,
    /// Threads of tensor operations [default: one a core]
    #[arg(long)]
    pub threads: Option<u16>,
}

/// Element types by their names in `config.json`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DtypeName {
    /// IEEE single precision
    Float32,
    /// Brain floating point
    Bfloat16,
    /// IEEE half precision
    Float16,
}

/// Policies for rotary angles.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PrecisionName {
    /// float32 phases, as transformers and the checkpoints' training computed them
    Hub,
    /// float64 phases, rounded once
    Exact,
}

impl DtypeName {
    /// libtorch's name.
    pub fn kind(self) -> Kind {
        match self {
            Self::Float32 => Kind::Float,
            Self::Bfloat16 => Kind::BFloat16,
            Self::Float16 => Kind::Half,
        }
    }
}

impl ModelOptions {
    /// Loads `model`, read by the method asked for.
    ///
    /// # Errors
    ///
    /// As [`ModelOptions::load_options`], [`ModelFolder::load`] and [`ModelFolder::with_method`].
    pub fn load(&self, model: &str) -> Result<ModelFolder, Failure> {
        let method = self.method.as_deref().map(str::parse::<Method>).transpose()?;
        if self.chunk == Some(0) {
            return Err(Failure::config("--chunk 0: at least 1 token is needed"));
        }
        let mut model = ModelFolder::load(model, self.load_options()?)?;
        model.chunk = self.chunk;
        match method {
            Some(method) => model.with_method(&method),
            None => Ok(model),
        }
    }

    /// Settles device, element type and backend.
    ///
    /// # Errors
    ///
    /// When the device is not there or the backend is unknown.
    pub fn load_options(&self) -> Result<LoadOptions, Failure> {
        let device = device(self.device.as_deref())?;
        if let Some(threads) = self.threads {
            if threads == 0 {
                return Err(Failure::config("--threads 0: at least 1 is needed"));
            }
            tch::set_num_threads(i32::from(threads));
            // Work away from libtorch's kernels, such as reading text, runs on rayon's threads. A pool that is there already was asked for by its own variable.
            let _ = rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global();
        }
        let kind = match self.dtype {
            Some(dtype) => Some(dtype.kind()),
            // Half precision on a CPU is slow and rarely what is meant.
            None if device == tch::Device::Cpu => Some(Kind::Float),
            None => None,
        };
        let precision = match self.precision {
            PrecisionName::Hub => Precision::HubCompatible,
            PrecisionName::Exact => Precision::Exact,
        };
        Ok(LoadOptions { device, kind, backend: backend_on(device, &self.backend)?, precision })
    }
}
