//! Text to token ids and back, by the checkpoint's own `tokenizer.json`.
//!
//! The file is a program written by a stranger: the tokenizers crate panics on some of them and allocates what others
//! ask for. [`precheck()`] refuses what is known to go wrong, and every call into the crate is fenced, so that whatever
//! is left becomes an error. Truncation, padding and BPE dropout stored in the file are taken out before loading: they
//! belong to somebody's training run, and truncation would silently cut every long document.

mod built;
mod precheck;
mod special;

pub use built::Built;
pub use precheck::precheck;
pub use special::Special;

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Once};

use serde_json::Value;

use crate::error::{Failure, io_failure};
use crate::fault::Fault;
use crate::json::{self, JsonError};

/// Size cap of a `tokenizer.json`; vocabularies of 256 thousand tokens take about 35 MB.
pub const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// Tokenizer files that go with a model.
const FILES: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
];

/// Text that any tokenizer must be able to encode; it reaches the unknown-token and byte-fallback paths too.
const PROBE: &str = "Hello world, 12345.\n\u{e9}\u{4e2d} \u{1f600}\tend";

/// Why a tokenizer could not be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// There is no such file.
    #[error("{} does not exist; the tokenizer is read from tokenizer.json", .path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// Only SentencePiece's own file is there.
    #[error(
        "{} holds tokenizer.model alone; convert it to tokenizer.json first \
         (in Python: AutoTokenizer.from_pretrained(..).save_pretrained(..))",
        .dir.display()
    )]
    SentencePieceOnly {
        /// The folder.
        dir: PathBuf,
    },
    /// Not readable JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// The file contradicts itself or the model.
    #[error("{}: {}", .path.display(), .problems.join("; "))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Every finding, at most a handful per kind.
        problems: Vec<String>,
    },
    /// The tokenizers crate refuses it or fails in it.
    #[error("{}: {doing}: {reason}", .path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// Its message.
        reason: String,
    },
    /// Ordinary text gave no token at all.
    #[error("{}: the text {text:?} gives no tokens at all", .path.display())]
    NoTokens {
        /// The file.
        path: PathBuf,
        /// The start of the text.
        text: String,
    },
    /// The model has no embedding for a token.
    #[error("{}: token {token:?} has id {id}, but the model has {rows} embedding rows", .path.display())]
    BeyondRows {
        /// The file.
        path: PathBuf,
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the embedding.
        rows: usize,
    },
}

impl TokenizerError {
    /// What it means for the exit code: bad data, always.
    pub fn kind(&self) -> Fault {
        Fault::BadData
    }
}

