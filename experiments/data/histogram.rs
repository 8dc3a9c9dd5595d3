//! How long documents are, as a table: whether a data set can teach long context shows here first.

use std::fmt;

/// Documents by length, in buckets from one power of two to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LengthHistogram {
    /// Documents and tokens of bucket `b`: lengths from 2^b to below 2^(b+1).
    buckets: Vec<Bucket>,
}

/// A bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Documents in it.
    pub documents: u64,
    /// Their tokens.
    pub tokens: u64,
}

impl LengthHistogram {
    /// Counts documents by their lengths in tokens; empty ones are passed over.
    pub fn new(lengths: impl IntoIterator<Item = u64>) -> Self {
        let mut buckets: Vec<Bucket> = Vec::new();
        for length in lengths.into_iter().filter(|&length| length > 0) {
            let at = length.ilog2() as usize;
            if buckets.len() <= at {
                buckets.resize(at + 1, Bucket::default());
            }
            buckets[at].documents += 1;
            buckets[at].tokens += length;
        }
        Self { buckets }
    }

    /// The buckets, that of length 1 first.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Documents and tokens together.
    pub fn total(&self) -> Bucket {
        self.buckets.iter().fold(Bucket::default(), |sum, bucket| Bucket {
            documents: sum.documents + bucket.documents,
            tokens: sum.tokens + bucket.tokens,
        })
    }
}

/// Widest bar of the table, in characters.
const BAR: f64 = 30.0;

impl fmt::Display for LengthHistogram {
    /// A line for each bucket from the first that holds something: range, documents, tokens, share of all tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total().tokens.max(1) as f64;
        writeln!(f, "{:>21}  {:>11}  {:>15}  share of tokens", "length in tokens", "documents", "tokens")?;
        let first = self.buckets.iter().position(|bucket| bucket.documents > 0).unwrap_or(0);
        for (at, Bucket { documents, tokens }) in self.buckets.iter().enumerate().skip(first) {
            let share = *tokens as f64 / total;
            let range = format!("{} to {}", 1_u64 << at, (2_u128 << at) - 1);
            let bar = "#".repeat((share * BAR).round() as usize);
            writeln!(f, "{range:>21}  {documents:>11}  {tokens:>15}  {:>5.1} % {bar}", 100.0 * share)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn edges_of_buckets_are_powers_of_two() {
        let histogram = LengthHistogram::new([1, 2, 3, 4, 7, 8, 0]);
        let documents: Vec<u64> = histogram.buckets().iter().map(|bucket| bucket.documents).collect();
        let tokens: Vec<u64> = histogram.buckets().iter().map(|bucket| bucket.tokens).collect();
        assert_eq!((documents, tokens), (vec![1, 2, 2, 1], vec![1, 5, 11, 8]));
        assert_eq!(histogram.total(), Bucket { documents: 6, tokens: 25 });
    }

    #[test]
    fn the_table_gives_the_share_of_tokens_and_not_of_documents() {
        let table = LengthHistogram::new([10, 10, 10, 90]).to_string();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].contains("8 to 15") && lines[1].contains("25.0 %"), "{table}");
        assert!(lines[4].contains("64 to 127") && lines[4].contains("75.0 %"), "{table}");
    }

    #[test]
    fn the_longest_length_and_none_at_all_fit_the_table() {
        assert!(LengthHistogram::new([u64::MAX]).to_string().contains("18446744073709551615"));
        assert_eq!(LengthHistogram::new([]).to_string().lines().count(), 1);
    }
}
