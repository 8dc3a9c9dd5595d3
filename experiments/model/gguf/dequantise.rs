//! Quantised rows to float32, in parallel. Blocks are written as loops over whole runs of bytes, which compile to vector
//! code; [`weight`](super::weight) says the same of each weight alone, and the tests hold the two together bit by bit.

use half::{bf16, f16};
use rayon::prelude::*;

use super::types::{SUPER_BLOCK, TensorType};

/// The weights of `data`, rows of `columns` each; row `r` of the result is row `source(r)` of the data.
///
/// `data` holds whole rows of `kind`, as [`TensorType::row_bytes`] counts them.
///
/// # Panics
///
/// When `columns` are not whole blocks, or `source` leads out of the data.
pub fn dequantised(kind: TensorType, data: &[u8], columns: usize, source: impl Fn(usize) -> usize + Sync) -> Vec<f32> {
    let row_bytes = kind.row_bytes(columns).unwrap_or_else(|| panic!("rows of {columns} are not blocks of {kind}"));
    let mut out = vec![0.0; data.len() / row_bytes * columns];
    out.par_chunks_mut(columns).enumerate().for_each(|(row, out)| {
        let start = source(row) * row_bytes;
        run(kind, &data[start..start + row_bytes], out);
    });
    out
}

/// Blocks one after the other.
fn run(kind: TensorType, data: &[u8], out: &mut [f32]) {
    let block: fn(&[u8], &mut [f32]) = match kind {
        TensorType::F32 => |b, out| out[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
        TensorType::F16 => |b, out| out[0] = half_at(b, 0),
        TensorType::BF16 => |b, out| out[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        TensorType::Q4_0 => q4_0,
        TensorType::Q4_1 => q4_1,
        TensorType::Q5_0 => q5_0,
        TensorType::Q5_1 => q5_1,
        TensorType::Q8_0 => q8_0,
        TensorType::Q2_K => q2_k,
        TensorType::Q3_K => q3_k,
        TensorType::Q4_K => q4_k,
        TensorType::Q5_K => q5_k,
        TensorType::Q6_K => q6_k,
    };
    let blocks = data.chunks_exact(kind.block_bytes()).zip(out.chunks_exact_mut(kind.block()));
    blocks.for_each(|(bytes, out)| block(bytes, out));
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// A scale; low nibbles are weights 0 to 15, high ones 16 to 31, and 8 stands for 0.
fn q4_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    let (low, high) = out.split_at_mut(16);
    for ((&q, low), high) in block[2..18].iter().zip(low).zip(high) {
        *low = scale * (f32::from(q & 15) - 8.0);
        *high = scale * (f32::from(q >> 4) - 8.0);
    }
}

/// A scale and a minimum; nibbles as in Q4_0, from 0.
fn q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (low, high) = out.split_at_mut(16);
    for ((&q, low), high) in block[4..20].iter().zip(low).zip(high) {
        *low = scale * f32::from(q & 15) + minimum;
        *high = scale * f32::from(q >> 4) + minimum;
    }
}

/// The fifth bits of 32 weights.
fn fifth_bits(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// As Q4_0 with a fifth bit: 16 stands for 0.
fn q5_0(block: &[u8], out: &mut [f32]) {
    let (scale, bits) = (half_at(block, 0), fifth_bits(block, 2));
    let (low, high) = out.split_at_mut(16);
    for (at, ((&q, low), high)) in block[6..22].iter().zip(low).zip(high).enumerate() {
        let fifth = |place: usize| ((bits >> place & 1) << 4) as u8;
        *low = scale * (f32::from(q & 15 | fifth(at)) - 16.0);
        *high = scale * (f32::from(q >> 4 | fifth(at + 16)) - 16.0);
    }
}

/// As Q4_1 with a fifth bit.
fn q5_1(block: &[u8], out: &mut [f32]) {
    let (scale, minimum, bits) = (half_at(block, 0), half_at(block, 2), fifth_bits(block, 4));
    let (low, high) = out.split_at_mut(16);
    for (at, ((&q, low), high)) in block[8..24].iter().zip(low).zip(high).enumerate() {
        let fifth = |place: usize| ((bits >> place & 1) << 4) as u8;
        *low = scale * f32::from(q & 15 | fifth(at)) + minimum;
        *high = scale * f32::from(q >> 4 | fifth(at + 16)) + minimum;
    }
}

/// A scale and 32 signed bytes.
fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (&q, out) in block[2..34].iter().zip(out) {
        *out = scale * f32::from(q.cast_signed());
    }
}

/// 16 bytes of scale (low nibble) and minimum (high), 64 of 2-bit weights, the scale of scales, the scale of minima.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, weights) = (&block[..16], &block[16..80]);
    let (scale, minimum) = (half_at(block, 80), half_at(block, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (step, offset) = (scale * f32::from(scales[group] & 15), minimum * f32::from(scales[group] >> 4));
        let (from, shift) = (group / 8 * 32 + group % 2 * 16, group / 2 % 4 * 2);
        for (&q, out) in weights[from..from + 16].iter().zip(out) {
            *out = step * f32::from(q >> shift & 3) - offset;
        }
    }
}

/// 32 bytes of third bits, 64 of the lower two, 16 scales of 6 bits in 12 bytes, the scale of scales.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let (thirds, weights, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let scale = half_at(block, 108);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let low = packed[group % 8] >> (group / 8 * 4) & 15;
        let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        let step = scale * (f32::from(low | high << 4) - 32.0);
        let (half, bit) = (group % 2 * 16, group / 2);
        let from = group / 8 * 32 + half;
        let run = weights[from..from + 16].iter().zip(&thirds[half..half + 16]);
        for ((&q, &third), out) in run.zip(out) {
            *out = step * (f32::from(q >> (bit % 4 * 2) & 3 | (third >> bit & 1) << 2) - 4.0);
        }
    }
}

