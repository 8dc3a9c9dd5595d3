//! Numbers to places, and the ticks between.

use super::{Axis, Format, Scale};
use crate::ticks;

impl Axis {
    /// Place of `value` as a share of the axis: 0 at its low end, 1 at its high end. Numbers that a logarithm cannot
    /// take lie far below the low end.
    pub(crate) fn share(&self, value: f64) -> f64 {
        let along = |v: f64| match self.scale {
            Scale::Linear => v,
            Scale::Log2 | Scale::Log10 => v.max(f64::MIN_POSITIVE).log2(),
        };
        let (low, high) = (along(self.low), along(self.high));
        if high > low { (along(value) - low) / (high - low) } else { 0.5 }
    }

    /// Where the ticks stand.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => ticks::linear(self.low, self.high, 7),
            Scale::Log2 => ticks::powers_of_two(self.low, self.high, 12),
            Scale::Log10 => ticks::logarithmic(self.low, self.high, 8),
        }
    }

    /// How a tick reads.
    pub(crate) fn written(&self, tick: f64) -> String {
        match self.format {
            Format::Tokens if tick >= 1.0 => ticks::tokens(tick.round() as usize),
            Format::Tokens | Format::Number => ticks::tick(tick),
            Format::Percent => format!("{} %", ticks::tick((tick * 1e6).round() / 1e4)),
        }
    }

    /// A logarithmic axis of lengths with some room at both ends.
    pub(crate) fn of_lengths(label: &str, lengths: impl Iterator<Item = f64> + Clone) -> Self {
        let low = lengths.clone().filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
        let high = lengths.fold(0.0, f64::max);
        let (low, high) = if low <= high { (low, high) } else { (1.0, 2.0) };
        let octaves = (high / low).log2();
        let room = if octaves < 0.5 { 0.7 } else { 0.04 * octaves + 0.06 };
        Self {
            label: label.to_owned(),
            scale: Scale::Log2,
            format: Format::Tokens,
            low: low * (-room).exp2(),
            high: high * room.exp2(),
        }
    }

    /// Percent from 0 to 100 with room for markers at both ends.
    pub(crate) fn of_shares(label: &str) -> Self {
        Self { label: label.to_owned(), scale: Scale::Linear, format: Format::Percent, low: -0.03, high: 1.03 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_is_a_constant_step_on_a_length_axis() {
        let axis = Axis::of_lengths("n", [256.0, 4096.0].into_iter());
        let step = axis.share(512.0) - axis.share(256.0);
        assert!((axis.share(4096.0) - axis.share(2048.0) - step).abs() < 1e-12 && step > 0.15);
        assert_eq!(axis.ticks(), [256.0, 512.0, 1024.0, 2048.0, 4096.0]);
        assert_eq!(axis.written(4096.0), "4K");
    }

    #[test]
    fn one_length_alone_stands_in_the_middle() {
        let axis = Axis::of_lengths("n", [1024.0].into_iter());
        assert!((axis.share(1024.0) - 0.5).abs() < 1e-12 && axis.ticks() == [1024.0]);
    }

    #[test]
    fn zero_on_a_logarithmic_axis_is_far_below_and_finite() {
        let axis = Axis::of_lengths("n", [1.0, 2.0].into_iter());
        assert!(axis.share(0.0) < -10.0 && axis.share(0.0).is_finite());
    }
}
