//! Intervals: Wilson's for shares, the percentile bootstrap for everything else.

use ndarray::{Array2, ArrayView1, ArrayView2, Axis};

use crate::rng::SplitMix64;

/// Standard normal quantile of a two-sided 95 % interval.
const Z_95: f64 = 1.959_963_984_540_054;

/// A number and its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Share of successes with its 95 % Wilson score interval (Wilson 1927); nothing is known without trials: 0 in [0, 1].
///
/// ```
/// let ten_of_ten = eval::metrics::wilson(10, 10);
/// assert!((ten_of_ten.low - 0.722).abs() < 5e-4);
/// ```
#[must_use]
pub fn wilson(successes: u64, trials: u64) -> Estimate {
    wilson_of_mean(successes as f64, trials)
}

/// Mean of `trials` scores in `[0, 1]` that add up to `sum`, with Wilson's 95 % interval of a share of the same size.
///
/// For scores that are 0 or 1 this is [`wilson`]. Scores between have less variance than a coin of the same mean
/// (`E[x^2] <= E[x]` on `[0, 1]`), so that the interval errs on the wide side.
#[must_use]
pub fn wilson_of_mean(sum: f64, trials: u64) -> Estimate {
    if trials == 0 {
        return Estimate { value: 0.0, low: 0.0, high: 1.0 };
    }
    let n = trials as f64;
    let share = (sum / n).clamp(0.0, 1.0);
    let z2 = Z_95 * Z_95;
    let centre = share + z2 / (2.0 * n);
    let spread = Z_95 * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z2 / n;
    Estimate {
        value: share,
        low: ((centre - spread) / scale).clamp(0.0, share),
        high: ((centre + spread) / scale).clamp(share, 1.0),
    }
}

/// The `q`-quantile of sorted numbers, linear between neighbours; NaN when there are none.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = q.clamp(0.0, 1.0) * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// How often each unit is drawn in each resample of a bootstrap: `[resamples, units]`, every row sums to `units`.
///
/// One table serves every statistic of the same units, so that their intervals are drawn from the same resamples.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    weights: Array2<f64>,
}

impl Bootstrap {
    /// Draws `resamples` times `units` units with replacement.
    #[must_use]
    pub fn new(units: usize, resamples: usize, seed: u64) -> Self {
        let mut rng = SplitMix64::new(seed);
        let mut weights = Array2::zeros((resamples, units));
        for mut row in weights.rows_mut() {
            (0..units).for_each(|_| row[rng.below(units)] += 1.0);
        }
        Self { weights }
    }

    /// 95 % percentile interval of `transform(sum(numerators) / sum(denominators))`. `[units]` each.
    ///
    /// A resample that happens to hold no unit with a denominator says nothing and is left out.
    pub fn ratio(
        &self,
        numerators: ArrayView1<'_, f64>,
        denominators: ArrayView1<'_, f64>,
        transform: impl Fn(f64) -> f64,
    ) -> Estimate {
        let above = self.weights.dot(&numerators); // [resamples]
        let below = self.weights.dot(&denominators); // [resamples]
        let drawn = above.iter().zip(&below).filter(|&(_, &d)| d > 0.0).map(|(n, d)| transform(n / d));
        interval(transform(numerators.sum() / denominators.sum()), drawn.collect())
    }

    /// Mean over units of every column of `values` (`[units, columns]`), with its 95 % percentile interval.
    #[must_use]
    pub fn means(&self, values: ArrayView2<'_, f64>) -> Vec<Estimate> {
        let units = values.nrows() as f64;
        let drawn = self.weights.dot(&values) / units; // [resamples, columns]
        let means = values.sum_axis(Axis(0)) / units; // [columns]
        drawn.columns().into_iter().zip(&means).map(|(column, &mean)| interval(mean, column.to_vec())).collect()
    }
}

