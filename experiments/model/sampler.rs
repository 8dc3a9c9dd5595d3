//! Greedy and nucleus sampling from logits.

use crate::data::rng::CounterRng;
use crate::error::Failure;

/// How the next token is chosen.
#[derive(Debug, Clone)]
pub struct Sampler {
    temperature: f64,
    top_p: f64,
    rng: CounterRng,
}

impl Sampler {
    /// `temperature` 0 is greedy; `top_p` (Holtzman et al. 2020, section 3.1) keeps the smallest set of tokens whose
    /// probability reaches it.
    ///
    /// # Errors
    ///
    /// When a value is out of range.
    pub fn new(temperature: f64, top_p: f64, seed: u64) -> Result<Self, Failure> {
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Failure::config(format!("--temperature must be at least 0, is {temperature}")));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(Failure::config(format!("--top-p must be above 0 and at most 1, is {top_p}")));
        }
        Ok(Self { temperature, top_p, rng: CounterRng::new(seed).stream("sampler") })
    }

    /// The token chosen at draw `number`: the same for the same logits, seed and number.
    pub fn pick(&self, logits: &[f32], number: u64) -> u32 {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        if self.temperature == 0.0 {
            return order.first().map_or(0, |&id| id as u32);
        }
        let top = order.first().map_or(0.0, |&id| f64::from(logits[id]));
        let weights: Vec<f64> =
            order.iter().map(|&id| ((f64::from(logits[id]) - top) / self.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut reached = 0.0;
        let kept = weights.iter().take_while(|&&w| {
            let open = reached < self.top_p * total;
            reached += w;
            open
        });
        let nucleus: Vec<f64> = kept.copied().collect();
        let mut left = self.rng.uniform(number) * nucleus.iter().sum::<f64>();
        for (place, weight) in nucleus.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return order[place] as u32;
            }
        }
        order[nucleus.len().saturating_sub(1)] as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_zero_takes_the_largest_and_the_first_of_equals() {
        let sampler = Sampler::new(0.0, 1.0, 1).unwrap();
        assert_eq!(sampler.pick(&[0.0, 3.0, 3.0, 1.0], 0), 1);
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let sampler = Sampler::new(1.0, 1.0, 5).unwrap();
        let logits = [0.75_f32.ln(), 0.25_f32.ln()];
        let ones = (0..4000).filter(|&n| sampler.pick(&logits, n) == 1).count();
        assert!((900..1100).contains(&ones), "{ones} of 4000 where a quarter is expected");
    }

    #[test]
    fn the_nucleus_leaves_the_tail_out() {
        let sampler = Sampler::new(1.0, 0.7, 5).unwrap();
        let logits = [0.6_f32.ln(), 0.3_f32.ln(), 0.1_f32.ln()];
        let picks: Vec<u32> = (0..500).map(|n| sampler.pick(&logits, n)).collect();
        assert!(picks.contains(&1) && !picks.contains(&2));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (temperature, top_p) in [(-1.0, 1.0), (f64::NAN, 1.0), (1.0, 0.0), (1.0, 1.5)] {
            assert!(Sampler::new(temperature, top_p, 1).is_err());
        }
    }
}
