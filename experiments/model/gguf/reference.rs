//! What each weight of a block is, one at a time and in float64, where every product and sum of the format is exact until
//! the one rounding at the end. Slow, and the judge of [`dequantised`](super::dequantised).

use half::{bf16, f16};

use super::types::TensorType;

/// Weight `i` of a block of `kind`.
///
/// # Panics
///
/// When `block` is shorter than a block of this type, or `i` is outside it.
pub fn weight(kind: TensorType, block: &[u8], i: usize) -> f32 {
    assert!(block.len() == kind.block_bytes() && i < kind.block(), "weight {i} of {} bytes of {kind}", block.len());
    let half = |at: usize| f64::from(f16::from_le_bytes([block[at], block[at + 1]]).to_f32());
    let nibble = |from: usize| f64::from(if i < 16 { block[from + i] & 15 } else { block[from + i - 16] >> 4 });
    let fifth = |from: usize| f64::from(block[from + i / 8] >> (i % 8) & 1) * 16.0;
    let exact = match kind {
        TensorType::F32 => return f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
        TensorType::F16 => half(0),
        TensorType::BF16 => return bf16::from_le_bytes([block[0], block[1]]).to_f32(),
        TensorType::Q4_0 => half(0) * (nibble(2) - 8.0),
        TensorType::Q4_1 => half(0) * nibble(4) + half(2),
        TensorType::Q5_0 => half(0) * (nibble(6) + fifth(2) - 16.0),
        TensorType::Q5_1 => half(0) * (nibble(8) + fifth(4)) + half(2),
        TensorType::Q8_0 => half(0) * f64::from(block[2 + i].cast_signed()),
        TensorType::Q2_K => {
            let (group, pair) = (block[i / 16], two_bits(&block[16..80], i));
            half(80) * f64::from(group & 15) * pair - half(82) * f64::from(group >> 4)
        }
        TensorType::Q3_K => {
            let third = f64::from(block[i % 32] >> (i / 32) & 1) * 4.0;
            half(108) * (six_bits(&block[96..108], i / 16) - 32.0) * (two_bits(&block[32..96], i) + third - 4.0)
        }
        TensorType::Q4_K => {
            let (scale, minimum) = packed_pair(&block[4..16], i / 32);
            half(0) * scale * k_nibble(&block[16..], i) - half(2) * minimum
        }
        TensorType::Q5_K => {
            let (scale, minimum) = packed_pair(&block[4..16], i / 32);
            let fifth = f64::from(block[16 + i % 32] >> (i / 32) & 1) * 16.0;
            half(0) * scale * (k_nibble(&block[48..], i) + fifth) - half(2) * minimum
        }
        TensorType::Q6_K => {
            let (half_block, place) = (i / 128, i % 128);
            let low = block[half_block * 64 + place % 64] >> (place / 64 * 4) & 15;
            let high = block[128 + half_block * 32 + place % 32] >> (place / 32 * 2) & 3;
            let scale = f64::from(block[192 + i / 16].cast_signed());
            half(208) * scale * (f64::from(low) + 16.0 * f64::from(high) - 32.0)
        }
    };
    exact as f32
}

/// Each half of a block keeps four runs of 32 weights in the bit pairs of 32 bytes.
fn two_bits(bytes: &[u8], i: usize) -> f64 {
    f64::from(bytes[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3)
}

/// Runs of 32 weights, two of them in the nibbles of 32 bytes.
fn k_nibble(bytes: &[u8], i: usize) -> f64 {
    f64::from(bytes[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15)
}

/// Scale `group` of Q3_K: eight bytes hold the lower nibbles of two each, four the upper pairs of four each.
fn six_bits(packed: &[u8], group: usize) -> f64 {
    let low = packed[group % 8] >> (group / 8 * 4) & 15;
    let high = packed[8 + group % 4] >> (group / 4 * 2) & 3;
    f64::from(low) + 16.0 * f64::from(high)
}

/// Scale and minimum of Q4_K and Q5_K as the format's table has them: bytes 0 to 3 are scales 0 to 3, bytes 4 to 7 minima 0
/// to 3, in six bits each; bytes 8 to 11 the lower nibbles of scales and minima 4 to 7, whose upper bits are above the sixes.
fn packed_pair(packed: &[u8], group: usize) -> (f64, f64) {
    let six = |at: usize| f64::from(packed[at] % 64);
    let top = |at: usize| f64::from(packed[at] / 64) * 16.0;
    match group {
        0..4 => (six(group), six(group + 4)),
        _ => {
            let low = packed[group + 4];
            (f64::from(low % 16) + top(group - 4), f64::from(low / 16) + top(group))
        }
    }
}
