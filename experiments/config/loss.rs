//! What is minimised: cross-entropy, or cross-entropy that tokens count in by what a long context does for them.

use serde::{Deserialize, Serialize};

/// The loss of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loss {
    /// Which one.
    pub kind: LossKind,
    /// Of LongCE: fewest tokens of a short context.
    pub short_context: usize,
    /// Of LongCE: tokens between the starts of two short contexts; one is at most `short_context + stride - 1` tokens long.
    pub stride: usize,
    /// Of LongCE: largest weight of a token.
    pub clip: f64,
}

impl Default for Loss {
    fn default() -> Self {
        // LongCE's own: Fang et al. 2024, section 4.1.
        Self { kind: LossKind::CrossEntropy, short_context: 4096, stride: 1024, clip: 5.0 }
    }
}

/// Kinds of losses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// Every counted token counts the same.
    #[default]
    CrossEntropy,
    /// LongCE (Fang et al. 2024): tokens weigh as much as the long context makes them more likely than a short one.
    LongCe,
}

impl Loss {
    /// What is wrong with it: the field and a sentence, each.
    #[must_use]
    pub fn findings(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        for (field, value) in [("short_context", self.short_context), ("stride", self.stride)] {
            if value == 0 || value > 1 << 32 {
                found.push((field, format!("must be from 1 to 2^32 tokens, is {value}")));
            }
        }
        if !(self.clip.is_finite() && self.clip > 0.0) {
            found.push(("clip", format!("must be a positive number, is {}", self.clip)));
        }
        found
    }
}
