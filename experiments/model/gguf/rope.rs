//! Position keys and tensors to the `rope_scaling` object that says the same.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::dequantise::dequantised;
use super::error::Problem;
use super::header::Header;
use super::types::TensorType;

/// The head of every position key.
const HEAD: &str = "llama.rope.";
/// The keys that are understood; any other might move positions.
const KNOWN: [&str; 12] = [
    "dimension_count",
    "freq_base",
    "scale_linear",
    "scaling.type",
    "scaling.factor",
    "scaling.original_context_length",
    "scaling.finetuned",
    "scaling.attn_factor",
    "scaling.yarn_attn_factor",
    "scaling.yarn_ext_factor",
    "scaling.yarn_beta_fast",
    "scaling.yarn_beta_slow",
];
/// Llama 3's own numbers: low and high frequency factor, and the context of its pretraining.
const LLAMA3: (f64, f64, f64) = (1.0, 4.0, 8192.0);
/// How far a stored float32 factor may be from the formula's.
const FACTOR_ERROR: f64 = 1e-4;

/// The `rope_scaling` of a model with heads of `head_dim` and base `base`, null when there is none.
///
/// # Errors
///
/// A key that is not known, missing, or says what is not computed here.
pub(super) fn scaling(header: &Header, bytes: &[u8], head_dim: u64, base: f64, context: u64) -> Result<Value, Problem> {
    if let Some(key) = header.keys().find(|key| key.strip_prefix(HEAD).is_some_and(|rest| !KNOWN.contains(&rest))) {
        return Err(Problem::key(key, "is not known here, and it may change positions"));
    }
    let key = |rest: &str| format!("{HEAD}{rest}");
    let number = |rest: &str| header.number(&key(rest));
    let kind_key = key("scaling.type");
    let factor = match number("scaling.factor")? {
        Some(factor) => Some(factor),
        None => number("scale_linear")?,
    };
    // A factor of 0 is how some writers say none.
    let factor = factor.filter(|factor| *factor != 0.0);
    let original = header.unsigned(&key("scaling.original_context_length"))?;
    let kind = header.text(&kind_key)?;
    let attention = attention_multiplier(header)?;
    let divisors = divisors(header, bytes, "rope_freqs.weight", head_dim)?;
    if let (Some(_), Some(_)) = (&divisors, kind.filter(|kind| *kind != "none")) {
        return Err(Problem::key(kind_key, "scales positions, and the tensor rope_freqs.weight does, too"));
    }
    if kind != Some("yarn") && kind != Some("longrope") && attention != 1.0 {
        return Err(Problem::key(
            key("scaling.attn_factor"),
            format!("is {attention}, which only yarn and longrope have"),
        ));
    }
    let missing = |rest: &str, kind: &str| Problem::key(key(rest), format!("is missing, and {kind} needs it"));
    match kind {
        None | Some("linear") => match (factor, divisors) {
            (_, Some(divisors)) => Ok(by_divisors(&divisors, base, context)),
            (None, None) => Ok(Value::Null),
            (Some(factor), None) => Ok(given(json!({ "rope_type": "linear", "factor": factor }), original, None)),
        },
        Some("none") => Ok(divisors.map_or(Value::Null, |divisors| by_divisors(&divisors, base, context))),
        Some("yarn") => {
            let factor = factor.ok_or_else(|| missing("scaling.factor", "yarn"))?;
            let original = original.ok_or_else(|| missing("scaling.original_context_length", "yarn"))?;
            let mut object = json!({ "rope_type": "yarn", "factor": factor });
            for (rest, name) in [("scaling.yarn_beta_fast", "beta_fast"), ("scaling.yarn_beta_slow", "beta_slow")] {
                if let Some(beta) = number(rest)? {
                    object[name] = json!(beta);
                }
            }
            if attention != 1.0 {
                object["attention_factor"] = json!(attention * (0.1 * factor.ln() + 1.0));
            }
            Ok(given(object, Some(original), header.flag(&key("scaling.finetuned"))?))
        }
        Some("longrope") => {
            let original = original.ok_or_else(|| missing("scaling.original_context_length", "longrope"))?;
            let list = |name: &str| divisors_needed(self::divisors(header, bytes, name, head_dim)?, name);
            let (short, long) = (list("rope_factors_short.weight")?, list("rope_factors_long.weight")?);
            Ok(longrope(&short, &long, original, attention))
        }
        Some(other) => Err(Problem::key(kind_key, format!("must be none, linear, yarn or longrope, is {other:?}"))),
    }
}

