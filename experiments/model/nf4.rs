//! NF4 with double quantisation (Dettmers et al. 2023, QLoRA, section 3): a matrix in 0.516 bytes a weight.
//!
//! Weights in row-major order fall into blocks of 64. A block is divided by the largest magnitude in it, its scale, and each
//! quotient becomes the nearest of sixteen levels, which are the quantiles of a normal distribution (appendix E). The scales
//! are quantised in turn: less their mean, in blocks of 256, each divided by the largest magnitude and put to the nearest of
//! the 256 levels of a dynamic exponent (Dettmers et al. 2022, section 2.1). Bits and levels are those of bitsandbytes.
//!
//! Of a product with such a matrix the graph keeps the codes alone: the weights are computed again in the backward pass.

use tch::{Device, Kind, Tensor};
use torch_ext::autograd::{AutogradError, Backward, Recorded, custom};

/// Weights that share a scale.
pub const BLOCK: usize = 64;
/// Scales that share one in turn.
pub const SCALE_BLOCK: usize = 256;

/// The sixteen levels, least to greatest: quantiles of the standard normal distribution at eight even steps from 0.9677083
/// to 1/2 above zero, seven below, and zero itself, over the greatest (appendix E), as float32 arithmetic rounded them.
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Bytes that a matrix of so many weights takes: half a byte each, a byte for every block of 64, four for every
/// 256 of those, and four for their mean.
#[must_use]
pub const fn nf4_bytes(weights: u64) -> u64 {
    let blocks = weights.div_ceil(BLOCK as u64);
    weights.div_ceil(2) + blocks + 4 * blocks.div_ceil(SCALE_BLOCK as u64) + 4
}

/// A matrix `[out, in]` in NF4.
#[derive(Debug)]
pub struct Nf4Matrix {
    /// Two weights a byte, the first in the high half; `ceil(out * in / 2)` bytes.
    codes: Tensor,
    /// One byte for each block.
    scale_codes: Tensor,
    /// One float32 for each block of scales.
    scale_maxima: Tensor,
    /// Mean of the scales, one float32.
    scale_mean: Tensor,
    shape: [i64; 2],
}

impl Nf4Matrix {
    /// Quantises a matrix, on its device.
    ///
    /// # Errors
    ///
    /// When it is no matrix, or memory cannot be had.
    pub fn quantised(weight: &Tensor) -> Result<Self, tch::TchError> {
        let shape: [i64; 2] = weight.size2()?.into();
        let _untracked = tch::no_grad_guard();
        let (quotients, scales) = in_blocks(&weight.f_to_kind(Kind::Float)?, BLOCK)?;
        let codes = nearest(&quotients, &LEVELS)?.f_view([-1])?.f_narrow(0, 0, shape[0] * shape[1])?;
        let scale_mean = scales.f_mean(Kind::Float)?;
        let (quotients, scale_maxima) = in_blocks(&(&scales - &scale_mean), SCALE_BLOCK)?;
        let scale_codes = nearest(&quotients, &dynamic_levels())?.f_view([-1])?.f_narrow(0, 0, scales.size()[0])?;
        Ok(Self { codes: packed(&codes)?, scale_codes: scale_codes.f_contiguous()?, scale_maxima, scale_mean, shape })
    }

    /// `[out, in]`.
    #[must_use]
    pub fn shape(&self) -> [i64; 2] {
        self.shape
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> Device {
        self.codes.device()
    }

    /// Bytes of its tensors; what [`nf4_bytes`] says of its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let of = |tensor: &Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        [&self.codes, &self.scale_codes, &self.scale_maxima, &self.scale_mean].into_iter().map(of).sum()
    }

    /// Another handle on the same numbers.
    #[must_use]
    pub fn handle(&self) -> Self {
        Self::of_parts(self.parts(), self.shape)
    }

    /// The weights `[out, in]`, computed in float32 and rounded to `kind`.
    pub fn dequantised(&self, kind: Kind) -> Tensor {
        let _untracked = tch::no_grad_guard();
        let device = self.device();
        let scale_levels = Tensor::from_slice(&dynamic_levels()).to_device(device);
        let scales = scale_levels.index_select(0, &self.scale_codes.to_kind(Kind::Int));
        let scales = by_blocks(&scales, SCALE_BLOCK, &self.scale_maxima) + &self.scale_mean; // [blocks]
        let pairs = pair_levels(device).index_select(0, &self.codes.to_kind(Kind::Int)); // [ceil(n / 2), 2]
        let levels = pairs.view([-1]).narrow(0, 0, self.shape[0] * self.shape[1]);
        by_blocks(&levels, BLOCK, &scales).to_kind(kind).view(self.shape)
    }

