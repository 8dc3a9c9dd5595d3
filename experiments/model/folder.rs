//! A model folder: config, weights and tokenizer, read and written.

use std::path::{Path, PathBuf};

use attention::Backend;
use rope_scaling::hf::{Reach, extend, original};
use rope_scaling::{PositionEncoding, Precision};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use super::btlm;
use super::config::{Family, ModelConfig};
use super::declared::Positions;
use super::extrapolation::Extrapolation;
use super::gguf::GgufCheckpoint;
use super::language_model::Reader;
use super::llama::Llama;
use super::peft::{self, BaseModel};
use super::stored::Stored;
use super::weights::{Checkpoint, Dtype, MAX_SHARD_BYTES, TensorView, write_sharded};
use crate::config::{Adapter, Base, Method, PositionChange};
use crate::error::{Failure, io_failure};
use crate::hub;
use crate::json::read_json;
use crate::tokenizer::Tokenizer;

/// Largest config file read, in bytes.
const CONFIG_LIMIT: u64 = 16 << 20;
/// How many times an adapter's base may be an adapter in turn.
const ADAPTERS_DEEP: usize = 8;

/// How a model is loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Where it lives.
    pub device: Device,
    /// Element type; none keeps the file's.
    pub kind: Option<Kind>,
    /// Attention backend.
    pub backend: Backend,
    /// How angles are computed.
    pub precision: Precision,
}

/// A loaded model and where it came from.
#[derive(Debug)]
pub struct ModelFolder {
    /// As the user named it.
    pub id: String,
    /// The folder, or the GGUF file.
    pub dir: PathBuf,
    /// The model.
    pub llama: Llama,
    /// Its tokenizer; none when the folder has none.
    pub tokenizer: Option<Tokenizer>,
    /// How angles are computed.
    pub precision: Precision,
    /// The method that decides positions inside attention, if any.
    pub extrapolation: Option<Extrapolation>,
    /// Tokens of a long text that are read at once; none: as its length suggests.
    pub chunk: Option<usize>,
}

/// Reads and checks the config of a model folder, or of a GGUF file.
///
/// # Errors
///
/// Every finding with the file's name.
pub fn read_config(dir: &Path) -> Result<ModelConfig, Failure> {
    if dir.is_file() {
        return GgufCheckpoint::open(dir)?.config();
    }
    let path = dir.join("config.json");
    let value = read_json(&path, CONFIG_LIMIT)?;
    ModelConfig::from_hf(&value).map_err(|failure| failure.within_lines(&format!("{}: ", path.display())))
}

/// The position encoding of a model read by `method`, which may leave it as it is.
///
/// # Errors
///
/// When there are no rotary positions, or they are scaled already.
pub fn positions_under(positions: &Positions, method: &Method) -> Result<Positions, Failure> {
    let failure = |error| Failure::config(format!("{method}: {error}"));
    match (positions, method) {
        (Positions::Rope(rope), Method::Positions { extension, factor, .. }) => {
            extend(rope, extension, Reach::Factor(*factor)).map(Positions::Rope).map_err(failure)
        }
        (Positions::Alibi(alibi), Method::Positions { extension, factor, .. }) => {
            alibi.extended(extension.name(), Reach::Factor(*factor)).map(Positions::Alibi).map_err(failure)
        }
        (Positions::Rope(_), Method::Inside(_)) => Ok(positions.clone()),
        (Positions::Alibi(_), Method::Inside(_)) => {
            Err(Failure::config(format!("{method} changes rotary positions, and the model has ALiBi")))
        }
    }
}

/// The position encoding of an extended model before it was extended.
///
/// # Errors
///
/// When it is not extended.
fn original_positions(positions: &Positions) -> Result<Positions, Failure> {
    let original = match positions {
        Positions::Rope(rope) => original(rope).map(Positions::Rope),
        Positions::Alibi(alibi) => alibi.original().map(Positions::Alibi),
    };
    original.map_err(|error| Failure::config(format!("further: {error}; leave it out")))
}

impl ModelFolder {
    /// Loads `model`: a folder, a GGUF file, a Hub id in the cache, or `bundled`.
    ///
    /// # Errors
    ///
    /// A sentence that names the file, the field and the value.
    pub fn load(model: &str, options: LoadOptions) -> Result<Self, Failure> {
        Self::load_within(model, options, ADAPTERS_DEEP)
    }

