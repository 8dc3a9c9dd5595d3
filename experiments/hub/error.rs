//! What can go wrong between a model's name and its files.

use std::io;
use std::path::PathBuf;

use crate::fault::Fault;
use crate::json::JsonError;

/// Why a model could not be found or fetched.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Neither a folder nor a name that the Hub could have.
    #[error(
        "there is no folder {model}, and it is no Hub id (ORG/NAME); `bundled` is the model that comes with Bowline"
    )]
    NoSuchModel {
        /// What was asked for.
        model: String,
    },
    /// A file where a folder is needed.
    #[error(
        "{} is a file; give the folder that holds config.json, the tokenizer and the weights, or a GGUF file",
        .path.display()
    )]
    IsAFile {
        /// The file.
        path: PathBuf,
    },
    /// A folder that is no checkpoint.
    #[error("{} holds no config.json", .dir.display())]
    NoConfig {
        /// The folder.
        dir: PathBuf,
    },
    /// A folder of files of which each is a model.
    #[error("{} holds no config.json and {count} GGUF files; name one of them", .dir.display())]
    SeveralGguf {
        /// The folder.
        dir: PathBuf,
        /// How many.
        count: usize,
    },
    /// Not in the cache.
    #[error("{model} is neither a folder nor in the Hub cache {}; run `bowline fetch {model}`", .cache.display())]
    NotCached {
        /// The id, with its revision if one was given.
        model: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The snapshot in the cache lacks files.
    #[error("{id} in the Hub cache is incomplete ({} missing); run `bowline fetch {id}`", .missing.join(", "))]
    Incomplete {
        /// The id.
        id: String,
        /// Files that are not there.
        missing: Vec<String>,
    },
    /// The network was forbidden.
    #[error("{id} is not in the Hub cache {}, and HF_HUB_OFFLINE forbids going to the network", .cache.display())]
    Offline {
        /// The id.
        id: String,
        /// The cache.
        cache: PathBuf,
    },
    /// An id, revision, token or endpoint that cannot be right.
    #[error("{what} {value:?} {reason}")]
    BadName {
        /// What it is: `the model id`, `the revision`, ..
        what: &'static str,
        /// Its value; empty for a token, which is never shown.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The server sent a name that would leave its place in the cache, or is otherwise not to be trusted.
    #[error("the Hub's answer for {id} is not to be trusted: {what} is {value:?}")]
    Distrusted {
        /// The id.
        id: String,
        /// Which value it is.
        what: String,
        /// The value.
        value: String,
    },
    /// The server refused.
    #[error("the Hub answers {status} for {what}: {hint}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The id or file.
        what: String,
        /// What that usually means.
        hint: &'static str,
    },
    /// No connection, or it failed.
    #[error("could not reach the Hub at {endpoint} for {what}: {reason}")]
    Unreachable {
        /// The address.
        endpoint: String,
        /// The id or file.
        what: String,
        /// The reason.
        reason: String,
    },
    /// The body ended early, again and again.
    #[error(
        "the download of {file} broke off at {received} of {expected} bytes ({reason}); run the same command to go on"
    )]
    BrokenOff {
        /// The file.
        file: String,
        /// Bytes kept for the next attempt.
        received: u64,
        /// Its length.
        expected: u64,
        /// The reason.
        reason: String,
    },
    /// The content is not what its name says.
    #[error("{file} as downloaded has SHA-256 {found}, the Hub says {expected}; it was discarded, fetch it again")]
    WrongHash {
        /// The file.
        file: String,
        /// The hash that the Hub gave.
        expected: String,
        /// The hash of what came.
        found: String,
    },
    /// The branch moved between two requests.
    #[error("{id} changed while it was being fetched (from {listed} to {served}); run the same command again")]
    Moved {
        /// The id.
        id: String,
        /// The commit of the listing.
        listed: String,
        /// The commit of a file.
        served: String,
    },
    /// The repository lacks what is needed.
    #[error("{id} holds no {what}")]
    Lacks {
        /// The id.
        id: String,
        /// What is not there, and what to do.
        what: String,
    },
    /// An index in the repository or the cache is not JSON.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Reading or writing the cache failed.
    #[error("could not {doing} {}: {source}", .path.display())]
    Io {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl HubError {
    /// What it means for the exit code.
    pub fn kind(&self) -> Fault {
        match self {
            Self::NoSuchModel { .. }
            | Self::IsAFile { .. }
            | Self::NoConfig { .. }
            | Self::SeveralGguf { .. }
            | Self::NotCached { .. }
            | Self::Offline { .. }
            | Self::BadName { .. }
            | Self::Refused { status: 401 | 403 | 404, .. } => Fault::Usage,
            _ => Fault::BadData,
        }
    }
}
