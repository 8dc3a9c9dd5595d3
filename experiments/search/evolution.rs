//! Algorithm 1: generations of individuals, the best of which become parents.

use std::collections::HashMap;

use eval::{SplitMix64, mixed_seed};
use serde::{Deserialize, Serialize};

use super::individual::{Individual, Space};
use crate::error::Failure;

/// Draws after which a child that is known already is taken all the same.
const TRIES: usize = 20;

/// Sizes of a search; the paper's for contexts up to 256K tokens by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Individuals of the first generation (P).
    pub population: usize,
    /// Mutations of a later generation (N1).
    pub mutations: usize,
    /// Crossovers of a later generation (N2).
    pub crossovers: usize,
    /// The best individuals so far, which become parents (k).
    pub parents: usize,
    /// Generations after the first (T).
    pub iterations: usize,
    /// Seed of all draws.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { population: 64, mutations: 16, crossovers: 16, parents: 32, iterations: 40, seed: 1 }
    }
}

impl Settings {
    /// Individuals of all generations.
    pub fn individuals(&self) -> usize {
        self.population + self.iterations * (self.mutations + self.crossovers)
    }
}

/// Where in the search an individual stands, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Generation, 0 first.
    pub iteration: usize,
    /// Place in its generation.
    pub index: usize,
    /// `pi`, `ntk`, `yarn`, `mutation` or `crossover`.
    pub origin: String,
}

/// An individual with its loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The individual.
    pub individual: Individual,
    /// Its loss in nats per token.
    pub loss: f64,
    /// Where it was first met.
    pub place: Place,
}

/// A search under way.
#[derive(Debug)]
pub struct Evolution<'a> {
    settings: Settings,
    space: &'a Space,
    /// The best so far, best first; of equals the one that was met first.
    best: Vec<Found>,
    losses: HashMap<Vec<u64>, f64>,
}

impl<'a> Evolution<'a> {
    /// A search that has seen nothing.
    ///
    /// # Errors
    ///
    /// When a size is too small.
    pub fn new(settings: Settings, space: &'a Space) -> Result<Self, Failure> {
        let least = [("population", settings.population, 3), ("parents", settings.parents, 1)];
        for (name, value, least) in least {
            if value < least {
                return Err(Failure::config(format!("--{name} {value}: at least {least} are needed")));
            }
        }
        if settings.mutations + settings.crossovers == 0 && settings.iterations > 0 {
            return Err(Failure::config("--mutations and --crossovers are both 0: later generations would be empty"));
        }
        Ok(Self { settings, space, best: Vec::new(), losses: HashMap::new() })
    }

