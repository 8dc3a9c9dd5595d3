//! What a config's positions amount to, in numbers a person can check.

use std::f64::consts::TAU;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::alibi::{self, AlibiScaling};
use crate::hf::{HfAlibi, HfPositions};
use crate::real::Real;
use crate::scaling::RopeScaling;

/// Ends of a YaRN ramp in pair indexes: kept up to `low`, fully interpolated from `high`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RampBounds {
    /// Last pair that is not interpolated.
    pub low: f64,
    /// First pair that is interpolated by the whole factor.
    pub high: f64,
}

/// Summary of a model's rotary positions at one context length.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// Name of the scheme; `abf` for a base known to be changed.
    pub scheme: String,
    /// The scheme's parameters, spelt as in Hugging Face configs.
    pub parameters: Map<String, Value>,
    /// Channels of a head.
    pub head_dim: usize,
    /// Rotated channels of a head.
    pub rotary_dim: usize,
    /// Base of the geometry.
    pub base: f64,
    /// Base in use at `context`, which the NTK schemes change.
    pub effective_base: f64,
    /// The scheme's factor.
    pub factor: f64,
    /// Context of the pretraining, in tokens.
    pub original_context: usize,
    /// The longest context that the config claims, in tokens.
    pub max_position_embeddings: usize,
    /// The context described, in tokens.
    pub context: usize,
    /// Whether frequencies differ between lengths.
    pub depends_on_length: bool,
    /// Ends of the ramp, for YaRN and NTK-by-parts.
    pub ramp: Option<RampBounds>,
    /// Factor on cosine and sine.
    pub attention_factor: f64,
    /// Radians per token of each pair at `context`.
    pub inv_freq: Vec<f64>,
    /// Tokens per turn of each pair at `context`.
    pub wavelengths: Vec<f64>,
    /// Slope of each query head at `context`, for ALiBi.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slopes: Vec<f64>,
    /// Pairs whose pretrained wavelength is longer than the original context: they never made a full turn.
    pub pairs_without_full_turn: usize,
    /// Those of them that reach angles at `context` which pretraining never showed.
    pub pairs_with_unseen_angles: usize,
    /// What should give pause.
    pub warnings: Vec<String>,
    /// What the reader of the config assumed or converted.
    pub notes: Vec<String>,
}

/// Describes `positions` at `context` tokens, the claimed context when not given.
pub fn describe(positions: &HfPositions, context: Option<usize>) -> Description {
    let HfPositions { geometry, scaling, max_position_embeddings, pretrained_base, .. } = positions;
    let context = context.unwrap_or(*max_position_embeddings);
    let frequencies = scaling.frequencies(geometry, context);
    let (turnless, unseen) = slow_pairs(positions, &frequencies.inv_freq, context);
    Description {
        scheme: if pretrained_base.is_some() { "abf".to_owned() } else { scaling.name().to_owned() },
        parameters: match pretrained_base {
            Some(base) => Map::from_iter([("pretrained_base".to_owned(), json!(base))]),
            None => scaling.parameters(),
        },
        head_dim: geometry.head_dim(),
        rotary_dim: geometry.rotary_dim(),
        base: geometry.base(),
        effective_base: scaling.effective_base(geometry, context),
        factor: scaling.factor(),
        original_context: geometry.original_context(),
        max_position_embeddings: *max_position_embeddings,
        context,
        depends_on_length: scaling.depends_on_length(),
        ramp: scaling.ramp(geometry).map(|ramp| RampBounds { low: ramp.low, high: ramp.high }),
        attention_factor: frequencies.attention_factor,
        wavelengths: frequencies.inv_freq.iter().map(|frequency| TAU / frequency).collect(),
        inv_freq: frequencies.inv_freq,
        slopes: Vec::new(),
        pairs_without_full_turn: turnless,
        pairs_with_unseen_angles: unseen,
        warnings: warnings(positions, context, unseen),
        notes: positions.notes.clone(),
    }
}

