//! What is measured on a model, in the words of a study: `[[task]]`.

use std::path::PathBuf;

use eval::Protocol;
use eval::tasks::passkey::Variant;
use eval::tasks::ruler::{LLAMA2_7B_CHAT_AT_4K, RulerTask, SAMPLES};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// One measurement over context lengths. Paths are files, folders or `bundled:heldout`; a haystack without any is made from
/// the study's seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TaskSpec {
    /// Perplexity of the study's documents.
    Perplexity {
        /// `P1` to `P4`.
        #[serde(default = "p2")]
        protocol: String,
        /// Context lengths, bos included.
        lengths: Vec<usize>,
        /// Tokens between window starts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<usize>,
    },
    /// One passkey.
    Passkey {
        /// `bowline`, `pi`, `yarn` or `longlora`.
        #[serde(default = "bowline")]
        variant: String,
        /// Context lengths.
        lengths: Vec<usize>,
        /// Depths of the grid, evenly spaced.
        #[serde(default = "depths")]
        depths: usize,
        /// Trials in each cell.
        #[serde(default = "trials")]
        trials: usize,
    },
    /// Needles in a haystack.
    Needle {
        /// Context lengths.
        lengths: Vec<usize>,
        /// Depths of the grid, evenly spaced.
        #[serde(default = "depths")]
        depths: usize,
        /// Trials in each cell.
        #[serde(default = "trials")]
        trials: usize,
        /// The text to hide them in.
        #[serde(default)]
        haystack: Vec<String>,
        /// Needles that are asked for together.
        #[serde(default = "one")]
        needles: usize,
        /// Sentences of the same form that are not asked for.
        #[serde(default)]
        distractors: usize,
        /// Digits of each number.
        #[serde(default = "digits")]
        digits: u32,
    },
    /// Several passkeys, one of which is asked for.
    Multipasskey {
        /// Context lengths.
        lengths: Vec<usize>,
        /// Depths of the grid, evenly spaced.
        #[serde(default = "depths")]
        depths: usize,
        /// Trials in each cell.
        #[serde(default = "trials")]
        trials: usize,
        /// The text to hide them in.
        #[serde(default)]
        haystack: Vec<String>,
        /// Passkeys in each prompt.
        #[serde(default = "four")]
        keys: usize,
    },
    /// The value of a key in a JSON object (Liu et al. 2023).
    Kv {
        /// Context lengths.
        lengths: Vec<usize>,
        /// Depths of the grid, evenly spaced.
        #[serde(default = "depths")]
        depths: usize,
        /// Trials in each cell.
        #[serde(default = "trials")]
        trials: usize,
    },
    /// A question over documents with the answer at a chosen place (Liu et al. 2023).
    Documents {
        /// Context lengths.
        lengths: Vec<usize>,
        /// Depths of the grid, evenly spaced.
        #[serde(default = "depths")]
        depths: usize,
        /// Trials in each cell.
        #[serde(default = "trials")]
        trials: usize,
        /// A SQuAD, HotpotQA or lost-in-the-middle file.
        questions: PathBuf,
    },
    /// RULER (Hsieh et al. 2024) and the effective length.
    Ruler {
        /// Context lengths.
        lengths: Vec<usize>,
        /// Its tasks by name; none given: all, the two QA tasks where their files are given.
        #[serde(default)]
        tasks: Vec<String>,
        /// Samples of each task and length.
        #[serde(default = "samples")]
        samples: usize,
        /// The text of the haystack.
        #[serde(default)]
        haystack: Vec<String>,
        /// Questions of `qa_1`: a SQuAD file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        squad: Option<PathBuf>,
        /// Questions of `qa_2`: a HotpotQA file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hotpot: Option<PathBuf>,
        /// Score in percent from which a length counts as effective.
        #[serde(default = "threshold")]
        threshold: f64,
    },
    /// Perplexity on the tokens that need a long context (Fang et al. 2025, LongPPL); the model itself finds them.
    Longppl {
        /// Context lengths.
        lengths: Vec<usize>,
        /// Tokens of the short context.
        #[serde(default = "short_context")]
        context: usize,
        /// Tokens that share one short context.
        #[serde(default = "short_stride")]
        stride: usize,
    },
    /// Loss at short context beside that of the model that the variant was made from, document by document.
    ShortText {
        /// Context lengths.
        lengths: Vec<usize>,
    },
}

impl TaskSpec {
    /// Reads the tasks of a study one by one, so that what is wrong with one is told with its number and field: serde alone
    /// forgets both where a key of a table says which fields the others are.
    ///
    /// # Errors
    ///
    /// As `task 2 (needle).depths: invalid type: ..`.
    pub(super) fn list<'de, D: Deserializer<'de>>(tables: D) -> Result<Vec<Self>, D::Error> {
        let read = |(index, table): (usize, toml::Table)| {
            table.clone().try_into::<Self>().map_err(|error| {
                let kind = || table.get("kind").and_then(toml::Value::as_str).map(|kind| format!(" ({kind})"));
                let place = match wrong_field(&table, &error) {
                    Some(field) if field == "kind" => ".kind".to_owned(),
                    Some(field) => format!("{}.{field}", kind().unwrap_or_default()),
                    None => kind().unwrap_or_default(),
                };
                D::Error::custom(format!("task {}{place}: {}", index + 1, error.message()))
            })
        };
        Vec::<toml::Table>::deserialize(tables)?.into_iter().enumerate().map(read).collect()
    }

