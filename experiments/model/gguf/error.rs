//! What can be wrong with a GGUF file.

use std::path::PathBuf;

use crate::fault::{Fault, brief};

/// Why a GGUF file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// Its content.
    #[error("{}: {problem}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong there.
        problem: Problem,
    },
    /// Several findings of the model that the metadata describes, one a line.
    #[error("{}", .findings.iter().map(|finding| format!("{}: {finding}", .path.display())).collect::<Vec<_>>().join("\n"))]
    Model {
        /// The file.
        path: PathBuf,
        /// Each with its key.
        findings: Vec<String>,
    },
}

impl GgufError {
    /// What it means for the exit code.
    pub fn kind(&self) -> Fault {
        Fault::BadData
    }
}

/// One finding in the bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The first bytes are something else.
    #[error("not a GGUF file: it begins with {found:02x?}, not with the letters GGUF")]
    Magic {
        /// The first bytes.
        found: Vec<u8>,
    },
    /// A version that is not read.
    #[error("GGUF version {found}; 2 and 3, little-endian, are read{}", if *.big_endian { " (this file is big-endian)" } else { "" })]
    Version {
        /// The version as stored.
        found: u32,
        /// Whether its bytes in the other order would be a version.
        big_endian: bool,
    },
    /// The file ends too early.
    #[error(
        "the file is {bytes} bytes, {what} needs {needed}: the download is incomplete, or the file is damaged; fetch it again"
    )]
    Short {
        /// What was being read.
        what: String,
        /// The length of the file.
        bytes: u64,
        /// The length that would be needed; the largest number where it cannot be counted in 64 bits.
        needed: u64,
    },
    /// Something that names no key and no tensor.
    #[error("{0}")]
    Header(String),
    /// A metadata pair.
    #[error("{}", brief(&format!("{key}: {what}")))]
    Key {
        /// The key.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// A tensor.
    #[error("{}", brief(&format!("tensor {name}: {what}")))]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
}

impl Problem {
    /// A finding about the value of a key.
    pub(super) fn key(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Key { key: key.into(), what: what.into() }
    }

    /// A finding about a tensor.
    pub(super) fn tensor(name: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), what: what.into() }
    }
}
