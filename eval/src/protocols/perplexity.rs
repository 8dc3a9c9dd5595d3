//! From documents to one point for each length.

use super::documents::DocumentLosses;
use super::position::PositionCurve;
use super::units::{Averages, Unit};
use super::windows::{Reader, Reading, sliding};
use super::{Bos, PerplexityOptions, Protocol, truncated};
use crate::error::EvalError;
use crate::metrics::Estimate;
use crate::model::LanguageModel;
use crate::monitor::{Monitor, Steps};
use crate::report::{Measurement, Row};

/// What a perplexity run found.
#[derive(Debug, Clone, PartialEq)]
pub struct Perplexity {
    /// Which evaluator.
    pub protocol: Protocol,
    /// One point for each length, in rising order.
    pub points: Vec<Point>,
    /// Loss by position at the largest length; P2 alone has it, where every document is read from its start.
    pub position_loss: Option<PositionCurve>,
    /// Loss of every document; P2 alone has it, and only when every document fills every length.
    pub document_loss: Option<DocumentLosses>,
}

/// Perplexity at one length.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Window length in tokens, bos included.
    pub length: usize,
    /// `one pass`, `a pass per length` or the stride; with a note when one document allows no interval.
    pub how: String,
    /// Documents counted.
    pub documents: u64,
    /// Windows counted.
    pub windows: u64,
    /// Tokens counted, as often as they were counted.
    pub tokens: u64,
    /// `exp(sum of losses / count of losses)`.
    pub token_weighted: Estimate,
    /// The average of the publication.
    pub published: Estimate,
}

impl Point {
    /// `units` has at least one document, each with at least one token.
    pub(super) fn new(length: usize, mut how: String, units: &[Unit], options: &PerplexityOptions) -> Self {
        let Averages { token_weighted, published } = Averages::of(units, options.resamples, options.seed);
        if units.len() == 1 {
            how.push_str("; one document, no interval");
        }
        Self {
            length,
            how,
            documents: units.len() as u64,
            windows: units.iter().map(|unit| unit.windows).sum(),
            tokens: units.iter().map(|unit| unit.tokens).sum(),
            token_weighted,
            published,
        }
    }
}

impl Perplexity {
    /// The result rows: `perplexity` (token-weighted) and `perplexity_published` for each length.
    #[must_use]
    pub fn rows(&self, model: &str, variant: &str) -> Vec<Row> {
        let measured = Measurement::perplexity(model, variant, self.protocol.name());
        let row = |point: &Point, metric: &str, estimate: Estimate| Row {
            how: Some(point.how.clone()),
            ..measured.row(point.length, metric, estimate, point.documents)
        };
        let pair = |point: &Point| {
            [row(point, "perplexity", point.token_weighted), row(point, "perplexity_published", point.published)]
        };
        self.points.iter().flat_map(pair).collect()
    }
}

/// A document that is read, and its place in the input.
#[derive(Debug, Clone, Copy)]
pub(super) struct Document<'d> {
    pub(super) index: usize,
    pub(super) text: &'d [u32],
}

/// Measures the perplexity of `model` on `documents` (token ids, without bos).
///
/// ```
/// use eval::fakes::Uniform;
/// use eval::{Monitor, PerplexityOptions, Protocol, perplexity};
///
/// let documents = vec![vec![1, 2, 3, 4, 5, 6, 7, 8]; 3];
/// let options = PerplexityOptions::new(Protocol::P2, vec![4, 8]);
/// let found = perplexity(&Uniform::model(10, Some(0)), &documents, &options, &mut Monitor::silent())?;
/// assert!((found.points[1].token_weighted.value - 10.0).abs() < 1e-5);
/// # Ok::<(), eval::EvalError>(())
/// ```
///
/// # Errors
///
/// No lengths, no documents, a length below 2, a stride that does not fit, no resamples, documents that are all too
/// short, a failing model, a log-probability that is not a finite number at or below 0 (never averaged away), or
/// [`EvalError::Interrupted`].
pub fn perplexity<D: AsRef<[u32]>>(
    model: &dyn LanguageModel,
    documents: &[D],
    options: &PerplexityOptions,
    monitor: &mut Monitor<'_>,
) -> Result<Perplexity, EvalError> {
    let lengths = options.checked_lengths()?;
    if documents.is_empty() {
        return Err(EvalError::NoDocuments);
    }
    let reader = Reader { model, bos: if options.bos == Bos::Auto { model.bos() } else { None } };
    let most = options.max_document_tokens.unwrap_or(usize::MAX);
    let texts: Vec<&[u32]> = documents.iter().map(AsRef::as_ref).map(|d| &d[..d.len().min(most)]).collect();
    match options.protocol {
        Protocol::P2 => {
            if let Some(stride) = options.stride {
                return Err(EvalError::NeedlessStride(stride));
            }
            let used = long_enough(reader, &texts, &lengths, options)?;
            truncated::run(reader, &used, &lengths, options, monitor)
        }
        Protocol::P1 | Protocol::P4 => {
            let used = long_enough(reader, &texts, &lengths, options)?;
            run_sliding(reader, &used, &lengths, options, monitor)
        }
        Protocol::P3 => run_stream(reader, &texts, &lengths, options, monitor),
    }
}

