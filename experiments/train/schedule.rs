//! Learning rate by step: warm-up, then constant, linear or cosine.

use serde::{Deserialize, Serialize};

/// Shape of the schedule after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Stays at the peak.
    Constant,
    /// Falls on a straight line to the final fraction.
    Linear,
    /// Falls on half a cosine to the final fraction (Loshchilov and Hutter 2017, equation 5).
    Cosine,
}

/// Warm-up from 0 over `warmup` steps, then `decay` until `steps`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Learning rate after warm-up.
    pub peak: f64,
    /// Steps of linear warm-up; the first step has `peak / (warmup + 1)`.
    pub warmup: u64,
    /// Steps in all.
    pub steps: u64,
    /// What happens after warm-up.
    pub decay: Decay,
    /// Learning rate at the end as a fraction of the peak, 0 to 1.
    pub final_fraction: f64,
}

impl Schedule {
    /// Learning rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / (self.warmup + 1) as f64;
        }
        let span = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / span).min(1.0);
        let left = match self.decay {
            Decay::Constant => return self.peak,
            Decay::Linear => 1.0 - done,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        self.peak * (self.final_fraction + (1.0 - self.final_fraction) * left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(decay: Decay) -> Schedule {
        Schedule { peak: 1.0, warmup: 4, steps: 14, decay, final_fraction: 0.1 }
    }

    #[test]
    fn warm_up_is_a_straight_line_that_starts_above_zero() {
        let rates: Vec<f64> = (0..5).map(|step| schedule(Decay::Constant).at(step)).collect();
        assert_eq!(rates, [0.2, 0.4, 0.6, 0.8, 1.0]);
    }

    #[test]
    fn linear_and_cosine_end_at_the_final_fraction() {
        for decay in [Decay::Linear, Decay::Cosine] {
            assert!((schedule(decay).at(14) - 0.1).abs() < 1e-12);
            assert!((schedule(decay).at(4) - 1.0).abs() < 1e-12);
            assert!((schedule(decay).at(9) - 0.55).abs() < 1e-12, "half way is half way down");
        }
    }

    #[test]
    fn nothing_moves_after_the_last_step() {
        assert_eq!(schedule(Decay::Linear).at(14), schedule(Decay::Linear).at(1000));
    }
}
