//! Random bits by counter: Philox 4x32 with 10 rounds (Salmon et al. 2011, section 3.3).
//!
//! Which bits a number gets is a function of what it is, not of who computes it or after what: threads, devices and a run
//! that was stopped and went on all see the same. For element `e` of parameter `p` in step `s`, and [`Use`] `u`:
//!
//! - key: the seed's lower and upper 32 bits;
//! - counter: `[lower 32 bits of e / 8, p, lower 32 bits of s, u + 4 * (upper 32 bits of e / 8)]`;
//! - of the four words that come out, halves in order from the lower half of the first: `e` takes half `e mod 8`.

/// Elements that share a call of Philox.
const PER_CALL: usize = 8;
/// Elements that are worked on together: a block of 8-bit moments.
pub(super) const CHUNK: usize = 256;
const CALLS: usize = CHUNK / PER_CALL;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// What bits are drawn for; each its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Rounding of a weight.
    Weight = 0,
    /// Rounding of a running mean.
    Mean = 1,
    /// Rounding of a running mean square.
    Square = 2,
}

/// The bits of one parameter in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the step.
    pub step: u64,
    /// Number of the parameter among those of the model.
    pub parameter: u32,
}

impl Draws {
    /// The 16 bits of one element: the definition, for what is tested against it.
    #[must_use]
    pub fn bits(&self, what: Use, element: u64) -> u16 {
        let words = philox(self.counter(what, element / PER_CALL as u64), self.key());
        let half = (element % PER_CALL as u64) as usize;
        (words[half / 2] >> (16 * (half % 2))) as u16
    }

    /// The bits of [`CHUNK`] elements from `first` on, a multiple of their number.
    #[inline(always)]
    pub(super) fn fill(&self, what: Use, first: u64, bits: &mut [u16; CHUNK]) {
        let [block, parameter, step, last] = self.counter(what, first / PER_CALL as u64);
        let mut counters = [[0; CALLS], [parameter; CALLS], [step; CALLS], [last; CALLS]];
        // Blocks begin at multiples of their number, so that none reaches past the lower 32 bits.
        for (call, counter) in counters[0].iter_mut().enumerate() {
            *counter = block | call as u32;
        }
        let mut key = self.key();
        for _ in 0..ROUNDS {
            let [c0, c1, c2, c3] = &mut counters;
            for call in 0..CALLS {
                let mixed = round([c0[call], c1[call], c2[call], c3[call]], key);
                [c0[call], c1[call], c2[call], c3[call]] = mixed;
            }
            key = next(key);
        }
        for (call, eight) in bits.as_chunks_mut::<PER_CALL>().0.iter_mut().enumerate() {
            for (word, halves) in counters.iter().zip(eight.as_chunks_mut::<2>().0) {
                *halves = [word[call] as u16, (word[call] >> 16) as u16];
            }
        }
    }

    pub(super) fn key(&self) -> [u32; 2] {
        [self.seed as u32, (self.seed >> 32) as u32]
    }

    /// The counter of a call.
    pub(super) fn counter(&self, what: Use, call: u64) -> [u32; 4] {
        [call as u32, self.parameter, self.step as u32, what as u32 | ((call >> 32) as u32) << 2]
    }
}

/// Four random words for a counter and a key.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        counter = round(counter, key);
        key = next(key);
    }
    counter
}

#[inline(always)]
fn round([c0, c1, c2, c3]: [u32; 4], [k0, k1]: [u32; 2]) -> [u32; 4] {
    let product = |a: u32, b: u32| u64::from(a).wrapping_mul(u64::from(b));
    let (first, second) = (product(MULTIPLIERS[0], c0), product(MULTIPLIERS[1], c2));
    [(second >> 32) as u32 ^ c1 ^ k0, second as u32, (first >> 32) as u32 ^ c3 ^ k1, first as u32]
}

#[inline(always)]
fn next([k0, k1]: [u32; 2]) -> [u32; 2] {
    [k0.wrapping_add(WEYL[0]), k1.wrapping_add(WEYL[1])]
}

