//! Checkpoints on disk: one `model.safetensors`, or shards listed by `model.safetensors.index.json`.
//!
//! The files come from strangers. Shard names are checked before anything is opened, every shard's header is compared
//! with the file's length and with the index, and all findings of one kind are reported together. Nothing is read
//! that is not a safetensors file: `.bin` and `.pt` checkpoints are pickles, which run code when they are loaded.

mod dtype;
mod error;
mod held;
mod index;
mod shard;
mod write;

pub use dtype::Dtype;
pub use error::{ShapeMismatch, WeightsError};
pub use held::{Access, Held};
pub use index::{INDEX_NAME, MAX_INDEX_BYTES, ShardIndex, parse_index};
pub use shard::SINGLE_NAME;
pub use write::{MAX_SHARD_BYTES, Written, write_sharded};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use shard::Shard;

/// An opened checkpoint folder.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<Shard>,
    /// The shard that holds each tensor.
    places: BTreeMap<String, usize>,
}

/// One tensor of a checkpoint, borrowed from the mapped file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: &'a [usize],
    /// Little-endian elements in row-major order, not necessarily aligned in memory.
    pub data: &'a [u8],
}

impl Checkpoint {
    /// Opens a folder by memory map and checks it whole: index, shard names, headers, lengths.
    ///
    /// `model.safetensors` is preferred where both forms exist, as transformers does.
    ///
    /// # Errors
    ///
    /// [`WeightsError`]; an index that disagrees with its shards gives one error with every finding.
    pub fn open(dir: &Path) -> Result<Self, WeightsError> {
        Self::open_with(dir, Access::Mapped)
    }

    /// As [`Checkpoint::open`], by memory map or by reading the files into memory.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::open`].
    pub fn open_with(dir: &Path, access: Access) -> Result<Self, WeightsError> {
        if !dir.is_dir() {
            return Err(WeightsError::NotAFolder { path: dir.to_path_buf() });
        }
        if dir.join(SINGLE_NAME).symlink_metadata().is_ok() {
            let shard = Shard::open(dir, SINGLE_NAME, access)?;
            let places = shard.names().map(|name| (name.to_owned(), 0)).collect();
            return Ok(Self { dir: dir.to_path_buf(), shards: vec![shard], places });
        }
        if dir.join(INDEX_NAME).symlink_metadata().is_ok() {
            let (shards, places) = index::open_all(dir, access)?;
            return Ok(Self { dir: dir.to_path_buf(), shards, places });
        }
        Err(shard::nothing_to_open(dir))
    }

    /// Opens one safetensors file of a folder, whatever else lies there; `name` is of ours.
    ///
    /// # Errors
    ///
    /// [`WeightsError`].
    pub fn open_file(dir: &Path, name: &str) -> Result<Self, WeightsError> {
        let shard = Shard::open(dir, name, Access::Mapped)?;
        let places = shard.names().map(|name| (name.to_owned(), 0)).collect();
        Ok(Self { dir: dir.to_path_buf(), shards: vec![shard], places })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(Shard::path)
    }

    /// Every tensor's name, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Shape of one tensor, whatever its element type.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.shards[*self.places.get(name)?].shape(name)
    }

    /// Number of elements in all tensors together.
    pub fn parameters(&self) -> u64 {
        let count = |shape: &[usize]| shape.iter().map(|&n| n as u64).product::<u64>();
        self.names().filter_map(|name| self.shape(name)).map(count).sum()
    }

    /// Bytes of all tensors together, as an index's `total_size` counts them.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(Shard::data_bytes).sum()
    }

    /// One tensor.
    ///
    /// # Errors
    ///
    /// [`WeightsError::NotFound`], [`WeightsError::UnsupportedDtype`], and [`WeightsError::Changed`] when the file
    /// was cut short or grew after it was opened (reading a shortened map would kill the process).
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, WeightsError> {
        self.shard(name)?.tensor(name, true)
    }

    /// One tensor of a model or of what belongs to its training: as [`tensor`](Self::tensor), and bytes are read as well.
    ///
    /// # Errors
    ///
    /// As [`tensor`](Self::tensor).
    pub fn stored(&self, name: &str) -> Result<TensorView<'_>, WeightsError> {
        self.shard(name)?.tensor(name, false)
    }

    fn shard(&self, name: &str) -> Result<&Shard, WeightsError> {
        let place = self.places.get(name);
        let place = place.ok_or_else(|| WeightsError::NotFound { dir: self.dir.clone(), name: name.to_owned() })?;
        Ok(&self.shards[*place])
    }

    /// Compares the names and shapes with those that a model expects.
    ///
    /// Names for which `ignorable` holds may be there or not; where an expected one has a wrong shape it counts.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Mismatch`] with the missing, the unexpected and the misshapen ones.
    pub fn check(
        &self,
        expected: &[(String, Vec<usize>)],
        ignorable: impl Fn(&str) -> bool,
    ) -> Result<(), WeightsError> {
        let found = self.names().filter_map(|name| Some((name, self.shape(name)?))).collect();
        compared(&self.dir, "config.json", &found, expected, ignorable)
    }
}

/// Compares the tensors that a checkpoint holds with those that a model expects, as [`Checkpoint::check`] does;
/// `described_by` is what says how the model looks.
///
/// # Errors
///
/// [`WeightsError::Mismatch`].
pub fn compared(
    place: &Path,
    described_by: &'static str,
    found: &BTreeMap<&str, &[usize]>,
    expected: &[(String, Vec<usize>)],
    ignorable: impl Fn(&str) -> bool,
) -> Result<(), WeightsError> {
    let wanted: BTreeMap<&str, &[usize]> = expected.iter().map(|(n, s)| (n.as_str(), s.as_slice())).collect();
    let apart = |these: &BTreeMap<&str, &[usize]>, those: &BTreeMap<&str, &[usize]>| -> Vec<String> {
        let names = these.keys().filter(|name| !those.contains_key(**name) && !ignorable(name));
        names.map(ToString::to_string).collect()
    };
    let (missing, unexpected) = (apart(&wanted, found), apart(found, &wanted));
    let wrong_shape: Vec<ShapeMismatch> = wanted
        .iter()
        .filter_map(|(name, want)| Some((name, want, found.get(name)?)))
        .filter(|(_, want, found)| want != found)
        .map(|(name, want, found)| ShapeMismatch {
            name: name.to_string(),
            expected: want.to_vec(),
            found: found.to_vec(),
        })
        .collect();
    if missing.is_empty() && unexpected.is_empty() && wrong_shape.is_empty() {
        return Ok(());
    }
    Err(WeightsError::Mismatch { place: place.to_path_buf(), described_by, missing, unexpected, wrong_shape })
}

#[cfg(test)]
mod tests;
