//! AVX-512F.

use std::arch::x86_64::*;

use super::avx2::Avx2;
use super::product::{self, Product};
use super::{Simd, Work};

/// Proof that this processor has AVX-512F.
#[derive(Debug, Clone, Copy)]
pub(in crate::tiled) struct Avx512(());

impl Avx512 {
    /// The proof, where it holds.
    pub(in crate::tiled) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

/// The boundary across which code is compiled with the instructions.
#[target_feature(enable = "avx512f,fma")]
fn with_instructions<W: Work>(simd: Avx512, work: W) -> W::Answer {
    work.run(simd)
}

/// One instruction. SAFETY of every use: the token in scope says that the processor has it.
macro_rules! instruction {
    ($call:expr) => {
        // SAFETY: `self` exists, so the processor has AVX-512F; pointers are the caller's promise.
        unsafe { $call }
    };
}

impl Simd for Avx512 {
    const LANES: usize = 16;
    const STEP: usize = 8;
    const ROWS: usize = 8;
    const VECTORS: usize = 3;
    type V = __m512;
    type M = __mmask16;

    #[inline]
    fn operate<W: Work>(self, work: W) -> W::Answer {
        instruction!(with_instructions(self, work))
    }

    // 8 x 3 accumulators, 3 vectors and a broadcast: 28 of 32 registers, 11 loads for 24 multiplications. Half a vector, as a
    // head size of 40 leaves, takes half the time where the processor works on halves, and no more than a whole one elsewhere.
    #[inline(always)]
    fn multiply(self, product: &mut Product<'_>) {
        let whole = product.columns - product.columns % Self::LANES;
        if whole > 0 {
            product::run::<Self, 8, 3>(self, &mut product.part(0, whole));
        }
        if whole < product.columns {
            product::run::<Avx2, 8, 1>(Avx2::within(self), &mut product.part(whole, product.columns - whole));
        }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        instruction!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // The plain load carries checks where assertions are on; under a full mask it is one instruction, too.
        instruction!(_mm512_maskz_loadu_ps(!0, from))
    }

    #[inline(always)]
    unsafe fn broadcast(self, from: *const f32) -> __m512 {
        instruction!(_mm512_broadcastss_ps(_mm_load_ss(from)))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32, v: __m512) {
        instruction!(_mm512_mask_storeu_ps(to, !0, v))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        instruction!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        instruction!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        instruction!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        instruction!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        instruction!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn mul_sub(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        instruction!(_mm512_fmsub_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        instruction!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        instruction!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        instruction!(_mm512_abs_ps(a))
    }

    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        instruction!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT }>(a))
    }

    #[inline(always)]
    fn times_power(self, a: __m512, n: __m512) -> __m512 {
        // By the exponent's bits as in the other sets, not by vscalefps: results below the normal numbers are zero
        // everywhere, and no sum ever meets a slow denormal.
        let bits =
            instruction!(_mm512_slli_epi32::<23>(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127))));
        instruction!(_mm512_mul_ps(a, _mm512_castsi512_ps(bits)))
    }

    #[inline(always)]
    fn less(self, a: __m512, b: __m512) -> __mmask16 {
        instruction!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b))
    }

    #[inline(always)]
    fn both(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }

    #[inline(always)]
    fn either(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a | b
    }

    #[inline(always)]
    fn select(self, m: __mmask16, a: __m512, b: __m512) -> __m512 {
        instruction!(_mm512_mask_blend_ps(m, b, a))
    }

    #[inline(always)]
    fn any(self, m: __mmask16) -> bool {
        m != 0
    }
}
