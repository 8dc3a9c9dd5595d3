//! What can go wrong in an evaluation, with the values that were wrong.

use crate::model::ModelError;
use crate::samples::SamplesError;

/// Why a task could not make a sample.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TaskError {
    /// A depth is a fraction of the haystack.
    #[error("depth must lie between 0 and 1, got {0}")]
    Depth(f64),
    /// The fixed parts of the prompt do not fit.
    #[error("{task} needs at least {least} tokens for its question and answer, got a length of {length}")]
    TooShort {
        /// Protocol name of the task.
        task: String,
        /// Length that was asked for, in tokens.
        length: usize,
        /// Shortest length that this sample can have, in tokens.
        least: usize,
    },
    /// A haystack that needs text was given none.
    #[error("the filler text holds no tokens, but {needed} tokens of it are needed")]
    EmptyFiller {
        /// Tokens of filler that were asked for.
        needed: usize,
    },
    /// A haystack was made from texts without a word.
    #[error("the texts of the haystack hold no word")]
    EmptyHaystack,
    /// A number of things that cannot be.
    #[error("{what} must be between {least} and {most}, got {value}")]
    Count {
        /// What is counted.
        what: &'static str,
        /// What was asked for.
        value: usize,
        /// Least possible.
        least: usize,
        /// Most possible.
        most: usize,
    },
    /// Filler given as tokens makes sense only where the haystack is cut at tokens.
    #[error("{0} prescribes its own filler text; use the bowline variant for other text")]
    OwnFiller(String),
    /// The tokenizer merged the question with the answer, so that no prompt ends where the answer begins.
    #[error("the tokenizer joins the question and the key {key} into one token, so the answer cannot be scored alone")]
    AnswerNotSeparable {
        /// The key of the sample.
        key: String,
    },
    /// No such variant.
    #[error("unknown passkey variant `{0}`; known: bowline, pi, yarn, longlora")]
    UnknownVariant(String),
    /// No such RULER task.
    #[error(
        "unknown RULER task `{0}`; known: niah_single_1 to _3, niah_multikey_1 to _3, niah_multivalue, niah_multiquery, vt, \
         cwe, fwe, qa_1, qa_2"
    )]
    UnknownRuler(String),
    /// A task over the user's questions was given none.
    #[error("{0} needs a file of questions: SQuAD's for qa_1, HotpotQA's for qa_2")]
    NoQuestionFile(&'static str),
    /// The tokenizer failed.
    #[error("tokenizer failed: {0}")]
    Codec(#[from] ModelError),
}

/// Why an evaluation stopped.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// Nothing to measure at.
    #[error("no context lengths were given")]
    NoLengths,
    /// A grid without points.
    #[error("no depths were given")]
    NoDepths,
    /// No trials.
    #[error("the number of trials must be at least 1, got 0")]
    NoTrials,
    /// Nothing to measure on.
    #[error("no documents were given")]
    NoDocuments,
    /// A window must hold a token to predict and one before it.
    #[error("a context length of {0} tokens predicts nothing; the least is 2")]
    LengthTooShort(usize),
    /// No document can be used.
    #[error(
        "all {documents} documents are too short: {protocol} needs {needed} tokens, the longest document has {longest}"
    )]
    AllTooShort {
        /// Perplexity protocol.
        protocol: &'static str,
        /// Documents that were given.
        documents: usize,
        /// Tokens of text that were needed.
        needed: usize,
        /// Tokens of text in the longest of them (in all of them together for P3).
        longest: usize,
    },
    /// The stride would leave tokens unread, or never move.
    #[error("a stride of {stride} does not fit windows of {length} tokens; it must lie between 1 and {most}")]
    Stride {
        /// Stride that was asked for, in tokens.
        stride: usize,
        /// Window length in tokens, bos included.
        length: usize,
        /// Largest stride that reads every token.
        most: usize,
    },
    /// The protocol has no stride to choose.
    #[error("P2 reads one window from the start of each document and takes no stride, got {0}")]
    NeedlessStride(usize),
    /// An interval needs resamples.
    #[error("the bootstrap needs at least 1 resample, got 0")]
    NoResamples,
    /// No such protocol.
    #[error("unknown perplexity protocol `{0}`; known: P1, P2, P3, P4")]
    UnknownProtocol(String),
    /// The model's probability of a token is zero, above one or not a number.
    #[error(
        "log-probability {log_prob} at position {position} of a window of {length} tokens in document {document} is not \
         a finite number at or below 0"
    )]
    BadScore {
        /// Index of the document in the input.
        document: usize,
        /// Position in the window, bos included.
        position: usize,
        /// Window length in tokens.
        length: usize,
        /// What the model answered.
        log_prob: f32,
    },
    /// The model answered a different number of scores than it was asked for.
    #[error("the model gave {got} scores for {asked} tokens ({during})")]
    ScoreCount {
        /// Scores that came back.
        got: usize,
        /// Scores that were asked for.
        asked: usize,
        /// What was being measured.
        during: String,
    },
    /// The model failed.
    #[error("model failed ({during}): {source}")]
    Model {
        /// What was being measured.
        during: String,
        /// The model's own words.
        source: ModelError,
    },
    /// A sample could not be made.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A sample could not be kept, or does not belong to this run.
    #[error(transparent)]
    Samples(#[from] SamplesError),
    /// The interrupt flag was raised.
    #[error("interrupted after {done} of {total} ({label})")]
    Interrupted {
        /// Samples or windows finished.
        done: usize,
        /// Samples or windows in the run.
        total: usize,
        /// What was being measured.
        label: String,
    },
}
