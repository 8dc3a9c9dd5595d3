//! One safetensors file: opened with care, mapped, its header checked against its length.
//!
//! Layout: an 8-byte little-endian header length, the header as JSON, then the data, which the tensors of the header
//! cover without hole or overlap.

use std::ffi::OsStr;
use std::fs::{self, FileType};
use std::path::Path;

use safetensors::tensor::Metadata;

use super::error::WeightsError;
use super::held::{Access, Held};
use super::{Dtype, TensorView};
use crate::json;
use crate::sniff;

/// File name of a checkpoint in one piece.
pub const SINGLE_NAME: &str = "model.safetensors";

/// The format's own cap on a header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One opened file.
#[derive(Debug)]
pub(super) struct Shard {
    held: Held,
    /// Where the data starts.
    data_start: usize,
    header: Metadata,
}

impl Shard {
    /// Opens `dir/name`; `name` must have been checked to be a single path component.
    pub(super) fn open(dir: &Path, name: &str, access: Access) -> Result<Self, WeightsError> {
        let path = dir.join(name);
        check_place(dir, &path)?;
        let held = Held::open(path, access)?;
        let (data_start, header) = header(held.path(), held.bytes())?;
        Ok(Self { held, data_start, header })
    }

    pub(super) fn path(&self) -> &Path {
        self.held.path()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.header.offset_keys().into_iter()
    }

    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.info(name).map(|info| info.shape.as_slice())
    }

    pub(super) fn data_bytes(&self) -> u64 {
        self.header.data_len() as u64
    }

    /// A tensor of floating point, or of any type that is held.
    pub(super) fn tensor(&self, name: &str, floats: bool) -> Result<TensorView<'_>, WeightsError> {
        let absent = || WeightsError::NotFound { dir: self.path().to_owned(), name: name.to_owned() };
        let info = self.header.info(name).ok_or_else(absent)?;
        let dtype = Dtype::from_stored(info.dtype).filter(|dtype| dtype.is_float() || !floats);
        let dtype = dtype.ok_or_else(|| WeightsError::UnsupportedDtype {
            path: self.path().to_owned(),
            name: name.to_owned(),
            dtype: info.dtype.to_string(),
        })?;
        self.held.check_length()?;
        let (start, end) = info.data_offsets;
        // In range: the header was checked to end exactly where the file does.
        let data = &self.held.bytes()[self.data_start + start..self.data_start + end];
        Ok(TensorView { dtype, shape: &info.shape, data })
    }
}

/// Parses the header and compares it with the length of the file.
fn header(path: &Path, bytes: &[u8]) -> Result<(usize, Metadata), WeightsError> {
    if let Some(what) = sniff::foreign(&bytes[..bytes.len().min(64)]) {
        return Err(WeightsError::Foreign { path: path.to_path_buf(), what });
    }
    let bad = |reason: String| WeightsError::Header { path: path.to_path_buf(), reason };
    let length = bytes.len() as u64;
    let truncated = |needed| WeightsError::Truncated { path: path.to_path_buf(), bytes: length, needed };
    let Some((prefix, rest)) = bytes.split_first_chunk::<8>() else { return Err(truncated(8)) };
    let header_bytes = u64::from_le_bytes(*prefix);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(bad(format!("its header would be {header_bytes} bytes, the format allows {MAX_HEADER_BYTES}")));
    }
    // At most 100 MB, so the conversion and the sum below cannot overflow.
    let header_len = header_bytes as usize;
    let text = rest.get(..header_len).ok_or_else(|| truncated(8 + header_bytes))?;
    // The parser of the format keeps the last of two equal names.
    json::parse_json(text).map_err(|fault| bad(format!("header: {fault}")))?;
    let header: Metadata = serde_json::from_slice(text).map_err(|error| bad(format!("header: {error}")))?;
    let needed = (8 + header_bytes).checked_add(header.data_len() as u64);
    let needed = needed.ok_or_else(|| bad("its data would not fit in 64 bits".into()))?;
    match length.cmp(&needed) {
        std::cmp::Ordering::Less => Err(truncated(needed)),
        std::cmp::Ordering::Greater => Err(WeightsError::Trailing { path: path.to_path_buf(), bytes: length, needed }),
        std::cmp::Ordering::Equal => Ok((8 + header_len, header)),
    }
}

/// Regular files only; symbolic links only within the checkpoint or, in a Hub cache, within its repository's folder.
fn check_place(dir: &Path, path: &Path) -> Result<(), WeightsError> {
    let io = |source| WeightsError::Io { doing: "read", path: path.to_path_buf(), source };
    let own = fs::symlink_metadata(path).map_err(io)?.file_type();
    if own.is_symlink() {
        let target = fs::canonicalize(path).map_err(io)?;
        let home = fs::canonicalize(dir).map_err(io)?;
        if !target.starts_with(repository_of(&home)) {
            return Err(WeightsError::LinkOutside { path: path.to_path_buf(), target });
        }
    }
    // Asked before opening: opening a pipe would wait for its writer.
    let reached = fs::metadata(path).map_err(io)?.file_type();
    match reached.is_file() {
        true => Ok(()),
        false => Err(WeightsError::NotAFile { path: path.to_path_buf(), what: kind_name(reached) }),
    }
}

/// `models--ORG--NAME` when the folder is `models--ORG--NAME/snapshots/COMMIT`, else the folder itself.
fn repository_of(dir: &Path) -> &Path {
    let Some(snapshots) = dir.parent().filter(|p| p.file_name() == Some(OsStr::new("snapshots"))) else { return dir };
    snapshots.parent().filter(|p| is_repository(p)).unwrap_or(dir)
}

fn is_repository(path: &Path) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("models--"))
}

fn kind_name(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        k if k.is_dir() => "a folder",
        k if k.is_fifo() => "a pipe",
        k if k.is_char_device() || k.is_block_device() => "a device",
        k if k.is_socket() => "a socket",
        _ => "something else",
    }
}

/// The error for a folder with neither form of safetensors.
pub(super) fn nothing_to_open(dir: &Path) -> WeightsError {
    let pickle = |name: &str| {
        let suffix = [".bin", ".pt", ".pth", ".ckpt"].iter().any(|s| name.ends_with(s));
        suffix && !name.starts_with("training_args") && !name.starts_with("optimizer")
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut pickles: Vec<String> =
        entries.filter_map(|e| e.file_name().into_string().ok()).filter(|n| pickle(n)).collect();
    pickles.sort();
    match pickles.into_iter().next() {
        Some(file) => WeightsError::PickleOnly { dir: dir.to_path_buf(), file },
        None => WeightsError::NoWeights { dir: dir.to_path_buf() },
    }
}
