//! Loss of every document by itself, so that two models can be compared over the same documents.

use super::units::Unit;
use crate::report::DocumentLoss;

/// Digits kept after the point, in nats: far below what a document's own loss is known to.
const SCALE: f64 = 1e6;

/// Mean loss of each document at each length.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentLosses {
    /// Window lengths in tokens, rising.
    pub lengths: Vec<usize>,
    /// Mean loss in nats per token, `[documents][lengths]`.
    pub loss: Vec<Vec<f64>>,
}

impl DocumentLosses {
    /// From the sums of all documents at each length; none unless every document has every length, since only then are
    /// all of one size.
    pub(super) fn new(lengths: &[usize], units: &[Vec<Unit>], documents: usize) -> Option<Self> {
        if units.iter().any(|units| units.len() != documents) {
            return None;
        }
        let mean = |unit: &Unit| (unit.nll / unit.tokens as f64 * SCALE).round() / SCALE;
        let loss = (0..documents).map(|row| units.iter().map(|units| mean(&units[row])).collect()).collect();
        Some(Self { lengths: lengths.to_vec(), loss })
    }

    /// As the report keeps it.
    #[must_use]
    pub fn report(&self, variant: &str, protocol: &str) -> DocumentLoss {
        DocumentLoss {
            variant: variant.to_owned(),
            protocol: protocol.to_owned(),
            lengths: self.lengths.clone(),
            loss: self.loss.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::Uniform;
    use crate::{Monitor, PerplexityOptions, Protocol, perplexity};

    fn unit(nll: f64, tokens: u64) -> Unit {
        Unit { nll, tokens, ..Unit::default() }
    }

    #[test]
    fn losses_stand_by_document_then_length() {
        let units = [vec![unit(4.0, 2), unit(6.0, 2)], vec![unit(4.0, 4), unit(8.0, 4)]];
        let found = DocumentLosses::new(&[3, 5], &units, 2).unwrap();
        assert_eq!(found.loss, [[2.0, 1.0], [3.0, 2.0]]);
        assert_eq!(found.report("v", "P2").lengths, [3, 5]);
    }

    #[test]
    fn a_document_that_is_too_short_for_a_length_leaves_nothing_to_pair() {
        let units = [vec![unit(4.0, 2), unit(6.0, 2)], vec![unit(4.0, 4)]];
        assert_eq!(DocumentLosses::new(&[3, 5], &units, 2), None);
    }

    #[test]
    fn their_mean_is_the_perplexity_of_the_point() {
        let documents: Vec<Vec<u32>> = (0..3).map(|i| (0..8).map(|j| (i + j) % 7).collect()).collect();
        let options = PerplexityOptions::new(Protocol::P2, vec![4, 8]);
        let model = Uniform::model(10, Some(0));
        let found = perplexity(&model, &documents, &options, &mut Monitor::silent()).unwrap();
        let losses = found.document_loss.unwrap();
        for (index, point) in found.points.iter().enumerate() {
            let mean = losses.loss.iter().map(|document| document[index]).sum::<f64>() / 3.0;
            assert!((mean.exp() / point.token_weighted.value - 1.0).abs() < 1e-6, "{mean}");
        }
        let options = PerplexityOptions::new(Protocol::P1, vec![4, 8]);
        let found = perplexity(&model, &documents, &options, &mut Monitor::silent()).unwrap();
        assert_eq!(found.document_loss, None, "windows of P1 overlap, so documents differ in what they count");
    }
}
