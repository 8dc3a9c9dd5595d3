//! Inputs made wrong: bytes without regard to what they mean, and single values of JSON and TOML.

use serde_json::{Value, json};
use testkit::SplitMix64;

/// What readers of JSON and TOML trip over.
const WORDS: [&str; 26] = [
    "NaN",
    "-1",
    "0",
    "1e400",
    "1e-400",
    "18446744073709551616",
    "-0.0",
    "null",
    "true",
    "\"\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "{}",
    "[]",
    "[[[[[[[[",
    "{\"a\":",
    "\"a\":1,\"a\":2,",
    ",",
    ":",
    "=",
    "[[stage]]\n",
    "\u{feff}",
    "../",
    "\u{1f9f6}",
    "nan",
    "inf",
];

/// One to four changes to the bytes of `seed`, some with a piece of `other`.
pub fn bytes(seed: &[u8], other: &[u8], random: &mut SplitMix64) -> Vec<u8> {
    let mut out = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(out.len() + 1);
        let end = (at + 1 + random.below(24)).min(out.len());
        match random.below(7) {
            0 if at < out.len() => out[at] = random.below(256) as u8,
            1 if at < out.len() => out[at] ^= 1 << random.below(8),
            2 => drop(out.drain(at..end)),
            3 => splice(&mut out, at..at, WORDS[random.below(WORDS.len())].as_bytes()),
            4 => splice(&mut out, at..end, WORDS[random.below(WORDS.len())].as_bytes()),
            5 => {
                let from = random.below(other.len());
                let piece = &other[from..(from + 40).min(other.len())];
                splice(&mut out, at..end, piece);
            }
            _ => out.truncate(at),
        }
    }
    out
}

/// One to three whole numbers of the bytes of `seed`, of 4 or 8 bytes, made extreme: lengths, counts, offsets and types of
/// binary formats.
pub fn numbers(seed: &[u8], random: &mut SplitMix64) -> Vec<u8> {
    const EXTREME: [u64; 14] =
        [0, 1, 2, 3, 7, 9, 31, 255, 65_536, u32::MAX as u64, 1 << 33, i64::MAX as u64, u64::MAX - 7, u64::MAX];
    let mut out = seed.to_vec();
    for _ in 0..=random.below(3) {
        let width = if random.below(2) == 0 { 4 } else { 8 };
        let at = random.below(out.len().saturating_sub(width).max(1));
        let value = EXTREME[random.below(EXTREME.len())].to_le_bytes();
        let end = (at + width).min(out.len());
        out[at..end].copy_from_slice(&value[..end - at]);
    }
    out
}

fn splice(out: &mut Vec<u8>, range: std::ops::Range<usize>, piece: &[u8]) {
    out.splice(range, piece.iter().copied());
}

/// Values that few fields can take.
fn odd(random: &mut SplitMix64) -> Value {
    match random.below(17) {
        0 => json!(-1),
        1 => json!(0),
        2 => json!(1),
        3 => json!(2.5),
        4 => json!(1e308),
        5 => json!(-0.0),
        6 => json!(i64::MAX),
        7 => json!(i64::MIN),
        8 => json!(16_777_216),
        9 => json!(true),
        10 => json!(""),
        11 => json!("x\u{0}y"),
        12 => json!("words ".repeat(2000)),
        13 => json!([]),
        14 => json!({}),
        15 => json!([1, "a", [2]]),
        _ => json!({ "odd": 1 }),
    }
}

/// Replaces one value within an object of `whole`; gives the key, too.
pub fn json_value(whole: &Value, random: &mut SplitMix64) -> (Value, String) {
    let mut changed = whole.clone();
    let pointers = keys(whole, "");
    let pointer = &pointers[random.below(pointers.len())];
    *changed.pointer_mut(pointer).expect("pointers lead to values") = odd(random);
    (changed, pointer.rsplit('/').next().unwrap_or_default().to_owned())
}

/// JSON pointers of all values that stand under a key.
fn keys(value: &Value, pointer: &str) -> Vec<String> {
    let Some(object) = value.as_object() else { return Vec::new() };
    object
        .iter()
        .flat_map(|(key, inner)| {
            let own = format!("{pointer}/{key}");
            let deeper = keys(inner, &own);
            std::iter::once(own).chain(deeper)
        })
        .collect()
}

/// Replaces one value of `whole`, in a table or a list of tables; gives the key, too.
pub fn toml_value(whole: &toml::Table, random: &mut SplitMix64) -> (toml::Table, String) {
    let mut changed = whole.clone();
    let key = replace(&mut changed, random);
    (changed, key)
}

fn replace(table: &mut toml::Table, random: &mut SplitMix64) -> String {
    let key = table.keys().nth(random.below(table.len())).expect("below the number of keys").clone();
    let value = table.get_mut(&key).expect("the table has its keys");
    // Three times in four on to what is inside.
    let deeper = random.below(4) > 0;
    match value {
        toml::Value::Table(inner) if deeper && !inner.is_empty() => return replace(inner, random),
        toml::Value::Array(items) if deeper => {
            let at = random.below(items.len().max(1));
            if let Some(toml::Value::Table(inner)) = items.get_mut(at) {
                return replace(inner, random);
            }
        }
        _ => {}
    }
    *value = match random.below(12) {
        0 => toml::Value::Float(f64::NAN),
        1 => toml::Value::Float(f64::INFINITY),
        _ => toml::Value::try_from(odd(random)).expect("odd values are TOML, too"),
    };
    key
}
