//! Variable tracking: a chain of assignments hidden in filler, and a short solved example before it.

use super::RulerTask;
use crate::error::TaskError;
use crate::haystack::FILLER;
use crate::model::TextCodec;
use crate::rng::SplitMix64;
use crate::tasks::fit::Draft;
use crate::words;

/// Assignments of a chain: one value and four hops.
pub(super) const LINES: usize = 5;

/// Tokens that the solved example may take.
const EXAMPLE_TOKENS: usize = 500;

/// Lines of filler in the solved example.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Example {
    filler: usize,
}

impl Example {
    /// The longest example of at most 500 tokens, at least with as many lines of filler as the chain has; none for other
    /// tasks.
    pub(super) fn fitted(codec: &dyn TextCodec, task: RulerTask) -> Result<Self, TaskError> {
        let mut filler = LINES;
        if task != RulerTask::VariableTracking {
            return Ok(Self { filler });
        }
        // A line of filler is at least a token; the bound is for a tokenizer that makes none.
        while filler < EXAMPLE_TOKENS {
            let text = solved(filler + 1, &mut SplitMix64::new(0)).0;
            if codec.encode(&text)?.len() > EXAMPLE_TOKENS {
                break;
            }
            filler += 1;
        }
        Ok(Self { filler })
    }
}

/// A sample with `units` lines of filler.
pub(super) fn draft(example: &Example, units: usize, seed: u64) -> Draft {
    let mut rng = SplitMix64::new(seed);
    let (shown, shown_names) = solved(example.filler, &mut rng);
    let names = names(5, &mut rng);
    let (text, depth) = problem(units, &names, &mut rng);
    Draft {
        text: format!("{shown} {}\n\n{text}", shown_names.join(" ")),
        answer: String::new(),
        references: names,
        depth: Some(depth),
    }
}

/// The example with names of three letters, and the names.
fn solved(filler: usize, rng: &mut SplitMix64) -> (String, Vec<String>) {
    let names = names(3, rng);
    (problem(filler, &names, rng).0, names)
}

/// Different names of capital letters.
fn names(letters: usize, rng: &mut SplitMix64) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(LINES);
    while names.len() < LINES {
        let name: String = (0..letters).map(|_| char::from(b'A' + rng.below(26) as u8)).collect();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// The prompt, and the share of the filler before the first assignment.
fn problem(filler: usize, names: &[String], rng: &mut SplitMix64) -> (String, f64) {
    let value = (10_000 + rng.below(89_999)).to_string();
    let mut chain = vec![format!("VAR {} = {value}", names[0])];
    // The blank behind a hop is the reference's.
    chain.extend(names.windows(2).map(|pair| format!("VAR {} = VAR {} ", pair[1], pair[0])));
    let mut lines = vec![FILLER.to_owned(); filler];
    let mut places = words::sampled(filler, chain.len(), rng);
    places.sort_unstable();
    let depth = places.first().map_or(0.0, |&place| place as f64 / filler.max(1) as f64);
    for (index, (place, line)) in places.into_iter().zip(chain).enumerate() {
        lines.insert(place + index, line);
    }
    let text = format!(
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{}\nQuestion: Find all \
         variables that are assigned the value {value} in the text above. Answer: According to the chain(s) of variable \
         assignment in the text above, {} variables are assigned the value {value}, they are: ",
        lines.join("\n"),
        names.len()
    );
    (text, depth)
}
