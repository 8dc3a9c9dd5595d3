//! What can be wrong with a checkpoint on disk.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::fault::Fault;
use crate::json::JsonError;
use crate::model::gguf::GgufError;
use crate::sniff::Foreign;

/// How many entries of a long list a message spells out.
const SHOWN: usize = 8;

/// Why a checkpoint could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The path is not a folder.
    #[error("{} is not a folder; give the folder that holds config.json and the weights", .path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// No weights of any kind.
    #[error("{} holds neither model.safetensors nor model.safetensors.index.json", .dir.display())]
    NoWeights {
        /// The folder.
        dir: PathBuf,
    },
    /// Only pickled weights.
    #[error(
        "{} holds no safetensors, only {file}, a pickle that can run code when it is loaded; \
         convert it first (in Python: save_pretrained with safe_serialization=True)",
        .dir.display()
    )]
    PickleOnly {
        /// The folder.
        dir: PathBuf,
        /// The first of its pickles.
        file: String,
    },
    /// The index is not readable JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The index and the shards disagree, or the index is not what it should be.
    #[error("{}: {}", .path.display(), listed(.problems, "; "))]
    Index {
        /// The index.
        path: PathBuf,
        /// Every finding, as a sentence part.
        problems: Vec<String>,
    },
    /// Opening, reading or writing failed.
    #[error("could not {doing} {}: {source}", .path.display())]
    Io {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The path is a folder, a device, a pipe.
    #[error("{} is {what}, not a regular file", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A symbolic link out of the checkpoint.
    #[error("{} is a symbolic link to {}, outside the checkpoint; put the file itself there", .path.display(), .target.display())]
    LinkOutside {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// The file has no content.
    #[error("{} is empty (0 bytes): the download is incomplete; fetch it again", .path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{} is {what}", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: Foreign,
    },
    /// The file ends before its data does.
    #[error(
        "{}: the file is {bytes} bytes, its header needs {needed}: the download is incomplete; fetch it again",
        .path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The length that the header asks for.
        needed: u64,
    },
    /// The file goes on after its data.
    #[error("{}: the file is {bytes} bytes, its header accounts for {needed} of them", .path.display())]
    Trailing {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The length that the header asks for.
        needed: u64,
    },
    /// The header is not a safetensors header, or contradicts itself.
    #[error("{}: not a valid safetensors file: {reason}", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The checkpoint has no such tensor.
    #[error("{} holds no tensor {name}", .dir.display())]
    NotFound {
        /// The folder.
        dir: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// The tensor is quantized, or not a floating-point one.
    #[error("{}: tensor {name} has element type {dtype}; float32, float16 and bfloat16 are read", .path.display())]
    UnsupportedDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type, in the format's spelling.
        dtype: String,
    },
    /// The file changed while it was open.
    #[error("{} was {opened} bytes when it was opened and is {now} now; something writes to it", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Length then.
        opened: u64,
        /// Length now.
        now: u64,
    },
    /// The tensors are not those of the model that `config.json`, or a GGUF file's metadata, describes.
    #[error("{}: the weights do not fit {described_by}: {}", .place.display(), mismatch(.missing, .unexpected, .wrong_shape))]
    Mismatch {
        /// The folder or file.
        place: PathBuf,
        /// What describes the model.
        described_by: &'static str,
        /// Expected and absent.
        missing: Vec<String>,
        /// Present and not expected.
        unexpected: Vec<String>,
        /// Present in another shape.
        wrong_shape: Vec<ShapeMismatch>,
    },
    /// A GGUF file is not what it should be.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tensor given for writing contradicts itself or another one.
    #[error("cannot write tensor {name}: {reason}")]
    Unwritable {
        /// The tensor.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl WeightsError {
    /// What it means for the exit code.
    pub fn kind(&self) -> Fault {
        match self {
            Self::NotAFolder { .. } => Fault::Usage,
            _ => Fault::BadData,
        }
    }
}

/// A tensor whose shape is not the expected one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// The tensor.
    pub name: String,
    /// The shape that the model needs.
    pub expected: Vec<usize>,
    /// The shape in the file.
    pub found: Vec<usize>,
}

impl fmt::Display for ShapeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {:?}, expected {:?}", self.name, self.found, self.expected)
    }
}

/// The first few entries, and how many more there are.
fn listed<T: fmt::Display>(entries: &[T], separator: &str) -> String {
    let shown: Vec<String> = entries.iter().take(SHOWN).map(ToString::to_string).collect();
    match entries.len().saturating_sub(SHOWN) {
        0 => shown.join(separator),
        more => format!("{}{separator}and {more} more", shown.join(separator)),
    }
}

fn mismatch(missing: &[String], unexpected: &[String], wrong_shape: &[ShapeMismatch]) -> String {
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!("{} missing ({})", missing.len(), listed(missing, ", ")));
    }
    if !unexpected.is_empty() {
        parts.push(format!("{} unexpected ({})", unexpected.len(), listed(unexpected, ", ")));
    }
    if !wrong_shape.is_empty() {
        parts.push(format!("{} of the wrong shape ({})", wrong_shape.len(), listed(wrong_shape, ", ")));
    }
    parts.join("; ")
}