    /// `x W^T + bias`, `x` `[.., in]`; differentiable by both. Kept for that are the codes, and not `W` or `x`.
    pub fn product(&self, x: &Tensor, bias: Option<&Tensor>) -> Tensor {
        let (kind, shape) = (x.kind(), self.shape);
        let forward = || {
            let product = x.linear(&self.dequantised(kind), None::<&Tensor>);
            Ok::<_, AutogradError>(Recorded { outputs: vec![product], saved: self.parts().into() })
        };
        let backward = move |call: Backward| -> Result<_, AutogradError> {
            let (Some(Some(grad)), Ok(parts)) = (call.gradients.first(), <[Tensor; 4]>::try_from(call.saved)) else {
                return Ok(vec![None]);
            };
            Ok(vec![Some(grad.matmul(&Self::of_parts(parts, shape).dequantised(kind)))])
        };
        let product =
            custom("nf4", &[x], forward, backward).expect("a product of floats can be recorded").swap_remove(0);
        match bias {
            Some(bias) => product + bias,
            None => product,
        }
    }

    fn parts(&self) -> [Tensor; 4] {
        [&self.codes, &self.scale_codes, &self.scale_maxima, &self.scale_mean].map(Tensor::shallow_clone)
    }

    fn of_parts([codes, scale_codes, scale_maxima, scale_mean]: [Tensor; 4], shape: [i64; 2]) -> Self {
        Self { codes, scale_codes, scale_maxima, scale_mean, shape }
    }
}

/// Numbers in one row for each block, divided by the largest magnitude of the block, and those magnitudes `[blocks]`. The
/// last block is filled up with zeros; one of zeros alone stays so.
fn in_blocks(numbers: &Tensor, block: usize) -> Result<(Tensor, Tensor), tch::TchError> {
    let flat = numbers.f_reshape([-1])?;
    let missing = flat.numel().next_multiple_of(block) - flat.numel();
    let filled = flat.f_constant_pad_nd([0, missing as i64])?.f_view([-1, block as i64])?;
    let maxima = filled.f_abs()?.f_amax([1], true)?;
    let divisor = maxima.f_where_self(&maxima.f_gt(0.0)?, &maxima.f_ones_like()?)?;
    Ok((&filled * divisor.f_reciprocal()?, maxima.f_view([-1])?))
}

/// Numbers `[n]` times the factor of their block, the last of which may be short.
fn by_blocks(numbers: &Tensor, block: usize, factors: &Tensor) -> Tensor {
    let (count, block) = (numbers.size()[0], block as i64);
    let (whole, rest) = (count / block, count % block);
    let full = numbers.narrow(0, 0, whole * block).view([whole, block]);
    let scaled = (full * factors.narrow(0, 0, whole).unsqueeze(1)).view([-1]);
    match rest {
        0 => scaled,
        rest => Tensor::cat(&[scaled, numbers.narrow(0, whole * block, rest) * factors.narrow(0, whole, 1)], 0),
    }
}

/// Index of the nearest level, in bytes; of two equally near ones, the lower.
fn nearest(numbers: &Tensor, levels: &[f32]) -> Result<Tensor, tch::TchError> {
    let middles: Vec<f32> = levels.windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).collect();
    let middles = Tensor::from_slice(&middles).f_to_device(numbers.device())?;
    numbers.f_bucketize(&middles, true, false)?.f_to_kind(Kind::Uint8)
}

/// Codes `[n]` of four bits, two a byte.
fn packed(codes: &Tensor) -> Result<Tensor, tch::TchError> {
    let even = codes.f_constant_pad_nd([0, codes.size()[0] % 2])?.f_view([-1, 2])?;
    (even.f_select(1, 0)? * 16 + even.f_select(1, 1)?).f_contiguous()
}

/// The two levels of every byte, `[256, 2]`.
fn pair_levels(device: Device) -> Tensor {
    let pairs: Vec<f32> = (0..256).flat_map(|byte| [LEVELS[byte >> 4], LEVELS[byte & 15]]).collect();
    Tensor::from_slice(&pairs).view([256, 2]).to_device(device)
}

/// Levels of the signed dynamic 8-bit type, least to greatest: for each decade `10^(i - 6)`, `i` of 0 to 6, the middles of
/// `2^i` even parts of `[0.1, 1]` and their negatives; zero and one.
pub(super) fn dynamic_levels() -> [f32; 256] {
    let mut levels = Vec::with_capacity(256);
    for exponent in 0..7 {
        let (parts, decade) = (1 << exponent, 10_f64.powi(exponent - 6));
        for part in 0..parts {
            let middle = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts);
            levels.extend([(decade * middle) as f32, -(decade * middle) as f32]);
        }
    }
    levels.extend([0.0, 1.0]);
    levels.sort_by(f32::total_cmp);
    let mut all = [0.0; 256];
    all.copy_from_slice(&levels);
    all
}

#[cfg(test)]
#[path = "nf4_tests.rs"]
mod tests;
