//! The scaling schemes: one variant each, only its own fields, one shared answer.

use serde::Serialize;

use crate::error::{ScalingError, ScalingProblem};
use crate::geometry::RopeGeometry;
use crate::real::Real;
use crate::schemes::{linear, llama3, longrope, ntk, unscaled, yarn};
use crate::table::Precision;

/// How rotary frequencies are stretched beyond the original context, which the [`RopeGeometry`] holds.
///
/// A changed base (ABF) is no scheme: it is a geometry with another base and [`RopeScaling::None`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RopeScaling {
    /// Frequencies as pretrained.
    None,
    /// Position Interpolation: every frequency divided by `factor`.
    Linear {
        /// Longer context over original context, at least 1.
        factor: f64,
    },
    /// Static NTK-aware scaling: base times `factor^(d/(d-2))`.
    NtkAware {
        /// Interpolation of the slowest pair, at least 1.
        factor: f64,
    },
    /// Dynamic NTK: the base grows with the length beyond the original context.
    DynamicNtk {
        /// Multiplies the growth, at least 1. At 1 the base still grows by the length ratio.
        factor: f64,
    },
    /// YaRN.
    Yarn {
        /// Interpolation of the slow pairs, at least 1.
        factor: f64,
        /// Pairs that turn more often than this in the original context are kept (32).
        beta_fast: f64,
        /// Pairs that turn less often than this are interpolated (1).
        beta_slow: f64,
        /// Round the ramp's bounds outwards to whole pairs (true).
        truncate: bool,
        /// Factor on cosine and sine; `None`: from `mscale` and `mscale_all_dim`, else `0.1 ln s + 1`.
        attention_factor: Option<f64>,
        /// Numerator term of the attention factor, used when both terms are set and not zero.
        mscale: Option<f64>,
        /// Denominator term of the attention factor.
        mscale_all_dim: Option<f64>,
    },
    /// YaRN's ramp without its temperature (attention factor 1).
    NtkByParts {
        /// Interpolation of the slow pairs, at least 1.
        factor: f64,
        /// As in YaRN.
        beta_fast: f64,
        /// As in YaRN.
        beta_slow: f64,
        /// As in YaRN.
        truncate: bool,
    },
    /// Dynamic YaRN: YaRN whose factor is the length over the original context, and 1 up to it.
    DynamicYarn {
        /// How many times the original context the model claims to read, at least 1; frequencies do not depend on it.
        factor: f64,
        /// As in YaRN.
        beta_fast: f64,
        /// As in YaRN.
        beta_slow: f64,
        /// As in YaRN.
        truncate: bool,
    },
    /// Llama 3.1's scaling by wavelength.
    Llama3 {
        /// Interpolation of the slow pairs, at least 1.
        factor: f64,
        /// Pairs that turn less often than this in the original context are interpolated.
        low_freq_factor: f64,
        /// Pairs that turn more often than this are kept.
        high_freq_factor: f64,
    },
    /// LongRoPE: a divisor for every pair, from `short` up to the original context and from `long` beyond it.
    LongRope {
        /// Divisors up to the original context, one a pair.
        short: Vec<f64>,
        /// Divisors beyond it, one a pair.
        long: Vec<f64>,
        /// Longer context over original context; used for the attention factor only.
        factor: f64,
        /// Factor on cosine and sine; `None`: `sqrt(1 + ln s / ln L0)`.
        attention_factor: Option<f64>,
        /// First tokens that keep their unscaled positions where `long` is in use (the paper's n-hat); 0 in every
        /// published checkpoint, and unknown to transformers.
        start_tokens: usize,
    },
}

/// A scheme's answer for one geometry and length.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Frequencies {
    /// Radians per token for each pair, fastest first; length `rotary_dim / 2`.
    pub inv_freq: Vec<f64>,
    /// Factor on cosine and sine, hence its square on the scores of rotated channels.
    pub attention_factor: f64,
    /// Frequencies of the first positions, where these have their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<StartFrequencies>,
}

