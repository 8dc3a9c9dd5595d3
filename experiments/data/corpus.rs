//! Tokenized documents by number, wherever they lie.

use super::store::{TokenStore, Tokens};

/// Documents that can be asked for in any order, from any thread.
pub trait Corpus: Send + Sync {
    /// How many documents there are.
    fn documents(&self) -> u64;

    /// Document `index`; none at and beyond [`documents`](Self::documents).
    fn document(&self, index: u64) -> Option<Tokens<'_>>;

    /// Tokens of document `index`, without bos and eos; 0 where there is none.
    fn length(&self, index: u64) -> u64 {
        self.document(index).map_or(0, |tokens| tokens.len() as u64)
    }

    /// Hash of the content.
    fn hash(&self) -> String;
}

impl Corpus for TokenStore {
    fn documents(&self) -> u64 {
        TokenStore::documents(self)
    }

    fn document(&self, index: u64) -> Option<Tokens<'_>> {
        TokenStore::document(self, index)
    }

    fn hash(&self) -> String {
        TokenStore::hash(self).to_owned()
    }
}

/// Documents in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryCorpus(pub Vec<Vec<u32>>);

impl Corpus for MemoryCorpus {
    fn documents(&self) -> u64 {
        self.0.len() as u64
    }

    fn document(&self, index: u64) -> Option<Tokens<'_>> {
        self.0.get(usize::try_from(index).ok()?).map(|tokens| Tokens::Wide(tokens))
    }

    fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for document in &self.0 {
            hasher.update(&(document.len() as u64).to_le_bytes());
            hasher.update(bytemuck::cast_slice(document));
        }
        hasher.finalize().to_hex().to_string()
    }
}
