//! Any bytes as a `model.safetensors.index.json`.
#![no_main]

#[allow(dead_code)]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| drop(checks::safetensors_index(data)));
