//! Adapters as PEFT keeps them: `adapter_config.json`, and `adapter_model.safetensors` with `A`, `B` and what was trained whole
//! under `base_model.model.` and the checkpoint name. Beside them lies `adapter_base.json` with what PEFT has no word for.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::{Tensor, no_grad};

use super::folder::{tensor_of, write_json, write_tensors};
use super::llama::Llama;
use super::weights::{Checkpoint, SINGLE_NAME};
use crate::config::{Adapter, Base, TARGETS, Whole};
use crate::error::{Failure, io_failure};
use crate::json::read_json;

/// PEFT's file of settings.
pub const CONFIG: &str = "adapter_config.json";
/// PEFT's file of tensors.
pub const WEIGHTS: &str = "adapter_model.safetensors";
/// Ours.
const BASE: &str = "adapter_base.json";
/// What PEFT puts before every name.
const PREFIX: &str = "base_model.model.";
/// The output head.
const HEAD: &str = "lm_head.weight";
/// The norms of LLaMA as modules.
const NORMS: [&str; 3] = ["input_layernorm", "post_attention_layernorm", "norm"];
/// Largest config file read, in bytes.
const LIMIT: u64 = 1 << 20;
/// Bytes of a weight file's ends that its fingerprint looks at.
const ENDS: u64 = 1 << 16;

/// The model that adapters belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseModel {
    /// A folder by its full path, a Hub id or `bundled`.
    pub name: String,
    /// Hash of its weight files' names, sizes and ends; none when it is not known.
    pub fingerprint: Option<String>,
}

/// What PEFT has no word for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beside {
    base: Base,
    fingerprint: Option<String>,
}

impl BaseModel {
    /// The model that was loaded as `name` from `dir`.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    pub fn of(name: &str, dir: &Path) -> Result<Self, Failure> {
        let path = Path::new(name);
        let full = path.exists().then(|| path.canonicalize().ok()).flatten();
        let name = full.map_or_else(|| name.to_owned(), |path| path.to_string_lossy().into_owned());
        Ok(Self { name, fingerprint: Some(fingerprint(dir)?) })
    }

    /// That the model found in `dir` is the one that adapters in `adapters` were trained on.
    ///
    /// # Errors
    ///
    /// When its weight files are others.
    pub fn check(&self, adapters: &Path, dir: &Path) -> Result<(), Failure> {
        match &self.fingerprint {
            Some(expected) if *expected != fingerprint(dir)? => Err(Failure::data(format!(
                "{}: the weights of the base model {} are not those that the adapter was trained on",
                adapters.join(CONFIG).display(),
                self.name
            ))),
            _ => Ok(()),
        }
    }
}

/// Whether a folder holds an adapter.
pub fn is_adapter(dir: &Path) -> bool {
    dir.join(CONFIG).is_file()
}

/// Hash of the names, sizes and ends of a folder's weight files.
fn fingerprint(dir: &Path) -> Result<String, Failure> {
    use std::io::{Read, Seek, SeekFrom};
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: std::io::Error| io_failure("read", &path, &error)
    };
    let is_weights = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "safetensors" || ext == "gguf");
    let mut files: Vec<PathBuf> = match dir.is_file() {
        true => vec![dir.to_owned()],
        false => std::fs::read_dir(dir).map_err(failed(dir))?.flatten().map(|entry| entry.path()).collect(),
    };
    files.retain(is_weights);
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for path in &files {
        let mut file = std::fs::File::open(path).map_err(failed(path))?;
        let length = file.metadata().map_err(failed(path))?.len();
        hasher.update(path.file_name().unwrap_or_default().as_encoded_bytes()).update(&length.to_le_bytes());
        for start in [0, length.saturating_sub(ENDS)] {
            let mut end = Vec::new();
            file.seek(SeekFrom::Start(start)).map_err(failed(path))?;
            file.by_ref().take(ENDS).read_to_end(&mut end).map_err(failed(path))?;
            hasher.update(&end);
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Writes the adapters of a model into `dir`, and what was trained beside them.
///
/// # Errors
///
/// When a file cannot be written.
pub fn write(dir: &Path, model: &Llama) -> Result<(), Failure> {
    let Some(adapted) = &model.adapter else { return Ok(()) };
    let (adapter, base) = (&adapted.config, adapted.base.clone());
    write_json(&dir.join(CONFIG), &settings(adapter, &base.name, model.config.tied))?;
    let beside = Beside { base: adapter.base, fingerprint: base.fingerprint };
    write_json(&dir.join(BASE), &json!(beside))?;
    // PEFT expects a tied head beside the embedding that it is.
    let head = ties_head(model).then_some((HEAD.to_owned(), &model.embedding));
    let tensors = model.trained().into_iter().chain(head);
    write_tensors(dir, tensors.map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor)))?;
    let (from, to) = (dir.join(SINGLE_NAME), dir.join(WEIGHTS));
    crate::disk::rename(&from, &to).map_err(|error| io_failure("rename", &from, &error))
}