/// Frequencies of the first positions alone (LongRoPE's start tokens).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StartFrequencies {
    /// Positions `0..tokens` have them.
    pub tokens: usize,
    /// Radians per token for each pair, as in [`Frequencies::inv_freq`].
    pub inv_freq: Vec<f64>,
}

impl Frequencies {
    /// Radians per token for each pair at a position.
    pub fn at(&self, position: usize) -> &[f64] {
        match &self.start {
            Some(start) if position < start.tokens => &start.inv_freq,
            _ => &self.inv_freq,
        }
    }
}

impl RopeScaling {
    /// YaRN with the paper's settings for LLaMA: `beta_fast` 32, `beta_slow` 1, rounded bounds, default temperature.
    pub fn yarn(factor: f64) -> Self {
        Self::Yarn {
            factor,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
            attention_factor: None,
            mscale: None,
            mscale_all_dim: None,
        }
    }

    /// Dynamic YaRN with the paper's settings for LLaMA, for a model that claims `factor` times its original context.
    pub fn dynamic_yarn(factor: f64) -> Self {
        Self::DynamicYarn { factor, beta_fast: 32.0, beta_slow: 1.0, truncate: true }
    }

    /// NTK-by-parts with the paper's settings for LLaMA: `beta_fast` 32, `beta_slow` 1, rounded bounds.
    pub fn ntk_by_parts(factor: f64) -> Self {
        Self::NtkByParts { factor, beta_fast: 32.0, beta_slow: 1.0, truncate: true }
    }

