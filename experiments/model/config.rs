//! `config.json` of a LLaMA checkpoint: a forgiving raw reading, then a checked type that nothing doubts again.

use rope_scaling::PositionEncoding;
use rope_scaling::hf::{HfErrors, HfPositions, alibi_from_hf, from_hf};
use serde_json::{Map, Value, json};

use super::btlm;
use super::declared::Positions;
use super::mup::Mup;
use crate::error::Failure;
use crate::fault::brief;

/// Whose names and layouts a checkpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// LLaMA's.
    Llama,
    /// BTLM's, which are GPT-2's.
    Btlm,
}

/// Shape of a model of the family. Fields are checked by [`ModelConfig::from_hf`].
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// Rows of the embedding.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the MLP.
    pub inner: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub key_heads: usize,
    /// Size of a head; even.
    pub head_dim: usize,
    /// Epsilon of the norms.
    pub norm_epsilon: f64,
    /// Whether norms subtract the mean and have biases: LayerNorm; else they are RMSNorm.
    pub layer_norm: bool,
    /// Whether the output head is the embedding.
    pub tied: bool,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
    /// Whether the MLP projections have biases.
    pub mlp_bias: bool,
    /// Id that begins a document.
    pub bos: Option<u32>,
    /// Ids that end one.
    pub eos: Vec<u32>,
    /// Whose names and layouts its checkpoints have.
    pub family: Family,
    /// What it multiplies by; nothing, outside muP.
    pub mup: Mup,
    /// Position encoding as the file declares it.
    pub positions: Positions,
    /// The object that it was read from; keys that we do not know are kept for export.
    pub raw: Map<String, Value>,
}

/// Largest value accepted for any size in a config; far above any model, far below overflow.
const SIZE_LIMIT: u64 = 1 << 24;
/// Most blocks: with this and [`SIZE_LIMIT`], parameters of all blocks can be counted in 64 bits.
const LAYER_LIMIT: usize = 1 << 12;

impl ModelConfig {
    /// Reads and checks the object of a `config.json`.
    ///
    /// # Errors
    ///
    /// One failure that lists every finding, each with its field and value.
    pub fn from_hf(config: &Value) -> Result<Self, Failure> {
        let Some(raw) = config.as_object() else {
            return Err(Failure::config("the config is not a JSON object"));
        };
        let family = match raw.get("model_type").and_then(Value::as_str) {
            Some(kind) if btlm::MODEL_TYPES.contains(&kind) => Family::Btlm,
            _ => Family::Llama,
        };
        let (renamed, findings) = match family {
            Family::Btlm => btlm::with_llama_keys(raw),
            Family::Llama => (raw.clone(), Vec::new()),
        };
        let mut fields = Fields { raw: &renamed, findings };
        fields.expect_known(family);
        let mup = fields.mup(family);
        let hidden = fields.size("hidden_size", None);
        let heads = fields.size("num_attention_heads", None);
        let key_heads = fields.size("num_key_value_heads", Some(heads));
        let head_dim = fields.size("head_dim", Some(hidden.checked_div(heads).unwrap_or(0)));
        let mut checked = Self {
            vocab: fields.size("vocab_size", None),
            hidden,
            inner: fields.size("intermediate_size", None),
            layers: fields.size("num_hidden_layers", None),
            heads,
            key_heads,
            head_dim,
            norm_epsilon: fields.positive("rms_norm_eps", if family == Family::Btlm { 1e-5 } else { 1e-6 }),
            layer_norm: family == Family::Btlm,
            tied: fields.flag("tie_word_embeddings"),
            attention_bias: fields.flag("attention_bias"),
            mlp_bias: fields.flag("mlp_bias"),
            bos: fields.ids("bos_token_id").first().copied(),
            eos: fields.ids("eos_token_id"),
            family,
            mup,
            positions: Positions::Rope(HfPositions::plain(2, 10_000.0, 1).map_err(|e| Failure::config(e.to_string()))?),
            raw: raw.clone(),
        };
        fields.check_shape(&checked);
        match positions(config, family) {
            Ok(Some(positions)) => checked.positions = positions,
            // Said already, of position_embedding_type.
            Ok(None) => {}
            Err(errors) => fields.findings.extend(errors.to_string().lines().map(str::to_owned)),
        }
        if family == Family::Btlm {
            fields.findings.iter_mut().for_each(|finding| *finding = btlm::with_own_keys(finding));
        }
        // Shape and positions look at some of the same fields; a field is named once.
        let mut named = std::collections::BTreeSet::new();
        fields.findings.retain(|finding| named.insert(finding.split(':').next().map(str::to_owned)));
        match fields.findings.is_empty() {
            true => Ok(checked),
            false => {
                Err(Failure::config(fields.findings.iter().map(|line| brief(line)).collect::<Vec<_>>().join("\n")))
            }
        }
    }

