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

/// Longest line of a message about what a file says, in characters.
const BRIEF: usize = 400;

/// A line with its middle left out where it is long: what a stranger's file says may be megabytes.
pub fn brief(line: &str) -> String {
    let count = line.chars().count();
    if count <= BRIEF {
        return line.to_owned();
    }
    let (head, tail) = (BRIEF * 3 / 4, BRIEF / 4);
    let cut = |from: usize, to: usize| line.chars().skip(from).take(to - from).collect::<String>();
    format!("{} .. {}", cut(0, head), cut(count - tail, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_keeps_both_ends_and_a_short_one_all() {
        assert_eq!(brief("field: is 3"), "field: is 3");
        let long = format!("field: is {}, must be 3", "\u{e9}".repeat(9000));
        let kept = brief(&long);
        assert!(kept.starts_with("field: is \u{e9}") && kept.ends_with("\u{e9}, must be 3"), "{kept}");
        assert_eq!(kept.chars().count(), BRIEF + 4);
    }
}
