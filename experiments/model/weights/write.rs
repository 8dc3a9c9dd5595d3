//! Writing a checkpoint: one safetensors file, or numbered shards and their index, each whole or absent.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;

use super::error::WeightsError;
use super::index::is_numbered;
use super::{Dtype, INDEX_NAME, SINGLE_NAME};
use crate::{atomic, disk};

/// The shard size that transformers 4 uses: 5 GB.
pub const MAX_SHARD_BYTES: u64 = 5_000_000_000;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The weight files, in order; the index is not among them.
    pub files: Vec<PathBuf>,
    /// Bytes of all tensors.
    pub total_size: u64,
    /// Elements of all tensors.
    pub total_parameters: u64,
}

/// One tensor on its way to a file.
struct Item<B> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: B,
}

/// Writes `(name, element type, shape, little-endian bytes)` in the order given.
///
/// Everything in one `model.safetensors` when it fits in `max_shard_bytes`, else `model-00001-of-0000N.safetensors`
/// and the index, with `total_size`, `total_parameters` and `format: pt`. Each file is flushed under a temporary name
/// before it gets its own, and the index comes last, so an interrupted write leaves no checkpoint that opens. At most
/// one shard is held in memory. A tensor larger than a shard gets one to itself. An older checkpoint in the folder is
/// replaced.
///
/// # Errors
///
/// [`WeightsError::Unwritable`] for a length that does not match the shape, or a name given twice;
/// [`WeightsError::Io`] with the file that could not be written.
pub fn write_sharded<B: AsRef<[u8]>>(
    dir: &Path,
    tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>, B)>,
    max_shard_bytes: u64,
) -> Result<Written, WeightsError> {
    fs::create_dir_all(dir).map_err(|source| write_failed(dir, source))?;
    let mut shards = Shards { dir, done: Vec::new(), places: BTreeMap::new(), total_size: 0, total_parameters: 0 };
    let mut waiting: Vec<Item<B>> = Vec::new();
    let mut waiting_bytes = 0;
    for (name, dtype, shape, bytes) in tensors {
        let size = bytes.as_ref().len() as u64;
        shards.admit(&name, dtype, &shape, size)?;
        if !waiting.is_empty() && waiting_bytes + size > max_shard_bytes {
            shards.flush(&mut waiting)?;
            waiting_bytes = 0;
        }
        // The shard being filled is the next one to be written.
        shards.places.insert(name.clone(), shards.done.len());
        waiting.push(Item { name, dtype, shape, bytes });
        waiting_bytes += size;
    }
    shards.flush(&mut waiting)?;
    shards.finish()
}

/// The files written so far, under names that do not yet say how many there will be.
struct Shards<'a> {
    dir: &'a Path,
    done: Vec<PathBuf>,
    /// Tensor name to the number of its shard, from 0.
    places: BTreeMap<String, usize>,
    total_size: u64,
    total_parameters: u64,
}

