//! One arithmetic for the schemes at two precisions.
//!
//! Each scheme's formula is written once, in the order of operations of transformers, and runs in f64 for the exact
//! policy and in f32 for the Hugging Face compatible one.

use std::ops::{Add, Div, Mul, Sub};

/// f32 or f64, with what the schemes need of them.
pub(crate) trait Real:
    Copy + PartialOrd + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    /// The nearest value of this type.
    fn of(value: f64) -> Self;
    /// `self` to the power `exponent`, rounded once.
    fn pow(self, exponent: Self) -> Self;
    /// `self` to a power known to f64 precision, rounded once.
    fn pow_wide(self, exponent: f64) -> Self;

    /// One.
    fn one() -> Self {
        Self::of(1.0)
    }

    /// A count or an index.
    #[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
    fn count(value: usize) -> Self {
        Self::of(value as f64)
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
    fn pow(self, exponent: Self) -> Self {
        self.powf(exponent)
    }
    fn pow_wide(self, exponent: f64) -> Self {
        self.powf(exponent)
    }
}

impl Real for f32 {
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point of this precision")]
    fn of(value: f64) -> Self {
        value as f32
    }
    // Through f64: the correctly rounded power in all but freak cases, which the vector libraries behind PyTorch
    // approximate to one unit in the last place.
    fn pow(self, exponent: Self) -> Self {
        self.pow_wide(f64::from(exponent))
    }
    fn pow_wide(self, exponent: f64) -> Self {
        Self::of(f64::from(self).powf(exponent))
    }
}