/// Whether the head is the embedding, and that is trained.
fn ties_head(model: &Llama) -> bool {
    let trained = |adapted: &super::Adapted| adapted.config.also.contains(&Whole::Embedding);
    model.config.tied && model.adapter.as_ref().is_some_and(trained)
}

/// PEFT's settings.
fn settings(adapter: &Adapter, base: &str, tied: bool) -> Value {
    let mut whole = Vec::new();
    if adapter.also.contains(&Whole::Embedding) {
        whole.push("embed_tokens");
        whole.extend((!tied).then_some("lm_head"));
    }
    if adapter.also.contains(&Whole::Norms) {
        whole.extend(NORMS);
    }
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": null,
        "inference_mode": true,
        "r": adapter.rank,
        "lora_alpha": if adapter.alpha.fract() == 0.0 { json!(adapter.alpha as i64) } else { json!(adapter.alpha) },
        "lora_dropout": adapter.dropout,
        "target_modules": adapter.targets,
        "modules_to_save": if whole.is_empty() { Value::Null } else { json!(whole) },
        // A tied head follows the embedding that was trained.
        "ensure_weight_tying": tied && adapter.also.contains(&Whole::Embedding),
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "use_rslora": false,
        "use_dora": false,
    })
}

/// Reads the settings of an adapter folder, PEFT's own or ours.
///
/// # Errors
///
/// A sentence with the file, the field and its value for what we do not compute as PEFT does.
pub fn read(dir: &Path) -> Result<(Adapter, BaseModel), Failure> {
    let path = dir.join(CONFIG);
    let value = read_json(&path, LIMIT)?;
    let file = Settings { path: &path, value: &value };
    file.refuse_the_unknown()?;
    let rank = file.number("r")? as usize;
    let scale = if file.is_true("use_rslora") { (rank as f64).sqrt() } else { 1.0 };
    let dropout = if file.get("lora_dropout").is_none() { 0.0 } else { file.number("lora_dropout")? };
    let beside = match dir.join(BASE) {
        path if path.is_file() => Some(read_json(&path, LIMIT)?),
        _ => None,
    };
    let beside: Option<Beside> = beside
        .map(serde_json::from_value)
        .transpose()
        .map_err(|error| Failure::data(format!("{}: {error}", dir.join(BASE).display())))?;
    let adapter = Adapter {
        rank,
        alpha: file.number("lora_alpha")? * scale,
        dropout,
        targets: file.targets()?,
        also: file.whole()?,
        base: beside.as_ref().map_or(Base::Full, |beside| beside.base),
    };
    if let Some((field, what)) = adapter.findings().into_iter().next() {
        return Err(Failure::data(format!("{}: {field} {what}", path.display())));
    }
    let Some(name) = file.get("base_model_name_or_path").and_then(Value::as_str) else {
        return Err(file.wrong("base_model_name_or_path", "must name the base model"));
    };
    Ok((adapter, BaseModel { name: name.to_owned(), fingerprint: beside.and_then(|beside| beside.fingerprint) }))
}

