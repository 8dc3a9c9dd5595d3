//! How loss falls with context: a power law with an offset, and whether the data carry one.
//!
//! Xiong et al. 2023 (section 4.3) describe the loss at context `c` as `(alpha / c)^beta + gamma`. For a given `beta` the
//! rest is a straight line in `c^-beta`, so the fit is least squares in two numbers inside a search over one (variable
//! projection, Golub and Pereyra 1973), which has no starting point to get wrong.

use crate::metrics::{Estimate, quantile};
use crate::rng::SplitMix64;

/// Exponents that are searched.
const BETA: (f64, f64) = (0.02, 4.0);
/// Points of the first, even search over exponents, on a logarithmic scale.
const GRID: usize = 160;
/// Resamplings of the residuals for intervals.
const RESAMPLES: usize = 400;
/// How often a curve that follows the law may be said to have another shape (Durbin and Watson's test, one-sided).
const SHAPE_LEVEL: f64 = 0.05;

/// Loss at one context.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Context in tokens.
    pub context: f64,
    /// Mean loss in nats per token.
    pub loss: f64,
}

/// The fitted law `(alpha / c)^beta + gamma`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Law {
    /// Context scale in tokens.
    pub alpha: f64,
    /// Exponent.
    pub beta: f64,
    /// Loss that no context removes, in nats.
    pub gamma: f64,
}

impl Law {
    /// Loss at a context.
    #[must_use]
    pub fn loss(&self, context: f64) -> f64 {
        (self.alpha / context).powf(self.beta) + self.gamma
    }
}

/// A fit and what it is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalingFit {
    /// The law.
    pub law: Law,
    /// 95 % interval of alpha over resampled residuals.
    pub alpha: Estimate,
    /// 95 % interval of beta.
    pub beta: Estimate,
    /// 95 % interval of gamma.
    pub gamma: Estimate,
    /// Measured less fitted, in the order of the points.
    pub residuals: Vec<f64>,
    /// Root mean square of the residuals, with the fit's three numbers taken off the count.
    pub deviation: f64,
    /// Why the fit should not be leant on; empty when it may be.
    pub doubts: Vec<String>,
}

/// Why there is no fit at all.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScalingError {
    /// Three numbers and a residual need five points.
    #[error("a power law with an offset has three numbers: at least 5 contexts are needed, got {0}")]
    TooFew(usize),
    /// A point cannot be taken.
    #[error("context {context} with loss {loss}: both must be finite, and the context above 0")]
    BadPoint {
        /// Its context.
        context: f64,
        /// Its loss.
        loss: f64,
    },
    /// All at one context.
    #[error("all points stand at the context {0}")]
    OneContext(f64),
    /// The loss does not fall.
    #[error("the loss does not fall with context (it goes from {first:.4} to {last:.4}), so there is no law to fit")]
    NotFalling {
        /// Loss at the shortest context.
        first: f64,
        /// Loss at the longest.
        last: f64,
    },
}

/// Fits the law to points in any order.
///
/// # Errors
///
/// [`ScalingError`].
pub fn fit(points: &[Measured], seed: u64) -> Result<ScalingFit, ScalingError> {
    if points.len() < 5 {
        return Err(ScalingError::TooFew(points.len()));
    }
    let bad = points.iter().find(|p| !(p.context.is_finite() && p.context > 0.0 && p.loss.is_finite()));
    if let Some(&Measured { context, loss }) = bad {
        return Err(ScalingError::BadPoint { context, loss });
    }
    let mut points = points.to_vec();
    points.sort_by(|a, b| a.context.total_cmp(&b.context));
    let (first, last) = (points[0], points[points.len() - 1]);
    if first.context == last.context {
        return Err(ScalingError::OneContext(first.context));
    }
    let falls = ScalingError::NotFalling { first: first.loss, last: last.loss };
    let law = least_squares(&points).ok_or(falls)?;
    let residuals: Vec<f64> = points.iter().map(|p| p.loss - law.loss(p.context)).collect();
    let squares: f64 = residuals.iter().map(|r| r * r).sum();
    let deviation = (squares / (points.len() - 3) as f64).sqrt();
    let redrawn = redrawn(&points, law, &residuals, seed);
    let interval = |value: f64, number: fn(&Law) -> f64| {
        let mut numbers: Vec<f64> = redrawn.iter().map(|(law, _)| number(law)).collect();
        numbers.sort_by(f64::total_cmp);
        Estimate { value, low: quantile(&numbers, 0.025).min(value), high: quantile(&numbers, 0.975).max(value) }
    };
    let (alpha, beta, gamma) =
        (interval(law.alpha, |l| l.alpha), interval(law.beta, |l| l.beta), interval(law.gamma, |l| l.gamma));
    let mut doubts = doubts(&points, law, deviation, beta);
    let fall = law.loss(first.context) - law.loss(last.context);
    // Below this the residuals are those of the arithmetic.
    if deviation > 1e-6 * fall {
        doubts.extend(other_shape(&residuals, &redrawn));
    }
    Ok(ScalingFit { law, alpha, beta, gamma, residuals, deviation, doubts })
}

