//! The problems that speed is measured on, so that every benchmark means the same by the same name.

use std::fmt;
use std::str::FromStr;

use crate::bias::Alibi;
use crate::mask::{DocumentStarts, Mask};
use crate::problem::{AttnProblem, ProblemError};
use crate::shape::AttnShape;

/// Keys that a query of [`Workload::Window`] sees, itself among them.
pub const WINDOW: usize = 1024;
/// The same of [`Workload::WideWindow`].
pub const WIDE_WINDOW: usize = 4096;
/// Documents of equal length in [`Workload::Documents`].
pub const DOCUMENTS: usize = 8;

/// A kind of problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Workload {
    /// Causal.
    Causal,
    /// Causal with the slopes of Press et al. 2022 for a power of two of heads, continued for other counts.
    Alibi,
    /// The last [`WINDOW`] positions.
    Window,
    /// The last [`WIDE_WINDOW`] positions.
    WideWindow,
    /// [`DOCUMENTS`] packed documents of equal length, each causal.
    Documents,
}

impl Workload {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Causal, Self::Alibi, Self::Window, Self::WideWindow, Self::Documents];

    /// The name in options and results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Causal => "causal",
            Self::Alibi => "alibi",
            Self::Window => "window",
            Self::WideWindow => "window-4096",
            Self::Documents => "documents",
        }
    }

    /// Where documents start in a sequence of `length` keys: at most [`DOCUMENTS`] of them.
    #[must_use]
    pub fn starts(length: usize) -> Vec<usize> {
        (0..DOCUMENTS.min(length)).map(|document| document * length / DOCUMENTS.min(length)).collect()
    }

    /// The problem of this kind at these sizes.
    ///
    /// # Errors
    ///
    /// When the sizes are not those of a problem.
    pub fn problem(self, shape: AttnShape) -> Result<AttnProblem, ProblemError> {
        let causal = Mask::causal(&shape);
        let offset = shape.causal_offset();
        let problem = AttnProblem::new(shape)?;
        match self {
            Self::Causal => problem.with_mask(causal),
            Self::Alibi => problem.with_mask(causal)?.with_alibi(Alibi::new(&slopes(shape.query_heads))?),
            Self::Window => problem.with_mask(Mask::Window { size: WINDOW, sinks: 0, offset }),
            Self::WideWindow => problem.with_mask(Mask::Window { size: WIDE_WINDOW, sinks: 0, offset }),
            Self::Documents => {
                let starts = DocumentStarts::new(vec![Self::starts(shape.key_len); shape.batch])?;
                problem.with_mask(Mask::Documents { starts, offset })
            }
        }
    }
}

/// `2^(-8 h / heads)` for head `h` from 1.
fn slopes(heads: usize) -> Vec<f64> {
    (1..=heads).map(|head| (-8.0 * head as f64 / heads as f64).exp2()).collect()
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|workload| workload.name() == name);
        found.ok_or_else(|| format!("expected one of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_visit_what_their_names_say() {
        let n = 4096;
        let shape = AttnShape { batch: 2, query_heads: 4, key_heads: 4, query_len: n, key_len: n, head_dim: 64 };
        let pairs = |workload: Workload| workload.problem(shape).unwrap().visible_pairs() / 8;
        let triangle = |n: u64| n * (n + 1) / 2;
        assert_eq!(pairs(Workload::Causal), triangle(4096));
        assert_eq!(pairs(Workload::Alibi), triangle(4096));
        assert_eq!(pairs(Workload::Window), triangle(1024) + 3072 * 1024);
        assert_eq!(pairs(Workload::WideWindow), triangle(4096));
        assert_eq!(pairs(Workload::Documents), 8 * triangle(512));
    }

    #[test]
    fn names_find_their_workload_and_others_are_told_which_there_are() {
        for workload in Workload::ALL {
            assert_eq!(workload.name().parse(), Ok(workload));
        }
        assert!("dense".parse::<Workload>().unwrap_err().contains("documents"));
    }
}
