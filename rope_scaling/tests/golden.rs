//! Frequencies, tables and slopes against numbers that transformers computed, and the manifest of those numbers.
//!
//! The files are made by `tests/golden/make/rope.py`. Our float32 path is held to one unit in the last place, two
//! where a further product follows; most values have the same bits. transformers itself moves by that much between
//! processors, whose vector libraries round powers and cosines differently.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::path::{Path, PathBuf};

use rope_scaling::hf::from_hf;
use rope_scaling::{Frequencies, Pairing, Precision, RopeScaling, RotaryTable, alibi};
use serde_json::Value;
use sha2::{Digest, Sha256};
use testkit::{Class, assert_same, same};

const FOLDERS: [&str; 2] = ["rope", "alibi"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(golden().join(folder)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn narrow(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|number| *number as f32).collect()
}

/// Every case of every file: its name, the case, and our answer.
fn cases() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for file in files("rope") {
        for case in read(&file)["cases"].as_array().unwrap() {
            let name = format!("{}: {} at {}", file.file_stem().unwrap().display(), case["name"], case["length"]);
            all.push((name, case.clone()));
        }
    }
    all
}

fn frequencies(case: &Value, precision: Precision) -> Frequencies {
    let positions = from_hf(&case["config"]).unwrap();
    let length = usize::try_from(case["length"].as_u64().unwrap()).unwrap();
    positions.scaling.frequencies_in(&positions.geometry, length, precision)
}

#[test]
fn hub_compatible_frequencies_are_those_of_transformers_to_one_or_two_ulps() {
    let mut exact = 0;
    let mut total = 0;
    for (name, case) in cases() {
        let ours = frequencies(&case, Precision::HubCompatible);
        let (got, wanted) = (narrow(&ours.inv_freq), narrow(&numbers(&case["inv_freq"])));
        // LongRoPE multiplies the power by a rounded divisor before the reciprocal, which can double its ulp.
        let class = Class::Ulps(if name.starts_with("longrope") { 2 } else { 1 });
        same(&got, &wanted, class).unwrap_or_else(|mismatch| panic!("{name}: {mismatch}"));
        exact += got.iter().zip(&wanted).filter(|(got, wanted)| got == wanted).count();
        total += got.len();
        let factor = case["attention_factor"].as_f64().unwrap();
        same(&[ours.attention_factor], &[factor], Class::Ulps(1)).unwrap_or_else(|m| panic!("{name}: {m}"));
    }
    println!("{exact} of {total} frequencies have the same bits");
    assert!(total > 1500 && exact * 100 > total * 99, "{exact} of {total}");
}

#[test]
fn exact_frequencies_are_those_of_transformers_up_to_float32_rounding() {
    for (name, case) in cases() {
        let ours = frequencies(&case, Precision::Exact);
        let class = Class::Close { absolute: 0.0, relative: 1e-6 };
        same(&ours.inv_freq, &numbers(&case["inv_freq"]), class).unwrap_or_else(|m| panic!("{name}: {m}"));
    }
}

/// Table rows of one case against its sampled cosines and sines, from transformers' own float32 frequencies.
fn compare_samples(case: &Value, precision: Precision, class: Class) -> Result<usize, String> {
    let frequencies = Frequencies {
        inv_freq: numbers(&case["inv_freq"]),
        attention_factor: case["attention_factor"].as_f64().unwrap(),
        start: None,
    };
    let positions = case["positions"].as_array().unwrap();
    let mut same_bits = 0;
    for (row, position) in positions.iter().enumerate() {
        let position = usize::try_from(position.as_u64().unwrap()).unwrap();
        let table = RotaryTable::new(&frequencies, position..position + 1, Pairing::HalfSplit, precision);
        let (cos, sin) = table.row(position).unwrap();
        for (got, wanted) in [(cos, &case["cos"][row]), (sin, &case["sin"][row])] {
            let wanted = narrow(&numbers(wanted));
            same(got, &wanted, class).map_err(|mismatch| format!("position {position}: {mismatch}"))?;
            same_bits += got.iter().zip(&wanted).filter(|(got, wanted)| got == wanted).count();
        }
    }
    Ok(same_bits)
}

fn sampled() -> Vec<(String, Value)> {
    cases().into_iter().filter(|(_, case)| case.get("positions").is_some()).collect()
}

#[test]
fn hub_compatible_tables_are_those_of_transformers_to_one_or_two_ulps_at_every_position() {
    assert!(sampled().len() >= 6);
    for (name, case) in sampled() {
        // The product with an attention factor rounds once more.
        let scaled = case["attention_factor"].as_f64().unwrap() != 1.0;
        let same_bits = compare_samples(&case, Precision::HubCompatible, Class::Ulps(if scaled { 2 } else { 1 }));
        let same_bits = same_bits.unwrap_or_else(|error| panic!("{name}: {error}"));
        println!("{name}: {same_bits} cosines and sines have the same bits");
    }
}

