//! P2: the first N tokens of each document, for many N from one pass where the model allows it.

use super::documents::DocumentLosses;
use super::perplexity::{Document, Perplexity, Point};
use super::position::LossMatrix;
use super::units::Unit;
use super::windows::{Reader, Reading};
use super::{PerplexityOptions, Protocol};
use crate::error::EvalError;
use crate::monitor::{Monitor, Steps};

/// One causal pass holds the answers for every shorter length when positions do not depend on the length.
pub(super) fn run(
    reader: Reader<'_>,
    documents: &[Document<'_>],
    lengths: &[usize],
    options: &PerplexityOptions,
    monitor: &mut Monitor<'_>,
) -> Result<Perplexity, EvalError> {
    let (how, passes) = if reader.model.depends_on_length() {
        ("a pass per length", lengths.chunks(1).collect::<Vec<_>>())
    } else {
        ("one pass", vec![lengths])
    };
    let mut steps = Steps::new(monitor, passes.len() * documents.len());
    let mut points = Vec::with_capacity(lengths.len());
    let (mut position_loss, mut sums) = (None, Vec::with_capacity(lengths.len()));
    for lengths in passes {
        let losses = pass(reader, documents, lengths, &mut steps)?;
        for &length in lengths {
            let units = units(&losses, length, reader, documents)?;
            points.push(Point::new(length, how.to_owned(), &units, options));
            sums.push(units);
        }
        // Lengths rise, so the last pass is the longest.
        position_loss = lengths.last().map(|&length| losses.curve(length, options.resamples, options.seed));
    }
    let document_loss = DocumentLosses::new(lengths, &sums, documents.len());
    Ok(Perplexity { protocol: Protocol::P2, points, position_loss, document_loss })
}

/// Reads each document once, as far as the longest of `lengths` that it fills.
fn pass(
    reader: Reader<'_>,
    documents: &[Document<'_>],
    lengths: &[usize],
    steps: &mut Steps<'_, '_>,
) -> Result<LossMatrix, EvalError> {
    let most = lengths.last().copied().unwrap_or_default();
    let label = format!("P2 length {most}");
    let filled = |tokens: usize| {
        let mut capacities = lengths.iter().rev().map(|&length| reader.capacity(length));
        capacities.find(|&capacity| capacity <= tokens).unwrap_or(0)
    };
    let readings: Vec<Reading<'_>> = documents
        .iter()
        .map(|&Document { index, text }| (index, &text[..filled(text.len())]))
        .map(|(document, text)| Reading { document, text, count: text.len() })
        .collect();
    let mut losses = LossMatrix::new(documents.len(), most);
    for (row, read) in reader.losses_of_all(&readings, &label, steps)?.into_iter().enumerate() {
        losses.fill(row, read);
    }
    Ok(losses)
}

/// What each document that fills `length` adds.
fn units(
    losses: &LossMatrix,
    length: usize,
    reader: Reader<'_>,
    documents: &[Document<'_>],
) -> Result<Vec<Unit>, EvalError> {
    let units: Vec<Unit> = losses
        .rows(length)
        .map(|row| {
            let (nll, tokens) = (row.sum(), row.len());
            let published = nll / tokens as f64;
            Unit { nll, tokens: tokens as u64, published, published_count: 1, windows: 1 }
        })
        .collect();
    if units.is_empty() {
        return Err(EvalError::AllTooShort {
            protocol: Protocol::P2.name(),
            documents: documents.len(),
            needed: reader.capacity(length),
            longest: documents.iter().map(|d| d.text.len()).max().unwrap_or(0),
        });
    }
    Ok(units)
}
