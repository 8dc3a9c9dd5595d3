//! Low-rank adapters (Hu et al. 2022, section 4.1): `x W^T + (alpha / rank) drop(x) A^T B^T`, of which `A` and `B` are trained
//! and `W` is not.
//!
//! `A` starts as PEFT starts it, uniform within `1 / sqrt(in)`, and `B` at zero, so that an adapted model begins as the one
//! it adapts. With `s = alpha / rank`, `u = drop(x) A^T` and the gradient `dy` by the sum, `dB = s dy^T u`, `du = s dy B`,
//! `dA = du^T drop(x)`, and `drop(du A)` comes to `dx`. Beside `x` nothing is kept for that: `u` is narrow, and what was
//! dropped is drawn again, since a draw is a function of (seed, projection, pass).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tch::{Kind, Tensor};
use torch_ext::autograd::{AutogradError, Backward, Recorded, custom};
use torch_ext::fill_bernoulli;

use super::linear::add;
use crate::data::rng::CounterRng;

/// The number of the training pass that dropout draws for, shared by all projections of a model; 0: none is dropped.
#[derive(Debug, Clone, Default)]
pub struct PassNumber(Arc<AtomicU64>);

impl PassNumber {
    /// The pass from here on. It must stand until the pass's gradients are computed.
    pub fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Which of an adapter's inputs are dropped.
#[derive(Debug, Clone)]
struct Dropout {
    /// Share that is dropped.
    share: f64,
    /// Stream of seeds, one for each pass.
    seeds: CounterRng,
    pass: PassNumber,
}

/// What an adapter's size and behaviour follow from.
#[derive(Debug, Clone, Copy)]
pub struct LowRankConfig {
    /// Rank of the update.
    pub rank: usize,
    /// Scale of the update times the rank.
    pub alpha: f64,
    /// Share of the inputs that are dropped in training.
    pub dropout: f64,
    /// Seed of `A` and of what is dropped.
    pub seed: u64,
}

/// The adapter of one projection.
#[derive(Debug)]
pub struct LowRank {
    /// `A`, `[rank, in]`.
    pub down: Tensor,
    /// `B`, `[out, rank]`.
    pub up: Tensor,
    /// `alpha / rank`.
    pub scale: f64,
    dropout: Dropout,
}

impl LowRank {
    /// A new adapter of the projection `name`, whose weight is `shape` (`[out, in]`).
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub fn new(
        name: &str,
        shape: [i64; 2],
        config: LowRankConfig,
        pass: &PassNumber,
        (kind, device): (Kind, tch::Device),
    ) -> Result<Self, tch::TchError> {
        let LowRankConfig { rank, alpha, dropout, seed } = config;
        let [out, into] = shape;
        let stream = CounterRng::new(seed).stream("adapter").stream(name);
        let bound = 1.0 / (into as f64).sqrt();
        let draws = stream.stream("A");
        let values: Vec<f32> =
            (0..rank as u64 * into as u64).map(|n| ((2.0 * draws.uniform(n) - 1.0) * bound) as f32).collect();
        let down = Tensor::f_from_slice(&values)?.f_view([rank as i64, into])?.f_to_device(device)?.f_to_kind(kind)?;
        let up = Tensor::f_zeros([out, rank as i64], (kind, device))?;
        let dropout = Dropout { share: dropout, seeds: stream.stream("dropout"), pass: pass.clone() };
        Ok(Self { down, up, scale: alpha / rank as f64, dropout })
    }

    /// Another handle on the same tensors.
    #[must_use]
    pub fn handle(&self) -> Self {
        let (down, up) = (self.down.shallow_clone(), self.up.shallow_clone());
        Self { down, up, scale: self.scale, dropout: self.dropout.clone() }
    }

