//! ALiBi in configs of the BTLM family: `position_embedding_type`, `n_head`, `n_positions`, `alibi_scaling`.

use serde_json::Value;

use super::fields::Fields;
use super::finding::HfErrors;
use super::suggest::did_you_mean;
use crate::alibi::AlibiScaling;
use crate::encoding::PositionEncoding;

/// The ALiBi encoding of a config, or `None` when the config does not say `"position_embedding_type": "alibi"`.
///
/// `alibi_scaling` is null, `{"type": "linear", "factor": f}` (every length) or `{"type": "linear", "train_seq_len": n}`
/// (lengths beyond `n`).
///
/// # Errors
///
/// Every finding at once: missing or unreadable sizes, an unknown scaling, both or none of its two parameters.
pub fn alibi_from_hf(config: &Value) -> Result<Option<PositionEncoding>, HfErrors> {
    let Some(object) = config.as_object() else { return Ok(None) };
    let mut top = Fields::new(object, "");
    if top.get("position_embedding_type").and_then(Value::as_str) != Some("alibi") {
        return Ok(None);
    }
    let heads = first_count(&mut top, "n_head", "num_attention_heads");
    let original = first_count(&mut top, "n_positions", "max_position_embeddings");
    let heads = u16::try_from(heads).unwrap_or_else(|_| {
        top.object_to("n_head", "is too large for a head count");
        1
    });
    let scaling = scaling(&mut top);
    HfErrors::unless_empty(top.findings, Some(PositionEncoding::Alibi { heads, scaling, original_context: original }))
}

/// The count under `key` or its newer name; 1, with a finding, when neither can be read.
fn first_count(top: &mut Fields<'_>, key: &str, newer: &str) -> usize {
    if top.get(key).is_none() && top.get(newer).is_none() {
        top.object_to(key, "is missing");
    }
    let older = top.count(key);
    older.or_else(|| top.count(newer)).unwrap_or(1)
}

fn scaling(top: &mut Fields<'_>) -> AlibiScaling {
    let Some(value) = top.get("alibi_scaling") else { return AlibiScaling::None };
    let Some(object) = value.as_object() else {
        top.object_to("alibi_scaling", "must be an object or null");
        return AlibiScaling::None;
    };
    let mut fields = Fields::new(object, "/alibi_scaling");
    let known = ["type", "factor", "train_seq_len"];
    for key in fields.keys().filter(|key| !known.contains(key)) {
        fields.object_to(key, format!("unknown key{}", did_you_mean(key, known)));
    }
    if fields.text("type") != Some("linear") {
        fields.object_to("type", "must be \"linear\"");
    }
    let (factor, train) = (fields.number("factor"), fields.count("train_seq_len"));
    if factor.is_some_and(|factor| factor < 1.0) {
        fields.object_to("factor", "must be at least 1");
    }
    let scaling = match (factor, train) {
        (Some(factor), None) => AlibiScaling::Fixed { factor },
        (None, Some(train_context)) => AlibiScaling::Dynamic { train_context },
        _ => {
            if fields.findings.is_empty() {
                fields.object_to("factor", "give either factor or train_seq_len");
            }
            AlibiScaling::None
        }
    };
    top.findings.append(&mut fields.findings);
    scaling
}