/// Describes ALiBi at `context` tokens, the claimed context when not given: nothing rotates, so that there are no pairs, and base
/// and sizes of what rotates are 0.
pub fn describe_alibi(positions: &HfAlibi, context: Option<usize>) -> Description {
    let HfAlibi { heads, scaling, original_context, max_position_embeddings } = *positions;
    let context = context.unwrap_or(max_position_embeddings);
    let parameters = match scaling {
        AlibiScaling::None => Map::new(),
        AlibiScaling::Fixed { factor } => Map::from_iter([("factor".to_owned(), json!(factor))]),
        AlibiScaling::Dynamic { train_context } => Map::from_iter([("train_seq_len".to_owned(), json!(train_context))]),
    };
    let mut warnings = Vec::new();
    // Past its context an unscaled model of BTLM's kind loses little up to about 1.2 times and then more and more.
    if scaling == AlibiScaling::None && context > original_context {
        warnings.push(format!("context {context} is beyond the trained {original_context}, and slopes are not scaled"));
    }
    if context > max_position_embeddings && !scaling.depends_on_length() {
        warnings.push(format!("context {context} is beyond the claimed {max_position_embeddings}"));
    }
    Description {
        scheme: scaling.name().to_owned(),
        parameters,
        head_dim: 0,
        rotary_dim: 0,
        base: 0.0,
        effective_base: 0.0,
        factor: scaling.scale(context),
        original_context,
        max_position_embeddings,
        context,
        depends_on_length: scaling.depends_on_length(),
        ramp: None,
        attention_factor: 1.0,
        wavelengths: Vec::new(),
        inv_freq: Vec::new(),
        slopes: alibi::scaled_slopes(heads, &scaling, context).unwrap_or_default(),
        pairs_without_full_turn: 0,
        pairs_with_unseen_angles: 0,
        warnings,
        notes: Vec::new(),
    }
}

/// How many pairs never made a full turn in pretraining, and how many of them turn further at `context` than they did.
fn slow_pairs(positions: &HfPositions, inv_freq: &[f64], context: usize) -> (usize, usize) {
    let geometry = &positions.geometry;
    let original = f64::count(geometry.original_context());
    let pretrained_base = positions.pretrained_base.unwrap_or(geometry.base());
    let pretrained = geometry.with_base(pretrained_base).unwrap_or(*geometry);
    let seen = RopeScaling::None.frequencies(&pretrained, geometry.original_context()).inv_freq;
    let turnless = || seen.iter().zip(inv_freq).filter(|(seen, _)| TAU / **seen > original);
    // The margin forgives rounding where both angles are equal by construction.
    let unseen = turnless().filter(|(seen, now)| f64::count(context) * **now > original * **seen * (1.0 + 1e-9));
    (turnless().count(), unseen.count())
}

fn warnings(positions: &HfPositions, context: usize, unseen: usize) -> Vec<String> {
    let HfPositions { geometry, scaling, max_position_embeddings: max, .. } = positions;
    let original = geometry.original_context();
    let mut warnings = Vec::new();
    let mut warn = |applies: bool, text: String| {
        if applies {
            warnings.push(text);
        }
    };
    let implied = f64::count(*max) / f64::count(original);
    warn(context > *max && !matches!(scaling, RopeScaling::DynamicNtk { .. } | RopeScaling::DynamicYarn { .. }), {
        format!("context {context} is beyond max_position_embeddings {max}")
    });
    warn(unseen > 0, {
        format!("at {context} tokens, {unseen} of {} pairs reach angles never seen in pretraining", geometry.pairs())
    });
    warn(*max < original, format!("max_position_embeddings {max} is below the original context {original}"));
    warn(geometry.base() <= 1.0, format!("base {} does not give falling frequencies", geometry.base()));
    let factor = scaling.factor();
    match scaling {
        RopeScaling::DynamicNtk { .. } => warn(*max != original, {
            format!("dynamic NTK takes max_position_embeddings {max} for the original context, which is {original}")
        }),
        RopeScaling::Yarn { .. } | RopeScaling::NtkByParts { .. } | RopeScaling::Linear { .. } => {
            warn(implied != factor, {
                format!(
                    "factor {factor} differs from max_position_embeddings / original context = {implied}; the factor counts"
                )
            });
        }
        RopeScaling::Llama3 { .. } => warn(*max <= original, {
            format!("llama3 scaling with max_position_embeddings {max} not above the original context {original}")
        }),
        RopeScaling::LongRope { start_tokens, .. } => warn(*start_tokens > 0, {
            format!("the first {start_tokens} tokens keep unscaled positions, which transformers does not know of")
        }),
        RopeScaling::DynamicYarn { .. } => warn(true, "transformers does not know dynamic-yarn".to_owned()),
        RopeScaling::None | RopeScaling::NtkAware { .. } => {}
    }
    warnings
}