    /// As [`ModelFolder::load`], where the model may be an adapter of an adapter so many times.
    fn load_within(model: &str, options: LoadOptions, depth: usize) -> Result<Self, Failure> {
        // An adapter that PEFT wrote has no config.json, which is what makes a folder a model elsewhere.
        if peft::is_adapter(Path::new(model)) {
            return Self::load_adapted(model, Path::new(model), options, depth);
        }
        let files = hub::resolve(model)?;
        if peft::is_adapter(&files.dir) {
            return Self::load_adapted(model, &files.dir, options, depth);
        }
        let stored = Stored::open(&files.dir)?;
        let config = stored.config()?;
        // Token ids can be scored without a tokenizer; whoever needs text asks for it by `tokenizer()`.
        let tokenizer = stored.tokenizer(config.vocab)?;
        let kind = options.kind.map_or_else(|| stored.kind(), Ok)?;
        let llama = Llama::load(&stored, config, options.backend, kind, options.device)?;
        let (id, dir, precision) = (model.to_owned(), files.dir, options.precision);
        Ok(Self { id, dir, llama, tokenizer, precision, extrapolation: None, chunk: None })
    }

    /// The base model of an adapter folder with the adapters in it.
    fn load_adapted(model: &str, dir: &Path, options: LoadOptions, depth: usize) -> Result<Self, Failure> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Failure::data(format!("{model}: an adapter of an adapter, and so on without end")));
        };
        let (adapter, base) = peft::read(dir)?;
        let context = || format!("{}: base_model_name_or_path", dir.join(peft::CONFIG).display());
        let full = LoadOptions { device: first_device(&adapter, options.device), ..options };
        let mut found = Self::load_within(&base.name, full, depth).map_err(|failure| failure.within(context()))?;
        base.check(dir, &found.dir)?;
        if dir.join("config.json").is_file() {
            let config = read_config(dir)?;
            if config.expected_tensors() != found.llama.config.expected_tensors() {
                let base = &base.name;
                return Err(Failure::data(format!("{}: config.json is not of the shape of {base}", dir.display())));
            }
            found.llama.config = config;
        }
        if dir.join("tokenizer.json").is_file() {
            found.tokenizer = Some(Tokenizer::from_file(&dir.join("tokenizer.json"), found.llama.config.vocab)?);
        }
        let adapted = found.adapted(&adapter, 0, (base, options.device))?;
        peft::fill(dir, &adapted.llama)?;
        Ok(Self { id: model.to_owned(), dir: dir.to_path_buf(), ..adapted })
    }

    /// The model with new adapters, on `device`; those that it had are merged, and the base is quantised if it is to be.
    ///
    /// # Errors
    ///
    /// As [`Llama::adapt`].
    pub fn adapted(mut self, adapter: &Adapter, seed: u64, at: (BaseModel, Device)) -> Result<Self, Failure> {
        self.llama.adapt(adapter, seed, at)?;
        Ok(self)
    }

    /// The model read by a method without training.
    ///
    /// # Errors
    ///
    /// When the model has no rotary positions, or is scaled already.
    pub fn with_method(mut self, method: &Method) -> Result<Self, Failure> {
        self.llama.config.positions = positions_under(&self.llama.config.positions, method)?;
        if let Method::Inside(extrapolation) = method {
            self.extrapolation = Some(*extrapolation);
        }
        Ok(self)
    }

    /// The model with its positions changed as a recipe or study says, or as it is.
    ///
    /// # Errors
    ///
    /// As [`ModelFolder::with_method`].
    pub fn with_positions(mut self, change: Option<&PositionChange>) -> Result<Self, Failure> {
        match change {
            Some(change) => {
                let method = Method::try_from(change)?;
                if change.further {
                    let original = original_positions(&self.llama.config.positions);
                    self.llama.config.positions = original.map_err(|failure| failure.within("positions"))?;
                }
                self.with_method(&method).map_err(|failure| failure.within("positions"))
            }
            None => Ok(self),
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    ///
    /// When the model's folder has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Failure> {
        let missing =
            || Failure::data(format!("{}: there is no tokenizer.json, and text needs one", self.dir.display()));
        self.tokenizer.as_ref().ok_or_else(missing)
    }

    /// The device.
    pub fn device(&self) -> Device {
        self.llama.embedding.device()
    }

    /// The element type.
    pub fn kind(&self) -> Kind {
        self.llama.embedding.kind()
    }

    /// The position encoding that its config declares.
    pub fn encoding(&self) -> PositionEncoding {
        self.llama.config.encoding()
    }

    /// The model under its own position encoding.
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(&self.llama, self.encoding(), self.precision)
            .with_extrapolation(self.extrapolation)
            .with_chunk(self.chunk)
    }

    /// Copies the weights of another checkpoint of the same shape into this model.
    ///
    /// # Errors
    ///
    /// When names or shapes differ.
    pub fn reload(&self, dir: &Path) -> Result<(), Failure> {
        if self.llama.adapter.is_some() {
            return peft::fill(dir, &self.llama);
        }
        let checkpoint = Checkpoint::open(dir)?;
        let family = self.llama.config.family;
        checkpoint.check(&self.llama.config.stored_tensors(), |_| false)?;
        no_grad(|| {
            self.llama.parameters().into_iter().try_for_each(|(name, parameter)| {
                let stored = super::stored::of_folder(&checkpoint, &name, family)?;
                parameter.shallow_clone().f_copy_(&stored)?;
                Ok(())
            })
        })
    }

    /// Writes config, weights, generation config and tokenizer into `dir`; of a model with adapters these and what was
    /// trained beside them, and not the base's weights.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), Failure> {
        self.write_sharded(dir, MAX_SHARD_BYTES)
    }

    /// As [`ModelFolder::write`], with weight files of at most `shard_bytes`.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write_sharded(&self, dir: &Path, shard_bytes: u64) -> Result<(), Failure> {
        let config = &self.llama.config;
        write_json(&dir.join("config.json"), &config.to_hf(crate::runtime::device::kind_name(self.kind())))?;
        let generation = json!({
            "bos_token_id": config.bos,
            "eos_token_id": config.raw.get("eos_token_id").cloned().unwrap_or(Value::Null),
            "max_length": config.positions.context(),
        });
        write_json(&dir.join("generation_config.json"), &generation)?;
        match config.family {
            _ if self.llama.adapter.is_some() => peft::write(dir, &self.llama)?,
            Family::Llama => write_tensors_sharded(dir, self.llama.parameters().into_iter(), shard_bytes)?,
            Family::Btlm => {
                let tensors = no_grad(|| btlm::written(self.llama.parameters().into_iter()))?;
                write_tensors_sharded(dir, tensors.iter().map(|(name, tensor)| (name.clone(), tensor)), shard_bytes)?;
            }
        }
        self.tokenizer.as_ref().map_or(Ok(()), |tokenizer| tokenizer.write(dir))
    }
}

