//! A short hash of everything that decides how a position is rotated or biased.

/// FNV-1a over 64-bit words: stable across runs and machines, which the standard hasher does not promise.
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    pub(crate) fn new(kind: u64) -> Self {
        Self(0xcbf2_9ce4_8422_2325).word(kind)
    }

    pub(crate) fn word(self, word: u64) -> Self {
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self(word.to_le_bytes().into_iter().fold(self.0, mix))
    }

    pub(crate) fn numbers(self, numbers: &[f64]) -> Self {
        let counted = self.word(numbers.len() as u64);
        numbers.iter().fold(counted, |hash, number| hash.word(number.to_bits()))
    }

    pub(crate) fn finish(self) -> u64 {
        self.0
    }
}
