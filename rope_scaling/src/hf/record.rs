//! The one key of our own: what the Hugging Face format cannot say, kept beside what it can.
//!
//! Static NTK and a raised base look like an ordinary model with another `rope_theta`, a linear model whose
//! `max_position_embeddings` was not raised hides its original context, and LongRoPE's start tokens have no key. transformers ignores the key; models without it
//! read as the format says.

use serde_json::{Map, Value, json};

use super::HfPositions;
use super::fields::Fields;
use super::finding::Finding;
use crate::scaling::RopeScaling;
use crate::schemes::ntk;

/// The top-level key.
pub(super) const KEY: &str = "bowline_positions";

/// What the key holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Record {
    scheme: String,
    factor: Option<f64>,
    base: Option<f64>,
    start_tokens: Option<usize>,
    pub(super) original: Option<usize>,
}

impl Record {
    /// Reads the record of a config, if it has one.
    pub(super) fn read(config: &Map<String, Value>, findings: &mut Vec<Finding>) -> Option<Self> {
        let value = config.get(KEY).filter(|value| !value.is_null())?;
        let Some(object) = value.as_object() else {
            let problem = "must be an object".to_owned();
            findings.push(Finding { pointer: format!("/{KEY}"), value: Some(value.clone()), problem });
            return None;
        };
        let mut fields = Fields::new(object, &format!("/{KEY}"));
        let scheme = fields.text("scheme").unwrap_or_default().to_owned();
        if !["default", "linear", "ntk", "abf", "longrope"].contains(&scheme.as_str()) {
            fields.object_to("scheme", "must be \"default\", \"linear\", \"ntk\", \"abf\" or \"longrope\"");
        }
        let required = |fields: &mut Fields<'_>, key: &str, needed: bool| {
            if needed && fields.get(key).is_none() {
                fields.object_to(key, "is missing");
            }
        };
        required(&mut fields, "original_context", true);
        required(&mut fields, "base", scheme == "ntk" || scheme == "abf");
        required(&mut fields, "factor", scheme == "ntk");
        required(&mut fields, "start_tokens", scheme == "longrope");
        let start_tokens = fields.count("start_tokens");
        let (factor, base) = (fields.number("factor"), fields.number("base"));
        let original = fields.count("original_context");
        findings.append(&mut fields.findings);
        Some(Self { scheme, factor, base, start_tokens, original })
    }

    /// The record without which `positions` would read back otherwise, if any.
    pub(super) fn of(positions: &HfPositions) -> Option<Value> {
        let original = positions.geometry.original_context();
        let base = positions.geometry.base();
        match &positions.scaling {
            RopeScaling::NtkAware { factor } => {
                Some(json!({"scheme": "ntk", "factor": factor, "base": base, "original_context": original}))
            }
            RopeScaling::None => match positions.pretrained_base {
                Some(base) => Some(json!({"scheme": "abf", "base": base, "original_context": original})),
                None if original != positions.max_position_embeddings => {
                    Some(json!({"scheme": "default", "original_context": original}))
                }
                None => None,
            },
            RopeScaling::Linear { factor } => {
                let inferred = super::read::original_of_linear(positions.max_position_embeddings, *factor);
                (inferred != Some(original)).then(|| json!({"scheme": "linear", "original_context": original}))
            }
            RopeScaling::LongRope { start_tokens, .. } if *start_tokens > 0 => {
                Some(json!({"scheme": "longrope", "start_tokens": start_tokens, "original_context": original}))
            }
            _ => None,
        }
    }

    /// Applies the record to what the format itself said.
    pub(super) fn apply(&self, positions: &mut HfPositions, findings: &mut Vec<Finding>) {
        let mut object = |problem: String| findings.push(Finding { pointer: format!("/{KEY}"), value: None, problem });
        let read_as = match self.scheme.as_str() {
            own @ ("linear" | "longrope") => own,
            _ => "default",
        };
        if positions.scaling.name() != read_as {
            let found = positions.scaling.name();
            return object(format!("records the scheme {} but the config declares {found}", self.scheme));
        }
        if let (RopeScaling::LongRope { start_tokens, .. }, Some(recorded)) =
            (&mut positions.scaling, self.start_tokens)
        {
            *start_tokens = recorded;
        }
        let Some(base) = self.base else { return };
        if self.scheme == "abf" {
            positions.pretrained_base = Some(base);
        }
        let (Some(factor), true) = (self.factor, self.scheme == "ntk") else { return };
        let (written, rotary_dim) = (positions.geometry.base(), positions.geometry.rotary_dim());
        let expected = ntk::static_base(base, rotary_dim, factor);
        // The base is recomputed from the record, so it may only differ by rounding; NaN differs from everything.
        let agrees = (expected - written).abs() <= 1e-9 * written;
        match positions.geometry.with_base(base) {
            Ok(geometry) if agrees => {
                positions.geometry = geometry;
                positions.scaling = RopeScaling::NtkAware { factor };
            }
            _ => object(format!("NTK factor {factor} on base {base} gives rope_theta {expected}, but it is {written}")),
        }
    }
}
