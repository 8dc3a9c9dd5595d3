//! Skip-position training (Zhu et al. 2024, PoSE, section 3): a short sequence stands at positions drawn from a long range.
//!
//! A sequence of `length` tokens is cut into chunks `c_0 .. c_{N-1}` with first tokens `st_i`. Chunk `i` stands at positions
//! `u_i + st_i ..` (equation 5 of the paper), with `u_0 = 0` and each further `u_i` uniform from `u_{i-1}` to
//! `target - length`: order is kept, distances inside a chunk are as they were, and over many sequences every distance below
//! the target comes up. Cuts are `N - 1` distinct places, all sets of them equally likely; cuts and skips are drawn anew
//! for every sequence.
//!
//! Texts of chunks follow one another as they do in the document, which is `v_i = 0` of the three choices that the paper
//! compares and finds alike; hence a sequence is the one that would be trained on without skips.

use super::rng::CounterRng;

/// The positions of one sequence's `length` tokens, rising, the last below `target`.
///
/// `rng` is the stream of the stage and `number` the sequence's: the same positions whenever they are asked for. `chunks` is
/// at least 1 and at most `length`, and `length` at most `target`.
pub fn skip_positions(rng: &CounterRng, number: u64, length: usize, target: usize, chunks: usize) -> Vec<u32> {
    let rng = rng.stream(&number.to_string());
    let cuts = cuts(&rng.stream("cuts"), length, chunks);
    let skips = rng.stream("skips");
    let (room, mut skip) = ((target.saturating_sub(length)) as u64, 0);
    let mut positions = Vec::with_capacity(length);
    for (chunk, start) in cuts.iter().copied().enumerate() {
        if chunk > 0 {
            skip += skips.below(chunk as u64, room - skip + 1);
        }
        let end = cuts.get(chunk + 1).copied().unwrap_or(length);
        positions.extend((start..end).map(|place| place as u32 + skip as u32));
    }
    positions
}

/// First tokens of `chunks` chunks, the first at 0: the others a set of distinct places from 1, each set equally likely
/// (Floyd's sampling, Bentley and Floyd 1987).
fn cuts(rng: &CounterRng, length: usize, chunks: usize) -> Vec<usize> {
    let (places, wanted) = (length.saturating_sub(1), chunks.saturating_sub(1).min(length.saturating_sub(1)));
    let mut chosen = std::collections::BTreeSet::from([0]);
    for last in places - wanted + 1..=places {
        let place = 1 + rng.below(last as u64, last as u64) as usize;
        if !chosen.insert(place) {
            chosen.insert(last);
        }
    }
    chosen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(number: u64, length: usize, target: usize, chunks: usize) -> Vec<u32> {
        skip_positions(&CounterRng::new(5).stream("skip-positions"), number, length, target, chunks)
    }

    #[test]
    fn order_is_kept_and_the_target_is_not_passed() {
        for (length, target, chunks) in [(64, 256, 2), (64, 64, 3), (7, 9, 7), (2, 1000, 2), (5, 5, 1)] {
            for number in 0..50 {
                let positions = drawn(number, length, target, chunks);
                assert_eq!((positions.len(), positions[0]), (length, 0));
                assert!(positions.windows(2).all(|pair| pair[0] < pair[1]));
                assert!(positions[length - 1] < target as u32);
                let skips = positions.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
                assert!(skips < chunks, "{skips} skips between {chunks} chunks");
            }
        }
        assert_eq!(drawn(3, 5, 5, 3), [0, 1, 2, 3, 4], "no room to skip");
        assert_eq!(drawn(3, 5, 99, 1), [0, 1, 2, 3, 4], "one chunk");
    }

    #[test]
    fn positions_are_a_function_of_the_sequences_number() {
        assert_eq!(drawn(8, 32, 512, 2), drawn(8, 32, 512, 2));
        assert_ne!(drawn(8, 32, 512, 2), drawn(9, 32, 512, 2));
    }

    #[test]
    fn two_chunks_are_cut_and_moved_evenly() {
        // The cut and the skip of 4000 sequences of 11 tokens in a range of 31: ten cuts and twenty-one skips.
        let (mut cuts, mut skips) = ([0_u32; 11], [0_u32; 21]);
        for number in 0..4000 {
            let positions = drawn(number, 11, 31, 2);
            let skip = positions[10] - 10;
            skips[skip as usize] += 1;
            if skip > 0 {
                cuts[positions.iter().zip(0..).filter(|(position, place)| *position == place).count()] += 1;
            }
        }
        assert_eq!(cuts[0], 0);
        assert!(cuts[1..].iter().all(|count| (290..480).contains(count)), "{cuts:?}");
        assert!(skips.iter().all(|count| (130..260).contains(count)), "{skips:?}");
    }

    #[test]
    fn every_distance_below_the_target_comes_up() {
        let mut seen = [false; 64];
        for number in 0..3000 {
            let positions = drawn(number, 16, 64, 2);
            for (place, key) in positions.iter().enumerate() {
                positions[place..].iter().for_each(|query| seen[(query - key) as usize] = true);
            }
        }
        assert!(seen.iter().all(|&seen| seen));
    }
}
