//! Text made for training: repeated blocks, passkeys and keyed questions.
//!
//! Every sequence is a pure function of (seed, source, index), so that a resumed run sees the same ones.

use eval::TextCodec;

use crate::data::rng::CounterRng;
use crate::error::Failure;

/// Shortest block of [`repeated`], in tokens.
const MIN_BLOCK: u64 = 4;

/// Draws from a counter generator one after another.
pub struct Draws {
    rng: CounterRng,
    next: u64,
}

impl Draws {
    /// Draws of sequence `index` of the stream `source`.
    pub fn new(seed: u64, source: &str, index: u64) -> Self {
        Self { rng: CounterRng::new(seed).stream(source).stream(&index.to_string()), next: 0 }
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next += 1;
        self.rng.below(self.next, bound)
    }

    /// A number from 0 to below 1.
    pub fn uniform(&mut self) -> f64 {
        self.next += 1;
        self.rng.uniform(self.next)
    }
}

/// A random block of ids from `first_id .. vocab`, repeated until `length` ids are there; and the block's length.
pub fn repeated(draws: &mut Draws, length: usize, first_id: u32, vocab: u32) -> (Vec<u32>, usize) {
    let longest = (length as u64 / 2).max(MIN_BLOCK);
    let block = MIN_BLOCK + draws.below(longest - MIN_BLOCK + 1);
    let ids: Vec<u32> = (0..block).map(|_| first_id + draws.below(u64::from(vocab - first_id)) as u32).collect();
    (ids.iter().copied().cycle().take(length).collect(), ids.len())
}

/// Words that name a key.
const NAMES: [&str; 24] = [
    "Anna", "Bert", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Mary", "Ned",
    "Olive", "Paul", "Rose", "Sam", "Tess", "Victor", "Walter", "Xenia", "York", "Zoe",
];

/// Numbers stated for several names, then asked for in another order, until `length` tokens are there.
///
/// # Errors
///
/// When the tokenizer fails.
pub fn keyed(draws: &mut Draws, codec: &dyn TextCodec, length: usize) -> Result<Vec<u32>, Failure> {
    let mut ids = Vec::with_capacity(length + 64);
    while ids.len() < length {
        let count = 2 + draws.below(4) as usize;
        let mut names: Vec<&str> = NAMES.to_vec();
        shuffle(draws, &mut names);
        let pairs: Vec<(&str, u64)> = names[..count].iter().map(|name| (*name, 10_000 + draws.below(90_000))).collect();
        let mut text = String::new();
        for (name, number) in &pairs {
            text += &format!("The number of {name} is {number}.\n");
        }
        let mut asked = pairs.clone();
        shuffle(draws, &mut asked);
        for (name, number) in &asked {
            text += &format!("Q: the number of {name}? A: {number}.\n");
        }
        ids.extend(codec.encode(&text).map_err(|e| Failure::data(e.to_string()))?);
    }
    ids.truncate(length);
    Ok(ids)
}

fn shuffle<T>(draws: &mut Draws, items: &mut [T]) {
    for place in (1..items.len()).rev() {
        items.swap(place, draws.below(place as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_block_predicts_itself() {
        for index in 0..50 {
            let (ids, block) = repeated(&mut Draws::new(1, "repeat", index), 64, 3, 100);
            assert_eq!(ids.len(), 64);
            assert!(ids.iter().all(|id| (3..100).contains(id)));
            assert!(ids[block..].iter().zip(&ids).all(|(a, b)| a == b), "sequence {index} does not repeat its block");
        }
    }

    #[test]
    fn a_sequence_is_a_function_of_its_number() {
        let make = |index| repeated(&mut Draws::new(1, "repeat", index), 32, 3, 100);
        assert_eq!(make(5), make(5));
        assert_ne!(make(5), make(6));
    }
}
