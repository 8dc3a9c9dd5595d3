//! Methods without training, in one spelling: a changed position encoding, or another attention over it.
//!
//! A recipe's `[positions]` is the first of the two, key by key.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use rope_scaling::hf::{ExtendError, Extension, LongRopeFactors};

use super::layers::near;
use super::recipe::PositionChange;
use crate::assets;
use crate::error::Failure;
use crate::json::read_json;
use crate::model::Extrapolation;

/// Largest file of LongRoPE factors read, in bytes.
const FACTORS_LIMIT: u64 = 16 << 20;

/// What `--method`, a study's `method` and a recipe's `[positions]` name.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// Other frequencies or positions for everything.
    Positions {
        /// How.
        extension: Extension,
        /// How many times longer the context becomes.
        factor: f64,
        /// The file that LongRoPE's factors were read from.
        file: Option<String>,
    },
    /// Positions decided inside attention, pair by pair.
    Inside(Extrapolation),
}

/// The options of a changed position encoding, as given.
#[derive(Debug, Clone, Copy, Default)]
struct Given<'a> {
    factor: Option<f64>,
    base: Option<f64>,
    factors: Option<&'a str>,
}

/// What is wrong with the options of a changed position encoding.
enum Wrong {
    Extension(ExtendError),
    /// No factor is given, and no file that names one.
    NoFactor,
    /// A method that takes no file.
    NeedlessFactors(&'static str),
    /// The file of factors.
    Factors(Failure),
}

impl Method {
    fn positions(name: &str, given: Given<'_>) -> Result<Self, Wrong> {
        let (extension, found) = match (name, given.factors) {
            ("longrope", Some(_)) if given.base.is_some() => {
                let base = given.base.unwrap_or_default();
                return Err(Wrong::Extension(ExtendError::NeedlessBase { name: name.to_owned(), base }));
            }
            ("longrope", Some(file)) => {
                let factors = read_factors(&assets::file(file)).map_err(Wrong::Factors)?;
                let found = factors.factor;
                (Extension::LongRope(factors), found)
            }
            (name, factors) => {
                let extension = Extension::named(name, given.base).map_err(Wrong::Extension)?;
                if factors.is_some() {
                    return Err(Wrong::NeedlessFactors(extension.name()));
                }
                (extension, None)
            }
        };
        let factor = given.factor.or(found).ok_or(Wrong::NoFactor)?;
        Ok(Self::Positions { extension, factor, file: given.factors.map(str::to_owned) })
    }

    /// What was read from a file, for hashes of what decides a result; none for a method that is all in its spelling.
    pub fn file_content(&self) -> Option<String> {
        match self {
            Self::Positions { extension: Extension::LongRope(factors), .. } => {
                Some(serde_json::Value::Object(factors.to_json()).to_string())
            }
            _ => None,
        }
    }
}

/// Reads a file of LongRoPE factors, or the config of a LongRoPE model; [`LongRopeFactors`] says what stands in it.
///
/// # Errors
///
/// When the file cannot be read, and every finding in it; exit codes 3 and 2.
pub fn read_factors(path: &Path) -> Result<LongRopeFactors, Failure> {
    let value = read_json(path, FACTORS_LIMIT)?;
    LongRopeFactors::from_json(&value)
        .map_err(|errors| Failure::config(errors.to_string()).within_lines(&format!("{}: ", path.display())))
}

impl FromStr for Method {
    type Err = Failure;

    /// `linear:factor=4` (`pi`, `ntk`, `dynamic-ntk`, `yarn`, `dynamic-yarn`, `ntk-by-parts`, `llama3` alike),
    /// `abf:factor=4,base=500000`, `longrope:factors=FILE` (with `factor=4` where the file names none), or what
    /// [`Extrapolation`] reads.
    fn from_str(text: &str) -> Result<Self, Failure> {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        if Extrapolation::NAMES.contains(&name) {
            return text.parse().map(Self::Inside);
        }
        if !Extension::NAMES.contains(&name) {
            return Err(unknown(text, name));
        }
        let mut given = Given::default();
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let taken = match option.split_once('=') {
                Some(("factor", value)) => fill(&mut given.factor, value.parse().ok()),
                Some(("base", value)) => fill(&mut given.base, value.parse().ok()),
                Some(("factors", file)) => fill(&mut given.factors, Some(file).filter(|file| !file.is_empty())),
                _ => false,
            };
            if !taken {
                return Err(Failure::config(format!(
                    "{text}: {option:?} is neither factor=N nor base=N nor factors=FILE, once each"
                )));
            }
        }
        Self::positions(name, given).map_err(|wrong| match wrong {
            Wrong::Extension(ExtendError::NoFactors) => {
                Failure::config(format!("{text}: factors is missing; it names the file that holds them"))
            }
            Wrong::Extension(error) => Failure::config(format!("{text}: {error}")),
            Wrong::NoFactor => {
                Failure::config(format!("{text}: factor is missing; it says how many times longer the context becomes"))
            }
            Wrong::NeedlessFactors(method) => Failure::config(format!("{text}: {method} takes no factors")),
            Wrong::Factors(failure) => failure,
        })
    }
}

/// Puts a value where none is yet; whether it could.
fn fill<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    let free = place.is_none() && value.is_some();
    if free {
        *place = value;
    }
    free
}

/// The names nearest to one that is no method, or all of them.
fn unknown(text: &str, name: &str) -> Failure {
    let known = Extension::NAMES.iter().chain(&Extrapolation::NAMES).copied();
    let hint = match near(name, known) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("there are {} with factor=N, and {}", Extension::NAMES.join(", "), Extrapolation::SPELLINGS),
    };
    Failure::config(format!("{text}: {name:?} is no method; {hint}"))
}

impl TryFrom<&PositionChange> for Method {
    type Error = Failure;

    fn try_from(change: &PositionChange) -> Result<Self, Failure> {
        let PositionChange { method, factor, base, factors, further: _ } = change;
        let given = Given { factor: *factor, base: *base, factors: factors.as_deref() };
        Self::positions(method, given).map_err(|wrong| match wrong {
            Wrong::Extension(ExtendError::NoFactors) => {
                Failure::config("positions.factors: is missing; it names the file that holds LongRoPE's factors")
            }
            Wrong::Extension(error) => Failure::config(format!("positions: {error}")),
            Wrong::NoFactor => {
                Failure::config("positions.factor: is missing; it says how many times longer the context becomes")
            }
            Wrong::NeedlessFactors(method) => {
                Failure::config(format!("positions.factors: {method} takes none, only longrope does"))
            }
            Wrong::Factors(failure) => failure.within_lines("positions.factors: "),
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Positions { extension: Extension::Abf { base }, factor, .. } => {
                write!(f, "abf:factor={factor},base={base}")
            }
            Self::Positions { extension, factor, file: Some(file) } => {
                write!(f, "{}:factors={file},factor={factor}", extension.name())
            }
            Self::Positions { extension, factor, file: None } => write!(f, "{}:factor={factor}", extension.name()),
            Self::Inside(method) => method.fmt(f),
        }
    }
}

#[cfg(test)]
#[path = "method_tests.rs"]
mod tests;
