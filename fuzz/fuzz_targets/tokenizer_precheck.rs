//! Any bytes as a `tokenizer.json`, checked as it is before the tokenizers crate sees it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(value) = bowline::json::parse_json(data) {
        let _ = bowline::tokenizer::precheck(&value, 300);
    }
});
