//! TensorBoard event records, written by hand: the format is small and its Rust crates are not kept.
//!
//! A record is `u64 length, u32 masked crc32c(length), data, u32 masked crc32c(data)`, little-endian, with
//! `masked(c) = rotate_right(c, 15) + 0xa282ead8`. The data is the protobuf message `Event { double wall_time = 1;
//! int64 step = 2; string file_version = 3; Summary summary = 5 }`, `Summary { repeated Value value = 1 }`,
//! `Value { string tag = 1; float simple_value = 2 }`.

/// The record that opens a file.
pub fn file_version(wall_time: f64) -> Vec<u8> {
    let mut event = wall(wall_time);
    bytes_field(&mut event, 3, b"brain.Event:2");
    record(&event)
}

/// A record of named numbers at a step.
pub fn scalars(wall_time: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut message = Vec::new();
        bytes_field(&mut message, 1, tag.as_bytes());
        message.push(2 << 3 | 5); // field 2, 32 bits
        message.extend((*value as f32).to_le_bytes());
        bytes_field(&mut summary, 1, &message);
    }
    let mut event = wall(wall_time);
    event.push(2 << 3); // field 2, varint
    varint(&mut event, step);
    bytes_field(&mut event, 5, &summary);
    record(&event)
}

fn wall(wall_time: f64) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1]; // field 1, 64 bits
    event.extend(wall_time.to_le_bytes());
    event
}

fn bytes_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(data.len() + 16);
    out.extend(length);
    out.extend(masked_crc(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked_crc(data).to_le_bytes());
    out
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_framed_by_its_length_and_masked_checksums() {
        let bytes = file_version(1.5);
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(bytes.len(), length + 16);
        assert_eq!(&bytes[8..12], &masked_crc(&bytes[..8]).to_le_bytes());
        assert_eq!(&bytes[12 + length..], &masked_crc(&bytes[12..12 + length]).to_le_bytes());
        assert_eq!(&bytes[21..], [&[0x1a, 13][..], b"brain.Event:2", &bytes[12 + length..]].concat());
    }

    #[test]
    fn the_mask_is_the_published_one() {
        // crc32c of "123456789" is 0xe3069283 (RFC 3720, appendix B.4, lists the polynomial's check value).
        assert_eq!(masked_crc(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn long_numbers_take_several_bytes() {
        let mut out = Vec::new();
        varint(&mut out, 300);
        assert_eq!(out, [0xac, 0x02]);
    }
}
