//! What a reader's error means for the exit code of the process.

/// Which kind of failure an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Wrong use of a command, or a wrong configuration: exit code 2.
    Usage,
    /// An input is damaged, absent or not what it should be: exit code 3.
    BadData,
}

impl Fault {
    /// The exit code that goes with it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::BadData => 3,
        }
    }
}
