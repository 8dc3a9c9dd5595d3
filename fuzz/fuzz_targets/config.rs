//! Any bytes as a `config.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(value) = bowline::json::parse_json(data) {
        let _ = bowline::model::ModelConfig::from_hf(&value);
    }
});