    /// Llama 3.1's scaling with the limits of its `config.json`: pairs of less than 1 turn in the original context are
    /// interpolated, those of more than 4 kept.
    pub fn llama3(factor: f64) -> Self {
        Self::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0 }
    }

    /// The scheme's name in reports and on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "default",
            Self::Linear { .. } => "linear",
            Self::NtkAware { .. } => "ntk",
            Self::DynamicNtk { .. } => "dynamic",
            Self::Yarn { .. } => "yarn",
            Self::NtkByParts { .. } => "ntk-by-parts",
            Self::DynamicYarn { .. } => "dynamic-yarn",
            Self::Llama3 { .. } => "llama3",
            Self::LongRope { .. } => "longrope",
        }
    }

    /// Whether the same position may be rotated differently at another length.
    pub fn depends_on_length(&self) -> bool {
        match self {
            Self::DynamicNtk { .. } | Self::DynamicYarn { .. } => true,
            Self::LongRope { short, long, start_tokens, .. } => short != long || *start_tokens > 0,
            _ => false,
        }
    }

    /// The scheme's factor, 1 for [`RopeScaling::None`].
    pub fn factor(&self) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Linear { factor }
            | Self::NtkAware { factor }
            | Self::DynamicNtk { factor }
            | Self::Yarn { factor, .. }
            | Self::NtkByParts { factor, .. }
            | Self::DynamicYarn { factor, .. }
            | Self::Llama3 { factor, .. }
            | Self::LongRope { factor, .. } => *factor,
        }
    }

    /// The base in use at `length` tokens: changed by the NTK schemes, the geometry's otherwise.
    pub fn effective_base(&self, geometry: &RopeGeometry, length: usize) -> f64 {
        let (base, rotary_dim) = (geometry.base(), geometry.rotary_dim());
        match self {
            Self::NtkAware { factor } => ntk::static_base(base, rotary_dim, *factor),
            Self::DynamicNtk { factor } => {
                ntk::dynamic_base(base, rotary_dim, *factor, geometry.original_context(), length)
            }
            _ => base,
        }
    }

    /// Frequencies in f64 and the attention factor at a total length of `length` tokens.
    ///
    /// Give a scheme that [`validate`](Self::validate) accepts; another yields numbers without meaning, such as NaN for
    /// a LongRoPE pair without divisor, but does not panic.
    pub fn frequencies(&self, geometry: &RopeGeometry, length: usize) -> Frequencies {
        self.frequencies_in(geometry, length, Precision::Exact)
    }

    /// [`frequencies`](Self::frequencies) under a precision policy.
    ///
    /// With [`Precision::HubCompatible`] every step runs in f32 in the order of transformers, so that each frequency is
    /// an f32 value: nearly always the hub's own bits, at most one unit in the last place off (two for LongRoPE), which
    /// is as far as the hub itself moves between processors.
    pub fn frequencies_in(&self, geometry: &RopeGeometry, length: usize, precision: Precision) -> Frequencies {
        let at = |scheme: &Self| match precision {
            Precision::Exact => scheme.inv_freq::<f64>(geometry, length),
            Precision::HubCompatible => scheme.inv_freq::<f32>(geometry, length).into_iter().map(f64::from).collect(),
        };
        let start = match self {
            Self::LongRope { start_tokens, .. } if *start_tokens > 0 && length > geometry.original_context() => {
                Some(StartFrequencies { tokens: *start_tokens, inv_freq: at(&Self::None) })
            }
            _ => None,
        };
        Frequencies { inv_freq: at(self), attention_factor: self.attention_factor(geometry, length), start }
    }

    fn inv_freq<R: Real>(&self, geometry: &RopeGeometry, length: usize) -> Vec<R> {
        let (base, rotary_dim) = (geometry.base(), geometry.rotary_dim());
        match self {
            Self::None => unscaled(R::of(base), rotary_dim),
            Self::Linear { factor } => linear::inv_freq(R::of(base), rotary_dim, *factor),
            Self::NtkAware { factor } => unscaled(R::of(ntk::static_base(base, rotary_dim, *factor)), rotary_dim),
            Self::DynamicNtk { factor } => unscaled(
                ntk::dynamic_base::<R>(base, rotary_dim, *factor, geometry.original_context(), length),
                rotary_dim,
            ),
            Self::Yarn { factor, .. } | Self::NtkByParts { factor, .. } => {
                // Both variants have a ramp; the identity ramp for others is never asked for.
                let ramp = self.ramp(geometry).unwrap_or(yarn::Ramp { low: f64::MAX, high: f64::MAX });
                yarn::inv_freq(geometry, *factor, ramp)
            }
            Self::DynamicYarn { .. } if length <= geometry.original_context() => unscaled(R::of(base), rotary_dim),
            Self::DynamicYarn { .. } => {
                let ramp = self.ramp(geometry).unwrap_or(yarn::Ramp { low: f64::MAX, high: f64::MAX });
                yarn::inv_freq(geometry, yarn::dynamic_factor(geometry, length), ramp)
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor } => {
                llama3::inv_freq(geometry, *factor, *low_freq_factor, *high_freq_factor)
            }
            Self::LongRope { short, long, .. } => {
                longrope::inv_freq(geometry, if length > geometry.original_context() { long } else { short })
            }
        }
    }

    /// The ramp of the YaRN family.
    pub(crate) fn ramp(&self, geometry: &RopeGeometry) -> Option<yarn::Ramp> {
        match self {
            Self::Yarn { beta_fast, beta_slow, truncate, .. }
            | Self::NtkByParts { beta_fast, beta_slow, truncate, .. }
            | Self::DynamicYarn { beta_fast, beta_slow, truncate, .. } => {
                Some(yarn::Ramp::new(geometry, *beta_fast, *beta_slow, *truncate))
            }
            _ => None,
        }
    }

    fn attention_factor(&self, geometry: &RopeGeometry, length: usize) -> f64 {
        match self {
            Self::DynamicYarn { .. } => {
                yarn::attention_factor(yarn::dynamic_factor(geometry, length), None, None, None)
            }
            Self::Yarn { factor, attention_factor, mscale, mscale_all_dim, .. } => {
                yarn::attention_factor(*factor, *attention_factor, *mscale, *mscale_all_dim)
            }
            Self::LongRope { factor, attention_factor, .. } => {
                longrope::attention_factor(*factor, *attention_factor, geometry.original_context())
            }
            _ => 1.0,
        }
    }

    /// Checks every parameter against the geometry and reports all that cannot stand.
    ///
    /// # Errors
    ///
    /// Factors that are not finite or below 1, ramp or wavelength limits out of order, divisor lists of the wrong length
    /// or with entries that are not positive numbers, an NTK scheme on a single rotated pair.
    pub fn validate(&self, geometry: &RopeGeometry) -> Result<(), ScalingError> {
        let mut check = Check { problems: Vec::new() };
        check.that("factor", self.factor(), self.factor() >= 1.0, "must be a finite number of at least 1");
        match self {
            Self::None | Self::Linear { .. } => {}
            Self::NtkAware { .. } | Self::DynamicNtk { .. } => {
                let pairs = geometry.pairs();
                check.that("rotary_dim", f64::count(2 * pairs), pairs > 1, "must be above 2 for an NTK scheme");
            }
            Self::Yarn { beta_fast, beta_slow, attention_factor, mscale, mscale_all_dim, .. } => {
                check.ramp(geometry, *beta_fast, *beta_slow);
                check.optional_positive("attention_factor", *attention_factor);
                check.optional("mscale", *mscale, |value| value >= 0.0, "must be a finite number of at least 0");
                check.optional(
                    "mscale_all_dim",
                    *mscale_all_dim,
                    |v| v >= 0.0,
                    "must be a finite number of at least 0",
                );
            }
            Self::NtkByParts { beta_fast, beta_slow, .. } | Self::DynamicYarn { beta_fast, beta_slow, .. } => {
                check.ramp(geometry, *beta_fast, *beta_slow);
            }
            Self::Llama3 { low_freq_factor, high_freq_factor, .. } => {
                check.that(
                    "low_freq_factor",
                    *low_freq_factor,
                    *low_freq_factor > 0.0,
                    "must be a finite number above 0",
                );
                let ordered = high_freq_factor > low_freq_factor;
                check.that("high_freq_factor", *high_freq_factor, ordered, "must be finite and above low_freq_factor");
            }
            Self::LongRope { short, long, attention_factor, .. } => {
                check.divisors("short_factor", short, geometry.pairs());
                check.divisors("long_factor", long, geometry.pairs());
                check.optional_positive("attention_factor", *attention_factor);
                let original = geometry.original_context();
                let defined = original > 1 || attention_factor.is_some();
                check.that("original_max_position_embeddings", f64::count(original), defined, "must be above 1");
            }
        }
        if check.problems.is_empty() {
            return Ok(());
        }
        Err(ScalingError { scheme: self.name(), problems: check.problems })
    }
}