/// Where a model is loaded that is to be on `device`: one that will be quantised does not fit there before it is.
pub fn first_device(adapter: &Adapter, device: Device) -> Device {
    match adapter.base {
        Base::Full => device,
        Base::Nf4 => Device::Cpu,
    }
}

/// A stored tensor in main memory, in its own element type.
pub(super) fn tensor_of(view: &TensorView<'_>) -> Result<Tensor, Failure> {
    let shape: Vec<i64> = view.shape.iter().map(|&n| n as i64).collect();
    Ok(Tensor::f_from_data_size(view.data, &shape, super::load::kind_of(view.dtype))?)
}

/// Writes tensors into `model.safetensors` of `dir`.
///
/// # Errors
///
/// When a file cannot be written, or a tensor has a type that the format lacks.
pub fn write_tensors<'a>(dir: &Path, tensors: impl Iterator<Item = (String, &'a Tensor)>) -> Result<(), Failure> {
    write_tensors_sharded(dir, tensors, MAX_SHARD_BYTES)
}

fn write_tensors_sharded<'a>(
    dir: &Path,
    tensors: impl Iterator<Item = (String, &'a Tensor)>,
    shard_bytes: u64,
) -> Result<(), Failure> {
    let mut refused = None;
    let stored = tensors.map_while(|(name, tensor)| match bytes_of(tensor) {
        Ok((dtype, shape, bytes)) => Some((name, dtype, shape, bytes)),
        Err(failure) => {
            refused = Some(failure.within(name));
            None
        }
    });
    write_sharded(dir, stored, shard_bytes)?;
    refused.map_or(Ok(()), Err)
}

/// Element type, shape and little-endian bytes.
fn bytes_of(tensor: &Tensor) -> Result<(Dtype, Vec<usize>, Vec<u8>), Failure> {
    let dtype = match tensor.kind() {
        Kind::Float => Dtype::F32,
        Kind::Half => Dtype::F16,
        Kind::BFloat16 => Dtype::BF16,
        Kind::Uint8 => Dtype::U8,
        kind => return Err(Failure::data(format!("cannot be stored as {kind:?}"))),
    };
    let host = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut bytes = vec![0; host.numel() * dtype.size()];
    host.f_copy_data_u8(&mut bytes, host.numel())?;
    Ok((dtype, host.size().iter().map(|&n| n as usize).collect(), bytes))
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::data(error.to_string()))?;
    crate::atomic::write_bytes(path, format!("{text}\n").as_bytes()).map_err(|error| io_failure("write", path, &error))
}

impl eval::TextCodec for Tokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, eval::ModelError> {
        Self::encode(self, text).map_err(|error| eval::ModelError(error.to_string()))
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, eval::ModelError> {
        Self::decode(self, tokens).map_err(|error| eval::ModelError(error.to_string()))
    }
}
