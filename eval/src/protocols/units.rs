//! What each document adds to the averages, and the averages.

use ndarray::Array1;

use crate::metrics::{Bootstrap, Estimate};

/// Sums of one document, the unit that the bootstrap draws.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Unit {
    /// Sum of negative log-likelihoods in nats.
    pub(super) nll: f64,
    /// Tokens behind it.
    pub(super) tokens: u64,
    /// Sum of what the publication averages: window means, or document means.
    pub(super) published: f64,
    /// How many of those.
    pub(super) published_count: u64,
    /// Windows read.
    pub(super) windows: u64,
}

impl Unit {
    /// Adds a window whose mean the publication averages.
    pub(super) fn add_window_mean(&mut self, losses: &[f64]) {
        self.add_tokens(losses);
        if !losses.is_empty() {
            self.published += losses.iter().sum::<f64>() / losses.len() as f64;
            self.published_count += 1;
        }
    }

    /// Adds a window of which the publication averages every token.
    pub(super) fn add_window_tokens(&mut self, losses: &[f64]) {
        self.add_tokens(losses);
        self.published += losses.iter().sum::<f64>();
        self.published_count += losses.len() as u64;
    }

    fn add_tokens(&mut self, losses: &[f64]) {
        self.nll += losses.iter().sum::<f64>();
        self.tokens += losses.len() as u64;
        self.windows += u64::from(!losses.is_empty());
    }
}

/// The two averages over some documents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Averages {
    pub(super) token_weighted: Estimate,
    pub(super) published: Estimate,
}

impl Averages {
    /// Averages of documents that all have tokens counted.
    pub(super) fn of(units: &[Unit], resamples: usize, seed: u64) -> Self {
        let bootstrap = Bootstrap::new(units.len(), resamples, seed);
        let column = |value: fn(&Unit) -> f64| units.iter().map(value).collect::<Array1<f64>>();
        let (nll, tokens) = (column(|u| u.nll), column(|u| u.tokens as f64));
        let (published, count) = (column(|u| u.published), column(|u| u.published_count as f64));
        Self {
            token_weighted: bootstrap.ratio(nll.view(), tokens.view(), f64::exp),
            published: bootstrap.ratio(published.view(), count.view(), f64::exp),
        }
    }
}
