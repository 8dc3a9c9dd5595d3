//! Checkpoints of the BTLM family (Dey et al. 2023): the names, layouts and config keys of GPT-2, translated to LLaMA's, which
//! are the only ones that the rest of the program knows.
//!
//! Linear weights are stored `[in, out]`; query, key and value lie in one matrix; of the MLP's two, `c_fc2` is the gate. What
//! differs in the forward pass is LayerNorm, biases everywhere, ALiBi and muP's multipliers.

use serde_json::{Map, Value};
use tch::Tensor;

use super::mup::Mup;
use crate::error::Failure;

/// Its names in `model_type`.
pub const MODEL_TYPES: [&str; 2] = ["btlm", "jais"];

/// Keys of a config, and what LLaMA calls them.
const KEYS: [(&str, &str); 7] = [
    ("n_embd", "hidden_size"),
    ("n_inner", "intermediate_size"),
    ("n_layer", "num_hidden_layers"),
    ("n_head", "num_attention_heads"),
    ("n_positions", "max_position_embeddings"),
    ("layer_norm_epsilon", "rms_norm_eps"),
    ("activation_function", "hidden_act"),
];

/// The config with LLaMA's keys beside its own, and what cannot be read in it.
pub fn with_llama_keys(raw: &Map<String, Value>) -> (Map<String, Value>, Vec<String>) {
    let mut config = raw.clone();
    for (theirs, ours) in KEYS {
        if let Some(value) = raw.get(theirs).filter(|value| !value.is_null()) {
            config.insert(ours.to_owned(), value.clone());
        }
    }
    let mut findings = Vec::new();
    match raw.get("activation_function").and_then(Value::as_str) {
        Some("swiglu") => drop(config.insert("hidden_act".to_owned(), "silu".into())),
        other => findings.push(format!("/activation_function: only \"swiglu\" is supported, is {other:?}")),
    }
    if raw.get("position_embedding_type").and_then(Value::as_str) != Some("alibi") {
        let value = raw.get("position_embedding_type").unwrap_or(&Value::Null);
        findings.push(format!("/position_embedding_type: only \"alibi\" is supported for this family, is {value}"));
    }
    for key in ["scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"] {
        if raw.get(key).and_then(Value::as_bool) == Some(true) {
            findings.push(format!("/{key}: must be false, is true"));
        }
    }
    if raw.get("scale_attn_weights").and_then(Value::as_bool) == Some(false) {
        findings.push("/scale_attn_weights: must be true, is false".to_owned());
    }
    // GPT-2's configs tie their embeddings unless they say otherwise.
    config.entry("tie_word_embeddings").or_insert(Value::Bool(true));
    for key in ["attention_bias", "mlp_bias"] {
        config.insert(key.to_owned(), Value::Bool(true));
    }
    (config, findings)
}

/// A finding about one of LLaMA's keys, as one about the family's own.
pub fn with_own_keys(finding: &str) -> String {
    let key = finding.strip_prefix('/').and_then(|rest| rest.split(':').next());
    let own = key.and_then(|key| KEYS.iter().find(|(_, ours)| *ours == key));
    match own {
        Some((theirs, ours)) => finding.replacen(ours, theirs, 1),
        None => finding.to_owned(),
    }
}

/// The multipliers of a config, under the names that BTLM, Jais and their conversions give them.
pub fn mup(raw: &Map<String, Value>) -> (Mup, Vec<String>) {
    let number = |keys: [&str; 2]| {
        let found = keys.iter().find_map(|key| raw.get(*key).filter(|value| !value.is_null()));
        found.map_or(Some(1.0), Value::as_f64).unwrap_or(f64::NAN)
    };
    let mut mup = Mup {
        width_scale: number(["mup_width_scale", "mup_width_scale"]),
        embeddings_scale: number(["mup_embeddings_scale", "embeddings_scale"]),
        output_alpha: number(["mup_output_alpha", "mup_output_alpha"]),
        scale_by_d: ["mup_scale_qk_dot_by_d", "scale_qk_dot_by_d"]
            .iter()
            .any(|key| raw.get(*key).and_then(Value::as_bool) == Some(true)),
    };
    // Jais writes the product alone.
    if let (Some(product), None) = (raw.get("width_scale").and_then(Value::as_f64), raw.get("mup_output_alpha")) {
        mup.output_alpha = product / mup.width_scale;
    }
    let findings = mup.findings().into_iter().map(|finding| format!("/mup_{finding}")).collect();
    (mup, findings)
}

/// Where a tensor of ours lies in a checkpoint of the family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name there.
    pub name: String,
    /// Whether it is stored transposed.
    pub transposed: bool,
    /// Which third of the stored tensor's last dimension it is; none: all of it.
    pub third: Option<usize>,
}

