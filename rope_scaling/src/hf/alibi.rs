//! ALiBi in configs of the BTLM family: `position_embedding_type`, `n_head`, `n_positions`, `alibi_scaling`.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::extend::{ExtendError, Reach, factor_and_context};
use super::fields::Fields;
use super::finding::HfErrors;
use super::suggest::did_you_mean;
use crate::alibi::AlibiScaling;
use crate::encoding::PositionEncoding;

/// What a config says of ALiBi.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HfAlibi {
    /// Query heads.
    pub heads: u16,
    /// How slopes shrink.
    pub scaling: AlibiScaling,
    /// Context of the training without scaling, in tokens.
    pub original_context: usize,
    /// The longest context that the model claims, in tokens.
    pub max_position_embeddings: usize,
}

/// The ways to a longer context that ALiBi has.
const METHODS: [&str; 4] = ["alibi-fixed", "alibi-dynamic", "linear", "pi"];

impl HfAlibi {
    /// The encoding that it amounts to.
    #[must_use]
    pub fn encoding(&self) -> PositionEncoding {
        let Self { heads, scaling, original_context, .. } = *self;
        PositionEncoding::Alibi { heads, scaling, original_context }
    }

    /// Whether the context was already extended.
    #[must_use]
    pub fn is_extended(&self) -> bool {
        self.scaling != AlibiScaling::None
    }

    /// The same model extended (Al-Khateeb et al. 2023): `alibi-fixed`, `linear` or `pi` divides slopes by the factor at every
    /// length, `alibi-dynamic` by as much as a text is longer than the trained context.
    ///
    /// # Errors
    ///
    /// An unknown method, a model that is extended already, a factor below 1.
    pub fn extended(&self, method: &str, reach: Reach) -> Result<Self, ExtendError> {
        if self.is_extended() {
            return Err(ExtendError::AlreadyExtended { how: self.scaling.name().to_owned() });
        }
        let original = self.max_position_embeddings;
        let (factor, context) = factor_and_context(original, reach)?;
        let scaling = match method {
            "alibi-fixed" | "linear" | "pi" => AlibiScaling::Fixed { factor },
            "alibi-dynamic" => AlibiScaling::Dynamic { train_context: original },
            _ => {
                let hint = did_you_mean(method, METHODS);
                let hint = format!("{hint}; a model with ALiBi takes {}", METHODS.join(", "));
                return Err(ExtendError::Unknown { name: method.to_owned(), hint });
            }
        };
        Ok(Self { scaling, original_context: original, max_position_embeddings: context, ..*self })
    }

    /// The same model before it was extended.
    ///
    /// # Errors
    ///
    /// [`ExtendError::NotExtended`] for a model that is not.
    pub fn original(&self) -> Result<Self, ExtendError> {
        if !self.is_extended() {
            return Err(ExtendError::NotExtended);
        }
        let context = self.original_context;
        Ok(Self { scaling: AlibiScaling::None, max_position_embeddings: context, ..*self })
    }

    /// Writes its keys into `config` in the family's own spelling; [`alibi_from_hf`] reads them back to the same.
    pub fn merge_into(&self, config: &mut Map<String, Value>) {
        let scaling = match self.scaling {
            AlibiScaling::None => Value::Null,
            AlibiScaling::Fixed { factor } => json!({"type": "linear", "factor": factor}),
            AlibiScaling::Dynamic { train_context } => json!({"type": "linear", "train_seq_len": train_context}),
        };
        let context = if config.contains_key("n_positions") { "n_positions" } else { "max_position_embeddings" };
        config.insert(context.to_owned(), json!(self.max_position_embeddings));
        config.insert("position_embedding_type".to_owned(), json!("alibi"));
        config.insert("alibi_scaling".to_owned(), scaling);
    }
}

/// The ALiBi of a config, or `None` when the config does not say `"position_embedding_type": "alibi"`.
///
/// `alibi_scaling` is null, `{"type": "linear", "factor": f}` (every length) or `{"type": "linear", "train_seq_len": n}`
/// (lengths beyond `n`). A model with a fixed factor was trained without it on the context divided by the factor, where that is
/// whole, as with rotary positions.
///
/// # Errors
///
/// Every finding at once: missing or unreadable sizes, an unknown scaling, both or none of its two parameters.
pub fn alibi_from_hf(config: &Value) -> Result<Option<HfAlibi>, HfErrors> {
    let Some(object) = config.as_object() else { return Ok(None) };
    let mut top = Fields::new(object, "");
    if top.get("position_embedding_type").and_then(Value::as_str) != Some("alibi") {
        return Ok(None);
    }
    let heads = first_count(&mut top, "n_head", "num_attention_heads");
    let context = first_count(&mut top, "n_positions", "max_position_embeddings");
    let heads = u16::try_from(heads).unwrap_or_else(|_| {
        top.object_to("n_head", "is too large for a head count");
        1
    });
    let scaling = scaling(&mut top);
    let original_context = match scaling {
        AlibiScaling::None => context,
        AlibiScaling::Fixed { factor } => super::read::original_of_linear(context, factor).unwrap_or(context),
        AlibiScaling::Dynamic { train_context } => train_context,
    };
    let found = HfAlibi { heads, scaling, original_context, max_position_embeddings: context };
    HfErrors::unless_empty(top.findings, Some(found))
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
