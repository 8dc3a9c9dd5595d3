//! Any bytes as a `tokenizer.json`, before the tokenizers crate sees it.
#![no_main]

#[allow(dead_code)]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| drop(checks::tokenizer_precheck(data)));
