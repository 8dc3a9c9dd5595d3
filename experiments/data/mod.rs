//! From folders of text to training sequences.
//!
//! [`documents()`] reads files one document at a time; [`token_store`] tokenizes them once into memory-mapped shards;
//! [`Loader`] gives sequence `n` as a pure function of sources, packing, seed and `n`. [`LengthHistogram`] and
//! [`text_overlap`] say whether the data can teach what they should, and whether the evaluation is clean.

pub mod bpe;
mod bytes;
mod corpus;
mod documents;
mod error;
mod files;
mod histogram;
mod jsonl;
mod loader;
mod order;
mod overlap;
mod packing;
mod parquet;
mod plain;
pub mod rng;
mod skip_positions;
mod spec;
mod store;
mod tokenize;

pub use corpus::{Corpus, MemoryCorpus};
pub use documents::{Content, Document, Documents, Tally, documents};
pub use error::{CompressionFault, DataError, Place, RecordFault};
pub use files::{SourceFile, source_files};
pub use histogram::{Bucket, LengthHistogram};
pub use loader::{Loader, LoaderSource, SourceSummary};
pub use order::{Dealt, Mixture, Permutation};
pub use overlap::{Overlap, TOKENS, TextOverlap, WORDS, text_overlap, token_overlap};
pub use packing::{Mode, Packing, Sequence, SequenceStart};
pub use skip_positions::skip_positions;
pub use spec::{Format, OnBadLine, SourceSpec, largest_document, widest_window};
pub use store::{Manifest, ShardEntry, SourceEntry, TokenStore, Tokens};
pub use tokenize::{Encoder, StoreOptions, Tokenized, token_store};

#[cfg(test)]
#[path = "bundled_tests.rs"]
mod bundled_tests;
