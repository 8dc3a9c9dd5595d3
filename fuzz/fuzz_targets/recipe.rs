//! Any text as a training recipe.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = bowline::config::Recipe::parse(text);
});