    /// Standard deviation of new matrices outside the blocks: what the config says, else 0.02 as in GPT-2 and LLaMA code bases.
    pub fn initializer_range(&self) -> f64 {
        let said = self.raw.get("initializer_range").and_then(Value::as_f64);
        said.filter(|deviation| deviation.is_finite() && *deviation > 0.0).unwrap_or(0.02)
    }

    /// `(heads, key_heads, head_dim)` for shapes of tensors.
    pub fn head_shape(&self) -> (i64, i64, i64) {
        (self.heads as i64, self.key_heads as i64, self.head_dim as i64)
    }

    /// The position encoding as the core wants it.
    pub fn encoding(&self) -> PositionEncoding {
        self.positions.encoding()
    }

    /// Every tensor of the model with its shape, by LLaMA's names and in the order of the forward pass.
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden, self.inner);
        let (queries, keys) = (self.heads * self.head_dim, self.key_heads * self.head_dim);
        let linears = [
            ("self_attn.q_proj", queries, hidden, self.attention_bias),
            ("self_attn.k_proj", keys, hidden, self.attention_bias),
            ("self_attn.v_proj", keys, hidden, self.attention_bias),
            ("self_attn.o_proj", hidden, queries, self.attention_bias),
            ("mlp.gate_proj", inner, hidden, self.mlp_bias),
            ("mlp.up_proj", inner, hidden, self.mlp_bias),
            ("mlp.down_proj", hidden, inner, self.mlp_bias),
        ];
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab, hidden])];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: Vec<usize>| all.push((format!("model.layers.{layer}.{name}"), shape));
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                add(&format!("{norm}.weight"), vec![hidden]);
                if self.layer_norm {
                    add(&format!("{norm}.bias"), vec![hidden]);
                }
            }
            for (name, out, into, bias) in linears {
                add(&format!("{name}.weight"), vec![out, into]);
                if bias {
                    add(&format!("{name}.bias"), vec![out]);
                }
            }
        }
        all.push(("model.norm.weight".to_owned(), vec![hidden]));
        if self.layer_norm {
            all.push(("model.norm.bias".to_owned(), vec![hidden]));
        }
        if !self.tied {
            all.push(("lm_head.weight".to_owned(), vec![self.vocab, hidden]));
        }
        all
    }

    /// Every tensor of a checkpoint of the family with its shape.
    pub fn stored_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let ours = self.expected_tensors();
        match self.family {
            Family::Llama => ours,
            Family::Btlm => {
                let mut all: Vec<(String, Vec<usize>)> = Vec::new();
                for (name, shape) in ours {
                    let Some(place) = btlm::place(&name) else { continue };
                    if all.last().is_none_or(|(last, _)| *last != place.name)
                        && !all.iter().any(|(known, _)| *known == place.name)
                    {
                        all.push((place.name.clone(), place.shape(&shape)));
                    }
                }
                all
            }
        }
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> u64 {
        self.expected_tensors().iter().map(|(_, shape)| shape.iter().map(|&n| n as u64).product::<u64>()).sum()
    }

    /// The config to write: the one that was read, with both spellings of the position encoding.
    pub fn to_hf(&self, dtype: &str) -> Value {
        let mut out = self.raw.clone();
        out.remove("auto_map");
        out.insert("dtype".into(), json!(dtype));
        out.insert("torch_dtype".into(), json!(dtype));
        self.positions.merge_into(&mut out);
        Value::Object(out)
    }
}

/// The positions of a config; none where the family has none that are known.
fn positions(config: &Value, family: Family) -> Result<Option<Positions>, HfErrors> {
    match family {
        Family::Llama => Ok(Some(Positions::Rope(from_hf(config)?))),
        Family::Btlm => Ok(alibi_from_hf(config)?.map(Positions::Alibi)),
    }
}

