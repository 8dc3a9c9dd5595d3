//! Loss by position in the window.

use ndarray::{Array1, Array2, ArrayView1, Axis, s};

use crate::metrics::{Bootstrap, Estimate};
use crate::report::PositionLoss;

/// Buckets in each doubling of the position.
const PER_OCTAVE: f64 = 4.0;

/// Losses of every position of several documents: `[documents, positions]`, position 1 in column 0 (position 0 is the
/// bos, or a first token that nothing precedes).
#[derive(Debug, Clone)]
pub(super) struct LossMatrix {
    losses: Array2<f64>,
    /// Columns of each row that hold a loss; a shorter document fills fewer.
    filled: Vec<usize>,
}

impl LossMatrix {
    pub(super) fn new(documents: usize, length: usize) -> Self {
        Self { losses: Array2::zeros((documents, length - 1)), filled: vec![0; documents] }
    }

    pub(super) fn fill(&mut self, row: usize, losses: Vec<f64>) {
        let count = losses.len();
        self.losses.slice_mut(s![row, ..count]).assign(&Array1::from_vec(losses));
        self.filled[row] = count;
    }

    /// Losses of the first `length` tokens of every document that has so many.
    pub(super) fn rows(&self, length: usize) -> impl Iterator<Item = ArrayView1<'_, f64>> {
        let full = self.filled.iter().zip(self.losses.rows()).filter(move |&(&filled, _)| filled >= length - 1);
        full.map(move |(_, row)| row.slice_move(s![..length - 1]))
    }

    /// The curve of the documents that fill `length` tokens, with 95 % bootstrap intervals over documents.
    pub(super) fn curve(&self, length: usize, resamples: usize, seed: u64) -> PositionCurve {
        let positions = bucket_starts(length);
        let rows: Vec<_> = self.rows(length).collect();
        let mut means = Array2::zeros((rows.len(), positions.len())); // [documents, buckets]
        for (bucket, &start) in positions.iter().enumerate() {
            let end = positions.get(bucket + 1).copied().unwrap_or(length);
            for (document, row) in rows.iter().enumerate() {
                means[[document, bucket]] = row.slice(s![start - 1..end - 1]).sum() / (end - start) as f64;
            }
        }
        let documents = means.len_of(Axis(0));
        PositionCurve {
            length,
            documents: documents as u64,
            loss: Bootstrap::new(documents, resamples, seed).means(means.view()),
            positions,
        }
    }
}

/// Mean loss by position, in buckets that widen with the position.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionCurve {
    /// Length of the windows in tokens.
    pub length: usize,
    /// First position of each bucket; the last one ends at `length`.
    pub positions: Vec<usize>,
    /// Mean loss in nats of each bucket, with its interval over documents.
    pub loss: Vec<Estimate>,
    /// Documents behind it.
    pub documents: u64,
}

impl PositionCurve {
    /// The curve as the report keeps it.
    #[must_use]
    pub fn report(&self, variant: &str) -> PositionLoss {
        let column = |part: fn(&Estimate) -> f64| self.loss.iter().map(part).collect();
        PositionLoss {
            variant: variant.to_owned(),
            length: self.length,
            positions: self.positions.clone(),
            loss: column(|e| e.value),
            low: column(|e| e.low),
            high: column(|e| e.high),
            documents: self.documents,
        }
    }
}

/// First positions of the buckets: 1, then a quarter of a doubling further each, whole numbers, none twice.
fn bucket_starts(length: usize) -> Vec<usize> {
    let edges = (0_u32..).map(|i| (f64::from(i) / PER_OCTAVE).exp2().round() as usize);
    let mut starts: Vec<usize> = edges.take_while(|&edge| edge < length).collect();
    starts.dedup();
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_widen_and_cover_every_position() {
        assert_eq!(bucket_starts(2), [1]);
        assert_eq!(bucket_starts(9), [1, 2, 3, 4, 5, 6, 7, 8]);
        let starts = bucket_starts(2048);
        assert!(starts.windows(2).all(|w| w[0] < w[1]) && starts.contains(&256) && starts.contains(&1024));
        assert!(*starts.last().unwrap() < 2048 && starts.len() < 48);
    }

    #[test]
    fn bucket_means_are_those_of_their_positions() {
        let mut matrix = LossMatrix::new(2, 12);
        matrix.fill(0, (1..12).map(f64::from).collect());
        matrix.fill(1, (1..12).map(|p| f64::from(p) + 2.0).collect());
        let curve = matrix.curve(12, 100, 0);
        assert_eq!(curve.positions, [1, 2, 3, 4, 5, 6, 7, 8, 10, 11]);
        let loss: Vec<f64> = curve.loss.iter().map(|e| e.value).collect();
        assert_eq!(loss, [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.5, 11.0, 12.0]);
        assert!(curve.loss.iter().all(|e| e.high - e.low == 2.0), "two documents, two apart");
        assert_eq!(curve.report("v").documents, 2);
    }

    #[test]
    fn a_document_that_is_too_short_for_a_length_is_not_in_it() {
        let mut matrix = LossMatrix::new(2, 5);
        matrix.fill(0, vec![1.0; 4]);
        matrix.fill(1, vec![3.0; 2]);
        assert_eq!(matrix.rows(3).count(), 2);
        assert_eq!(matrix.rows(4).count(), 1);
        assert_eq!(matrix.curve(5, 10, 0).loss[0].value, 1.0);
    }
}
