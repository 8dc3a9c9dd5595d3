//! Documents to tokens, once: into a store that is found again by what it was made from.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::documents::{Content, Document, Documents, Tally, documents};
use super::error::DataError;
use super::files::SourceFile;
use super::spec::SourceSpec;
use super::store::{HEADER, MAGIC, MANIFEST, Manifest, ShardEntry, SourceEntry, TokenStore, VERSION, padded};
use crate::atomic::PendingFolder;

/// Bytes of text that are tokenized together; more than this is never waiting, but for one long document.
const BATCH_BYTES: usize = 64 << 20;
/// Documents that are tokenized together.
const BATCH_DOCUMENTS: usize = 4096;
/// Vocabularies of more rows need four bytes a token.
const NARROW_ROWS: usize = 1 << 16;

/// How text becomes ids, without bos and eos.
#[derive(Clone, Copy)]
pub struct Encoder<'a> {
    /// The ids of a text, or a reason.
    pub encode: &'a (dyn Fn(&str) -> Result<Vec<u32>, String> + Sync),
    /// Hash that identifies the tokenizer.
    pub tokenizer_hash: &'a str,
    /// Rows of the vocabulary: ids are below.
    pub vocab_size: usize,
    /// Id that begins a document; taken off where ready-made ids begin with it, since readers put their own.
    pub bos: Option<u32>,
}

impl Encoder<'_> {
    /// The ids of a document, all within the vocabulary, without bos.
    ///
    /// # Errors
    ///
    /// When the tokenizer fails or gives nothing, and for an id outside the vocabulary.
    pub fn ids(&self, document: Document) -> Result<Vec<u32>, DataError> {
        let Self { vocab_size, bos, .. } = *self;
        let Document { content, place } = document;
        let foreign = |ids: &[u32]| ids.iter().copied().find(|&id| id as usize >= vocab_size);
        match content {
            Content::Text(text) => {
                let ids = (self.encode)(&text).map_err(|what| DataError::Encode { place: place.clone(), what })?;
                match foreign(&ids) {
                    Some(id) => Err(DataError::IdOutOfRange { place, id, vocab_size }),
                    None if ids.is_empty() => Err(DataError::Encode { place, what: "it gave no tokens".to_owned() }),
                    None => Ok(ids),
                }
            }
            Content::Ids(mut ids) => {
                if let Some(id) = foreign(&ids) {
                    return Err(DataError::ForeignId { place, id, vocab_size });
                }
                if ids.len() > 1 && ids.first().copied() == bos {
                    ids.remove(0);
                }
                Ok(ids)
            }
        }
    }
}

/// How far tokenizing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokenized {
    /// Files of the source.
    pub files: u64,
    /// What was met so far.
    pub tally: Tally,
    /// Tokens so far.
    pub tokens: u64,
}

/// Where stores are kept, and how large their shards may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// The folder that holds a folder for each store.
    pub cache: PathBuf,
    /// Tokens after which a new shard is begun.
    pub shard_tokens: u64,
}

impl StoreOptions {
    /// Stores under `cache`, in shards of 2^28 tokens.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self { cache: cache.into(), shard_tokens: 1 << 28 }
    }
}

/// The tokenized documents of a source: from the cache, or made now. The same files, tokenizer and options give the same
/// bytes whatever the number of threads.
///
/// # Errors
///
/// As [`documents`], for ids outside the vocabulary, a tokenizer that fails, and failures to write; nothing half-made
/// stays behind.
pub fn token_store(
    spec: &SourceSpec,
    encoder: &Encoder<'_>,
    options: &StoreOptions,
    progress: &mut dyn FnMut(Tokenized),
) -> Result<TokenStore, DataError> {
    let all = documents(spec)?;
    let key = key(spec, all.files(), encoder);
    let folder = options.cache.join(&key);
    if !folder.join(MANIFEST).exists() {
        match PendingFolder::create(&folder) {
            Ok(pending) => {
                fill(pending.path(), all, encoder, options, &key, progress)?;
                match pending.commit() {
                    // Another process was faster: what it made from the same key is the same.
                    Err(_) if folder.join(MANIFEST).exists() => {}
                    committed => committed.map_err(DataError::io("keep", &folder))?,
                }
            }
            Err(_) if folder.join(MANIFEST).exists() => {}
            Err(error) => return Err(DataError::io("make", &folder)(error)),
        }
    }
    let store = TokenStore::open(&folder)?;
    match store.manifest().key == key {
        true => Ok(store),
        false => Err(DataError::Shard { path: folder.join(MANIFEST), what: "it belongs to other data".to_owned() }),
    }
}