impl Shards<'_> {
    fn admit(&mut self, name: &str, dtype: Dtype, shape: &[usize], size: u64) -> Result<(), WeightsError> {
        let refuse = |reason: String| Err(WeightsError::Unwritable { name: name.to_owned(), reason });
        let count = shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
        let needed = count.and_then(|n| n.checked_mul(dtype.size())).map(|n| n as u64);
        if needed != Some(size) {
            return refuse(format!("{size} bytes do not make {shape:?} of {dtype}"));
        }
        if name.is_empty() || name == "__metadata__" {
            return refuse("the format does not allow this name".into());
        }
        if self.places.contains_key(name) {
            return refuse("it was given twice".into());
        }
        self.total_size += size;
        self.total_parameters += size / dtype.size() as u64;
        Ok(())
    }

    fn flush<B: AsRef<[u8]>>(&mut self, waiting: &mut Vec<Item<B>>) -> Result<(), WeightsError> {
        if waiting.is_empty() {
            return Ok(());
        }
        let path = self.dir.join(format!(".tmp-shard-{:05}-{}", self.done.len() + 1, std::process::id()));
        self.done.push(path.clone());
        // An admitted tensor's shape, type and length agree, so that its header cannot be refused for its content.
        let header = header(waiting).map_err(|e| write_failed(&path, std::io::Error::other(e.to_string())))?;
        let written = atomic::write_with(&path, |out| {
            out.write_all(&(header.len() as u64).to_le_bytes())?;
            out.write_all(&header)?;
            waiting.iter().try_for_each(|item| out.write_all(item.bytes.as_ref()))
        });
        waiting.clear();
        written.map_err(|source| write_failed(&path, source))
    }

    /// Gives the shards their names and writes the index.
    fn finish(mut self) -> Result<Written, WeightsError> {
        let count = self.done.len();
        if count == 0 {
            return Err(WeightsError::Unwritable { name: "(none)".into(), reason: "there are no tensors".into() });
        }
        let name = |at: usize| match count {
            1 => SINGLE_NAME.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", at + 1),
        };
        // An older checkpoint in the same folder must not lend its index, or its single file, to the new shards.
        if count > 1 {
            self.remove(SINGLE_NAME)?;
            self.remove(INDEX_NAME)?;
        }
        let mut files = Vec::with_capacity(count);
        for (at, temporary) in self.done.iter().enumerate() {
            let path = self.dir.join(name(at));
            disk::rename(temporary, &path).map_err(|source| write_failed(&path, source))?;
            files.push(path);
        }
        if count > 1 {
            let weight_map: BTreeMap<&str, String> =
                self.places.iter().map(|(t, &at)| (t.as_str(), name(at))).collect();
            let metadata = json!({ "total_size": self.total_size, "total_parameters": self.total_parameters });
            let index = json!({ "metadata": metadata, "weight_map": weight_map });
            let path = self.dir.join(INDEX_NAME);
            atomic::write_bytes(&path, format!("{index:#}\n").as_bytes()).map_err(|e| write_failed(&path, e))?;
        }
        self.remove_stale(&files)?;
        atomic::sync_folder(self.dir).map_err(|source| write_failed(self.dir, source))?;
        self.done.clear();
        Ok(Written { files, total_size: self.total_size, total_parameters: self.total_parameters })
    }

    fn remove(&self, name: &str) -> Result<(), WeightsError> {
        let path = self.dir.join(name);
        match disk::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(write_failed(&path, source)),
            _ => Ok(()),
        }
    }

    /// Removes the shards of an older checkpoint that the new files did not replace.
    fn remove_stale(&self, files: &[PathBuf]) -> Result<(), WeightsError> {
        if files.len() == 1 {
            self.remove(INDEX_NAME)?;
        }
        let entries = fs::read_dir(self.dir).map_err(|source| write_failed(self.dir, source))?;
        for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
            if is_numbered(&name) && !files.contains(&self.dir.join(&name)) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }
}

impl Drop for Shards<'_> {
    fn drop(&mut self) {
        for path in &self.done {
            // Left over from a failure; their names say that they are temporary.
            let _ = disk::remove_file(path);
        }
    }
}

/// The header of one file, padded with spaces so that the data starts at a multiple of eight bytes.
fn header<B: AsRef<[u8]>>(items: &[Item<B>]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut offset = 0;
    let mut tensors = Vec::with_capacity(items.len());
    for item in items {
        let end = offset + item.bytes.as_ref().len();
        let info = TensorInfo { dtype: item.dtype.stored(), shape: item.shape.clone(), data_offsets: (offset, end) };
        tensors.push((item.name.clone(), info));
        offset = end;
    }
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut header = serde_json::to_vec(&Metadata::new(Some(format), tensors)?)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn write_failed(path: &Path, source: std::io::Error) -> WeightsError {
    WeightsError::Io { doing: "write", path: path.to_path_buf(), source }
}