/// A loaded and probed tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    hash: String,
    rows: usize,
    special: Special,
    /// Files to write for it, when it was not read from files of its own.
    files: Option<Arc<[(&'static str, String)]>>,
}

impl Tokenizer {
    /// Loads `tokenizer.json` for a model whose embedding has `vocab_rows` rows.
    ///
    /// The special tokens come from the files beside it: `tokenizer_config.json`, `special_tokens_map.json`, and the
    /// ids of `config.json` and `generation_config.json`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError`]; a file that loads but encodes ordinary text to nothing, or to ids without an embedding, is
    /// an error too.
    pub fn from_file(path: &Path, vocab_rows: usize) -> Result<Self, TokenizerError> {
        if !path.exists() {
            let dir = path.parent().unwrap_or(Path::new("."));
            return Err(match dir.join("tokenizer.model").exists() {
                true => TokenizerError::SentencePieceOnly { dir: dir.to_path_buf() },
                false => TokenizerError::Missing { path: path.to_path_buf() },
            });
        }
        let bytes = json::read_capped(path, MAX_TOKENIZER_BYTES)?;
        let parsed = json::parse_json(&bytes);
        let value = parsed.map_err(|fault| JsonError::Text { path: path.to_path_buf(), fault })?;
        let inner = checked(path, value, vocab_rows)?;
        let special = Special::beside(path, &inner, vocab_rows)?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        let loaded = Self { inner, path: path.to_path_buf(), hash, rows: vocab_rows, special, files: None };
        loaded.probe()?;
        Ok(loaded)
    }

    /// A tokenizer that was made from what `path` says, for a model whose embedding has `vocab_rows` rows.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::from_file`].
    pub fn from_built(path: &Path, built: Built, vocab_rows: usize) -> Result<Self, TokenizerError> {
        let special = Special { bos: built.bos, stops: built.stops.clone() };
        let files = built.files();
        let hash = blake3::hash(files[0].1.as_bytes()).to_hex().to_string();
        let inner = checked(path, built.tokenizer, vocab_rows)?;
        let files = Some(Arc::from(files));
        let loaded = Self { inner, path: path.to_path_buf(), hash, rows: vocab_rows, special, files };
        loaded.probe()?;
        Ok(loaded)
    }

    /// Writes the tokenizer's files into the folder of a model: copies of those that it was read from, or those that say
    /// what it was made from.
    ///
    /// # Errors
    ///
    /// When one cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), Failure> {
        if let Some(files) = &self.files {
            return files.iter().try_for_each(|(name, text)| {
                let target = dir.join(name);
                crate::atomic::write_bytes(&target, text.as_bytes()).map_err(|e| io_failure("write", &target, &e))
            });
        }
        let beside = self.path.parent().unwrap_or(Path::new("."));
        FILES.iter().filter(|name| beside.join(name).is_file()).try_for_each(|name| {
            let target = dir.join(name);
            crate::disk::copy(&beside.join(name), &target).map_err(|error| io_failure("write", &target, &error))
        })
    }

    /// Token ids of a text, without special tokens around it.
    ///
    /// Special tokens that the text itself spells are recognised, as the file says.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Failed`], [`TokenizerError::NoTokens`] for text that has more than white space in it, and
    /// [`TokenizerError::BeyondRows`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.fenced("encoding", || self.inner.encode_fast(text, false))?;
        let ids = encoding.get_ids();
        if ids.is_empty() && text.chars().any(|c| !c.is_whitespace() && !c.is_control()) {
            return Err(TokenizerError::NoTokens { path: self.path.clone(), text: text.chars().take(40).collect() });
        }
        match ids.iter().find(|&&id| id as usize >= self.rows) {
            Some(&id) => Err(self.beyond_rows(id)),
            None => Ok(ids.to_vec()),
        }
    }

    /// The text of token ids; special tokens are left out, and ids that the vocabulary lacks give nothing.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::Failed`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.fenced("decoding", || self.inner.decode(ids, true))
    }

    /// The token that begins a document, if the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The token that ends a document, if the model has one.
    pub fn eos(&self) -> Option<u32> {
        self.special.stops.first().copied()
    }

    /// Every token at which generation ends; [`eos`](Self::eos) is the first.
    pub fn stops(&self) -> &[u32] {
        &self.special.stops
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of one token, given as the vocabulary spells it.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The spelling of one id in the vocabulary.
    pub fn token_of(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// BLAKE3 of the file, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs the paths that would fail later, in the middle of somebody's evaluation.
    fn probe(&self) -> Result<(), TokenizerError> {
        let ids = self.encode(PROBE)?;
        self.decode(&ids)?;
        self.encode("a")?;
        self.fenced("adding special tokens", || self.inner.encode("a", true)).map(drop)
    }

    fn beyond_rows(&self, id: u32) -> TokenizerError {
        let token = self.token_of(id).unwrap_or_default();
        TokenizerError::BeyondRows { path: self.path.clone(), token, id, rows: self.rows }
    }

    fn fenced<T>(
        &self,
        doing: &'static str,
        call: impl FnOnce() -> Result<T, tokenizers::Error>,
    ) -> Result<T, TokenizerError> {
        fenced(&self.path, doing, call)
    }
}

/// The crate's tokenizer of a parsed `tokenizer.json` that passed every check.
fn checked(path: &Path, value: Value, rows: usize) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let malformed = |problems| TokenizerError::Malformed { path: path.to_path_buf(), problems };
    precheck(&value, rows).map_err(malformed)?;
    let added = precheck::added_tokens(&value);
    let inner = load(path, value)?;
    let moved = moved_tokens(&inner, &added);
    if moved.is_empty() { Ok(inner) } else { Err(malformed(moved)) }
}

fn load(path: &Path, mut value: Value) -> Result<tokenizers::Tokenizer, TokenizerError> {
    for key in ["truncation", "padding"] {
        if let Some(setting) = value.get_mut(key) {
            *setting = Value::Null;
        }
    }
    if let Some(dropout) = value.pointer_mut("/model/dropout") {
        *dropout = Value::Null;
    }
    let text = value.to_string();
    drop(value);
    fenced(path, "loading", || tokenizers::Tokenizer::from_str(&text))
}

/// Added tokens that the crate gave another id than the file says: it numbers them in order and only logs the
/// difference, which would shift every special token.
fn moved_tokens(inner: &tokenizers::Tokenizer, added: &[(String, u64)]) -> Vec<String> {
    let moved = added.iter().filter_map(|(content, id)| {
        let given = inner.token_to_id(content);
        (given.map(u64::from) != Some(*id)).then(|| match given {
            Some(given) => format!("added token {content:?} should have id {id}, but its place gives it {given}"),
            None => format!("added token {content:?} (id {id}) is not usable"),
        })
    });
    moved.take(precheck::SHOWN).collect()
}

thread_local! {
    /// Whether a panic on this thread is about to become an error, so that nothing need be printed.
    static FENCED: Cell<bool> = const { Cell::new(false) };
}

/// Calls into the tokenizers crate; a panic in it becomes an error.
fn fenced<T>(
    path: &Path,
    doing: &'static str,
    call: impl FnOnce() -> Result<T, tokenizers::Error>,
) -> Result<T, TokenizerError> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !FENCED.get() {
                before(info);
            }
        }));
    });
    FENCED.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(call));
    FENCED.set(false);
    let failed = |reason| TokenizerError::Failed { path: path.to_path_buf(), doing, reason };
    match outcome {
        Ok(result) => result.map_err(|error| failed(error.to_string())),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it gave no reason");
            Err(failed(format!("the tokenizer broke down ({text})")))
        }
    }
}

#[cfg(test)]
mod tests;
