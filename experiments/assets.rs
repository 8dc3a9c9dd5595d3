//! What comes with Bowline: the base model, its tokenizer, training and held-out text.
//!
//! The files lie in the source tree, beside the program's sources; a program that was moved away from its tree finds them
//! where `BOWLINE_ASSETS` points.

use std::path::PathBuf;

/// The folder of all assets.
pub fn folder() -> PathBuf {
    match std::env::var_os("BOWLINE_ASSETS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("experiments/assets"),
    }
}

/// Folder of the bundled tokenizer.
pub fn tokenizer() -> PathBuf {
    folder().join("tokenizer")
}

/// A file as the user gave it, or the asset that `bundled:NAME` stands for.
pub fn file(path: &str) -> PathBuf {
    path.strip_prefix("bundled:").map_or_else(|| PathBuf::from(path), |name| folder().join(name))
}

/// A path as the user gave it, or the folder that `bundled:train` and `bundled:heldout` stand for.
pub fn text(path: &str) -> PathBuf {
    match path.strip_prefix("bundled:") {
        Some(name) => folder().join("text").join(name),
        None => PathBuf::from(path),
    }
}