/// The place of a tensor by our name; none for a name that the family does not have.
pub fn place(name: &str) -> Option<Place> {
    let whole = |name: String| Place { name, transposed: false, third: None };
    let fixed = match name {
        "model.embed_tokens.weight" => Some("transformer.wte.weight"),
        "lm_head.weight" => Some("lm_head.weight"),
        "model.norm.weight" => Some("transformer.ln_f.weight"),
        "model.norm.bias" => Some("transformer.ln_f.bias"),
        _ => None,
    };
    if let Some(fixed) = fixed {
        return Some(whole(fixed.to_owned()));
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (theirs, third) = match part {
        "input_layernorm" => ("ln_1", None),
        "post_attention_layernorm" => ("ln_2", None),
        "self_attn.q_proj" => ("attn.c_attn", Some(0)),
        "self_attn.k_proj" => ("attn.c_attn", Some(1)),
        "self_attn.v_proj" => ("attn.c_attn", Some(2)),
        "self_attn.o_proj" => ("attn.c_proj", None),
        "mlp.up_proj" => ("mlp.c_fc", None),
        "mlp.gate_proj" => ("mlp.c_fc2", None),
        "mlp.down_proj" => ("mlp.c_proj", None),
        _ => return None,
    };
    let transposed = kind == "weight" && !part.ends_with("layernorm");
    Some(Place { name: format!("transformer.h.{layer}.{theirs}.{kind}"), transposed, third })
}

impl Place {
    /// The shape of the stored tensor, from that of ours.
    pub fn shape(&self, ours: &[usize]) -> Vec<usize> {
        let mut shape = ours.to_vec();
        if self.transposed {
            shape.reverse();
        }
        if let (Some(_), Some(last)) = (self.third, shape.last_mut()) {
            *last *= 3;
        }
        shape
    }

    /// Our tensor out of the stored one, a copy of its own.
    pub fn taken(&self, stored: &Tensor) -> Tensor {
        let last = stored.dim() as i64 - 1;
        let part = match self.third {
            Some(third) => {
                let width = stored.size()[last as usize] / 3;
                stored.narrow(last, third as i64 * width, width)
            }
            None => stored.shallow_clone(),
        };
        if self.transposed { part.tr().contiguous() } else { part.contiguous() }
    }
}

/// The tensors of a model under the family's names, in the order in which they first appear.
///
/// # Errors
///
/// For a name that the family does not have; when memory cannot be had.
pub fn written<'a>(parameters: impl Iterator<Item = (String, &'a Tensor)>) -> Result<Vec<(String, Tensor)>, Failure> {
    let mut all: Vec<(String, Vec<Tensor>)> = Vec::new();
    for (name, tensor) in parameters {
        let found = place(&name).ok_or_else(|| Failure::data(format!("{name}: the BTLM family has no such tensor")))?;
        let part = if found.transposed { tensor.tr() } else { tensor.shallow_clone() };
        match all.iter_mut().find(|(known, _)| *known == found.name) {
            Some((_, parts)) => parts.push(part),
            None => all.push((found.name, vec![part])),
        }
    }
    let joined = all.into_iter().map(|(name, parts)| {
        let last = parts[0].dim() as i64 - 1;
        Ok((name, Tensor::f_cat(&parts, last)?.f_contiguous()?))
    });
    joined.collect()
}

/// Names that a checkpoint may hold beside the parameters: masks and biases that its code makes itself.
pub fn ignorable(name: &str) -> bool {
    [".attn.bias", ".attn.masked_bias", "relative_pe.slopes"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tensor_has_its_place_and_a_query_is_a_third() {
        let query = place("model.layers.3.self_attn.q_proj.weight").unwrap();
        assert_eq!(
            (query.name.as_str(), query.transposed, query.third),
            ("transformer.h.3.attn.c_attn.weight", true, Some(0))
        );
        assert_eq!(query.shape(&[8, 6]), [6, 24]);
        let bias = place("model.layers.3.self_attn.v_proj.bias").unwrap();
        assert_eq!((bias.transposed, bias.third, bias.shape(&[8])), (false, Some(2), vec![24]));
        assert_eq!(place("model.layers.0.mlp.gate_proj.weight").unwrap().name, "transformer.h.0.mlp.c_fc2.weight");
        assert_eq!(place("model.layers.0.input_layernorm.weight").unwrap().shape(&[6]), [6]);
        assert_eq!(place("model.layers.0.rotary.weight"), None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let names = ["q", "k", "v"].map(|part| format!("model.layers.0.self_attn.{part}_proj.weight"));
        let ours: Vec<Tensor> =
            (0..3).map(|i| Tensor::arange(12, (tch::Kind::Float, tch::Device::Cpu)).view([4, 3]) + i * 100).collect();
        let pairs = names.iter().cloned().zip(&ours);
        let written = written(pairs).unwrap();
        assert_eq!(written.len(), 1);
        assert_eq!(written[0].1.size(), [3, 12]);
        for (name, tensor) in names.iter().zip(&ours) {
            assert!(place(name).unwrap().taken(&written[0].1).equal(tensor), "{name}");
        }
    }

    #[test]
    fn jais_writes_the_product_of_its_multipliers() {
        let config = serde_json::json!({"mup_width_scale": 0.5, "width_scale": 0.25, "scale_qk_dot_by_d": true});
        let (mup, findings) = mup(config.as_object().unwrap());
        assert_eq!((mup.logits_scale(), mup.output_alpha, mup.scale_by_d, findings.len()), (0.25, 0.5, true, 0));
        let (_, findings) = super::mup(serde_json::json!({"mup_output_alpha": -1}).as_object().unwrap());
        assert!(findings[0].starts_with("/mup_output_alpha"), "{findings:?}");
    }
}
