//! From metadata to the object that a `config.json` would hold, so that both formats meet the same checks and an export is
//! a folder like any other.

use serde_json::{Value, json};

use super::error::Problem;
use super::header::Header;
use super::names::{EMBEDDING, HEAD};
use super::rope;
use super::vocabulary::ends;

/// The architecture that is read, and the head of its keys.
const LLAMA: &str = "llama";

/// Keys that change what a model computes in a way that is not computed here, with the one value that changes nothing.
const CHANGES_THE_MODEL: [(&str, Option<u64>); 9] = [
    ("expert_count", Some(0)),
    ("expert_used_count", Some(0)),
    ("attention.sliding_window", Some(0)),
    ("attention.scale", None),
    ("attention.clamp_kqv", None),
    ("attention.temperature_scale", None),
    ("embedding_scale", None),
    ("residual_scale", None),
    ("logit_scale", None),
];

/// Fields of a `config.json` and the keys that they come from; longer names before those that they contain.
const FIELDS: [(&str, &str); 15] = [
    ("rope_scaling/original_max_position_embeddings", "llama.rope.scaling.original_context_length"),
    ("original_max_position_embeddings", "llama.rope.scaling.original_context_length"),
    ("max_position_embeddings", "llama.context_length"),
    ("rope_scaling/factor", "llama.rope.scaling.factor"),
    ("rope_scaling", "llama.rope.scaling"),
    ("rope_theta", "llama.rope.freq_base"),
    ("vocab_size", "the rows of token_embd.weight"),
    ("hidden_size", "llama.embedding_length"),
    ("intermediate_size", "llama.feed_forward_length"),
    ("num_hidden_layers", "llama.block_count"),
    ("num_key_value_heads", "llama.attention.head_count_kv"),
    ("num_attention_heads", "llama.attention.head_count"),
    ("head_dim", "llama.attention.key_length"),
    ("rms_norm_eps", "llama.attention.layer_norm_rms_epsilon"),
    ("bos_token_id or /eos_token_id", "tokenizer.ggml.bos_token_id or tokenizer.ggml.eos_token_id"),
];

/// The config of the model in a file, whose whole content is `bytes`.
///
/// # Errors
///
/// A key that is missing, of the wrong type, or says what is not computed here.
pub fn config_of(header: &Header, bytes: &[u8]) -> Result<Value, Problem> {
    const ARCHITECTURE: &str = "general.architecture";
    match header.text(ARCHITECTURE)? {
        Some(LLAMA) => {}
        Some(other) => return Err(Problem::key(ARCHITECTURE, format!("only {LLAMA:?} is read, is {other:?}"))),
        None => return Err(Problem::key(ARCHITECTURE, "is missing")),
    }
    refuse_other_models(header)?;
    let size = |key: &str| header.unsigned(&format!("{LLAMA}.{key}"));
    let needed = |key: &str| size(key)?.ok_or_else(|| Problem::key(format!("{LLAMA}.{key}"), "is missing"));
    let embedding = header.tensor(EMBEDDING).ok_or_else(|| Problem::tensor(EMBEDDING, "is missing"))?;
    let heads = needed("attention.head_count")?;
    let (context, hidden) = (needed("context_length")?, needed("embedding_length")?);
    let head_dim = head_dim(header, hidden, heads)?;
    let ends = ends(header)?;
    let epsilon = format!("{LLAMA}.attention.layer_norm_rms_epsilon");
    let epsilon = header.number(&epsilon)?.ok_or_else(|| Problem::key(epsilon, "is missing"))?;
    let base = header.number(&format!("{LLAMA}.rope.freq_base"))?.unwrap_or(rope_scaling::hf::DEFAULT_BASE);
    Ok(json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": needed("feed_forward_length")?,
        "num_hidden_layers": needed("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": size("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "hidden_act": "silu",
        "rms_norm_eps": epsilon,
        "rope_theta": base,
        "rope_scaling": rope::scaling(header, bytes, head_dim, base, context)?,
        "tie_word_embeddings": header.tensor(HEAD).is_none(),
        "attention_bias": header.tensor("blk.0.attn_q.bias").is_some(),
        "mlp_bias": header.tensor("blk.0.ffn_up.bias").is_some(),
        "bos_token_id": ends.bos.filter(|_| ends.add_bos),
        "eos_token_id": match ends.stops.as_slice() {
            [] => Value::Null,
            [only] => json!(only),
            several => json!(several),
        },
    }))
}

/// What [`ModelConfig::from_hf`](crate::model::ModelConfig::from_hf) finds wrong, with the file's keys in place of a
/// config's fields.
pub fn in_its_own_words(findings: &str) -> String {
    let key = |line: &str| {
        let line = line.strip_prefix('/').unwrap_or(line);
        FIELDS.iter().fold(line.to_owned(), |line, (field, key)| line.replace(field, key))
    };
    findings.lines().map(key).collect::<Vec<_>>().join("\n")
}

fn refuse_other_models(header: &Header) -> Result<(), Problem> {
    for (key, neutral) in CHANGES_THE_MODEL {
        let key = format!("{LLAMA}.{key}");
        let Some(value) = header.get(&key) else { continue };
        if neutral.is_none() || header.unsigned(&key)? != neutral {
            return Err(Problem::key(key, format!("is {}; such a model is not computed here", value.shown())));
        }
    }
    match header.unsigned("split.count")? {
        Some(count @ 2..) => {
            let what =
                format!("is {count}: this is a piece of a model; join the pieces first (llama-gguf-split --merge)");
            Err(Problem::key("split.count", what))
        }
        _ => Ok(()),
    }
}

/// Size of a head, all of which is rotated.
fn head_dim(header: &Header, hidden: u64, heads: u64) -> Result<u64, Problem> {
    let sized = |rest: &str| header.unsigned(&format!("{LLAMA}.{rest}"));
    let stated = sized("attention.key_length")?;
    let head_dim = stated.unwrap_or(hidden.checked_div(heads).unwrap_or(0));
    for rest in ["attention.value_length", "rope.dimension_count"] {
        match sized(rest)? {
            Some(other) if other != head_dim => {
                let why = match stated {
                    Some(_) => format!("{LLAMA}.attention.key_length is {head_dim}"),
                    None => format!(
                        "{LLAMA}.embedding_length {hidden} over {LLAMA}.attention.head_count {heads} is {head_dim}"
                    ),
                };
                return Err(Problem::key(format!("{LLAMA}.{rest}"), format!("is {other}, but {why}")));
            }
            _ => {}
        }
    }
    Ok(head_dim)
}