/// The same on tensors, in 64-bit integers, where there is no kernel: bits `[count]` of the elements from `first` on.
pub(super) fn bits_on(device: tch::Device, draws: &Draws, what: Use, first: u64, count: i64) -> tch::Tensor {
    let low = |x: &tch::Tensor| x.bitwise_and(i64::from(u32::MAX));
    let high = |x: &tch::Tensor| low(&x.bitwise_right_shift_tensor_scalar(32));
    let calls = count.div_euclid(PER_CALL as i64) + i64::from(count % PER_CALL as i64 != 0);
    let [block, parameter, step, last] = draws.counter(what, first / PER_CALL as u64).map(i64::from);
    let options = (tch::Kind::Int64, device);
    let word = |value: i64| tch::Tensor::full([calls], value, options);
    let mut counter = [tch::Tensor::arange(calls, options) + block, word(parameter), word(step), word(last)];
    let mut key = draws.key();
    for _ in 0..ROUNDS {
        let [k0, k1] = key.map(i64::from);
        // Products wrap around as signed numbers; their 64 bits are the same.
        let (first, second) = (&counter[0] * i64::from(MULTIPLIERS[0]), &counter[2] * i64::from(MULTIPLIERS[1]));
        let mix = |product: &tch::Tensor, with: &tch::Tensor, key: i64| {
            high(product).bitwise_xor_tensor(with).bitwise_xor(key)
        };
        counter = [mix(&second, &counter[1], k0), low(&second), mix(&first, &counter[3], k1), low(&first)];
        key = next(key);
    }
    let halves = counter
        .iter()
        .flat_map(|word| [word.bitwise_and(0xFFFF), word.bitwise_right_shift_tensor_scalar(16).bitwise_and(0xFFFF)]);
    tch::Tensor::stack(&halves.collect::<Vec<_>>(), 1).view(-1).narrow(0, 0, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_words_that_its_authors_publish() {
        // Known answers of Random123 for philox4x32 with 10 rounds.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), answer);
    }

    #[test]
    fn a_chunk_and_a_tensor_hold_the_bits_of_each_element() {
        let draws = Draws { seed: 0x1234_5678_9abc_def0, step: 77, parameter: 5 };
        for first in [0, 256 * 9, (1_u64 << 35) + 512] {
            let mut bits = [0; CHUNK];
            draws.fill(Use::Mean, first, &mut bits);
            let each: Vec<u16> = (first..first + CHUNK as u64).map(|e| draws.bits(Use::Mean, e)).collect();
            assert_eq!(bits.to_vec(), each);
            let tensor = bits_on(tch::Device::Cpu, &draws, Use::Mean, first, 251);
            let tensor: Vec<u16> = Vec::<i64>::try_from(tensor).unwrap().into_iter().map(|b| b as u16).collect();
            assert_eq!(tensor, each[..251]);
        }
    }

    #[test]
    fn every_part_of_a_number_of_a_draw_matters() {
        let draws = Draws { seed: 3, step: 1, parameter: 0 };
        let some =
            |draws: Draws, what, first: u64| (first..first + 64).map(|e| draws.bits(what, e)).collect::<Vec<_>>();
        let base = some(draws, Use::Weight, 0);
        let others = [
            some(Draws { seed: 4, ..draws }, Use::Weight, 0),
            some(Draws { seed: 3 + (1 << 32), ..draws }, Use::Weight, 0),
            some(Draws { step: 2, ..draws }, Use::Weight, 0),
            some(Draws { parameter: 1, ..draws }, Use::Weight, 0),
            some(draws, Use::Mean, 0),
            some(draws, Use::Square, 0),
            some(draws, Use::Weight, 64),
            some(draws, Use::Weight, 1 << 35),
        ];
        for (at, other) in others.iter().enumerate() {
            assert!(base.iter().zip(other).filter(|(a, b)| a == b).count() < 4, "{at}");
        }
    }
}
