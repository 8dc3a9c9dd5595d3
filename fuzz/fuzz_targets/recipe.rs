//! Any text as a training recipe, and as a study.
#![no_main]

#[allow(dead_code)]
#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|text: &str| {
    drop(checks::recipe(text));
    drop(checks::study(text));
});
