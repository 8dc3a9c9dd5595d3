//! Moments in 8 bits with a scale for each block (Dettmers et al. 2022, sections 1.3, 2.1 and 2.2).
//!
//! A block's largest magnitude is its scale; a number over the scale becomes the nearest value of a fixed map of 256, kept
//! by its place. The map is dense near zero in the logarithm, as the paper's dynamic tree is: the decade below `10^-k` is
//! cut into half as many equal steps as the one above it, of which it holds the middles.

use std::sync::LazyLock;

/// Buckets of magnitude that the first guess of a code is looked up by: 8 bits of fraction, powers of two from this on.
const SMALLEST: u32 = (127 - 24) << 23;
const SHIFT: u32 = 15;
const BUCKETS: usize = (((127 << 23) - SMALLEST) >> SHIFT) as usize + 1;

/// The 256 values that a number between -1 and 1 may become.
#[derive(Debug)]
pub struct Codebook {
    values: [f32; 256],
    /// Half-way from each value to the next; infinite at the end.
    middles: [f32; 256],
    /// By sign and bucket: the code of the bucket's smallest number. A bucket holds one middle at most.
    guesses: [Vec<u8>; 2],
    /// The least code of a number that is not zero.
    least: u8,
}

static SIGNED: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(true));
static UNSIGNED: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(false));

impl Codebook {
    /// For first moments: -1 to 1, without -1 itself.
    #[must_use]
    pub fn signed() -> &'static Self {
        &SIGNED
    }

    /// For second moments: 0 to 1. What is above zero does not become zero, whatever the scale: as the square of a moment
    /// that is not zero, nothing but epsilon would be left to divide by.
    #[must_use]
    pub fn unsigned() -> &'static Self {
        &UNSIGNED
    }

    fn new(signed: bool) -> Self {
        let mut values = vec![0.0, 1.0];
        for decade in 0..7 {
            let steps = 1 << if signed { decade } else { decade + 1 };
            for step in 0..steps {
                let within = 0.1 + 0.9 * (f64::from(step) + 0.5) / f64::from(steps);
                let value = within * 10_f64.powi(decade - 6);
                values.push(value);
                if signed {
                    values.push(-value);
                }
            }
        }
        values.sort_by(f64::total_cmp);
        let values: [f32; 256] = std::array::from_fn(|code| values[code] as f32);
        let middle = |code: usize| values.get(code + 1).map_or(f32::INFINITY, |next| (values[code] + next) * 0.5);
        let mut book =
            Self { values, middles: std::array::from_fn(middle), guesses: [vec![], vec![]], least: u8::from(!signed) };
        let low_end =
            |bucket: usize| if bucket == 0 { 0.0 } else { f32::from_bits(SMALLEST + ((bucket as u32) << SHIFT)) };
        let high_end = |bucket: usize| f32::from_bits(SMALLEST + ((bucket as u32 + 1) << SHIFT) - 1);
        book.guesses = [
            (0..BUCKETS).map(|bucket| book.nearest(low_end(bucket))).collect(),
            (0..BUCKETS).map(|bucket| book.nearest(-high_end(bucket))).collect(),
        ];
        book
    }

    /// The values in rising order.
    #[must_use]
    pub fn values(&self) -> &[f32; 256] {
        &self.values
    }

    /// Half-way from each value to the next. A number's code is how many of these are below it.
    #[must_use]
    pub fn middles(&self) -> &[f32] {
        &self.middles[..255]
    }

    /// The least code that a number above zero may get.
    #[must_use]
    pub fn least(&self) -> u8 {
        self.least
    }

    /// Place of the value nearest to `x`, the lower one of two: the definition.
    #[must_use]
    pub fn nearest(&self, x: f32) -> u8 {
        self.middles().iter().filter(|&&middle| x > middle).count() as u8
    }

    /// The same for `x` between -1 and 1, by a look-up and one comparison.
    #[must_use]
    #[inline(always)]
    pub(super) fn code(&self, x: f32) -> u8 {
        let word = x.to_bits();
        let bucket = ((word & 0x7FFF_FFFF).saturating_sub(SMALLEST) >> SHIFT) as usize;
        let guess = self.guesses[(word >> 31) as usize][bucket.min(BUCKETS - 1)];
        guess.wrapping_add(u8::from(x > self.middles[usize::from(guess)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn books() -> [&'static Codebook; 2] {
        [Codebook::signed(), Codebook::unsigned()]
    }

    #[test]
    fn the_maps_hold_256_rising_values_with_zero_and_one() {
        for book in books() {
            assert!(book.values().windows(2).all(|pair| pair[0] < pair[1]));
            assert!(book.values().contains(&0.0) && book.values()[255] == 1.0);
        }
        // By hand: the middle of the only step of the lowest decade, and of the last of the highest.
        assert_eq!(Codebook::signed().values()[128], 0.55e-6);
        assert_eq!(Codebook::signed().values()[0], -(0.1 + 0.9 * 63.5 / 64.0) as f32);
        assert_eq!(Codebook::unsigned().values()[..3], [0.0, 0.325e-6, 0.775e-6]);
    }

    #[test]
    fn the_quick_code_is_the_nearest_value_on_both_sides_of_every_middle_and_bucket() {
        for book in books() {
            let edges = (0..BUCKETS as u32).map(|bucket| f32::from_bits(SMALLEST + (bucket << SHIFT)));
            for x in edges.chain(book.middles().iter().copied()).chain([0.0, 1.0, 1e-30]) {
                let near = [x.to_bits().saturating_sub(1), x.to_bits(), x.to_bits() + 1].map(f32::from_bits);
                for x in near.into_iter().flat_map(|x| [x, -x]).filter(|x| x.abs() <= 1.0) {
                    assert_eq!(book.code(x), book.nearest(x), "{x}");
                }
            }
        }
    }

    #[test]
    fn values_are_their_own_codes_and_errors_are_half_a_step() {
        for book in books() {
            for (code, &value) in book.values().iter().enumerate() {
                assert_eq!(usize::from(book.code(value)), code);
            }
            // In the upper decade steps are 0.9/64 or half of it.
            let worst = (1000..=10_000).map(|n| n as f32 / 10_000.0);
            let worst = worst.map(|x| (book.values()[usize::from(book.code(x))] - x).abs()).fold(0.0, f32::max);
            assert!(worst < 0.45 / 64.0 + 0.45 / 64.0 / 2.0, "{worst}");
        }
    }
}