impl RopeScaling {
    /// The scheme's own parameters, spelt as in Hugging Face configs (which have no word for LongRoPE's `start_tokens`);
    /// optional ones that are not set are left out.
    pub fn parameters(&self) -> Map<String, Value> {
        let list = match self {
            Self::None => vec![],
            Self::Linear { factor } | Self::NtkAware { factor } | Self::DynamicNtk { factor } => {
                vec![("factor", json!(factor))]
            }
            Self::Yarn { factor, beta_fast, beta_slow, truncate, attention_factor, mscale, mscale_all_dim } => {
                let mut list = ramp_parameters(*factor, *beta_fast, *beta_slow, *truncate);
                list.extend(attention_factor.map(|value| ("attention_factor", json!(value))));
                list.extend(mscale.map(|value| ("mscale", json!(value))));
                list.extend(mscale_all_dim.map(|value| ("mscale_all_dim", json!(value))));
                list
            }
            Self::NtkByParts { factor, beta_fast, beta_slow, truncate }
            | Self::DynamicYarn { factor, beta_fast, beta_slow, truncate } => {
                ramp_parameters(*factor, *beta_fast, *beta_slow, *truncate)
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor } => vec![
                ("factor", json!(factor)),
                ("low_freq_factor", json!(low_freq_factor)),
                ("high_freq_factor", json!(high_freq_factor)),
            ],
            Self::LongRope { short, long, factor, attention_factor, start_tokens } => {
                let mut list =
                    vec![("short_factor", json!(short)), ("long_factor", json!(long)), ("factor", json!(factor))];
                list.extend(attention_factor.map(|value| ("attention_factor", json!(value))));
                list.extend((*start_tokens > 0).then(|| ("start_tokens", json!(start_tokens))));
                list
            }
        };
        list.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

fn ramp_parameters(factor: f64, beta_fast: f64, beta_slow: f64, truncate: bool) -> Vec<(&'static str, Value)> {
    vec![
        ("factor", json!(factor)),
        ("beta_fast", json!(beta_fast)),
        ("beta_slow", json!(beta_slow)),
        ("truncate", json!(truncate)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hf::{Extension, Reach, extend};

    fn llama() -> HfPositions {
        HfPositions::plain(128, 10_000.0, 4096).unwrap()
    }

    #[test]
    fn a_plain_model_at_its_own_context_gives_no_warning() {
        let description = describe(&llama(), None);
        assert_eq!(description.warnings, Vec::<String>::new());
        assert_eq!((description.pairs_without_full_turn, description.pairs_with_unseen_angles), (18, 0));
        assert!((description.wavelengths[0] - TAU).abs() < 1e-12);
    }

    #[test]
    fn a_plain_model_beyond_its_context_warns_of_limit_and_angles() {
        let description = describe(&llama(), Some(16_384));
        assert_eq!(description.warnings.len(), 2, "{:?}", description.warnings);
        assert_eq!(description.pairs_with_unseen_angles, 18);
    }

    #[test]
    fn interpolation_keeps_every_slow_pair_inside_the_seen_angles() {
        for method in [Extension::Linear, Extension::Yarn, Extension::NtkByParts] {
            let extended = extend(&llama(), &method, Reach::Factor(4.0)).unwrap();
            assert_eq!(describe(&extended, None).pairs_with_unseen_angles, 0, "{method:?}");
        }
    }

    #[test]
    fn yarn_shows_its_ramp_and_temperature() {
        let extended = extend(&llama(), &Extension::Yarn, Reach::Context(32_768)).unwrap();
        let description = describe(&extended, None);
        assert_eq!(description.ramp, Some(RampBounds { low: 20.0, high: 46.0 }));
        assert!((description.attention_factor - 1.207_944).abs() < 1e-6);
        assert_eq!(description.parameters["beta_fast"], 32.0);
    }

    #[test]
    fn a_raised_dynamic_limit_is_warned_of() {
        let mut raised = extend(&llama(), &Extension::Dynamic, Reach::Factor(2.0)).unwrap();
        assert_eq!(describe(&raised, None).warnings, Vec::<String>::new());
        raised.max_position_embeddings = 8192;
        assert!(describe(&raised, None).warnings.iter().any(|warning| warning.contains("dynamic")));
    }

    #[test]
    fn a_changed_base_is_called_abf() {
        let extended = extend(&llama(), &Extension::Abf { base: 5e5 }, Reach::Factor(4.0)).unwrap();
        let description = describe(&extended, None);
        assert_eq!((description.scheme.as_str(), description.base), ("abf", 5e5));
        assert_eq!(description.parameters["pretrained_base"], 10_000.0);
    }
}