/// Puts the tensors of an adapter folder into a model that was adapted by its settings.
///
/// # Errors
///
/// When names or shapes differ.
pub fn fill(dir: &Path, model: &Llama) -> Result<(), Failure> {
    let stored = Checkpoint::open_file(dir, WEIGHTS)?;
    let trained: Vec<(String, &Tensor)> =
        model.trained().into_iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor)).collect();
    let shape = |tensor: &Tensor| tensor.size().iter().map(|&n| n as usize).collect();
    let expected: Vec<(String, Vec<usize>)> =
        trained.iter().map(|(name, tensor)| (name.clone(), shape(tensor))).collect();
    let head = format!("{PREFIX}{HEAD}");
    stored.check(&expected, |name| ties_head(model) && name == head)?;
    no_grad(|| {
        trained.iter().try_for_each(|(name, tensor)| {
            tensor.shallow_clone().f_copy_(&tensor_of(&stored.tensor(name)?)?)?;
            Ok(())
        })
    })
}

/// PEFT's settings as somebody wrote them.
struct Settings<'a> {
    path: &'a Path,
    value: &'a Value,
}

impl Settings<'_> {
    fn get(&self, field: &str) -> Option<&Value> {
        self.value.get(field).filter(|value| !value.is_null())
    }

    fn is_true(&self, field: &str) -> bool {
        self.get(field).and_then(Value::as_bool).unwrap_or(false)
    }

    fn wrong(&self, field: &str, rule: &str) -> Failure {
        let value = self.get(field).map_or_else(|| "absent".to_owned(), ToString::to_string);
        Failure::data(crate::fault::brief(&format!("{}: {field}: {rule}, is {value}", self.path.display())))
    }

    fn number(&self, field: &str) -> Result<f64, Failure> {
        self.get(field).and_then(Value::as_f64).ok_or_else(|| self.wrong(field, "must be a number"))
    }

    fn strings(&self, field: &str) -> Result<Vec<&str>, Failure> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let items = value.as_array().and_then(|items| items.iter().map(Value::as_str).collect());
        items.ok_or_else(|| self.wrong(field, "must be a list of names"))
    }

    /// Settings under which PEFT computes something else.
    fn refuse_the_unknown(&self) -> Result<(), Failure> {
        if self.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            return Err(self.wrong("peft_type", "only \"LORA\" is supported"));
        }
        if self.get("bias").is_some_and(|bias| bias.as_str() != Some("none")) {
            return Err(self.wrong("bias", "only \"none\" is supported"));
        }
        let is_empty = |value: &Value| match value {
            Value::Bool(flag) => !flag,
            Value::Array(items) => items.is_empty(),
            Value::Object(items) => items.is_empty(),
            _ => false,
        };
        let others = [
            "use_dora",
            "fan_in_fan_out",
            "lora_bias",
            "rank_pattern",
            "alpha_pattern",
            "layers_to_transform",
            "layer_replication",
            "exclude_modules",
            "target_parameters",
            "trainable_token_indices",
        ];
        match others.into_iter().find(|field| self.get(field).is_some_and(|value| !is_empty(value))) {
            Some(field) => Err(self.wrong(field, "is not supported")),
            None => Ok(()),
        }
    }

    fn targets(&self) -> Result<Vec<String>, Failure> {
        if self.get("target_modules").and_then(Value::as_str) == Some("all-linear") {
            return Ok(TARGETS.map(str::to_owned).into());
        }
        let own = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
        Ok(self.strings("target_modules")?.into_iter().map(own).collect())
    }

    fn whole(&self) -> Result<Vec<Whole>, Failure> {
        let names = self.strings("modules_to_save")?;
        let own: Vec<&str> = names.iter().map(|name| name.rsplit('.').next().unwrap_or(name)).collect();
        let known = |name: &&str| ["embed_tokens", "lm_head"].contains(name) || NORMS.contains(name);
        // PEFT goes by how names end, and every norm's ends so.
        let norms = own.contains(&"norm");
        if !own.iter().all(known) || own.iter().any(|name| NORMS.contains(name)) != norms {
            return Err(self.wrong("modules_to_save", "only embed_tokens with lm_head, and all norms, are supported"));
        }
        let embedding = own.iter().any(|name| ["embed_tokens", "lm_head"].contains(name));
        Ok([(embedding, Whole::Embedding), (norms, Whole::Norms)]
            .into_iter()
            .filter_map(|(there, whole)| there.then_some(whole))
            .collect())
    }
}