/// What a store is made from: every option that changes its content, the files as the system knows them, the tokenizer.
fn key(spec: &SourceSpec, files: &[SourceFile], encoder: &Encoder<'_>) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(&VERSION.to_le_bytes());
    part(encoder.tokenizer_hash.as_bytes());
    part(&(encoder.vocab_size as u64).to_le_bytes());
    part(format!("{:?}", encoder.bos).as_bytes());
    part(format!("{:?} {:?} {}", spec.format, spec.on_bad_line, spec.max_document_bytes).as_bytes());
    part(spec.text_field.as_bytes());
    for file in files {
        let whole = std::path::absolute(&file.path).unwrap_or_else(|_| file.path.clone());
        part(whole.as_os_str().as_encoded_bytes());
        part(&file.bytes.to_le_bytes());
        part(&file.modified_ns.to_le_bytes());
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

fn fill(
    folder: &Path,
    mut all: Documents,
    encoder: &Encoder<'_>,
    options: &StoreOptions,
    key: &str,
    progress: &mut dyn FnMut(Tokenized),
) -> Result<(), DataError> {
    let width = if encoder.vocab_size <= NARROW_ROWS { 2 } else { 4 };
    let mut writer = StoreWriter { folder, width, limit: options.shard_tokens, shards: Vec::new(), open: None };
    let mut tokens = 0;
    loop {
        let batch = batch(&mut all)?;
        if batch.is_empty() {
            break;
        }
        let encoded: Vec<Result<Vec<u32>, DataError>> =
            batch.into_par_iter().map(|document| encoder.ids(document)).collect();
        for ids in encoded {
            let ids = ids?;
            tokens += ids.len() as u64;
            writer.push(&ids)?;
        }
        progress(Tokenized { files: all.files().len() as u64, tally: all.tally(), tokens });
    }
    let shards = writer.finish()?;
    let mut hasher = blake3::Hasher::new();
    shards.iter().for_each(|shard| {
        hasher.update(shard.blake3.as_bytes());
    });
    let source = |file: &SourceFile| SourceEntry { path: file.path.display().to_string(), bytes: file.bytes };
    let manifest = Manifest {
        version: VERSION,
        key: key.to_owned(),
        tokenizer: encoder.tokenizer_hash.to_owned(),
        vocab_size: encoder.vocab_size,
        sources: all.files().iter().map(source).collect(),
        tally: all.tally(),
        tokens,
        shards,
        hash: hasher.finalize().to_hex().to_string(),
    };
    let path = folder.join(MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| DataError::io("write", &path)(error.into()))?;
    std::fs::write(&path, text).map_err(DataError::io("write", &path))
}

/// The next documents, up to the limits of a batch; none at the end.
fn batch(all: &mut Documents) -> Result<Vec<Document>, DataError> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < BATCH_DOCUMENTS && bytes < BATCH_BYTES {
        let Some(document) = all.next() else { break };
        let document = document?;
        bytes += document.content.bytes();
        batch.push(document);
    }
    Ok(batch)
}

/// Writes shards one after another.
struct StoreWriter<'a> {
    folder: &'a Path,
    width: u32,
    limit: u64,
    shards: Vec<ShardEntry>,
    open: Option<ShardWriter>,
}

impl StoreWriter<'_> {
    fn push(&mut self, ids: &[u32]) -> Result<(), DataError> {
        if self.open.as_ref().is_some_and(|shard| shard.tokens + ids.len() as u64 > self.limit) {
            self.close()?;
        }
        let shard = match &mut self.open {
            Some(shard) => shard,
            None => {
                let name = format!("shard-{:05}.tok", self.shards.len());
                self.open.insert(ShardWriter::create(self.folder, name, self.width)?)
            }
        };
        shard.push(ids)
    }

    fn close(&mut self) -> Result<(), DataError> {
        if let Some(shard) = self.open.take() {
            self.shards.push(shard.finish()?);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<ShardEntry>, DataError> {
        self.close()?;
        Ok(self.shards)
    }
}

struct ShardWriter {
    name: String,
    path: PathBuf,
    file: BufWriter<File>,
    width: u32,
    tokens: u64,
    offsets: Vec<u64>,
    hasher: blake3::Hasher,
}

impl ShardWriter {
    fn create(folder: &Path, name: String, width: u32) -> Result<Self, DataError> {
        let path = folder.join(&name);
        let file = File::create_new(&path).map_err(DataError::io("create", &path))?;
        let hasher = blake3::Hasher::new();
        let mut writer = Self {
            name,
            path,
            file: BufWriter::with_capacity(1 << 20, file),
            width,
            tokens: 0,
            offsets: vec![0],
            hasher,
        };
        writer.file.write_all(&[0; HEADER]).map_err(DataError::io("write", &writer.path))?;
        Ok(writer)
    }

    fn push(&mut self, ids: &[u32]) -> Result<(), DataError> {
        match self.width {
            2 => {
                let narrow: Vec<u16> = ids.iter().map(|&id| id as u16).collect();
                self.write(bytemuck::cast_slice(&narrow))?;
            }
            _ => self.write(bytemuck::cast_slice(ids))?,
        }
        self.tokens += ids.len() as u64;
        self.offsets.push(self.tokens);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(DataError::io("write", &self.path))
    }

    fn finish(mut self) -> Result<ShardEntry, DataError> {
        let bytes = self.tokens as usize * self.width as usize;
        self.write(&[0; 8][..padded(bytes) - bytes])?;
        let offsets = std::mem::take(&mut self.offsets);
        self.write(bytemuck::cast_slice(&offsets))?;
        let hash = self.hasher.finalize();
        let documents = offsets.len() as u64 - 1;
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&self.width.to_le_bytes());
        header.extend_from_slice(&documents.to_le_bytes());
        header.extend_from_slice(&self.tokens.to_le_bytes());
        header.extend_from_slice(hash.as_bytes());
        let written = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&header));
        written.and_then(|()| self.file.flush()).map_err(DataError::io("write", &self.path))?;
        Ok(ShardEntry { file: self.name, documents, tokens: self.tokens, blake3: hash.to_hex().to_string() })
    }
}

#[cfg(test)]
#[path = "tokenize_tests.rs"]
mod tests;