/// A raw config and what was found wrong with it.
struct Fields<'a> {
    raw: &'a Map<String, Value>,
    findings: Vec<String>,
}

impl Fields<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.raw.get(key).filter(|value| !value.is_null())
    }

    /// A positive integer; `default` when it is absent and has one.
    fn size(&mut self, key: &str, default: Option<usize>) -> usize {
        match (self.get(key), default) {
            (None, Some(default)) => default,
            (None, None) => {
                self.findings.push(format!("/{key}: is missing"));
                0
            }
            (Some(value), _) => match value.as_u64() {
                Some(n) if (1..=SIZE_LIMIT).contains(&n) => n as usize,
                _ => {
                    let finding = format!("/{key}: must be an integer from 1 to {SIZE_LIMIT}, is {value}");
                    self.findings.push(finding);
                    0
                }
            },
        }
    }

    fn positive(&mut self, key: &str, default: f64) -> f64 {
        match self.get(key) {
            None => default,
            Some(value) => match value.as_f64() {
                Some(x) if x.is_finite() && x > 0.0 => x,
                _ => {
                    let finding = format!("/{key}: must be a positive number, is {value}");
                    self.findings.push(finding);
                    default
                }
            },
        }
    }

    fn flag(&mut self, key: &str) -> bool {
        match self.get(key) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(value) => {
                let finding = format!("/{key}: must be true or false, is {value}");
                self.findings.push(finding);
                false
            }
        }
    }

    /// One token id or a list of them.
    fn ids(&mut self, key: &str) -> Vec<u32> {
        let values = match self.get(key) {
            None => return Vec::new(),
            Some(Value::Array(values)) => values.clone(),
            Some(value) => vec![value.clone()],
        };
        let ids = values.iter().map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok())).collect::<Option<Vec<_>>>();
        ids.unwrap_or_else(|| {
            self.findings.push(format!("/{key}: must be a token id or a list of them, is {}", Value::Array(values)));
            Vec::new()
        })
    }

    fn expect_known(&mut self, family: Family) {
        let supported = "\"llama\", \"btlm\" and \"jais\" are supported";
        match self.get("model_type") {
            Some(Value::String(kind)) if kind == "llama" || family == Family::Btlm => {}
            Some(other) => {
                let finding = format!("/model_type: only {supported}, is {other}");
                self.findings.push(finding);
            }
            None => self.findings.push(format!("/model_type: is missing; {supported}")),
        }
        if let Some(act) = self.get("hidden_act").filter(|act| act.as_str() != Some("silu") && family == Family::Llama)
        {
            let finding = format!("/hidden_act: only \"silu\" is supported, is {act}");
            self.findings.push(finding);
        }
    }

    fn mup(&mut self, family: Family) -> Mup {
        if family == Family::Llama {
            return Mup::default();
        }
        let (mup, findings) = btlm::mup(self.raw);
        self.findings.extend(findings);
        mup
    }

    fn check_shape(&mut self, config: &ModelConfig) {
        let ModelConfig { heads, key_heads, head_dim, hidden, .. } = *config;
        if config.layers > LAYER_LIMIT {
            self.findings.push(format!("/num_hidden_layers: must be at most {LAYER_LIMIT}, is {}", config.layers));
        }
        if heads as u64 * head_dim as u64 > SIZE_LIMIT {
            let product = format!("num_attention_heads {heads} x head_dim {head_dim}");
            self.findings.push(format!("/head_dim: {product} must be at most {SIZE_LIMIT}"));
        }
        let head_dim_given = self.get("head_dim").is_some();
        if !head_dim_given && heads > 0 && hidden % heads != 0 {
            self.findings.push(format!("/hidden_size: {hidden} is not divisible by num_attention_heads {heads}"));
        }
        if key_heads > 0 && heads % key_heads != 0 {
            self.findings
                .push(format!("/num_attention_heads: {heads} is not divisible by num_key_value_heads {key_heads}"));
        }
        if head_dim % 2 != 0 && config.family == Family::Llama {
            self.findings.push(format!("/head_dim: must be even for rotary positions, is {head_dim}"));
        }
        let outside = config.bos.iter().chain(&config.eos).find(|&&id| id as usize >= config.vocab.max(1));
        if let (Some(id), true) = (outside, config.vocab > 0) {
            self.findings.push(format!("/bos_token_id or /eos_token_id: {id} is outside vocab_size {}", config.vocab));
        }
    }
}