/// The documents that a protocol reads.
fn long_enough<'d>(
    reader: Reader<'_>,
    texts: &[&'d [u32]],
    lengths: &[usize],
    options: &PerplexityOptions,
) -> Result<Vec<Document<'d>>, EvalError> {
    let longest_window = lengths.last().map_or(0, |&length| reader.capacity(length));
    let needed = match (options.min_document_tokens, options.protocol) {
        (Some(least), _) => least.max(reader.least_text()),
        (None, Protocol::P2 | Protocol::P4) => longest_window,
        (None, Protocol::P1 | Protocol::P3) => reader.least_text(),
    };
    let indexed = texts.iter().enumerate().map(|(index, &text)| Document { index, text });
    let used: Vec<Document<'d>> = indexed.filter(|document| document.text.len() >= needed).collect();
    if used.is_empty() {
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        return Err(EvalError::AllTooShort {
            protocol: options.protocol.name(),
            documents: texts.len(),
            needed,
            longest,
        });
    }
    Ok(used)
}

/// P1 and P4: windows slide inside each document.
fn run_sliding(
    reader: Reader<'_>,
    documents: &[Document<'_>],
    lengths: &[usize],
    options: &PerplexityOptions,
    monitor: &mut Monitor<'_>,
) -> Result<Perplexity, EvalError> {
    let protocol = options.protocol;
    let mut plans = Vec::with_capacity(lengths.len());
    for &length in lengths {
        let capacity = reader.capacity(length);
        let stride = options.stride_at(length, capacity)?;
        let windows: Vec<_> = documents.iter().map(|d| sliding(d.text.len(), capacity, stride)).collect();
        plans.push((length, stride, windows));
    }
    let total = plans.iter().flat_map(|(_, _, windows)| windows).map(Vec::len).sum();
    let mut steps = Steps::new(monitor, total);
    let mut points = Vec::with_capacity(lengths.len());
    for (length, stride, windows) in plans {
        let label = format!("{protocol} length {length}");
        let mut units = vec![Unit::default(); documents.len()];
        let (mut readings, mut places) = (Vec::new(), Vec::new());
        for (place, (document, windows)) in documents.iter().zip(windows).enumerate() {
            for window in windows {
                let text = &document.text[window.text];
                readings.push(Reading { document: document.index, text, count: window.new });
                places.push(place);
            }
        }
        for (place, losses) in places.into_iter().zip(reader.losses_of_all(&readings, &label, &mut steps)?) {
            match protocol {
                Protocol::P4 => units[place].add_window_tokens(&losses),
                _ => units[place].add_window_mean(&losses),
            }
        }
        points.push(Point::new(length, format!("stride {stride}"), &units, options));
    }
    Ok(Perplexity { protocol, points, position_loss: None, document_loss: None })
}

/// P3: full windows slide over all documents joined.
fn run_stream(
    reader: Reader<'_>,
    texts: &[&[u32]],
    lengths: &[usize],
    options: &PerplexityOptions,
    monitor: &mut Monitor<'_>,
) -> Result<Perplexity, EvalError> {
    let stream: Vec<u32> = texts.iter().flat_map(|text| reader.bos.into_iter().chain(text.iter().copied())).collect();
    let bos = usize::from(reader.bos.is_some());
    let ends: Vec<usize> = texts
        .iter()
        .scan(0, |end, text| {
            Some({
                *end += text.len() + bos;
                *end
            })
        })
        .collect();
    let longest = lengths.last().copied().unwrap_or(0);
    if stream.len() < longest {
        let (protocol, documents) = (options.protocol.name(), texts.len());
        return Err(EvalError::AllTooShort { protocol, documents, needed: longest, longest: stream.len() });
    }
    let mut strides = Vec::with_capacity(lengths.len());
    for &length in lengths {
        strides.push(options.stride_at(length, length)?);
    }
    let windows = |length: usize, stride: usize| (0..stream.len() - length + 1).step_by(stride);
    let total = lengths.iter().zip(&strides).map(|(&length, &stride)| windows(length, stride).len()).sum();
    let mut steps = Steps::new(monitor, total);
    let mut points = Vec::with_capacity(lengths.len());
    // The stream holds its own bos tokens; windows get none.
    let bare = Reader { bos: None, ..reader };
    for (&length, &stride) in lengths.iter().zip(&strides) {
        let label = format!("P3 length {length}");
        let mut units = vec![Unit::default(); texts.len()];
        let reading = |start: usize| Reading {
            document: ends.partition_point(|&end| end <= start),
            text: &stream[start..start + length],
            count: length,
        };
        let readings: Vec<Reading<'_>> = windows(length, stride).map(reading).collect();
        for (reading, losses) in readings.iter().zip(bare.losses_of_all(&readings, &label, &mut steps)?) {
            units[reading.document].add_window_mean(&losses);
        }
        units.retain(|unit| unit.windows > 0);
        points.push(Point::new(length, format!("stride {stride}"), &units, options));
    }
    Ok(Perplexity { protocol: Protocol::P3, points, position_loss: None, document_loss: None })
}