/// The best law over all exponents; none when the loss grows with context under every one.
fn least_squares(points: &[Measured]) -> Option<Law> {
    let squares = |beta: f64| line(points, beta).map_or(f64::INFINITY, |(_, _, squares)| squares);
    let (low, high) = (BETA.0.ln(), BETA.1.ln());
    let at = |index: usize| low + (high - low) * index as f64 / (GRID - 1) as f64;
    let best = (0..GRID).min_by(|a, b| squares(at(*a).exp()).total_cmp(&squares(at(*b).exp())))?;
    let (mut left, mut right) = (at(best.saturating_sub(1)), at((best + 1).min(GRID - 1)));
    // Golden section (Kiefer 1953) between the grid's neighbours.
    let golden = (5_f64.sqrt() - 1.0) / 2.0;
    for _ in 0..80 {
        let (a, b) = (right - golden * (right - left), left + golden * (right - left));
        if squares(a.exp()) <= squares(b.exp()) { right = b } else { left = a }
    }
    let beta = f64::midpoint(left, right).exp();
    let (slope, gamma, _) = line(points, beta)?;
    Some(Law { alpha: slope.powf(beta.recip()), beta, gamma })
}

/// Slope, offset and sum of squares of loss over `context^-beta`; none when the slope is not above 0.
fn line(points: &[Measured], beta: f64) -> Option<(f64, f64, f64)> {
    // Relative to the shortest context, so that powers stay near 1.
    let unit = points[0].context;
    let count = points.len() as f64;
    let x: Vec<f64> = points.iter().map(|p| (p.context / unit).powf(-beta)).collect();
    let (mean_x, mean_y) = (x.iter().sum::<f64>() / count, points.iter().map(|p| p.loss).sum::<f64>() / count);
    let (mut xx, mut xy) = (0.0, 0.0);
    for (x, p) in x.iter().zip(points) {
        xx += (x - mean_x).powi(2);
        xy += (x - mean_x) * (p.loss - mean_y);
    }
    let slope = xy / xx;
    let usable = slope.is_finite() && slope > 0.0;
    let offset = mean_y - slope * mean_x;
    let squares = x.iter().zip(points).map(|(x, p)| (p.loss - offset - slope * x).powi(2)).sum();
    usable.then_some((slope * unit.powf(beta), offset, squares))
}

/// Laws of the fitted curve with its residuals drawn anew, each with the [`durbin_watson`] of what is then left over.
fn redrawn(points: &[Measured], law: Law, residuals: &[f64], seed: u64) -> Vec<(Law, f64)> {
    let mut random = SplitMix64::new(seed);
    // Residuals of a fit of three numbers are smaller than the noise by this factor.
    let widened = (points.len() as f64 / (points.len() - 3) as f64).sqrt();
    let draw = |_: usize| {
        let again: Vec<Measured> = points
            .iter()
            .map(|p| Measured {
                context: p.context,
                loss: law.loss(p.context) + widened * residuals[random.below(residuals.len())],
            })
            .collect();
        let law = least_squares(&again)?;
        let left: Vec<f64> = again.iter().map(|p| p.loss - law.loss(p.context)).collect();
        Some((law, durbin_watson(&left)))
    };
    (0..RESAMPLES).filter_map(draw).collect()
}

/// What speaks against leaning on the fit, in plain words.
fn doubts(points: &[Measured], law: Law, deviation: f64, beta: Estimate) -> Vec<String> {
    let mut doubts = Vec::new();
    let (first, last) = (points[0], points[points.len() - 1]);
    let fall = law.loss(first.context) - law.loss(last.context);
    if deviation > 0.25 * fall {
        doubts.push(format!("the points scatter by {deviation:.4} nats, the law falls by only {fall:.4}"));
    }
    if last.context / first.context < 8.0 {
        let span = last.context / first.context;
        doubts.push(format!("the contexts span a factor of {span:.1}; below 8 an exponent is a guess"));
    }
    if law.beta < BETA.0 * 1.05 || law.beta > BETA.1 * 0.95 {
        doubts.push(format!("the exponent {:.3} stands at the end of what was searched", law.beta));
    }
    if beta.low <= 0.0 || beta.high / beta.low.max(f64::MIN_POSITIVE) > 4.0 {
        doubts.push(format!("the exponent may be anything from {:.3} to {:.3}", beta.low, beta.high));
    }
    if law.gamma < 0.0 {
        doubts.push(format!("the offset {:.3} is below 0, which no loss can reach", law.gamma));
    }
    doubts
}

/// The statistic of Durbin and Watson (1950): near 2 for residuals that know nothing of their neighbours, towards 0 where
/// neighbours go together.
fn durbin_watson(residuals: &[f64]) -> f64 {
    let steps: f64 = residuals.windows(2).map(|pair| (pair[1] - pair[0]).powi(2)).sum();
    steps / residuals.iter().map(|r| r * r).sum::<f64>()
}

