//! One `rope_scaling` or `rope_parameters` object: a raw reading of everything that may stand in it, judged by scheme.

use serde_json::{Map, Value};

use super::fields::Fields;
use super::finding::Finding;
use super::suggest::did_you_mean;
use crate::scaling::RopeScaling;

/// A scheme as transformers knows it.
struct HubScheme {
    name: &'static str,
    required: &'static [&'static str],
    optional: &'static [&'static str],
    /// Frequencies depend on the original context, which must therefore be written down.
    needs_original: bool,
}

const SCHEMES: [HubScheme; 7] = [
    HubScheme { name: "default", required: &[], optional: &["factor"], needs_original: false },
    HubScheme { name: "linear", required: &["factor"], optional: &[], needs_original: false },
    HubScheme { name: "dynamic", required: &["factor"], optional: &[], needs_original: false },
    HubScheme {
        name: "yarn",
        required: &["factor"],
        optional: &["attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"],
        needs_original: true,
    },
    HubScheme {
        name: "dynamic-yarn",
        required: &[],
        optional: &["factor", "beta_fast", "beta_slow", "truncate"],
        needs_original: true,
    },
    HubScheme {
        name: "llama3",
        required: &["factor", "low_freq_factor", "high_freq_factor"],
        optional: &[],
        needs_original: true,
    },
    HubScheme {
        name: "longrope",
        required: &["short_factor", "long_factor"],
        optional: &["factor", "attention_factor"],
        needs_original: true,
    },
];

/// Keys that may stand beside any scheme.
const COMMON: [&str; 6] =
    ["type", "rope_type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings", "finetuned"];

/// Names met in the wild that have no counterpart here, and what to do instead.
const ELSEWHERE: [(&str, &str); 6] = [
    ("ntk", "static NTK has no type in this format: write the raised base as rope_theta"),
    ("ntk-aware", "static NTK has no type in this format: write the raised base as rope_theta"),
    ("ntk-by-parts", "write it as yarn with attention_factor 1.0"),
    ("proportional", "transformers has it, but it is not supported here"),
    ("axial", "transformers has it, but it is not supported here"),
    ("mrope", "multimodal positions are not supported here"),
];

/// What one object declares. Absent and unreadable values are `None`; the findings say which were unreadable.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    /// JSON pointer of the object.
    pub(super) pointer: String,
    scheme: &'static str,
    pub(super) needs_original: bool,
    pub(super) theta: Option<f64>,
    pub(super) original: Option<usize>,
    pub(super) partial: Option<f64>,
    pub(super) finetuned: Option<bool>,
    factor: Option<f64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    truncate: Option<bool>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    short_factor: Option<Vec<f64>>,
    long_factor: Option<Vec<f64>>,
}

impl Declared {
    /// Reads `object`, which stands at `pointer`, and adds what is wrong with it to `findings`.
    pub(super) fn read(object: &Map<String, Value>, pointer: &str, findings: &mut Vec<Finding>) -> Self {
        let mut fields = Fields::new(object, pointer);
        let scheme = scheme(&mut fields);
        let declared = Self {
            pointer: pointer.to_owned(),
            scheme: scheme.map_or("default", |scheme| scheme.name),
            needs_original: scheme.is_some_and(|scheme| scheme.needs_original),
            theta: fields.number("rope_theta"),
            original: fields.count("original_max_position_embeddings"),
            partial: fields.number("partial_rotary_factor"),
            finetuned: fields.flag("finetuned"),
            factor: fields.number("factor"),
            attention_factor: fields.number("attention_factor"),
            beta_fast: fields.number("beta_fast"),
            beta_slow: fields.number("beta_slow"),
            truncate: fields.flag("truncate"),
            mscale: fields.number("mscale"),
            mscale_all_dim: fields.number("mscale_all_dim"),
            low_freq_factor: fields.number("low_freq_factor"),
            high_freq_factor: fields.number("high_freq_factor"),
            short_factor: fields.numbers("short_factor"),
            long_factor: fields.numbers("long_factor"),
        };
        if let Some(scheme) = scheme {
            judge_keys(&mut fields, scheme);
            if let (true, Some(factor)) = (scheme.name == "default", declared.factor.filter(|factor| *factor != 1.0)) {
                fields
                    .object_to("factor", format!("the default scheme does not scale, so a factor of {factor} is lost"));
            }
        }
        findings.append(&mut fields.findings);
        declared
    }