/// Collects the problems of one scheme.
struct Check {
    problems: Vec<ScalingProblem>,
}

impl Check {
    fn that(&mut self, parameter: &'static str, value: f64, holds: bool, reason: &str) {
        if !(holds && value.is_finite()) {
            self.problems.push(ScalingProblem { parameter, value: value.to_string(), reason: reason.to_owned() });
        }
    }

    fn optional(&mut self, parameter: &'static str, value: Option<f64>, holds: fn(f64) -> bool, reason: &str) {
        if let Some(value) = value {
            self.that(parameter, value, holds(value), reason);
        }
    }

    fn optional_positive(&mut self, parameter: &'static str, value: Option<f64>) {
        self.optional(parameter, value, |value| value > 0.0, "must be a finite number above 0");
    }

    fn ramp(&mut self, geometry: &RopeGeometry, beta_fast: f64, beta_slow: f64) {
        self.that("beta_slow", beta_slow, beta_slow > 0.0, "must be a finite number above 0");
        self.that("beta_fast", beta_fast, beta_fast >= beta_slow, "must be finite and at least beta_slow");
        self.that("rope_theta", geometry.base(), geometry.base() > 1.0, "must be above 1 for a YaRN ramp");
    }

    fn divisors(&mut self, parameter: &'static str, divisors: &[f64], pairs: usize) {
        if divisors.len() != pairs {
            let value = format!("{} numbers", divisors.len());
            let reason = format!("must hold one number for each of the {pairs} rotated pairs");
            self.problems.push(ScalingProblem { parameter, value, reason });
        }
        if let Some(bad) = divisors.iter().find(|divisor| !(divisor.is_finite() && **divisor > 0.0)) {
            self.that(parameter, *bad, false, "must hold finite numbers above 0");
        }
    }
}
