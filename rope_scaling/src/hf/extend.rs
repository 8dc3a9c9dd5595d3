//! Extending an unscaled model.

use serde::{Deserialize, Serialize};

use super::{HfPositions, LongRopeFactors};
use crate::error::{GeometryError, ScalingError};
use crate::real::Real;
use crate::scaling::RopeScaling;

/// A way to extend the context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extension {
    /// Position Interpolation.
    Linear,
    /// Static NTK-aware scaling.
    Ntk,
    /// Dynamic NTK; the written context limit stays the original one.
    Dynamic,
    /// YaRN with its defaults.
    Yarn,
    /// YaRN's ramp without its temperature.
    NtkByParts,
    /// YaRN whose factor follows the length.
    DynamicYarn,
    /// Llama 3.1's scaling by wavelength, with its limits of 1 and 4 turns.
    Llama3,
    /// Adjusted base frequency (Xiong et al. 2023): another base, no scheme.
    Abf {
        /// The new base, above the old one.
        base: f64,
    },
    /// LongRoPE by given divisors.
    LongRope(LongRopeFactors),
    /// ALiBi's slopes divided by as much as a text is longer than the trained context; for models with ALiBi.
    AlibiDynamic,
}

impl Extension {
    /// Every name that [`Extension::named`] takes, and `longrope`.
    pub const NAMES: [&str; 12] = [
        "linear",
        "pi",
        "ntk",
        "dynamic",
        "dynamic-ntk",
        "yarn",
        "dynamic-yarn",
        "ntk-by-parts",
        "llama3",
        "abf",
        "longrope",
        "alibi-dynamic",
    ];

    /// The extension called `name`: `linear` or `pi`, `ntk`, `dynamic` or `dynamic-ntk`, `yarn`, `dynamic-yarn`,
    /// `ntk-by-parts`, `llama3`, `abf` (which needs `base`). LongRoPE is made of its factors, not of a name.
    ///
    /// # Errors
    ///
    /// An unknown name; `abf` without base; a base for another method; `longrope`.
    pub fn named(name: &str, base: Option<f64>) -> Result<Self, ExtendError> {
        let method = match (name, base) {
            ("abf", Some(base)) => return Ok(Self::Abf { base }),
            ("abf", None) => return Err(ExtendError::NoBase),
            ("linear" | "pi", _) => Self::Linear,
            ("ntk", _) => Self::Ntk,
            ("dynamic" | "dynamic-ntk", _) => Self::Dynamic,
            ("yarn", _) => Self::Yarn,
            ("dynamic-yarn", _) => Self::DynamicYarn,
            ("ntk-by-parts", _) => Self::NtkByParts,
            ("llama3", _) => Self::Llama3,
            ("alibi-dynamic", _) => Self::AlibiDynamic,
            ("longrope", _) => return Err(ExtendError::NoFactors),
            _ => {
                let hint = super::suggest::did_you_mean(name, Self::NAMES);
                return Err(ExtendError::Unknown { name: name.to_owned(), hint });
            }
        };
        match base {
            Some(base) => Err(ExtendError::NeedlessBase { name: name.to_owned(), base }),
            None => Ok(method),
        }
    }

    /// The name by which [`Extension::named`] finds it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Ntk => "ntk",
            Self::Dynamic => "dynamic-ntk",
            Self::Yarn => "yarn",
            Self::NtkByParts => "ntk-by-parts",
            Self::DynamicYarn => "dynamic-yarn",
            Self::Llama3 => "llama3",
            Self::LongRope(_) => "longrope",
            Self::AlibiDynamic => "alibi-dynamic",
            Self::Abf { .. } => "abf",
        }
    }
}

/// How far to extend.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// New context over original context, at least 1.
    Factor(f64),
    /// New context, in tokens.
    Context(usize),
}

/// Why a model could not be extended.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ExtendError {
    /// Two scalings multiply into frequencies that no scheme means.
    #[error("the model is already extended ({how}); extend the original model instead")]
    AlreadyExtended {
        /// By what.
        how: String,
    },
    /// There is nothing to take the place of.
    #[error("the model is not extended, so there is nothing to extend further")]
    NotExtended,
    /// The context would shrink or is not a number.
    #[error("the extension factor must be a finite number of at least 1 and give at most 2^40 tokens, got {factor}")]
    Factor {
        /// Factor as given or derived.
        factor: f64,
    },
    /// A base at or below the old one shortens wavelengths.
    #[error("a changed base must be finite and above the model's base {current}, got {base}")]
    BaseNotRaised {
        /// Base as given.
        base: f64,
        /// Base of the model.
        current: f64,
    },
    /// No method of that name.
    #[error("unknown extension method \"{name}\"{hint}")]
    Unknown {
        /// Name as given.
        name: String,
        /// A suggestion, or nothing.
        hint: String,
    },
    /// ABF is nothing but a base.
    #[error("the method abf needs a base")]
    NoBase,
    /// LongRoPE is nothing but its factors.
    #[error("the method longrope needs a file of factors")]
    NoFactors,
    /// Divisors found for one original context mean nothing at another.
    #[error("the factors are meant for an original context of {meant} tokens, but the model's is {model}")]
    OtherOriginal {
        /// The context that the factors name.
        meant: usize,
        /// The model's.
        model: usize,
    },
    /// Slopes are scaled where there are slopes.
    #[error("the method alibi-dynamic scales the slopes of ALiBi, and the model rotates")]
    NeedsAlibi,
    /// Only ABF changes the base by hand.
    #[error("the method {name} takes no base, got {base}")]
    NeedlessBase {
        /// The method.
        name: String,
        /// Base as given.
        base: f64,
    },
    /// The geometry cannot stand.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The scheme does not fit the geometry.
    #[error(transparent)]
    Scaling(#[from] ScalingError),
}

