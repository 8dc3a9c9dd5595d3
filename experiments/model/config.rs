//! `config.json` of a LLaMA checkpoint: a forgiving raw reading, then a checked type that nothing doubts again.

use rope_scaling::PositionEncoding;
use rope_scaling::hf::{HfPositions, from_hf};
use serde_json::{Map, Value, json};

use crate::error::Failure;
use crate::fault::brief;

/// Shape of a LLaMA model. Fields are checked by [`ModelConfig::from_hf`].
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
    /// Epsilon of RMSNorm.
    pub norm_epsilon: f64,
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
    /// Position encoding as the file declares it.
    pub positions: HfPositions,
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
        let mut fields = Fields { raw, findings: Vec::new() };
        fields.expect_llama();
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
            norm_epsilon: fields.positive("rms_norm_eps", 1e-6),
            tied: fields.flag("tie_word_embeddings"),
            attention_bias: fields.flag("attention_bias"),
            mlp_bias: fields.flag("mlp_bias"),
            bos: fields.ids("bos_token_id").first().copied(),
            eos: fields.ids("eos_token_id"),
            positions: HfPositions::plain(2, 10_000.0, 1).map_err(|e| Failure::config(e.to_string()))?,
            raw: raw.clone(),
        };
        fields.check_shape(&checked);
        match from_hf(config) {
            Ok(positions) => checked.positions = positions,
            Err(errors) => fields.findings.extend(errors.to_string().lines().map(str::to_owned)),
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

    /// `(heads, key_heads, head_dim)` for shapes of tensors.
    pub fn head_shape(&self) -> (i64, i64, i64) {
        (self.heads as i64, self.key_heads as i64, self.head_dim as i64)
    }

    /// The position encoding as the core wants it.
    pub fn encoding(&self) -> PositionEncoding {
        self.positions.encoding()
    }

    /// Every tensor of the checkpoint with its shape, in the order of the forward pass.
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
            add("input_layernorm.weight", vec![hidden]);
            add("post_attention_layernorm.weight", vec![hidden]);
            for (name, out, into, bias) in linears {
                add(&format!("{name}.weight"), vec![out, into]);
                if bias {
                    add(&format!("{name}.bias"), vec![out]);
                }
            }
        }
        all.push(("model.norm.weight".to_owned(), vec![hidden]));
        if !self.tied {
            all.push(("lm_head.weight".to_owned(), vec![self.vocab, hidden]));
        }
        all
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

    fn expect_llama(&mut self) {
        match self.get("model_type") {
            Some(Value::String(kind)) if kind == "llama" => {}
            Some(other) => {
                let finding = format!("/model_type: only \"llama\" is supported, is {other}");
                self.findings.push(finding);
            }
            None => self.findings.push("/model_type: is missing; only \"llama\" is supported".to_owned()),
        }
        if let Some(act) = self.get("hidden_act").filter(|act| act.as_str() != Some("silu")) {
            let finding = format!("/hidden_act: only \"silu\" is supported, is {act}");
            self.findings.push(finding);
        }
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
        if head_dim % 2 != 0 {
            self.findings.push(format!("/head_dim: must be even for rotary positions, is {head_dim}"));
        }
        let outside = config.bos.iter().chain(&config.eos).find(|&&id| id as usize >= config.vocab.max(1));
        if let (Some(id), true) = (outside, config.vocab > 0) {
            self.findings.push(format!("/bos_token_id or /eos_token_id: {id} is outside vocab_size {}", config.vocab));
        }
    }
}
