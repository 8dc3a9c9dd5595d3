//! Common words: a numbered list in which ten words stand more often than the others.

use crate::rng::SplitMix64;
use crate::tasks::fit::Draft;
use crate::words;

/// Common words in each list.
const COMMON: usize = 10;

/// Different words of the shortest list: there must be a rare one.
pub(super) const LEAST_WORDS: usize = COMMON + 1;

/// A solved example and a list of `units` different words. Below 4096 tokens words repeat less often.
pub(super) fn draft(length: usize, units: usize, seed: u64) -> Draft {
    let mut rng = SplitMix64::new(seed);
    let short = length < 4096;
    let (shown_words, shown_often, shown_rarely) = if short { (20, 3, 1) } else { (40, 10, 3) };
    let (often, rarely) = if short { (6, 1) } else { (30, 3) };
    let (shown, solution) = problem(shown_words, shown_often, shown_rarely, &mut rng);
    let (text, references) = problem(units, often, rarely, &mut rng);
    Draft { text: format!("{shown} {}\n{text}", numbered(&solution)), answer: String::new(), references, depth: None }
}

/// The prompt and its common words.
fn problem(count: usize, often: usize, rarely: usize, rng: &mut SplitMix64) -> (String, Vec<String>) {
    let all = words::distinct(rng, count);
    let (common, rare) = all.split_at(COMMON.min(all.len()));
    let times = |words: &[String], times: usize| -> Vec<String> {
        words.iter().flat_map(|word| std::iter::repeat_n(word.clone(), times)).collect()
    };
    let mut list = [times(common, often), times(rare, rarely)].concat();
    words::shuffle(&mut list, rng);
    let text = format!(
        "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that \
         appear most often.\n{}\nQuestion: What are the 10 most common words in the above list? Answer: The top 10 words \
         that appear most often in the list are:",
        numbered(&list)
    );
    (text, common.to_vec())
}

/// `1. one 2. two`.
fn numbered(list: &[String]) -> String {
    list.iter().enumerate().map(|(index, word)| format!("{}. {word}", index + 1)).collect::<Vec<_>>().join(" ")
}