fn interval(value: f64, mut drawn: Vec<f64>) -> Estimate {
    drawn.sort_by(f64::total_cmp);
    Estimate { value, low: quantile(&drawn, 0.025), high: quantile(&drawn, 0.975) }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn assert_close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 5e-4, "{got} is not {expected}");
    }

    #[test]
    fn wilson_gives_the_known_lower_bounds_of_perfect_scores() {
        for (trials, low) in [(10, 0.7225), (20, 0.8389), (50, 0.9287), (500, 0.9924)] {
            let estimate = wilson(trials, trials);
            assert_close(estimate.low, low);
            assert_eq!((estimate.value, estimate.high), (1.0, 1.0));
        }
    }

    #[test]
    fn wilson_of_half_is_symmetric_and_known() {
        let estimate = wilson(5, 10);
        assert_close(estimate.low, 0.2366);
        assert_close(estimate.high, 0.7634);
        let (none, all) = (wilson(0, 7), wilson(7, 7));
        assert!((none.high - (1.0 - all.low)).abs() < 1e-12 && none.low == 0.0);
    }

    #[test]
    fn wilson_without_trials_knows_nothing() {
        assert_eq!(wilson(0, 0), Estimate { value: 0.0, low: 0.0, high: 1.0 });
    }

    #[test]
    fn the_normal_approximation_is_rejected() {
        // It would give a zero-width interval at a perfect score.
        assert!(wilson(10, 10).low < 0.9);
    }

    #[test]
    fn partial_scores_have_the_interval_of_a_coin_with_their_mean() {
        assert_eq!(wilson_of_mean(5.0, 10), wilson(5, 10));
        let partial = wilson_of_mean(7.5, 10);
        assert_eq!(partial.value, 0.75);
        assert!(partial.low > wilson(7, 10).low && partial.high < wilson(8, 10).high);
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), 2.5);
        assert_eq!(quantile(&[1.0, 2.0], 0.025), 1.025);
        assert_eq!(quantile(&[7.0], 0.9), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn every_resample_holds_as_many_units_as_there_are() {
        let bootstrap = Bootstrap::new(7, 50, 1);
        assert!(bootstrap.weights.rows().into_iter().all(|row| row.sum() == 7.0));
    }

    #[test]
    fn bootstrap_of_two_units_is_the_known_mixture() {
        // Of two units 0 and 1 a resample has the mean 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4: the 95 % interval
        // is all of [0, 1], and its mean 1/2.
        let bootstrap = Bootstrap::new(2, 4000, 3);
        let estimate = bootstrap.means(array![[0.0], [1.0]].view())[0];
        assert_eq!(estimate, Estimate { value: 0.5, low: 0.0, high: 1.0 });
        let halves = bootstrap.weights.column(1).iter().filter(|&&w| w == 1.0).count();
        assert!((1_880..2_120).contains(&halves), "{halves}");
    }

    #[test]
    fn bootstrap_of_a_mean_has_the_width_that_theory_gives() {
        // Units 0, 1, .., 99: the standard error of the mean is sqrt((100^2 - 1) / 12 / 100) = 2.8866.
        let values = Array2::from_shape_fn((100, 1), |(i, _)| i as f64);
        let estimate = Bootstrap::new(100, 4000, 5).means(values.view())[0];
        let half = (estimate.high - estimate.low) / 2.0;
        assert!((half / (1.96 * 2.8866) - 1.0).abs() < 0.06, "{half}");
        assert_eq!(estimate.value, 49.5);
    }

    #[test]
    fn ratios_weigh_units_by_their_denominators() {
        let bootstrap = Bootstrap::new(2, 500, 1);
        let estimate = bootstrap.ratio(array![1.0, 9.0].view(), array![1.0, 3.0].view(), |r| r);
        assert_eq!(estimate, Estimate { value: 2.5, low: 1.0, high: 3.0 });
        // The mean of the two ratios would be 2.
    }

    #[test]
    fn the_same_seed_gives_the_same_interval() {
        let values = Array2::from_shape_fn((9, 2), |(i, j)| (i * i + j) as f64);
        let run = |seed| Bootstrap::new(9, 200, seed).means(values.view());
        assert_eq!(run(4), run(4));
        assert_ne!(run(4), run(5));
    }
}
