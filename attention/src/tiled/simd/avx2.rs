//! AVX2 with FMA.

use std::arch::x86_64::*;

use super::avx512::Avx512;
use super::product::{self, Product};
use super::{Simd, Work};

/// Proof that this processor has AVX2 and FMA.
#[derive(Debug, Clone, Copy)]
pub(in crate::tiled) struct Avx2(());

impl Avx2 {
    /// The proof, where it holds.
    pub(in crate::tiled) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }

    /// The proof where that of a set holds which includes this one.
    pub(super) fn within(_: Avx512) -> Self {
        Self(())
    }
}

/// The boundary across which code is compiled with the instructions.
#[target_feature(enable = "avx2,fma")]
fn with_instructions<W: Work>(simd: Avx2, work: W) -> W::Answer {
    work.run(simd)
}

/// One instruction. SAFETY of every use: the token in scope says that the processor has it.
macro_rules! instruction {
    ($call:expr) => {
        // SAFETY: `self` exists, so the processor has AVX2 and FMA; pointers are the caller's promise.
        unsafe { $call }
    };
}

impl Simd for Avx2 {
    const LANES: usize = 8;
    const ROWS: usize = 6;
    const VECTORS: usize = 2;
    type V = __m256;
    type M = __m256;

    #[inline]
    fn operate<W: Work>(self, work: W) -> W::Answer {
        instruction!(with_instructions(self, work))
    }

    // 6 x 2 accumulators, 2 vectors and a broadcast: 15 of 16 registers, 8 loads for 12 multiplications.
    #[inline(always)]
    fn multiply(self, product: &mut Product<'_>) {
        product::run::<Self, 6, 2>(self, product);
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        instruction!(_mm256_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // The plain load carries checks where assertions are on; under a full mask it is one instruction, too.
        instruction!(_mm256_maskload_ps(from, _mm256_set1_epi32(-1)))
    }

    #[inline(always)]
    unsafe fn broadcast(self, from: *const f32) -> __m256 {
        instruction!(_mm256_broadcastss_ps(_mm_load_ss(from)))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m256) {
        instruction!(_mm256_maskstore_ps(to, _mm256_set1_epi32(-1), v))
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        instruction!(_mm256_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        instruction!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        instruction!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        instruction!(_mm256_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        instruction!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn mul_sub(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        instruction!(_mm256_fmsub_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        instruction!(_mm256_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        instruction!(_mm256_min_ps(a, b))
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        instruction!(_mm256_andnot_ps(_mm256_set1_ps(-0.0), a))
    }

    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        instruction!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }

    #[inline(always)]
    fn times_power(self, a: __m256, n: __m256) -> __m256 {
        let bits =
            instruction!(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127))));
        instruction!(_mm256_mul_ps(a, _mm256_castsi256_ps(bits)))
    }

    #[inline(always)]
    fn less(self, a: __m256, b: __m256) -> __m256 {
        instruction!(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
    }

    #[inline(always)]
    fn both(self, a: __m256, b: __m256) -> __m256 {
        instruction!(_mm256_and_ps(a, b))
    }

    #[inline(always)]
    fn either(self, a: __m256, b: __m256) -> __m256 {
        instruction!(_mm256_or_ps(a, b))
    }

    #[inline(always)]
    fn select(self, m: __m256, a: __m256, b: __m256) -> __m256 {
        instruction!(_mm256_blendv_ps(b, a, m))
    }

    #[inline(always)]
    fn any(self, m: __m256) -> bool {
        instruction!(_mm256_movemask_ps(m)) != 0
    }
}
