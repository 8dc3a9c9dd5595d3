//! Tells by its first bytes what a file is that is not what its name says.
//!
//! A clone without Git LFS, a proxy's login page and a renamed pickle all end up under the name of a weight file. The
//! parsers see only "header too large" in each of them; naming the thing tells the user what to do.

use std::fmt;

/// Something other than the expected content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// The three-line text that Git LFS leaves in place of a large file.
    LfsPointer,
    /// A web page, usually a proxy's or a login page saved in place of the file.
    Html,
    /// A zip archive: what `torch.save` writes, with a pickle inside.
    Zip,
    /// A bare pickle, as old `torch.save` wrote.
    Pickle,
    /// A GGUF file.
    Gguf,
    /// A gzip stream.
    Gzip,
    /// A Zstandard stream.
    Zstd,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LfsPointer => "a Git LFS pointer, not the file itself (run `git lfs pull`, or `bowline fetch`)",
            Self::Html => "an HTML page, not the file itself (a login or error page was saved in its place)",
            Self::Zip => "a zip archive, as torch.save writes it with a pickle inside; convert it to safetensors",
            Self::Pickle => "a pickle, which can run code when it is loaded; convert it to safetensors",
            Self::Gguf => "a GGUF file; a safetensors checkpoint is needed",
            Self::Gzip => "a gzip stream; unpack it first",
            Self::Zstd => "a Zstandard stream; unpack it first",
        })
    }
}

/// Looks at the first bytes of a file; `None` when they are nothing known. 64 bytes are enough.
pub fn foreign(head: &[u8]) -> Option<Foreign> {
    let binary: [(&[u8], Foreign); 5] = [
        (b"PK\x03\x04", Foreign::Zip),
        (b"\x80\x02", Foreign::Pickle),
        (b"GGUF", Foreign::Gguf),
        (b"\x1f\x8b", Foreign::Gzip),
        (b"\x28\xb5\x2f\xfd", Foreign::Zstd),
    ];
    // A safetensors file opens with the length of its header, whose low bytes may be those of a magic number, but
    // then a JSON object follows.
    if head.get(8) == Some(&b'{') {
        return None;
    }
    if let Some((_, what)) = binary.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Some(*what);
    }
    let start = head.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(head.len());
    let text = head[start..].to_ascii_lowercase();
    if text.starts_with(b"version https://git-lfs") {
        return Some(Foreign::LfsPointer);
    }
    let page: [&[u8]; 4] = [b"<!doctype", b"<html", b"<head", b"<?xml"];
    page.iter().any(|tag| text.starts_with(tag)).then_some(Foreign::Html)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impostors_are_named() {
        assert_eq!(foreign(b"version https://git-lfs.github.com/spec/v1\noid"), Some(Foreign::LfsPointer));
        assert_eq!(foreign(b"\n  <!DOCTYPE html><html>"), Some(Foreign::Html));
        assert_eq!(foreign(b"PK\x03\x04rest"), Some(Foreign::Zip));
        assert_eq!(foreign(b"\x80\x02}q\x00"), Some(Foreign::Pickle));
        assert_eq!(foreign(b"GGUF\x03\x00"), Some(Foreign::Gguf));
    }

    #[test]
    fn a_safetensors_header_whose_length_looks_like_a_pickle_is_no_impostor() {
        assert_eq!(foreign(b"\x80\x02\0\0\0\0\0\0{\"a\""), None);
        assert_eq!(foreign(b"\x50\x4b\x03\x04\0\0\0\0{\"a\""), None);
    }

    #[test]
    fn ordinary_text_is_no_impostor() {
        assert_eq!(foreign(b"{\"model_type\": \"llama\"}"), None);
        assert_eq!(foreign(b""), None);
    }
}
