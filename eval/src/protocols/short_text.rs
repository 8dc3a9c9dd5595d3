//! What an extension costs at short context: the loss of two models on the same short texts, compared text by text.
//!
//! Perplexity at long context and retrieval do not see that a method has made a model worse at what it could do before. Both
//! models read the first `length` tokens of every document, and the difference is resampled over documents in pairs, which
//! leaves out what the documents themselves differ by.

use ndarray::Array1;

use super::windows::{Reader, Reading};
use crate::error::EvalError;
use crate::metrics::{Bootstrap, Estimate};
use crate::model::LanguageModel;
use crate::monitor::{Monitor, Steps};
use crate::report::{Measurement, Row};

/// Loss of one document.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DocumentLoss {
    /// Index of the document in the input.
    pub document: usize,
    /// Sum of negative log-likelihoods in nats.
    pub nll: f64,
    /// Tokens summed.
    pub tokens: u64,
}

/// Losses of the first `length` tokens (bos included) of every document that has so many.
///
/// # Errors
///
/// A length below 2, documents that are all too short, a failing model, or [`EvalError::Interrupted`].
pub fn document_losses<D: AsRef<[u32]>>(
    model: &dyn LanguageModel,
    documents: &[D],
    length: usize,
    monitor: &mut Monitor<'_>,
) -> Result<Vec<DocumentLoss>, EvalError> {
    if length < 2 {
        return Err(EvalError::LengthTooShort(length));
    }
    let reader = Reader { model, bos: model.bos() };
    let needed = reader.capacity(length);
    let used: Vec<(usize, &[u32])> =
        documents.iter().map(AsRef::as_ref).enumerate().filter(|(_, text)| text.len() >= needed).collect();
    if used.is_empty() {
        let longest = documents.iter().map(|text| text.as_ref().len()).max().unwrap_or(0);
        return Err(EvalError::AllTooShort { protocol: "P2", documents: documents.len(), needed, longest });
    }
    let label = format!("short text length {length}");
    let mut steps = Steps::new(monitor, used.len());
    let readings: Vec<Reading<'_>> =
        used.into_iter().map(|(document, text)| Reading { document, text: &text[..needed], count: needed }).collect();
    let found = reader.losses_of_all(&readings, &label, &mut steps)?;
    let summed = |(reading, losses): (&Reading<'_>, Vec<f64>)| DocumentLoss {
        document: reading.document,
        nll: losses.iter().sum(),
        tokens: losses.len() as u64,
    };
    Ok(readings.iter().zip(found).map(summed).collect())
}

/// The cost of an extension at short context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShortText {
    /// Perplexity of the model before.
    pub before: Estimate,
    /// Perplexity of the model after.
    pub after: Estimate,
    /// Mean loss after less mean loss before, in nats a token; above 0 the extension costs something.
    pub loss_increase: Estimate,
    /// Documents that both models read.
    pub documents: u64,
}

/// Compares two models over the documents that both have read; none when there is no such document.
#[must_use]
pub fn short_text(before: &[DocumentLoss], after: &[DocumentLoss], resamples: usize, seed: u64) -> Option<ShortText> {
    let pairs: Vec<(DocumentLoss, DocumentLoss)> = before
        .iter()
        .filter_map(|a| after.iter().find(|b| b.document == a.document && b.tokens == a.tokens).map(|b| (*a, *b)))
        .filter(|(a, _)| a.tokens > 0)
        .collect();
    if pairs.is_empty() || resamples == 0 {
        return None;
    }
    let column = |value: fn(&(DocumentLoss, DocumentLoss)) -> f64| pairs.iter().map(value).collect::<Array1<f64>>();
    let tokens = column(|(a, _)| a.tokens as f64);
    let bootstrap = Bootstrap::new(pairs.len(), resamples, seed);
    Some(ShortText {
        before: bootstrap.ratio(column(|(a, _)| a.nll).view(), tokens.view(), f64::exp),
        after: bootstrap.ratio(column(|(_, b)| b.nll).view(), tokens.view(), f64::exp),
        loss_increase: bootstrap.ratio(column(|(a, b)| b.nll - a.nll).view(), tokens.view(), |mean| mean),
        documents: pairs.len() as u64,
    })
}

impl ShortText {
    /// The result rows at a length: `perplexity`, `perplexity_before` and `perplexity_ratio`, the exponential of the increase
    /// of the loss (1 when nothing was lost), of the protocol `P2 short`.
    #[must_use]
    pub fn rows(&self, model: &str, variant: &str, length: usize, before: &str) -> Vec<Row> {
        let ratio = self.loss_increase;
        let ratio = Estimate { value: ratio.value.exp(), low: ratio.low.exp(), high: ratio.high.exp() };
        let how = format!("against {before}, document by document");
        let measured = Measurement::perplexity(model, variant, "P2 short");
        [("perplexity", self.after), ("perplexity_before", self.before), ("perplexity_ratio", ratio)]
            .map(|(metric, estimate)| Row {
                how: Some(how.clone()),
                ..measured.row(length, metric, estimate, self.documents)
            })
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::{Formula, Uniform};

    #[test]
    fn losses_are_those_of_the_first_tokens() {
        let model = Formula::model(|token, _, _| f64::from(token), false, 10, Some(0));
        let documents = [vec![1, 2, 3, 9, 9], vec![5, 5], vec![2, 2, 2]];
        let losses = document_losses(&model, &documents, 4, &mut Monitor::silent()).unwrap();
        let shown: Vec<(usize, f64, u64)> = losses.iter().map(|l| (l.document, l.nll, l.tokens)).collect();
        assert_eq!(shown, [(0, 6.0, 3), (2, 6.0, 3)]);
        let refused = document_losses(&Uniform::model(4, None), &documents, 9, &mut Monitor::silent());
        assert!(matches!(refused, Err(EvalError::AllTooShort { needed: 9, longest: 5, .. })));
    }

    #[test]
    fn a_constant_increase_is_certain_however_much_the_documents_differ() {
        let before: Vec<DocumentLoss> =
            (0..30).map(|i| DocumentLoss { document: i, nll: 40.0 * i as f64, tokens: 100 }).collect();
        let after: Vec<DocumentLoss> = before.iter().map(|l| DocumentLoss { nll: l.nll + 5.0, ..*l }).collect();
        let found = short_text(&before, &after, 500, 1).unwrap();
        let Estimate { value, low, high } = found.loss_increase;
        assert!((value - 0.05).abs() < 1e-12 && high - low < 1e-9, "{low} to {high}");
        // Unpaired, the intervals of the two models overlap almost wholly.
        assert!(found.after.low < found.before.value && found.before.high > found.after.value);
        let rows = found.rows("m", "v", 256, "base");
        let ratio = rows.iter().find(|row| row.metric == "perplexity_ratio").unwrap();
        assert!((ratio.value - 0.05_f64.exp()).abs() < 1e-12 && ratio.count == 30);
    }

    #[test]
    fn only_documents_that_both_models_read_alike_are_compared() {
        let loss = |document, tokens| DocumentLoss { document, nll: tokens as f64, tokens };
        let found = short_text(&[loss(0, 9), loss(1, 9), loss(2, 9)], &[loss(1, 9), loss(2, 8)], 10, 0).unwrap();
        assert_eq!(found.documents, 1);
        assert_eq!(short_text(&[loss(0, 9)], &[loss(1, 9)], 10, 0), None);
    }
}