#[test]
fn exact_tables_differ_from_transformers_where_float32_phases_do() {
    let (_, case) = sampled().into_iter().find(|(name, _)| name.contains("llama2\"")).unwrap();
    assert!(compare_samples(&case, Precision::Exact, Class::Ulps(2)).is_err());
    // A million tokens: the phase itself is only known to about 1/16 in float32.
    assert!(compare_samples(&case, Precision::Exact, Class::Close { absolute: 0.07, relative: 0.0 }).is_ok());
}

#[test]
fn a_forgotten_attention_factor_is_rejected() {
    let (_, mut case) = sampled().into_iter().find(|(name, _)| name.starts_with("yarn")).unwrap();
    case["attention_factor"] = Value::from(1.0);
    let class = Class::Close { absolute: 1e-3, relative: 1e-3 };
    assert!(compare_samples(&case, Precision::HubCompatible, class).is_err());
}

/// YaRN as in other code: the ramp's upper bound cut to the pairs instead of the channels.
fn half_clamped(case: &Value) -> Vec<f64> {
    let positions = from_hf(&case["config"]).unwrap();
    let RopeScaling::Yarn { factor, .. } = positions.scaling else { panic!("a YaRN case") };
    let geometry = positions.geometry;
    let (d, original) = (geometry.rotary_dim() as f64, geometry.original_context() as f64);
    let bound = |beta: f64| d * (original / (beta * std::f64::consts::TAU)).ln() / (2.0 * geometry.base().ln());
    let (low, high) = (bound(32.0).floor().max(0.0), bound(1.0).ceil().min(d / 2.0 - 1.0));
    let blended = |pair: usize| {
        let frequency = geometry.base().powf(-2.0 * pair as f64 / d);
        let share = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
        frequency * (1.0 - share) + frequency / factor * share
    };
    (0..geometry.pairs()).map(blended).collect()
}

#[test]
fn a_ramp_clamped_at_the_pairs_is_rejected_where_it_differs_and_only_there() {
    let class = Class::Close { absolute: 0.0, relative: 1e-6 };
    let judged = |wanted: &str| {
        let (_, case) = cases().into_iter().find(|(name, _)| name.contains(wanted)).unwrap();
        same(&half_clamped(&case), &numbers(&case["inv_freq"]), class).is_ok()
    };
    assert!(judged("yarn: \"llama2_times_4\""), "the planted formula is right where clamping does not matter");
    assert!(!judged("clamp_of_128_heads"));
    assert!(!judged("clamp_of_64_heads"));
}

#[test]
fn slopes_are_those_of_transformers_for_every_head_count() {
    let file = read(&golden().join("alibi/slopes.json"));
    let mut closed_form_wrong = 0;
    for case in file["cases"].as_array().unwrap() {
        let heads = u16::try_from(case["heads"].as_u64().unwrap()).unwrap();
        // Bloom computes them in float32, by repeated powers of a rounded base.
        let class = Class::Close { absolute: 0.0, relative: 3e-6 };
        let wanted = numbers(&case["slopes"]);
        assert_same(&alibi::slopes(heads).unwrap(), &wanted, class);
        let closed_form: Vec<f64> = (1..=heads).map(|h| (-8.0 * f64::from(h) / f64::from(heads)).exp2()).collect();
        closed_form_wrong += usize::from(same(&closed_form, &wanted, class).is_err());
    }
    assert_eq!(closed_form_wrong, 13, "the closed form is wrong for each count that is no power of two");
}

#[test]
fn every_tiny_checkpoint_has_positions_that_read_and_survive_writing() {
    let mut seen = 0;
    for folder in files("llama_tiny").iter().filter(|path| path.join("config.json").is_file()) {
        let mut config = read(&folder.join("config.json"));
        let positions = from_hf(&config).unwrap_or_else(|errors| panic!("{}: {errors}", folder.display()));
        positions.merge_into(config.as_object_mut().unwrap());
        let again = from_hf(&config).unwrap_or_else(|errors| panic!("{}: {errors}", folder.display()));
        assert_eq!((again.encoding(), again.finetuned), (positions.encoding(), positions.finetuned));
        seen += 1;
    }
    assert!(seen >= 10, "{seen} checkpoints");
}

#[test]
fn the_manifest_knows_every_file_by_its_hash_and_reader() {
    let manifest = read(&golden().join("MANIFEST.json"));
    let entries = manifest["files"].as_object().unwrap();
    for (name, entry) in entries {
        let bytes = std::fs::read(golden().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(entry["sha256"], hash, "{name} changed without its maker");
        for role in ["maker", "reader"] {
            assert!(golden().join("../..").join(entry[role].as_str().unwrap()).is_file(), "{name}: no such {role}");
        }
    }
    for folder in FOLDERS {
        for file in files(folder) {
            let name = format!("{folder}/{}", file.file_name().unwrap().display());
            assert!(entries.contains_key(&name), "{name} has no entry in MANIFEST.json");
        }
    }
}
