//! The element types of tensors: plain ones, and blocks of weights that share scales.

use std::fmt;

/// An element type that is read, by its number in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the names that everybody knows them by")]
pub enum TensorType {
    /// 0: IEEE single precision.
    F32,
    /// 1: IEEE half precision.
    F16,
    /// 2: 4 bits, a scale for 32 weights.
    Q4_0,
    /// 3: 4 bits, a scale and a minimum for 32 weights.
    Q4_1,
    /// 6: 5 bits, a scale for 32 weights.
    Q5_0,
    /// 7: 5 bits, a scale and a minimum for 32 weights.
    Q5_1,
    /// 8: 8 bits, a scale for 32 weights.
    Q8_0,
    /// 10: 2 bits, 16 scales and minima of 4 bits for 256 weights.
    Q2_K,
    /// 11: 3 bits, 16 scales of 6 bits for 256 weights.
    Q3_K,
    /// 12: 4 bits, 8 scales and minima of 6 bits for 256 weights.
    Q4_K,
    /// 13: 5 bits, 8 scales and minima of 6 bits for 256 weights.
    Q5_K,
    /// 14: 6 bits, 16 scales of 8 bits for 256 weights.
    Q6_K,
    /// 30: the upper half of a single.
    BF16,
}

/// Weights in a block of the K types.
pub(super) const SUPER_BLOCK: usize = 256;
/// Weights in a block of the others.
pub(super) const BLOCK: usize = 32;

impl TensorType {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::BF16,
    ];

    /// The number in the file.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2_K => 10,
            Self::Q3_K => 11,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// The type of a number.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// Weights in a block; 1 for the plain types.
    pub fn block(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => BLOCK,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => SUPER_BLOCK,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Bytes of a row of `columns` weights; none when blocks do not fill it or the number is too large.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let whole = columns.is_multiple_of(self.block());
        if whole { (columns / self.block()).checked_mul(self.block_bytes()) } else { None }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a number that is not read stands for, for a message.
pub(super) fn foreign_name(id: u32) -> &'static str {
    match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24..=27 => "whole numbers",
        28 => "F64",
        29 => "IQ1_M",
        34 | 35 => "ternary",
        39 => "MXFP4",
        _ => "not known",
    }
}