    /// The checked scheme's parameters, defaults filled in. `implied_factor` (longer over original context) stands in for
    /// a factor of LongRoPE or dynamic YaRN that is not written; a required value that is missing reads as 1 and is among the findings.
    pub(super) fn scaling(&self, implied_factor: f64) -> RopeScaling {
        let factor = self.factor.unwrap_or(1.0);
        match self.scheme {
            "linear" => RopeScaling::Linear { factor },
            "dynamic" => RopeScaling::DynamicNtk { factor },
            "yarn" => self.yarn(factor),
            "dynamic-yarn" => RopeScaling::DynamicYarn {
                factor: self.factor.unwrap_or(implied_factor),
                beta_fast: self.beta_fast.unwrap_or(32.0),
                beta_slow: self.beta_slow.unwrap_or(1.0),
                truncate: self.truncate.unwrap_or(true),
            },
            "llama3" => RopeScaling::Llama3 {
                factor,
                low_freq_factor: self.low_freq_factor.unwrap_or(1.0),
                high_freq_factor: self.high_freq_factor.unwrap_or(4.0),
            },
            "longrope" => RopeScaling::LongRope {
                short: self.short_factor.clone().unwrap_or_default(),
                long: self.long_factor.clone().unwrap_or_default(),
                factor: self.factor.unwrap_or(implied_factor),
                attention_factor: self.attention_factor,
                start_tokens: 0,
            },
            _ => RopeScaling::None,
        }
    }

    fn yarn(&self, factor: f64) -> RopeScaling {
        let (beta_fast, beta_slow) = (self.beta_fast.unwrap_or(32.0), self.beta_slow.unwrap_or(1.0));
        let truncate = self.truncate.unwrap_or(true);
        let &Self { attention_factor, mscale, mscale_all_dim, .. } = self;
        if attention_factor == Some(1.0) && mscale.is_none() && mscale_all_dim.is_none() {
            return RopeScaling::NtkByParts { factor, beta_fast, beta_slow, truncate };
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, attention_factor, mscale, mscale_all_dim }
    }

    /// Whether a divisor list could not be read, so that judging its length would only repeat the finding.
    pub(super) fn lists_missing(&self) -> bool {
        self.short_factor.is_none() || self.long_factor.is_none()
    }

    /// Whether YaRN's `mscale` and `mscale_all_dim` are only half given, which transformers ignores.
    pub(super) fn half_mscale(&self) -> bool {
        self.mscale.is_some() != self.mscale_all_dim.is_some() && self.attention_factor.is_none()
    }
}

/// The scheme that `type` and `rope_type` name together.
fn scheme(fields: &mut Fields<'_>) -> Option<&'static HubScheme> {
    let named: Vec<_> = ["rope_type", "type"].into_iter().filter_map(|key| Some((key, fields.text(key)?))).collect();
    let Some(&(key, name)) = named.first() else {
        // With a misread type, or with nothing but what may stand beside any scheme, there is no more to say.
        let plain = fields.keys().all(|key| COMMON.contains(&key));
        if !plain && fields.findings.is_empty() {
            fields.object_to("rope_type", "is missing: the object has parameters but names no scheme");
        }
        return if plain { SCHEMES.first() } else { None };
    };
    let found = known(name);
    if found.is_none() {
        let names = SCHEMES.iter().map(|scheme| scheme.name);
        let hint = match ELSEWHERE.iter().find(|(other, _)| *other == name.to_lowercase()) {
            Some((_, hint)) => format!("; {hint}"),
            None => did_you_mean(name, names.clone()),
        };
        let all = names.collect::<Vec<_>>().join(", ");
        fields.object_to(key, format!("unknown RoPE scheme (known: {all}){hint}"));
    }
    if let Some((other, _)) = named.get(1).filter(|(_, second)| spelling(second) != spelling(name)) {
        fields.object_to(other, format!("disagrees with {key} \"{name}\""));
    }
    found
}

/// `su` is the older name of `longrope`.
fn spelling(name: &str) -> &str {
    if name == "su" { "longrope" } else { name }
}

fn known(name: &str) -> Option<&'static HubScheme> {
    SCHEMES.iter().find(|scheme| scheme.name == spelling(name))
}

/// Keys that are missing, that belong to another scheme, or that nobody knows.
fn judge_keys(fields: &mut Fields<'_>, scheme: &HubScheme) {
    for key in scheme.required {
        if fields.get(key).is_none() {
            fields.object_to(key, format!("is missing: {} needs it", scheme.name));
        }
    }
    let own = |key: &str| COMMON.contains(&key) || scheme.required.contains(&key) || scheme.optional.contains(&key);
    let elsewhere =
        |key: &str| SCHEMES.iter().any(|other| other.required.contains(&key) || other.optional.contains(&key));
    for key in fields.keys().filter(|key| !own(key)) {
        if !elsewhere(key) {
            let all =
                COMMON.iter().chain(SCHEMES.iter().flat_map(|scheme| scheme.required.iter().chain(scheme.optional)));
            fields.object_to(key, format!("unknown key{}", did_you_mean(key, all.copied())));
        } else if fields.get(key).is_some() {
            fields.object_to(key, format!("is not a parameter of {}", scheme.name));
        }
    }
}