/// Whether neighbouring residuals go together more than they do in all but [`SHAPE_LEVEL`] of the curves whose residuals
/// were drawn anew. The tables of the statistic know only fits that are linear in their numbers; this one is not.
fn other_shape(residuals: &[f64], redrawn: &[(Law, f64)]) -> Option<String> {
    let found = durbin_watson(residuals);
    let as_low = redrawn.iter().filter(|(_, statistic)| *statistic <= found).count();
    let share = as_low as f64 / redrawn.len().max(1) as f64;
    (share < SHAPE_LEVEL && !redrawn.is_empty()).then(|| {
        format!(
            "neighbouring residuals go together (Durbin-Watson {found:.2}; of curves that follow the law {:.1} % go so low): \
             the curve has another shape",
            100.0 * share
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Llama 2 Long 7B as published (Xiong et al. 2023, figure 4).
    const PUBLISHED: Law = Law { alpha: 25.4, beta: 0.45, gamma: 1.56 };

    fn curve(law: Law, noise: f64) -> Vec<Measured> {
        let mut random = SplitMix64::new(9);
        (0..12)
            .map(|i| {
                let context = 256.0 * 2_f64.powf(f64::from(i) * 0.6);
                Measured { context, loss: law.loss(context) + noise * (random.unit() - 0.5) }
            })
            .collect()
    }

    #[test]
    fn a_curve_that_follows_the_law_gives_its_numbers_back() {
        let found = fit(&curve(PUBLISHED, 0.0), 1).unwrap();
        assert!((found.law.beta - 0.45).abs() < 1e-4, "{found:?}");
        assert!((found.law.alpha - 25.4).abs() < 0.05 && (found.law.gamma - 1.56).abs() < 1e-4, "{found:?}");
        assert!(found.deviation < 1e-6 && found.doubts.is_empty(), "{found:?}");
    }

    #[test]
    fn intervals_hold_the_truth_under_noise_and_grow_with_it() {
        let (little, much) = (fit(&curve(PUBLISHED, 0.002), 1).unwrap(), fit(&curve(PUBLISHED, 0.02), 1).unwrap());
        for found in [&little, &much] {
            assert!(found.beta.low <= 0.45 && 0.45 <= found.beta.high, "{found:?}");
            assert!(found.gamma.low <= 1.56 && 1.56 <= found.gamma.high, "{found:?}");
        }
        assert!(much.beta.high - much.beta.low > 2.0 * (little.beta.high - little.beta.low));
    }

    #[test]
    fn what_the_data_cannot_carry_is_said() {
        let flat: Vec<Measured> = curve(Law { alpha: 1e-9, ..PUBLISHED }, 0.02);
        if let Ok(found) = fit(&flat, 1) {
            assert!(found.doubts.iter().any(|doubt| doubt.contains("scatter")), "{found:?}");
        }
        let rising: Vec<Measured> =
            (0..8).map(|i| Measured { context: 256.0 * f64::from(1 << i), loss: 3.0 + 0.1 * f64::from(i) }).collect();
        assert!(matches!(fit(&rising, 1), Err(ScalingError::NotFalling { .. })));
        let narrow: Vec<Measured> = curve(PUBLISHED, 0.0).into_iter().take(5).collect();
        assert!(fit(&narrow, 1).unwrap().doubts.iter().any(|doubt| doubt.contains("span a factor")));
        assert_eq!(fit(&narrow[..4], 1), Err(ScalingError::TooFew(4)));
        let nan = [Measured { context: 1.0, loss: f64::NAN }; 5];
        assert!(matches!(fit(&nan, 1), Err(ScalingError::BadPoint { .. })));
        assert_eq!(fit(&[Measured { context: 2.0, loss: 1.0 }; 5], 1), Err(ScalingError::OneContext(2.0)));
    }

    fn has_another_shape(found: &ScalingFit) -> bool {
        found.doubts.iter().any(|doubt| doubt.contains("another shape"))
    }

    #[test]
    fn a_gentle_bend_is_told_from_noise_at_the_stated_level() {
        let noisy = |bend: f64, seed: u64| {
            let mut random = SplitMix64::new(seed);
            let points: Vec<Measured> = curve(PUBLISHED, 0.0)
                .into_iter()
                .map(|p| {
                    let x = (p.context / 256.0).log2() / 6.6;
                    Measured { loss: p.loss + bend * (9.4 * x).sin() + 0.01 * (random.unit() - 0.5), ..p }
                })
                .collect();
            has_another_shape(&fit(&points, 1).unwrap())
        };
        // Straight curves are doubted about one time in twenty; a wave as high as the noise is wide nearly always.
        assert!((0..8).filter(|seed| noisy(0.0, *seed)).count() <= 2);
        assert!((0..3).filter(|seed| noisy(0.01, *seed)).count() >= 2);
    }

    #[test]
    fn another_shape_is_doubted() {
        // Falls, then rises beyond a trained context.
        let bent: Vec<Measured> = curve(PUBLISHED, 0.0)
            .into_iter()
            .map(|p| Measured {
                loss: p.loss + if p.context > 4000.0 { 0.05 * (p.context / 4000.0).ln() } else { 0.0 },
                ..p
            })
            .collect();
        assert!(has_another_shape(&fit(&bent, 1).unwrap()));
    }
}