    /// Runs all generations from the `known` individuals on; `measure` gives the loss of an individual that is new. Returns
    /// the best individual.
    ///
    /// # Errors
    ///
    /// Those of `measure`.
    pub fn run(
        mut self,
        known: &[(&'static str, Individual)],
        measure: &mut dyn FnMut(&Place, &Individual) -> Result<f64, Failure>,
    ) -> Result<Found, Failure> {
        for index in 0..self.settings.population {
            let (origin, individual) = match known.get(index) {
                Some((name, individual)) => (*name, individual.clone()),
                None => {
                    let parent = &known[index % known.len()].1;
                    ("mutation", self.fresh(0, index, |space, random| space.mutated(parent, random)))
                }
            };
            self.meet(place(0, index, origin), individual, measure)?;
        }
        for iteration in 1..=self.settings.iterations {
            // The parents of a generation are the best of those before it.
            let parents: Vec<Individual> = self.best.iter().map(|found| found.individual.clone()).collect();
            for index in 0..self.settings.mutations + self.settings.crossovers {
                let crossed = index >= self.settings.mutations && parents.len() > 1;
                let child = self.fresh(iteration, index, |space, random| match crossed {
                    true => {
                        let one = random.below(parents.len());
                        let other = (one + 1 + random.below(parents.len() - 1)) % parents.len();
                        space.crossed(&parents[one], &parents[other], random)
                    }
                    false => space.mutated(&parents[random.below(parents.len())], random),
                });
                let origin = if crossed { "crossover" } else { "mutation" };
                self.meet(place(iteration, index, origin), child, measure)?;
            }
        }
        self.best.into_iter().next().ok_or_else(|| Failure::config("the search has no individuals"))
    }

    /// A child that was not met before, if one is drawn soon enough.
    fn fresh(
        &self,
        iteration: usize,
        index: usize,
        draw: impl Fn(&Space, &mut SplitMix64) -> Individual,
    ) -> Individual {
        let seed = mixed_seed(&[self.settings.seed, iteration as u64, index as u64]);
        let mut random = SplitMix64::new(seed);
        let mut child = draw(self.space, &mut random);
        for _ in 1..TRIES {
            if !self.losses.contains_key(&child.key()) {
                break;
            }
            child = draw(self.space, &mut random);
        }
        child
    }

    fn meet(
        &mut self,
        place: Place,
        individual: Individual,
        measure: &mut dyn FnMut(&Place, &Individual) -> Result<f64, Failure>,
    ) -> Result<(), Failure> {
        let key = individual.key();
        if self.losses.contains_key(&key) {
            return Ok(());
        }
        let loss = measure(&place, &individual)?;
        self.losses.insert(key, loss);
        let rank = self.best.partition_point(|found| found.loss <= loss);
        self.best.insert(rank, Found { individual, loss, place });
        self.best.truncate(self.settings.parents);
        Ok(())
    }
}

fn place(iteration: usize, index: usize, origin: &str) -> Place {
    Place { iteration, index, origin: origin.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: [f64; 6] = [1.0, 1.1, 1.6, 2.4, 3.3, 4.1];

    fn known() -> Vec<(&'static str, Individual)> {
        let of = |divisors: [f64; 6]| Individual { divisors: divisors.to_vec(), start_tokens: 0 };
        vec![
            ("pi", of([4.0; 6])),
            ("ntk", of([1.0, 1.3, 1.7, 2.3, 3.0, 4.0])),
            ("yarn", of([1.0, 1.0, 1.0, 4.0, 4.0, 4.0])),
        ]
    }

    /// Distance to the wanted divisors, and to 8 start tokens.
    fn distance(individual: &Individual) -> f64 {
        let divisors: f64 = individual.divisors.iter().zip(WANTED).map(|(a, b)| (a - b).powi(2)).sum();
        divisors + (individual.start_tokens as f64 - 8.0).abs() / 100.0
    }

    fn settings() -> Settings {
        Settings { population: 12, mutations: 8, crossovers: 8, parents: 8, iterations: 30, seed: 5 }
    }

    fn space() -> Space {
        Space::new(4.0, 0.3, vec![0, 4, 8, 16])
    }

    #[test]
    fn a_search_gets_nearer_than_what_it_starts_from() {
        let (space, mut met) = (space(), Vec::new());
        let best = Evolution::new(settings(), &space)
            .unwrap()
            .run(&known(), &mut |place, individual| {
                assert!(individual.is_monotone());
                met.push((place.clone(), individual.clone()));
                Ok(distance(individual))
            })
            .unwrap();
        let start = known().iter().map(|(_, one)| distance(one)).fold(f64::INFINITY, f64::min);
        assert!(best.loss < 0.05 && best.loss < 0.3 * start, "{best:?} from {start}");
        assert_eq!(best.individual.start_tokens, 8);
        // Parents that have come together leave few crossovers that are new.
        assert!(met.len() <= settings().individuals() && met.len() > 300, "{}", met.len());
        let least = met.iter().map(|(_, one)| distance(one)).fold(f64::INFINITY, f64::min);
        assert_eq!(best.loss, least, "the best that was met is what is found");
        let mut keys: Vec<_> = met.iter().map(|(_, one)| one.key()).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), met.len(), "nothing is measured twice");
    }

    #[test]
    fn the_same_seed_meets_the_same_individuals_and_fewer_generations_are_the_first_ones() {
        let trace = |settings: Settings| {
            let (space, mut met) = (space(), Vec::new());
            let mut measure = |place: &Place, individual: &Individual| {
                met.push((place.clone(), individual.key()));
                Ok(distance(individual))
            };
            Evolution::new(settings, &space).unwrap().run(&known(), &mut measure).unwrap();
            met
        };
        let whole = trace(settings());
        assert_eq!(trace(settings()), whole);
        let part = trace(Settings { iterations: 7, ..settings() });
        assert_eq!(part, whole[..part.len()]);
        assert_ne!(trace(Settings { seed: 6, ..settings() }), whole);
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let space = space();
        for wrong in [
            Settings { population: 2, ..settings() },
            Settings { parents: 0, ..settings() },
            Settings { mutations: 0, crossovers: 0, ..settings() },
        ] {
            assert_eq!(Evolution::new(wrong, &space).unwrap_err().exit_code(), 2);
        }
    }
}
