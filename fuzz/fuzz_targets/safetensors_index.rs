//! Any bytes as a `model.safetensors.index.json`: whatever name is accepted stays in its folder.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(value) = bowline::json::parse_json(data) else { return };
    let Ok(index) = bowline::model::weights::parse_index(&value) else { return };
    for name in index.shards() {
        assert_eq!(Path::new("dir").join(name).parent(), Some(Path::new("dir")), "{name:?}");
        assert_eq!(Path::new(name).file_name().and_then(|n| n.to_str()), Some(name));
        assert!(name.ends_with(".safetensors"));
    }
});