/// `model` extended by `method` as far as `reach` says. The original context is `model`'s `max_position_embeddings`.
///
/// # Errors
///
/// A model that is extended already, a factor below 1, a base that is not raised, a scheme or factors that do not fit.
pub fn extend(model: &HfPositions, method: &Extension, reach: Reach) -> Result<HfPositions, ExtendError> {
    if model.is_extended() {
        let how = match model.pretrained_base {
            Some(base) => format!("base {} instead of {base}", model.geometry.base()),
            None => format!("{} factor {}", model.scaling.name(), model.scaling.factor()),
        };
        return Err(ExtendError::AlreadyExtended { how });
    }
    let original = model.max_position_embeddings;
    let (factor, context) = factor_and_context(original, reach)?;
    let mut extended = HfPositions { max_position_embeddings: context, notes: Vec::new(), ..model.clone() };
    extended.geometry = model.geometry.with_original_context(original)?;
    extended.scaling = match method {
        Extension::Linear => RopeScaling::Linear { factor },
        Extension::Ntk => RopeScaling::NtkAware { factor },
        Extension::Dynamic => {
            extended.max_position_embeddings = original;
            RopeScaling::DynamicNtk { factor }
        }
        Extension::Yarn => RopeScaling::yarn(factor),
        Extension::NtkByParts => RopeScaling::ntk_by_parts(factor),
        Extension::DynamicYarn => RopeScaling::dynamic_yarn(factor),
        Extension::Llama3 => RopeScaling::llama3(factor),
        Extension::AlibiDynamic => return Err(ExtendError::NeedsAlibi),
        Extension::LongRope(factors) => longrope(factors, factor, &extended)?,
        &Extension::Abf { base } => {
            let current = model.geometry.base();
            if !(base.is_finite() && base > current) {
                return Err(ExtendError::BaseNotRaised { base, current });
            }
            extended.geometry = extended.geometry.with_base(base)?;
            extended.pretrained_base = Some(current);
            RopeScaling::None
        }
    };
    extended.scaling.validate(&extended.geometry)?;
    Ok(extended)
}

/// The positions of an extended model before they were extended: its original context and base, no scheme. From there it may be
/// extended again, in place of what it has.
///
/// # Errors
///
/// [`ExtendError::NotExtended`] for a model that is not.
pub fn original(model: &HfPositions) -> Result<HfPositions, ExtendError> {
    if !model.is_extended() {
        return Err(ExtendError::NotExtended);
    }
    let context = model.geometry.original_context();
    let mut original = HfPositions {
        scaling: RopeScaling::None,
        max_position_embeddings: context,
        pretrained_base: None,
        notes: Vec::new(),
        ..model.clone()
    };
    if let Some(base) = model.pretrained_base {
        original.geometry = original.geometry.with_base(base)?;
    }
    Ok(original)
}

/// The scheme of given divisors on a model.
fn longrope(factors: &LongRopeFactors, factor: f64, model: &HfPositions) -> Result<RopeScaling, ExtendError> {
    let (pairs, original) = (model.geometry.pairs(), model.geometry.original_context());
    if let Some(meant) = factors.original_context.filter(|&meant| meant != original) {
        return Err(ExtendError::OtherOriginal { meant, model: original });
    }
    Ok(RopeScaling::LongRope {
        short: factors.short.clone().unwrap_or_else(|| vec![1.0; pairs]),
        long: factors.long.clone(),
        factor,
        attention_factor: factors.attention_factor,
        start_tokens: factors.start_tokens,
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be positive and below 2^40")]
pub(super) fn factor_and_context(original: usize, reach: Reach) -> Result<(f64, usize), ExtendError> {
    let factor = match reach {
        Reach::Factor(factor) => factor,
        Reach::Context(context) => f64::count(context) / f64::count(original),
    };
    let context = f64::count(original) * factor;
    if !(factor.is_finite() && factor >= 1.0 && context <= (1_u64 << 40) as f64) {
        return Err(ExtendError::Factor { factor });
    }
    match reach {
        Reach::Context(context) => Ok((factor, context)),
        Reach::Factor(_) => Ok((factor, context.round() as usize)),
    }
}
