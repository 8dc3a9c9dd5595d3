//! Tokenized documents on disk, mapped into memory: the file format and its reader.
//!
//! A shard is one file, little-endian: the magic, then version and bytes per token (u32 each), documents and tokens (u64
//! each), the BLAKE3 hash of everything behind the header; then the tokens (u16 or u32), padding to 8 bytes, and
//! `documents + 1` offsets in tokens (u64). A store is a folder of shards with `manifest.json`.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};

use super::documents::Tally;
use super::error::DataError;

const _: () = assert!(cfg!(target_endian = "little"), "shards are read in place and are little-endian");

/// First bytes of a shard.
pub(super) const MAGIC: [u8; 8] = *b"BOWLTOK\0";
/// Version of shard and manifest.
pub(super) const VERSION: u32 = 1;
/// Length of the header, in bytes.
pub(super) const HEADER: usize = 64;
/// Name of the manifest within a store's folder.
pub(super) const MANIFEST: &str = "manifest.json";

/// What a store holds and what it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format.
    pub version: u32,
    /// What the store was made from and how, as a hash; also the name of its folder.
    pub key: String,
    /// Hash of the tokenizer.
    pub tokenizer: String,
    /// Rows of the tokenizer's vocabulary.
    pub vocab_size: usize,
    /// The files that were read.
    pub sources: Vec<SourceEntry>,
    /// What was met in them.
    pub tally: Tally,
    /// Tokens in all.
    pub tokens: u64,
    /// The shards, in order.
    pub shards: Vec<ShardEntry>,
    /// BLAKE3 over the shards' hashes: equal for equal tokens in equal documents, wherever they came from.
    pub hash: String,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceEntry {
    /// Its path (readable form; bytes that are not UTF-8 are replaced).
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A shard of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// File name within the store's folder.
    pub file: String,
    /// Documents in it.
    pub documents: u64,
    /// Tokens in it.
    pub tokens: u64,
    /// BLAKE3 of everything behind its header.
    pub blake3: String,
}

/// A run of tokens where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens<'a> {
    /// Vocabularies of up to 65,536 rows.
    Narrow(&'a [u16]),
    /// Larger ones.
    Wide(&'a [u32]),
}

impl<'a> Tokens<'a> {
    /// How many tokens.
    pub fn len(&self) -> usize {
        match self {
            Self::Narrow(tokens) => tokens.len(),
            Self::Wide(tokens) => tokens.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A part of the run; `range` lies within it.
    pub fn slice(&self, range: Range<usize>) -> Tokens<'a> {
        match self {
            Self::Narrow(tokens) => Tokens::Narrow(&tokens[range]),
            Self::Wide(tokens) => Tokens::Wide(&tokens[range]),
        }
    }

    /// Appends the run to `out`.
    pub fn append_to(&self, out: &mut Vec<u32>) {
        match self {
            Self::Narrow(tokens) => out.extend(tokens.iter().map(|&token| u32::from(token))),
            Self::Wide(tokens) => out.extend_from_slice(tokens),
        }
    }

    /// A copy of the run.
    pub fn to_vec(&self) -> Vec<u32> {
        let mut out = Vec::with_capacity(self.len());
        self.append_to(&mut out);
        out
    }
}

/// One mapped file.
struct Shard {
    path: PathBuf,
    map: Mmap,
    width: usize,
    documents: usize,
    tokens: usize,
}

impl Shard {
    fn open(path: PathBuf, entry: &ShardEntry) -> Result<Self, DataError> {
        let file = File::open(&path).map_err(DataError::io("open", &path))?;
        // SAFETY: Bowline replaces these files only by renaming a new folder, so the bytes under the map do not change;
        // a foreign program that truncates the file brings SIGBUS, as with every map.
        let map = unsafe { Mmap::map(&file) }.map_err(DataError::io("map", &path))?;
        let (width, documents, tokens) =
            header(&map, entry).map_err(|what| DataError::Shard { path: path.clone(), what })?;
        let shard = Self { path, map, width, documents, tokens };
        let offsets = shard.offsets();
        let in_order = offsets.first() == Some(&0) && offsets.windows(2).all(|pair| pair[0] <= pair[1]);
        if !in_order || offsets.last() != Some(&(tokens as u64)) {
            return Err(shard.wrong("its document offsets are out of order".to_owned()));
        }
        Ok(shard)
    }

    fn offsets(&self) -> &[u64] {
        let start = HEADER + padded(self.tokens * self.width);
        bytemuck::cast_slice(&self.map[start..start + 8 * (self.documents + 1)])
    }

    fn span(&self, document: usize) -> Range<usize> {
        let offsets = self.offsets();
        offsets[document] as usize..offsets[document + 1] as usize
    }

    fn document(&self, document: usize) -> Tokens<'_> {
        let bytes = &self.map[HEADER..HEADER + self.tokens * self.width];
        match self.width {
            2 => Tokens::Narrow(bytemuck::cast_slice(bytes)),
            _ => Tokens::Wide(bytemuck::cast_slice(bytes)),
        }
        .slice(self.span(document))
    }

    fn wrong(&self, what: String) -> DataError {
        DataError::Shard { path: self.path.clone(), what }
    }
}

/// Length of the token part with its padding.
pub(super) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// Bytes per token, documents and tokens of a mapped file, held against its entry and its size.
fn header(map: &[u8], entry: &ShardEntry) -> Result<(usize, usize, usize), String> {
    if map.len() < HEADER || map[..8] != MAGIC {
        return Err("it is no shard of tokens".to_owned());
    }
    let word = |at: usize| u32::from_le_bytes([map[at], map[at + 1], map[at + 2], map[at + 3]]);
    let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let (version, width, documents, tokens) = (word(8), word(12), long(16), long(24));
    if version != VERSION {
        return Err(format!("its version is {version}, this program reads {VERSION}"));
    }
    if width != 2 && width != 4 {
        return Err(format!("its tokens have {width} bytes"));
    }
    if (documents, tokens) != (entry.documents, entry.tokens) {
        let listed = format!("{} and {}", entry.documents, entry.tokens);
        return Err(format!("it has {documents} documents and {tokens} tokens, the manifest says {listed}"));
    }
    let needed = size(u64::from(width), documents, tokens).ok_or("its sizes overflow")?;
    if needed != map.len() as u64 {
        return Err(format!("it has {} bytes, its header needs {needed}", map.len()));
    }
    if blake3::Hash::from_bytes(hash_in(map)).to_hex().as_str() != entry.blake3 {
        return Err("its hash is not the manifest's".to_owned());
    }
    Ok((width as usize, documents as usize, tokens as usize))
}

fn hash_in(map: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(&map[32..HEADER]);
    hash
}

/// Bytes of a shard, unless they overflow.
fn size(width: u64, documents: u64, tokens: u64) -> Option<u64> {
    let tokens = tokens.checked_mul(width)?.checked_next_multiple_of(8)?;
    let offsets = documents.checked_add(1)?.checked_mul(8)?;
    tokens.checked_add(offsets)?.checked_add(HEADER as u64)
}

/// The tokenized documents of a source.
pub struct TokenStore {
    manifest: Manifest,
    shards: Vec<Shard>,
    /// Documents before each shard.
    before: Vec<u64>,
}

impl std::fmt::Debug for TokenStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenStore").field("manifest", &self.manifest).finish_non_exhaustive()
    }
}

