//! From folders of text to batches of tokens.

pub mod bpe;
mod bytes;
mod corpus;
mod documents;
mod error;
mod files;
mod jsonl;
mod loader;
mod order;
mod packing;
mod parquet;
mod plain;
pub mod rng;
mod spec;
mod store;
mod tokenize;

pub use corpus::{Corpus, MemoryCorpus};
pub use documents::{Document, Documents, Tally, documents};
pub use error::{DataError, Place};
pub use files::SourceFile;
pub use loader::{Loader, LoaderSource, SourceSummary};
pub use order::{Dealt, Mixture, Permutation};
pub use packing::{Mode, Packing, Sequence, SequenceStart};
pub use spec::{Format, OnBadLine, SourceSpec};
pub use store::{Manifest, TokenStore, Tokens};
pub use tokenize::{Encoder, StoreOptions, Tokenized, token_store};
