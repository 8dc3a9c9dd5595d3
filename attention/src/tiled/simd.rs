//! Vectors of float32: one trait, three instruction sets, and the loops that are written against it.
//!
//! All `unsafe` code of the tiled backend lives in this folder. Two arguments carry it. An instruction set is a token
//! ([`avx512::Avx512`], [`avx2::Avx2`], [`portable::Portable`]) that exists only where the processor was seen to have it, so
//! whoever holds the token may use its instructions. And every operation on memory checks the lengths of its slices once,
//! at its door, before its loops walk them by pointers.
//!
//! Pointers move by `wrapping_add` and counters stay plain: with assertions on, the checked forms cost more than the
//! arithmetic between them.

use std::fmt;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod elementary;
pub(super) mod peak;
mod portable;
pub(super) mod product;
pub(super) mod rows;
pub(super) mod scores;
pub(super) mod softmax;

/// An instruction set that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isa {
    /// AVX-512F: 16 numbers in a vector, 32 vectors in registers.
    Avx512,
    /// AVX2 with FMA: 8 numbers, 16 registers.
    Avx2,
    /// Plain Rust, on every processor.
    Portable,
}

impl Isa {
    /// Every instruction set, widest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// The widest that this processor has.
    #[must_use]
    pub fn best() -> Self {
        Self::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Self::Portable)
    }

    /// Whether this processor has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::Avx2::detect().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// The name in logs and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// Numbers in one vector.
    #[must_use]
    pub fn lanes(self) -> usize {
        match self {
            Self::Avx512 => 16,
            Self::Avx2 => 8,
            Self::Portable => 4,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Runs `work` with the token of `isa`; none where the processor lacks it.
pub(super) fn dispatch<W: Work>(isa: Isa, work: W) -> Option<W::Answer> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::Avx512::detect().map(|simd| work.run(simd)),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::Avx2::detect().map(|simd| work.run(simd)),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx512 | Isa::Avx2 => None,
        Isa::Portable => Some(work.run(portable::Portable)),
    }
}

/// Runs `work` with the widest instructions of this processor.
pub(super) fn with_best<W: Work>(work: W) -> W::Answer {
    dispatch(Isa::best(), work).expect("the best set is one that this processor has")
}

/// Something to be done with whichever instruction set was chosen.
pub(super) trait Work {
    /// What comes of it.
    type Answer;

    /// Does it. An operation, compiled for the instruction set itself, is marked `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Answer;
}

/// One instruction set. Where an operation meets NaN it says what comes of it; no score may turn NaN into a number.
pub(super) trait Simd: Copy + Send + Sync + 'static {
    /// Numbers in a vector.
    const LANES: usize;
    /// Columns of a product are a multiple of this: half a vector where the set has such vectors, too.
    const STEP: usize = Self::LANES;
    /// Rows of the register tile of products.
    const ROWS: usize;
    /// Vectors in each of its rows.
    const VECTORS: usize;
    /// Queries in a panel.
    const PANEL: usize = Self::VECTORS * Self::LANES;

    /// A vector of float32.
    type V: Copy;
    /// One truth value for each lane.
    type M: Copy;

    /// Compiles an operation with the instructions of this set and runs it.
    fn operate<W: Work>(self, work: W) -> W::Answer;

    /// A matrix product in the register tiling of this set; columns are a multiple of [`Simd::STEP`].
    fn multiply(self, product: &mut product::Product<'_>);

    /// The number in every lane.
    fn splat(self, x: f32) -> Self::V;

    /// Reads a vector.
    ///
    /// # Safety
    ///
    /// `from` points at `LANES` readable numbers.
    unsafe fn load(self, from: *const f32) -> Self::V;

    /// The number at a place, in every lane.
    ///
    /// # Safety
    ///
    /// `from` points at a readable number.
    unsafe fn broadcast(self, from: *const f32) -> Self::V;

    /// Writes a vector.
    ///
    /// # Safety
    ///
    /// `to` points at `LANES` writable numbers.
    unsafe fn store(self, to: *mut f32, v: Self::V);

    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where the set has the instruction.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a * b - c` for `c` near `a * b`, without the rounding of the product.
    fn mul_sub(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` when either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` when either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Without the sign.
    fn abs(self, a: Self::V) -> Self::V;
    /// To the nearest integer, ties to even, for numbers below 2^22 in size.
    fn round(self, a: Self::V) -> Self::V;
    /// `a * 2^n` for an integral `n` in -127..=127; zero at -127. NaN in `a` stays.
    fn times_power(self, a: Self::V, n: Self::V) -> Self::V;
    /// Lanes where `a < b`; false for NaN.
    fn less(self, a: Self::V, b: Self::V) -> Self::M;
    /// Lanes where both hold.
    fn both(self, a: Self::M, b: Self::M) -> Self::M;
    /// Lanes where either holds.
    fn either(self, a: Self::M, b: Self::M) -> Self::M;
    /// `a` where the lane holds, else `b`.
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V;
    /// Whether any lane holds.
    fn any(self, m: Self::M) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_available_and_something_always_is() {
        assert!(Isa::best().is_available());
        assert!(Isa::Portable.is_available());
    }

    struct Lanes;

    impl Work for Lanes {
        type Answer = usize;
        fn run<S: Simd>(self, _simd: S) -> usize {
            S::LANES
        }
    }

    #[test]
    fn dispatch_reaches_the_set_that_was_asked_for() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            assert_eq!(dispatch(isa, Lanes), Some(isa.lanes()));
        }
    }
}