/// Scale and minimum number `group` of the eight of 6 bits that Q4_K and Q5_K pack into 12 bytes.
fn scale_and_minimum(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (packed[group] & 63, packed[group + 4] & 63);
    }
    let (low, scale_high, minimum_high) = (packed[group + 4], packed[group - 4] >> 6, packed[group] >> 6);
    (low & 15 | scale_high << 4, low >> 4 | minimum_high << 4)
}

/// The scale of scales, that of minima, 12 bytes of scales and minima, 128 of nibbles: low ones, then high ones of each 32.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (packed, weights) = (&block[4..16], &block[16..144]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (step, offset) = scale_and_minimum(packed, group);
        let (step, offset) = (scale * f32::from(step), minimum * f32::from(offset));
        let (from, shift) = (group / 2 * 32, group % 2 * 4);
        for (&q, out) in weights[from..from + 32].iter().zip(out) {
            *out = step * f32::from(q >> shift & 15) - offset;
        }
    }
}

/// As Q4_K, with 32 bytes of fifth bits before the nibbles.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (packed, fifths, weights) = (&block[4..16], &block[16..48], &block[48..176]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (step, offset) = scale_and_minimum(packed, group);
        let (step, offset) = (scale * f32::from(step), minimum * f32::from(offset));
        let (from, shift) = (group / 2 * 32, group % 2 * 4);
        for ((&q, &fifth), out) in weights[from..from + 32].iter().zip(fifths).zip(out) {
            *out = step * f32::from(q >> shift & 15 | (fifth >> group & 1) << 4) - offset;
        }
    }
}

/// 128 bytes of lower nibbles, 64 of upper two bits, 16 signed scales, the scale of scales; 32 stands for 0.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (lower, upper, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 208);
    debug_assert_eq!(out.len(), SUPER_BLOCK);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let step = scale * f32::from(scales[group].cast_signed());
        // Which 32 of a half block's 128 weights, and which half of them.
        let (part, half) = (group / 2 % 4, group % 2 * 16);
        let low_from = group / 8 * 64 + part % 2 * 32 + half;
        let high_from = group / 8 * 32 + half;
        let run = lower[low_from..low_from + 16].iter().zip(&upper[high_from..high_from + 16]);
        for ((&low, &high), out) in run.zip(out) {
            let q = low >> (part / 2 * 4) & 15 | (high >> (part * 2) & 3) << 4;
            *out = step * (f32::from(q) - 32.0);
        }
    }
}
