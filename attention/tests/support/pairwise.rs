//! A short list of rows in which every pair of choices of every two factors occurs.

use std::collections::HashSet;

use super::random::Random;

/// Two factors with a choice of each.
type Pair = (usize, usize, usize, usize);

/// Rows of choices, one index for each factor with `counts` choices; `cost` breaks ties toward cheap rows.
///
/// Greedy: each row starts from a pair not yet covered and takes the best of some random completions.
pub(crate) fn rows(counts: &[usize], cost: impl Fn(&[usize]) -> f64) -> Vec<Vec<usize>> {
    let mut random = Random::new(7);
    let mut missing: HashSet<Pair> = all_pairs(counts);
    let mut rows = Vec::new();
    while let Some(&(f, a, g, b)) = missing.iter().min() {
        let candidates = (0..200).map(|_| {
            let mut row: Vec<usize> = counts.iter().map(|&count| random.below(count)).collect();
            (row[f], row[g]) = (a, b);
            row
        });
        let value = |row: &Vec<usize>| {
            let covered = pairs_of(row).filter(|pair| missing.contains(pair)).count();
            covered as f64 - cost(row)
        };
        let best = candidates.max_by(|x, y| value(x).total_cmp(&value(y))).expect("200 candidates");
        pairs_of(&best).for_each(|pair| {
            missing.remove(&pair);
        });
        rows.push(best);
    }
    rows
}

fn all_pairs(counts: &[usize]) -> HashSet<Pair> {
    let mut pairs = HashSet::new();
    for f in 0..counts.len() {
        for g in f + 1..counts.len() {
            pairs.extend((0..counts[f]).flat_map(|a| (0..counts[g]).map(move |b| (f, a, g, b))));
        }
    }
    pairs
}

fn pairs_of(row: &[usize]) -> impl Iterator<Item = Pair> {
    (0..row.len()).flat_map(move |f| (f + 1..row.len()).map(move |g| (f, row[f], g, row[g])))
}

#[test]
fn every_pair_occurs_in_few_rows() {
    let counts = [9, 4, 4, 3, 3, 2, 2, 2, 2];
    let rows = rows(&counts, |_| 0.0);
    let covered: HashSet<Pair> = rows.iter().flat_map(|row| pairs_of(row)).collect();
    assert_eq!(covered, all_pairs(&counts));
    assert!(rows.len() < 60, "{} rows", rows.len());
}