impl TokenStore {
    /// Opens the store in `folder`, checking magic, version, sizes and offsets, but not the hashes of the content.
    ///
    /// # Errors
    ///
    /// [`DataError::Shard`] when something disagrees, [`DataError::Io`] when a file cannot be opened.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join(MANIFEST);
        let bytes = std::fs::read(&path).map_err(DataError::io("read", &path))?;
        let wrong = |what: String| DataError::Shard { path: path.clone(), what };
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if manifest.version != VERSION {
            return Err(wrong(format!("its version is {}, this program reads {VERSION}", manifest.version)));
        }
        let mut before = Vec::new();
        let (mut documents, mut tokens) = (0, 0);
        let mut shards = Vec::new();
        for entry in &manifest.shards {
            if Path::new(&entry.file).file_name() != Some(entry.file.as_ref()) {
                return Err(wrong(format!("it names {:?}, which is no plain file name", entry.file)));
            }
            shards.push(Shard::open(folder.join(&entry.file), entry)?);
            before.push(documents);
            documents += entry.documents;
            tokens += entry.tokens;
        }
        if (documents, tokens) != (manifest.tally.documents, manifest.tokens) {
            return Err(wrong(format!(
                "its shards hold {documents} documents and {tokens} tokens, but it counts others"
            )));
        }
        Ok(Self { manifest, shards, before })
    }

    /// What the store holds and was made from.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Documents in the store.
    pub fn documents(&self) -> u64 {
        self.manifest.tally.documents
    }

    /// Tokens in the store.
    pub fn tokens(&self) -> u64 {
        self.manifest.tokens
    }

    /// Hash of the content: equal for equal tokens in equal documents.
    pub fn hash(&self) -> &str {
        &self.manifest.hash
    }

    /// Document `index`; none at and beyond [`documents`](Self::documents).
    pub fn document(&self, index: u64) -> Option<Tokens<'_>> {
        let shard = self.before.partition_point(|&before| before <= index).checked_sub(1)?;
        let within = usize::try_from(index - self.before[shard]).ok()?;
        let shard = &self.shards[shard];
        (within < shard.documents).then(|| shard.document(within))
    }

    /// Tokens of each document, in order.
    pub fn lengths(&self) -> impl Iterator<Item = u64> + '_ {
        self.shards.iter().flat_map(|shard| shard.offsets().windows(2).map(|pair| pair[1] - pair[0]))
    }

    /// Reads everything and holds it against the hashes that were taken when it was written.
    ///
    /// # Errors
    ///
    /// [`DataError::Shard`] for the first shard that has changed.
    pub fn verify(&self) -> Result<(), DataError> {
        for shard in &self.shards {
            if *blake3::hash(&shard.map[HEADER..]).as_bytes() != hash_in(&shard.map) {
                return Err(shard.wrong("its content does not match its hash".to_owned()));
            }
        }
        Ok(())
    }
}
