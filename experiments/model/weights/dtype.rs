//! The element types that weights come in.

use std::fmt;

/// Element type of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single: 8 exponent bits, 7 fraction bits.
    BF16,
    /// An unsigned byte: the code of a quantised number. No weight of a model is one.
    U8,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::U8 => 1,
        }
    }

    /// The name that `config.json` uses: `float32`, `float16`, `bfloat16`.
    pub fn config_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::U8 => "uint8",
        }
    }

    /// Whether it is of floating point, as weights are.
    pub fn is_float(self) -> bool {
        self != Self::U8
    }

    /// From the format's own type; `None` for other integers, booleans, double precision and the eight-bit floats.
    pub(super) fn from_stored(stored: safetensors::Dtype) -> Option<Self> {
        match stored {
            safetensors::Dtype::F32 => Some(Self::F32),
            safetensors::Dtype::F16 => Some(Self::F16),
            safetensors::Dtype::BF16 => Some(Self::BF16),
            safetensors::Dtype::U8 => Some(Self::U8),
            _ => None,
        }
    }

    pub(super) fn stored(self) -> safetensors::Dtype {
        match self {
            Self::F32 => safetensors::Dtype::F32,
            Self::F16 => safetensors::Dtype::F16,
            Self::BF16 => safetensors::Dtype::BF16,
            Self::U8 => safetensors::Dtype::U8,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.config_name())
    }
}