    /// Its name in a study file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Perplexity { .. } => "perplexity",
            Self::Passkey { .. } => "passkey",
            Self::Needle { .. } => "needle",
            Self::Multipasskey { .. } => "multipasskey",
            Self::Kv { .. } => "kv",
            Self::Documents { .. } => "documents",
            Self::Ruler { .. } => "ruler",
            Self::Longppl { .. } => "longppl",
            Self::ShortText { .. } => "short-text",
        }
    }

    /// Context lengths.
    pub fn lengths(&self) -> &[usize] {
        match self {
            Self::Perplexity { lengths, .. }
            | Self::Passkey { lengths, .. }
            | Self::Needle { lengths, .. }
            | Self::Multipasskey { lengths, .. }
            | Self::Kv { lengths, .. }
            | Self::Documents { lengths, .. }
            | Self::Ruler { lengths, .. }
            | Self::Longppl { lengths, .. }
            | Self::ShortText { lengths } => lengths,
        }
    }

    /// Longest context; 0 when there is none.
    pub fn longest(&self) -> usize {
        self.lengths().iter().copied().max().unwrap_or(0)
    }

    /// Whether it reads the study's documents.
    pub fn reads_documents(&self) -> bool {
        matches!(self, Self::Perplexity { .. } | Self::Longppl { .. } | Self::ShortText { .. })
    }

    /// The same with two lengths, depths and samples and one task of RULER at most, to see that it works.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        match &mut self {
            Self::Perplexity { lengths, .. } => lengths.truncate(3),
            Self::Passkey { lengths, depths, trials, .. }
            | Self::Needle { lengths, depths, trials, .. }
            | Self::Multipasskey { lengths, depths, trials, .. }
            | Self::Kv { lengths, depths, trials }
            | Self::Documents { lengths, depths, trials, .. } => {
                lengths.truncate(2);
                (*depths, *trials) = (2, 1);
            }
            Self::Ruler { lengths, samples, tasks, .. } => {
                lengths.truncate(1);
                tasks.truncate(1);
                *samples = 1;
            }
            Self::Longppl { lengths, context, stride } => {
                *context = (*context).min(64);
                *stride = *context;
                lengths.truncate(1);
                lengths.iter_mut().for_each(|length| *length = (*length).min(4 * *context));
            }
            Self::ShortText { lengths } => lengths.truncate(1),
        }
        self
    }

    /// What is wrong with it, field by field.
    pub fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let mut at_least = |field: &str, value: usize, least: usize| {
            if value < least {
                findings.push(format!("{field}: at least {least} is needed, is {value}"));
            }
        };
        at_least("lengths", self.lengths().len(), 1);
        match self {
            Self::Passkey { depths, trials, .. } | Self::Kv { depths, trials, .. } => {
                at_least("depths", *depths, 1);
                at_least("trials", *trials, 1);
            }
            Self::Documents { depths, trials, .. } => {
                at_least("depths", *depths, 1);
                at_least("trials", *trials, 1);
            }
            Self::Needle { depths, trials, needles, .. } => {
                at_least("depths", *depths, 1);
                at_least("trials", *trials, 1);
                at_least("needles", *needles, 1);
            }
            Self::Multipasskey { depths, trials, keys, .. } => {
                at_least("depths", *depths, 1);
                at_least("trials", *trials, 1);
                at_least("keys", *keys, 1);
            }
            Self::Ruler { samples, .. } => at_least("samples", *samples, 1),
            Self::Longppl { context, stride, .. } => {
                at_least("context", *context, 1);
                at_least("stride", *stride, 1);
            }
            Self::Perplexity { .. } | Self::ShortText { .. } => {}
        }
        let named = match self {
            Self::Perplexity { protocol, .. } => protocol.parse::<Protocol>().err().map(|e| format!("protocol: {e}")),
            Self::Passkey { variant, .. } => variant.parse::<Variant>().err().map(|e| format!("variant: {e}")),
            Self::Ruler { tasks, .. } => {
                tasks.iter().find_map(|task| task.parse::<RulerTask>().err()).map(|e| format!("tasks: {e}"))
            }
            _ => None,
        };
        findings.extend(named);
        findings
    }
}

/// The field whose value cannot be read, if it is one: the first that cannot alone. What is missing is found after all values
/// were read.
fn wrong_field(table: &toml::Table, error: &toml::de::Error) -> Option<String> {
    if error.message().starts_with("missing field") {
        return None;
    }
    let kind = table.get("kind")?;
    let alone = |name: &String, value: &toml::Value| {
        let table = toml::Table::from_iter([("kind".to_owned(), kind.clone()), (name.clone(), value.clone())]);
        table.try_into::<TaskSpec>().is_err_and(|alone| alone.message() == error.message())
    };
    let name = "kind".to_owned();
    if alone(&name, kind) {
        return Some(name);
    }
    table.iter().find(|(name, value)| alone(name, value)).map(|(name, _)| name.clone())
}

fn p2() -> String {
    "P2".to_owned()
}
fn bowline() -> String {
    "bowline".to_owned()
}
fn depths() -> usize {
    11
}
fn trials() -> usize {
    10
}
fn one() -> usize {
    1
}
fn four() -> usize {
    4
}
fn digits() -> u32 {
    7
}
fn samples() -> usize {
    SAMPLES
}
fn threshold() -> f64 {
    LLAMA2_7B_CHAT_AT_4K
}
fn short_context() -> usize {
    4096
}
fn short_stride() -> usize {
    1024
}
