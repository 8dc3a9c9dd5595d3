//! One safetensors file: opened with care, mapped, its header checked against its length.
//!
//! Layout: an 8-byte little-endian header length, the header as JSON, then the data, which the tensors of the header
//! cover without hole or overlap.

use std::ffi::OsStr;
use std::fs::{self, File, FileType};
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::tensor::Metadata;

use super::error::WeightsError;
use super::{Dtype, TensorView};
use crate::json;
use crate::sniff;

/// File name of a checkpoint in one piece.
pub const SINGLE_NAME: &str = "model.safetensors";

/// The format's own cap on a header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// How to hold the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Mapped: pages are read when they are used and cost no memory of their own.
    #[default]
    Mapped,
    /// Read into memory: for file systems on which a mapped file may vanish under the reader.
    Read,
}

/// One opened file.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    file: File,
    bytes: Bytes,
    /// Where the data starts.
    data_start: usize,
    header: Metadata,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
        }
    }
}

impl Shard {
    /// Opens `dir/name`; `name` must have been checked to be a single path component.
    pub(super) fn open(dir: &Path, name: &str, access: Access) -> Result<Self, WeightsError> {
        let path = dir.join(name);
        check_place(dir, &path)?;
        let io = |source| WeightsError::Io { doing: "read", path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        if length == 0 {
            return Err(WeightsError::Empty { path });
        }
        let bytes = hold(&file, length, access).map_err(io)?;
        let (data_start, header) = header(&path, bytes.as_slice())?;
        Ok(Self { path, file, bytes, data_start, header })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
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

    pub(super) fn tensor(&self, name: &str) -> Result<TensorView<'_>, WeightsError> {
        let absent = || WeightsError::NotFound { dir: self.path.clone(), name: name.to_owned() };
        let info = self.header.info(name).ok_or_else(absent)?;
        let dtype = Dtype::from_stored(info.dtype).ok_or_else(|| WeightsError::UnsupportedDtype {
            path: self.path.clone(),
            name: name.to_owned(),
            dtype: info.dtype.to_string(),
        })?;
        self.check_length()?;
        let (start, end) = info.data_offsets;
        // In range: the header was checked to end exactly where the file does.
        let data = &self.bytes.as_slice()[self.data_start + start..self.data_start + end];
        Ok(TensorView { dtype, shape: &info.shape, data })
    }

    /// Refuses a file whose length changed since it was mapped.
    fn check_length(&self) -> Result<(), WeightsError> {
        let Bytes::Mapped(map) = &self.bytes else { return Ok(()) };
        let about = self.file.metadata();
        let now = about.map_err(|source| WeightsError::Io { doing: "read", path: self.path.clone(), source })?.len();
        match map.len() as u64 {
            opened if opened == now => Ok(()),
            opened => Err(WeightsError::Changed { path: self.path.clone(), opened, now }),
        }
    }
}

fn hold(file: &File, length: u64, access: Access) -> std::io::Result<Bytes> {
    match access {
        Access::Mapped => {
            // SAFETY: the map is read-only and lives as long as its file handle. Another process that shortens the
            // file in place could make a read fault; `check_length` looks before each tensor is handed out, our own
            // writers replace files instead of changing them, and `Access::Read` exists for where that is not enough.
            Ok(Bytes::Mapped(unsafe { Mmap::map(file)? }))
        }
        Access::Read => {
            let mut bytes = Vec::new();
            file.take(length).read_to_end(&mut bytes)?;
            Ok(Bytes::Read(bytes))
        }
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
