//! Element types: read into float32, written back from it.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::backward::Backward;
use super::forward::Forward;
use super::simd::{Isa, dispatch};
use crate::error::DType;

/// What tensors of the tiled backend hold: [`f32`], [`struct@bf16`] or [`struct@f16`]. All arithmetic is in float32.
///
/// These are all; kernels are compiled for each of them here.
pub trait Element: passes::Passes + Copy + Send + Sync + 'static {
    /// Its name.
    const DTYPE: DType;
    /// The number 0.
    const ZERO: Self;

    /// Reads as many numbers as `to` holds.
    ///
    /// # Panics
    ///
    /// When the lengths differ.
    fn widen(from: &[Self], to: &mut [f32]);

    /// Rounds to nearest.
    ///
    /// # Panics
    ///
    /// When the lengths differ.
    fn narrow(from: &[f32], to: &mut [Self]);

    /// The slice itself where it holds float32.
    fn singles(from: &[Self]) -> Option<&[f32]>;

    /// As [`Element::singles`], to be written.
    fn singles_mut(to: &mut [Self]) -> Option<&mut [f32]>;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    const ZERO: Self = 0.0;

    fn widen(from: &[Self], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn narrow(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }

    fn singles(from: &[Self]) -> Option<&[f32]> {
        Some(from)
    }

    fn singles_mut(to: &mut [Self]) -> Option<&mut [f32]> {
        Some(to)
    }
}

/// Both 16-bit types, by the conversions of the `half` crate.
macro_rules! sixteen_bits {
    ($element:ty, $dtype:expr) => {
        impl Element for $element {
            const DTYPE: DType = $dtype;
            const ZERO: Self = <$element>::ZERO;

            fn widen(from: &[Self], to: &mut [f32]) {
                from.convert_to_f32_slice(to);
            }

            fn narrow(from: &[f32], to: &mut [Self]) {
                to.convert_from_f32_slice(from);
            }

            fn singles(_from: &[Self]) -> Option<&[f32]> {
                None
            }

            fn singles_mut(_to: &mut [Self]) -> Option<&mut [f32]> {
                None
            }
        }
    };
}

sixteen_bits!(bf16, DType::BF16);
sixteen_bits!(f16, DType::F16);

/// Keeps the kernels in this crate, whoever calls them: other crates would compile them once more.
mod passes {
    use super::{Backward, Forward, Isa, bf16, dispatch, f16};

    /// The passes over tensors of a type, by an instruction set; none where the processor lacks it.
    pub trait Passes: Sized {
        /// Forward.
        fn forward(isa: Isa, pass: Forward<'_, Self>) -> Option<()>;
        /// Backward.
        fn backward(isa: Isa, pass: Backward<'_, Self>) -> Option<()>;
    }

    macro_rules! passes {
        ($($element:ty),*) => {$(
            impl Passes for $element {
                fn forward(isa: Isa, pass: Forward<'_, Self>) -> Option<()> {
                    dispatch(isa, pass)
                }

                fn backward(isa: Isa, pass: Backward<'_, Self>) -> Option<()> {
                    dispatch(isa, pass)
                }
            }
        )*};
    }

    passes!(f32, bf16, f16);
}
