//! One error for the application: a sentence for the user and the exit code that goes with it.

use std::fmt;

use crate::fault::Fault;

/// What kind of failure it is; its number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// A threshold or comparison did not hold.
    Threshold = 1,
    /// Wrong use of the command line, or a wrong configuration.
    Config = 2,
    /// An input file is damaged or not what it should be.
    Data = 3,
    /// Memory ran out.
    Memory = 4,
    /// Stopped by a signal, with a checkpoint saved.
    Interrupted = 5,
}

/// A sentence that names file, field and value, and its exit code.
#[derive(Debug)]
pub struct Failure {
    kind: FailureKind,
    message: String,
    disk_full: bool,
}

impl Failure {
    /// A failure of the given kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), disk_full: false }
    }

    /// Usage or configuration, exit code 2.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Config, message)
    }

    /// Input data, exit code 3.
    pub fn data(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Data, message)
    }

    /// A failure of the kind that a reader's error has.
    pub fn from_fault(fault: Fault, message: String) -> Self {
        Self::new(if fault == Fault::Usage { FailureKind::Config } else { FailureKind::Data }, message)
    }

    /// The first line of what libtorch said; memory that ran out is told from anything else.
    fn of_libtorch(text: &str) -> Self {
        let first = text.lines().next().unwrap_or("libtorch failed").to_owned();
        let kind = match text.contains("out of memory") || text.contains("not enough memory") {
            true => FailureKind::Memory,
            false => FailureKind::Data,
        };
        Self::new(kind, first)
    }

    /// Its kind.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// Whether the reason is a disk or quota with no room left.
    pub fn is_disk_full(&self) -> bool {
        self.disk_full
    }

    /// The same failure, which a file operation's error caused.
    fn caused_by(self, error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        Self { disk_full: matches!(error.kind(), StorageFull | QuotaExceeded), ..self }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        self.kind as u8
    }

    /// The same failure with words in front of every line of it.
    #[must_use]
    pub fn within_lines(self, context: &str) -> Self {
        let lines: Vec<String> = self.message.lines().map(|line| format!("{context}{line}")).collect();
        Self { message: lines.join("\n"), ..self }
    }

    /// The same failure with words in front: `context: message`.
    #[must_use]
    pub fn within(self, context: impl fmt::Display) -> Self {
        Self { message: format!("{context}: {}", self.message), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<tch::TchError> for Failure {
    fn from(error: tch::TchError) -> Self {
        Self::of_libtorch(&error.to_string())
    }
}

impl From<torch_ext::autograd::AutogradError> for Failure {
    fn from(error: torch_ext::autograd::AutogradError) -> Self {
        Self::of_libtorch(&error.0)
    }
}

impl From<torch_ext::transfer::TransferError> for Failure {
    fn from(error: torch_ext::transfer::TransferError) -> Self {
        Self::of_libtorch(&error.0)
    }
}

impl From<attention::AttnError> for Failure {
    fn from(error: attention::AttnError) -> Self {
        Self::config(error.to_string())
    }
}

impl From<rope_scaling::PositionError> for Failure {
    fn from(error: rope_scaling::PositionError) -> Self {
        Self::config(error.to_string())
    }
}

impl From<crate::json::JsonError> for Failure {
    fn from(error: crate::json::JsonError) -> Self {
        Self::from_fault(error.kind(), error.to_string())
    }
}

impl From<crate::model::weights::WeightsError> for Failure {
    fn from(error: crate::model::weights::WeightsError) -> Self {
        let failure = Self::from_fault(error.kind(), error.to_string());
        match &error {
            crate::model::weights::WeightsError::Io { source, .. } => failure.caused_by(source),
            _ => failure,
        }
    }
}

impl From<crate::tokenizer::TokenizerError> for Failure {
    fn from(error: crate::tokenizer::TokenizerError) -> Self {
        Self::from_fault(error.kind(), error.to_string())
    }
}

impl From<crate::hub::HubError> for Failure {
    fn from(error: crate::hub::HubError) -> Self {
        Self::from_fault(error.kind(), error.to_string())
    }
}

impl From<crate::data::DataError> for Failure {
    fn from(error: crate::data::DataError) -> Self {
        Self::from_fault(error.kind(), error.to_string())
    }
}

impl From<eval::ModelError> for Failure {
    fn from(error: eval::ModelError) -> Self {
        Self::data(error.to_string())
    }
}

/// A file operation failed: the path and the system's reason.
pub fn io_failure(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::data(format!("could not {doing} {}: {error}", path.display())).caused_by(error)
}