    /// `A` and `B` by their names in PEFT.
    pub fn parameters(&self) -> [(&'static str, &Tensor); 2] {
        [("lora_A.weight", &self.down), ("lora_B.weight", &self.up)]
    }

    /// `product + s drop(x) A^T B^T`, written over `product` `[.., out]`, which nothing else may read; `x` `[.., in]`.
    /// Differentiable.
    pub fn added_to(&self, product: &Tensor, x: &Tensor) -> Tensor {
        let forward = || {
            let inner = self.inner(&rows(x));
            // The view is the memory of `product`.
            let _ = rows(product).addmm_(&(inner * self.scale), &self.up.tr());
            Ok::<_, AutogradError>(Recorded { outputs: vec![product.shallow_clone()], saved: vec![x.shallow_clone()] })
        };
        let again = self.handle();
        let backward = move |call: Backward| Ok::<_, AutogradError>(again.gradients(&call));
        custom("adapter", &[product, x, &self.down, &self.up], forward, backward)
            .expect("a sum of floats can be recorded")
            .swap_remove(0)
    }

    /// Gradients by product, x, A and B.
    fn gradients(&self, call: &Backward) -> Vec<Option<Tensor>> {
        let (Some(Some(grad)), Some(x)) = (call.gradients.first(), call.saved.first()) else {
            return vec![None, None, None, None];
        };
        let dy = rows(grad);
        let (mut of_x, mut down, mut up) = (None, None, None);
        if call.wanted.get(1) == Some(&true) {
            of_x = Some(self.drawn().applied(self.of_inner(&dy).mm(&self.down)).view(x.size().as_slice()));
        }
        self.gather(&rows(x), &dy, &mut down, &mut up);
        vec![Some(grad.shallow_clone()), of_x, down, up]
    }

    /// Adds what `x` `[rows, in]` and the gradient `dy` `[rows, out]` say of `A` and `B` to their sums, where these ask for
    /// a gradient.
    pub fn gather(&self, x: &Tensor, dy: &Tensor, down: &mut Option<Tensor>, up: &mut Option<Tensor>) {
        if self.up.requires_grad() {
            add(up, &dy.tr(), &(self.inner(x) * self.scale));
        }
        if self.down.requires_grad() {
            add(down, &self.of_inner(dy).tr(), &self.drawn().applied(x.shallow_clone()));
        }
    }

    /// `dx + drop(s dy B A)`, written over `dx` `[rows, in]`, for `dy` `[rows, out]`.
    pub fn pulled(&self, dy: &Tensor, mut dx: Tensor) -> Tensor {
        let (of_inner, drop) = (self.of_inner(dy), self.drawn());
        match drop.seed {
            None => dx.addmm_(&of_inner, &self.down),
            Some(_) => dx.g_add_(&drop.applied(of_inner.mm(&self.down))),
        }
    }

    /// `s B A`, `[out, in]` in float32: what the adapter adds to the weight.
    pub fn update(&self) -> Tensor {
        let wide = |tensor: &Tensor| tensor.detach().to_kind(Kind::Float);
        wide(&self.up).mm(&wide(&self.down)) * self.scale
    }

    /// `u`, `[rows, rank]`.
    fn inner(&self, x: &Tensor) -> Tensor {
        self.drawn().applied(x.shallow_clone()).mm(&self.down.tr())
    }

    /// `du`, `[rows, rank]`.
    fn of_inner(&self, dy: &Tensor) -> Tensor {
        dy.mm(&self.up) * self.scale
    }

    fn drawn(&self) -> Drop {
        self.dropout.of_this_pass()
    }
}

/// `[tokens, width]` of `[.., width]`.
fn rows(x: &Tensor) -> Tensor {
    let width = x.size().last().copied().unwrap_or(1);
    x.reshape([-1, width])
}

impl Dropout {
    fn of_this_pass(&self) -> Drop {
        let pass = self.pass.get();
        match pass > 0 && self.share > 0.0 {
            true => Drop { kept: 1.0 - self.share, seed: Some(self.seeds.bits(pass)) },
            false => Drop { kept: 1.0, seed: None },
        }
    }
}

/// One draw of what is dropped, made again as often as it is needed.
#[derive(Debug, Clone, Copy)]
struct Drop {
    kept: f64,
    seed: Option<u64>,
}

impl Drop {
    /// `x` `[rows, in]` without what is dropped, and the rest scaled up so that the mean stays (Srivastava et al. 2014,
    /// section 10).
    fn applied(self, x: Tensor) -> Tensor {
        let Some(seed) = self.seed else { return x };
        let mut mask = Tensor::empty(x.size(), (x.kind(), x.device()));
        fill_bernoulli(&mut mask, self.kept, seed).expect("a share from 0 to below 1 is dropped of floats");
        mask.g_mul_scalar_(1.0 / self.kept).g_mul_(&x)
    }
}

#[cfg(test)]
#[path = "lora_tests.rs"]
mod tests;