fn given(mut object: Value, original: Option<u64>, finetuned: Option<bool>) -> Value {
    if let Some(original) = original {
        object["original_max_position_embeddings"] = json!(original);
    }
    if let Some(finetuned) = finetuned {
        object["finetuned"] = json!(finetuned);
    }
    object
}

fn longrope(short: &[f64], long: &[f64], original: u64, attention: f64) -> Value {
    json!({
        "rope_type": "longrope", "short_factor": short, "long_factor": long, "attention_factor": attention,
        "original_max_position_embeddings": original,
    })
}

/// What the scores are multiplied by beside the scheme's own factor.
fn attention_multiplier(header: &Header) -> Result<f64, Problem> {
    let key = |rest: &str| format!("{HEAD}scaling.{rest}");
    let ramp = key("yarn_ext_factor");
    match header.number(&ramp)? {
        Some(strength) if strength != 1.0 => {
            return Err(Problem::key(ramp, format!("must be 1, the whole of YaRN's ramp, is {strength}")));
        }
        _ => {}
    }
    let one = |rest: &str| Ok(header.number(&key(rest))?.unwrap_or(1.0));
    Ok(one("attn_factor")? * one("yarn_attn_factor")?)
}

/// A tensor of numbers that divide the frequencies, one for each pair of channels.
fn divisors(header: &Header, bytes: &[u8], name: &str, head_dim: u64) -> Result<Option<Vec<f64>>, Problem> {
    let Some(place) = header.tensor(name) else { return Ok(None) };
    let kind = place.read_as(name)?;
    if kind != TensorType::F32 || place.elements() != head_dim / 2 {
        let what = format!("must be {} numbers of F32, is {:?} of {kind}", head_dim / 2, place.shape);
        return Err(Problem::tensor(name, what));
    }
    let values: Vec<f64> = dequantised(kind, &bytes[place.range()], 1, |row| row).into_iter().map(f64::from).collect();
    match values.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
        Some(wrong) => Err(Problem::tensor(name, format!("must hold positive numbers, holds {wrong}"))),
        None => Ok(Some(values)),
    }
}

fn divisors_needed(divisors: Option<Vec<f64>>, name: &str) -> Result<Vec<f64>, Problem> {
    divisors.ok_or_else(|| Problem::tensor(name, "is missing, and longrope needs it"))
}

/// Writers store Llama 3's scaling as its result. Where the numbers are those of the formula it is named, so that an export
/// says what the original said; any others are LongRoPE's lists, the same for every length.
fn by_divisors(divisors: &[f64], base: f64, context: u64) -> Value {
    let (low, high, original) = LLAMA3;
    let factor = divisors.iter().fold(1.0, |most: f64, &x| most.max(x));
    if factor == 1.0 {
        return Value::Null;
    }
    let pairs = divisors.len() as f64;
    let formula = |pair: usize| {
        let turns = original * base.powf(-(pair as f64) / pairs) / TAU;
        let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    let close = |(pair, found): (usize, &f64)| (formula(pair) / found - 1.0).abs() < FACTOR_ERROR;
    if divisors.iter().enumerate().all(close) {
        return json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original as u64,
        });
    }
    longrope(divisors, divisors, context, 1.0)
}
