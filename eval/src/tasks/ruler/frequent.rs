//! Frequent words: coded words whose counts fall off as a zeta distribution with exponent 2; the first is noise.

use std::f64::consts::PI;

use crate::rng::SplitMix64;
use crate::tasks::fit::Draft;
use crate::words;

/// Words that are asked for.
const ASKED: usize = 3;

/// Words of the shortest text: from here on the third word that is asked for (rank 4) always stands more often than the most
/// frequent one that is not (rank 5), since their counts before rounding differ by one; a shorter text may have no right
/// answer.
pub(super) const LEAST_WORDS: usize = 74;

/// A text of about `units` words.
pub(super) fn draft(length: usize, budget: usize, units: usize, seed: u64) -> Draft {
    let mut rng = SplitMix64::new(seed);
    let vocabulary = vocabulary(length.saturating_sub(budget) / 50, &mut rng);
    let mut text: Vec<&str> = Vec::with_capacity(units);
    for (rank, word) in vocabulary.iter().enumerate() {
        text.extend(std::iter::repeat_n(word.as_str(), times(units, rank + 1)));
    }
    words::shuffle(&mut text, &mut rng);
    let text = format!(
        "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared \
         coded words. {}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most \
         frequently appeared words in the above coded text? Answer: According to the coded text above, the three most \
         frequently appeared words are:",
        text.join(" ")
    );
    Draft { text, answer: String::new(), references: vocabulary[1..=ASKED].to_vec(), depth: None }
}

/// How often the word of a rank (from 1) stands among `units` words: `units / (zeta(2) rank^2)`, rounded down.
fn times(units: usize, rank: usize) -> usize {
    (units as f64 * 6.0 / (PI * PI) / (rank * rank) as f64) as usize
}

/// `count` words, but at least those that stand in the shortest text; the first stands for noise.
fn vocabulary(count: usize, rng: &mut SplitMix64) -> Vec<String> {
    let count = count.max((1..).take_while(|&rank| times(LEAST_WORDS, rank) > 0).count());
    let mut all = vec!["...".to_owned()];
    let mut used = std::collections::HashSet::new();
    while all.len() < count {
        let word: String = (0..6).map(|_| char::from(b'a' + rng.below(26) as u8)).collect();
        if used.insert(word.clone()) {
            all.push(word);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_the_least_number_of_words_on_the_answer_is_unique() {
        assert!((LEAST_WORDS..5000).all(|units| times(units, 4) > times(units, 5)));
        assert!((1..LEAST_WORDS).any(|units| times(units, 4) == times(units, 5)), "shorter texts may have ties");
        let before_rounding = |rank: f64| LEAST_WORDS as f64 * 6.0 / (PI * PI) / (rank * rank);
        assert!(before_rounding(4.0) - before_rounding(5.0) >= 1.0);
    }
}
