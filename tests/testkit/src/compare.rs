//! One place where "the same" is defined. NaN is never the same as anything, itself included.

use std::fmt;

/// How far two numbers may be apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Class {
    /// The same bits, but for the sign of zero.
    Exact,
    /// At most this many representable numbers apart, in the type compared.
    Ulps(u64),
    /// `|got - wanted| <= absolute + relative * |wanted|`.
    Close {
        /// Allowed at any size.
        absolute: f64,
        /// Allowed per unit of the wanted value.
        relative: f64,
    },
}

/// f32 or f64, as far as comparing needs.
pub trait Real: Copy {
    /// The same value as f64.
    fn wide(self) -> f64;
    /// Index among the representable numbers, zero at zero; neighbours differ by one.
    fn rank(self) -> i64;
}

impl Real for f64 {
    fn wide(self) -> f64 {
        self
    }
    fn rank(self) -> i64 {
        let magnitude = (self.to_bits() & !(1 << 63)) as i64;
        if self.is_sign_negative() { -magnitude } else { magnitude }
    }
}

impl Real for f32 {
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn rank(self) -> i64 {
        let magnitude = i64::from(self.to_bits() & !(1 << 31));
        if self.is_sign_negative() { -magnitude } else { magnitude }
    }
}

/// Where two arrays differ most beyond what their class allows.
#[derive(Debug, Clone, PartialEq)]
pub enum Mismatch {
    /// Different lengths.
    Length {
        /// Numbers got.
        got: usize,
        /// Numbers wanted.
        wanted: usize,
    },
    /// Different values.
    Value {
        /// The class asked for.
        class: Class,
        /// Index of the worst pair; a NaN is worse than any number.
        index: usize,
        /// Value got there.
        got: f64,
        /// Value wanted there.
        wanted: f64,
        /// Representable numbers between the two.
        ulps: u64,
        /// How many pairs differ too much.
        count: usize,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { got, wanted } => write!(f, "got {got} numbers, wanted {wanted}"),
            Self::Value { class, index, got, wanted, ulps, count } => {
                let apart = (got - wanted).abs();
                write!(f, "{count} outside {class:?}; worst at {index}: got {got:e}, wanted {wanted:e}, ")?;
                write!(f, "{apart:e} or {ulps} ulps apart")
            }
        }
    }
}

/// Compares `got` with `wanted`, pair by pair.
///
/// # Errors
///
/// The worst pair that differs more than `class` allows. NaN and infinity always differ, whatever is wanted.
pub fn same<R: Real>(got: &[R], wanted: &[R], class: Class) -> Result<(), Mismatch> {
    if got.len() != wanted.len() {
        return Err(Mismatch::Length { got: got.len(), wanted: wanted.len() });
    }
    let pairs = got.iter().copied().zip(wanted.iter().copied());
    let failing: Vec<_> = pairs.enumerate().filter(|(_, (got, wanted))| !pair_same(*got, *wanted, class)).collect();
    let badness = |got: R, wanted: R| {
        let apart = (got.wide() - wanted.wide()).abs();
        if apart.is_nan() { f64::INFINITY } else { apart }
    };
    let worst = failing.iter().max_by(|one, other| badness(one.1.0, one.1.1).total_cmp(&badness(other.1.0, other.1.1)));
    match worst {
        None => Ok(()),
        Some(&(index, (got, wanted))) => Err(Mismatch::Value {
            class,
            index,
            got: got.wide(),
            wanted: wanted.wide(),
            ulps: got.rank().abs_diff(wanted.rank()),
            count: failing.len(),
        }),
    }
}

fn pair_same<R: Real>(got: R, wanted: R, class: Class) -> bool {
    if !(got.wide().is_finite() && wanted.wide().is_finite()) {
        return false;
    }
    match class {
        Class::Exact => got.rank() == wanted.rank(),
        Class::Ulps(allowed) => got.rank().abs_diff(wanted.rank()) <= allowed,
        Class::Close { absolute, relative } => {
            (got.wide() - wanted.wide()).abs() <= absolute + relative * wanted.wide().abs()
        }
    }
}

/// [`same`] as an assertion.
///
/// # Panics
///
/// With the mismatch as message.
#[track_caller]
pub fn assert_same<R: Real>(got: &[R], wanted: &[R], class: Class) {
    if let Err(mismatch) = same(got, wanted, class) {
        panic!("{mismatch}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOSE: Class = Class::Close { absolute: 1e9, relative: 1e9 };

    #[test]
    fn nan_and_infinity_fail_in_every_class_even_against_themselves() {
        for class in [Class::Exact, Class::Ulps(u64::MAX), LOOSE] {
            for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                assert!(same(&[bad], &[bad], class).is_err(), "{bad} {class:?}");
                assert!(same(&[bad], &[0.0], class).is_err(), "{bad} {class:?}");
                assert!(same(&[0.0], &[bad], class).is_err(), "{bad} {class:?}");
            }
        }
    }

    #[test]
    fn lengths_must_agree() {
        assert_eq!(same(&[1.0], &[1.0, 2.0], LOOSE), Err(Mismatch::Length { got: 1, wanted: 2 }));
    }

    #[test]
    fn neighbours_are_one_ulp_apart_across_zero_too() {
        assert!(same(&[1.0_f32.next_up()], &[1.0], Class::Ulps(1)).is_ok());
        assert!(same(&[1.0_f32.next_up().next_up()], &[1.0], Class::Ulps(1)).is_err());
        assert!(same(&[f32::from_bits(1)], &[-f32::from_bits(1)], Class::Ulps(2)).is_ok());
        assert!(same(&[0.0_f64], &[-0.0], Class::Exact).is_ok());
    }

    #[test]
    fn the_worst_pair_is_reported_and_nan_is_worst() {
        let wanted = [1.0, 1.0, 1.0, 1.0];
        let class = Class::Close { absolute: 0.1, relative: 0.0 };
        let Err(Mismatch::Value { index, count, .. }) = same(&[1.0, 2.0, 5.0, 1.05], &wanted, class) else {
            panic!("a mismatch")
        };
        assert_eq!((index, count), (2, 2));
        let Err(Mismatch::Value { index, .. }) = same(&[1.0, 2.0, 5.0, f64::NAN], &wanted, class) else {
            panic!("a mismatch")
        };
        assert_eq!(index, 3);
    }
}
