//! Methods without training, in one spelling: a changed position encoding, or another attention over it.

use std::fmt;
use std::str::FromStr;

use rope_scaling::hf::Extension;

use crate::error::Failure;
use crate::model::Extrapolation;

/// What `--method` and a study's `method` name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Other frequencies or positions for everything.
    Positions {
        /// How.
        extension: Extension,
        /// How many times longer the context becomes.
        factor: f64,
    },
    /// Positions decided inside attention, pair by pair.
    Inside(Extrapolation),
}

impl FromStr for Method {
    type Err = Failure;

    /// `linear:factor=4` (`pi`, `ntk`, `dynamic-ntk`, `yarn`, `ntk-by-parts` alike), `abf:factor=4,base=500000`, or what
    /// [`Extrapolation`] reads.
    fn from_str(text: &str) -> Result<Self, Failure> {
        let (name, options) = text.split_once(':').unwrap_or((text, ""));
        if Extrapolation::NAMES.contains(&name) {
            return text.parse().map(Self::Inside);
        }
        let (mut factor, mut base) = (None, None);
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let parsed = option.split_once('=').and_then(|(key, value)| Some((key, value.parse::<f64>().ok()?)));
            match parsed {
                Some(("factor", value)) if factor.is_none() => factor = Some(value),
                Some(("base", value)) if base.is_none() => base = Some(value),
                _ => {
                    return Err(Failure::config(format!(
                        "{text}: {option:?} is neither factor=N nor base=N, once each"
                    )));
                }
            }
        }
        let unknown = |error: rope_scaling::hf::ExtendError| {
            Failure::config(format!("{text}: {error}; beside these there are {}", Extrapolation::SPELLINGS))
        };
        let extension = Extension::named(name, base).map_err(unknown)?;
        let missing =
            || Failure::config(format!("{text}: factor is missing; it says how many times longer the context becomes"));
        Ok(Self::Positions { extension, factor: factor.ok_or_else(missing)? })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Positions { extension: Extension::Abf { base }, factor } => {
                write!(f, "abf:factor={factor},base={base}")
            }
            Self::Positions { extension, factor } => write!(f, "{}:factor={factor}", extension.name()),
            Self::Inside(method) => method.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_reads_back_from_its_spelling() {
        let spellings = [
            "linear:factor=4",
            "ntk:factor=2.5",
            "dynamic-ntk:factor=4",
            "yarn:factor=8",
            "ntk-by-parts:factor=8",
            "abf:factor=4,base=500000",
            "self-extend:group=4,window=128",
        ];
        for text in spellings {
            assert_eq!(text.parse::<Method>().unwrap().to_string(), text);
        }
        let pi = "pi:factor=4".parse::<Method>().unwrap();
        assert_eq!(pi, Method::Positions { extension: Extension::Linear, factor: 4.0 });
    }

    #[test]
    fn wrong_spellings_are_told_what_is_wrong() {
        let refused = |text: &str, words: &str| {
            let message = text.parse::<Method>().unwrap_err().to_string();
            assert!(message.contains(text) && message.contains(words), "{message}");
        };
        refused("yarn", "factor is missing");
        refused("yarn:scale=4", "neither factor=N nor base=N");
        refused("yarn:factor=4,factor=8", "once each");
        refused("yarm:factor=4", "yarn");
        refused("abf:factor=4", "base");
        refused("rerope", "window is missing");
    }
}
