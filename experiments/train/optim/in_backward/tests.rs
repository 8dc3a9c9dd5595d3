//! A small chain of layers whose weights bear the names of a model's.

use tch::{Device, Kind, Tensor};
use torch_ext::autograd::{AutogradError, checkpoint};

use super::*;
use crate::config::{Gradients, Memory, OptimizerState};
use crate::train::{AdamConfig, Decayed, Keeping, Shard};

const CONFIG: AdamConfig =
    AdamConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decayed: Decayed::Matrices };
const RATE: f64 = 0.01;
const WIDTH: i64 = 24;

/// An embedding that is the head as well, two layers, and a final scale.
struct Chain {
    embedding: Tensor,
    layers: [[Tensor; 2]; 2],
    norm: Tensor,
}

fn weight(shape: &[i64], salt: i64, kind: Kind) -> Tensor {
    let count: i64 = shape.iter().product();
    let numbers = (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.731 + salt as f64 * 1.7).sin() * 0.3;
    numbers.view(shape).to_kind(kind).set_requires_grad(true)
}

impl Chain {
    fn new(kind: Kind) -> Self {
        let layer = |salt| [weight(&[WIDTH, WIDTH], salt, kind), weight(&[WIDTH, WIDTH], salt + 1, kind)];
        let (embedding, norm) = (weight(&[40, WIDTH], 0, kind), weight(&[WIDTH], 9, kind));
        Self { embedding, layers: [layer(1), layer(3)], norm }
    }

    fn parameters(&self) -> Vec<(String, &Tensor)> {
        let mut all = vec![("model.embed_tokens.weight".to_owned(), &self.embedding)];
        for (number, layer) in self.layers.iter().enumerate() {
            all.push((format!("model.layers.{number}.up.weight"), &layer[0]));
            all.push((format!("model.layers.{number}.down.weight"), &layer[1]));
        }
        all.push(("model.norm.weight".to_owned(), &self.norm));
        all
    }

    fn optimizer(&self, policy: OptimizerState, gradients: Gradients) -> AdamW {
        let memory = Memory { optimizer: policy, gradients, ..Memory::default() };
        AdamW::keeping(CONFIG, Keeping { memory, seed: 3, shard: Shard::WHOLE }, self.parameters()).unwrap()
    }

    /// A loss over the tokens of a step, times `scale`. With `pieces`, each layer's second half is computed again in the
    /// backward pass piece by piece, so that the gradient of its weight is added to twice.
    fn loss(&self, step: i64, scale: f64, pieces: bool) -> Tensor {
        let tokens = (Tensor::arange(10, (Kind::Int64, Device::Cpu)) * 7 + step * 3).remainder(40);
        let mut x = self.embedding.index_select(0, &tokens);
        for [up, down] in &self.layers {
            let inner = x.matmul(up).tanh();
            let mixed = if pieces {
                let half = |from| {
                    let down = down.shallow_clone();
                    let work = move |x: &[Tensor]| Ok::<_, AutogradError>(vec![x[0].matmul(&down)]);
                    checkpoint(&[&inner.narrow(0, from, 5)], work).unwrap().remove(0)
                };
                Tensor::cat(&[half(0), half(5)], 0)
            } else {
                inner.matmul(down)
            };
            // Not in place: the graph holds x.
            x = x.g_add(&mixed);
        }
        let logits = (x * &self.norm).matmul(&self.embedding.tr()).to_kind(Kind::Float);
        logits.cross_entropy_for_logits(&tokens.roll([1], [0])) * scale
    }

    fn bits(&self) -> Vec<f64> {
        let flat = |t: &Tensor| Vec::<f64>::try_from(t.detach().to_kind(Kind::Double).view(-1)).unwrap();
        self.parameters().iter().flat_map(|(_, tensor)| flat(tensor)).collect()
    }
}

/// Weights and norms after five steps on kept gradients, each scaled by `factor` of all norms before and its own.
fn by_kept(kind: Kind, policy: OptimizerState, pieces: bool, factor: impl Fn(&[f64]) -> f64) -> (Vec<f64>, Vec<f64>) {
    let chain = Chain::new(kind);
    let mut optimizer = chain.optimizer(policy, Gradients::Kept);
    let mut norms = Vec::new();
    for step in 0..5 {
        chain.loss(step, 1.0, pieces).backward();
        norms.push(optimizer.gradient_norm().unwrap());
        optimizer.step(RATE, factor(&norms)).unwrap();
    }
    (chain.bits(), norms)
}

/// The same with gradients used in the backward pass.
fn in_backward(kind: Kind, policy: OptimizerState, pieces: bool, clip: Option<f64>) -> (Vec<f64>, Vec<f64>) {
    let chain = Chain::new(kind);
    let mut optimizer = chain.optimizer(policy, Gradients::InBackward);
    let step = |step| {
        let norm = optimizer.step_in_backward(&chain.loss(step, 1.0, pieces), RATE, clip).unwrap();
        assert!(chain.parameters().iter().all(|(_, parameter)| !parameter.grad().defined()));
        norm
    };
    let norms = (0..5).map(step).collect();
    assert_eq!(optimizer.steps(), 5);
    (chain.bits(), norms)
}

#[test]
fn without_clipping_the_bits_are_those_of_kept_gradients() {
    for pieces in [false, true] {
        for kind in [Kind::Float, Kind::BFloat16] {
            for policy in [OptimizerState::Mixed, OptimizerState::Bfloat16, OptimizerState::Int8] {
                let (kept, norms) = by_kept(kind, policy, pieces, |_| 1.0);
                let (found, found_norms) = in_backward(kind, policy, pieces, None);
                assert!(kept == found, "{kind:?} {policy:?} {pieces}");
                let off = norms.iter().zip(&found_norms).map(|(a, b)| (a / b - 1.0).abs()).fold(0.0, f64::max);
                assert!(off < 1e-12, "{norms:?} {found_norms:?}");
            }
        }
    }
}

/// The rule of clipping, and ways to get it wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Right,
    /// By what has arrived alone.
    WithoutTheStepBefore,
    /// By the step before alone.
    WithoutWhatArrived,
    /// By the exact norm, which is known at the end only.
    ByTheWhole,
}

/// Weights after five steps on kept gradients that were scaled part by part.
fn by_rule(rule: Rule, limit: f64) -> Vec<f64> {
    let chain = Chain::new(Kind::Float);
    let mut optimizer = chain.optimizer(OptimizerState::Mixed, Gradients::Kept);
    let mut before = 0.0_f64;
    for step in 0..5 {
        chain.loss(step, 1.0, false).backward();
        let gradients: Vec<Tensor> = chain.parameters().iter().map(|(_, parameter)| parameter.grad()).collect();
        let square = |place: usize| gradients[place].square().sum(Kind::Double).double_value(&[]);
        let whole = (0..gradients.len()).map(square).sum::<f64>().sqrt();
        let mut arrived = 0.0;
        // The norm, the upper layer, the lower one, the embedding.
        for part in [&[5][..], &[3, 4], &[1, 2], &[0]] {
            arrived += part.iter().map(|&place| square(place)).sum::<f64>();
            let norm = match rule {
                Rule::Right => before.max(arrived.sqrt()),
                Rule::WithoutTheStepBefore => arrived.sqrt(),
                Rule::WithoutWhatArrived => before,
                Rule::ByTheWhole => whole,
            };
            let factor = clip_factor(norm, Some(limit));
            part.iter().for_each(|&place| drop(gradients[place].shallow_clone().g_mul_scalar_(factor)));
        }
        before = whole;
        optimizer.step(RATE, 1.0).unwrap();
    }
    chain.bits()
}

#[test]
fn a_gradient_is_clipped_by_the_norm_of_the_step_before_and_a_rising_one_where_it_shows() {
    let policy = OptimizerState::Mixed;
    let (_, norms) = by_kept(Kind::Float, policy, false, |_| 1.0);
    let limit = norms.iter().fold(f64::INFINITY, |least, &norm| least.min(norm)) * 0.5;
    let (clipped, _) = in_backward(Kind::Float, policy, false, Some(limit));
    let off = |rule| {
        let expected = by_rule(rule, limit);
        clipped.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    assert!(off(Rule::Right) < 1e-3 * RATE, "{}", off(Rule::Right));
    for wrong in [Rule::WithoutTheStepBefore, Rule::WithoutWhatArrived, Rule::ByTheWhole] {
        assert!(off(wrong) > 1e-2 * RATE, "{wrong:?}: {}", off(wrong));
    }
    // A spike of a thousand times: moments are no larger than the limit lets them be.
    let chain = Chain::new(Kind::Float);
    let mut optimizer = chain.optimizer(policy, Gradients::InBackward);
    optimizer.step_in_backward(&chain.loss(0, 1.0, false), RATE, Some(1.0)).unwrap();
    let before = optimizer.norm_before().unwrap();
    optimizer.step_in_backward(&chain.loss(1, 1e3, false), RATE, Some(1.0)).unwrap();
    assert!(optimizer.norm_before().unwrap() > 100.0 * before, "the next step knows of it");
    let largest = optimizer
        .state()
        .filter(|(name, _)| name.starts_with("mean."))
        .map(|(_, mean)| mean.abs().max().double_value(&[]));
    assert!(largest.fold(0.0, f64::max) <= 0.2);
}

#[test]
fn a_gradient_that_is_not_finite_moves_nothing_from_where_it_shows() {
    for policy in [OptimizerState::Mixed, OptimizerState::Int8] {
        let chain = Chain::new(Kind::Float);
        let mut optimizer = chain.optimizer(policy, Gradients::InBackward);
        let before: Vec<Tensor> = chain.parameters().iter().map(|(_, p)| p.detach().copy()).collect();
        // Finite forward, not finite backward, between the layers: the root of zero.
        let x = chain.embedding.index_select(0, &Tensor::from_slice(&[1_i64, 2]));
        let below = x.matmul(&chain.layers[0][0]).matmul(&chain.layers[0][1]);
        let broken = (&below - below.detach()).pow_tensor_scalar(2).sum(Kind::Float).sqrt();
        let above = (below.detach() + broken).matmul(&chain.layers[1][0]).matmul(&chain.layers[1][1]);
        let loss = (above * &chain.norm).matmul(&chain.embedding.tr()).sum(Kind::Float);
        assert!(loss.double_value(&[]).is_finite());
        let norm = optimizer.step_in_backward(&loss, RATE, Some(1.0)).unwrap();
        assert!(!norm.is_finite());
        assert_eq!(optimizer.norm_before(), None, "nothing to clip by was learnt");
        let moved: Vec<bool> = chain.parameters().iter().zip(&before).map(|((_, p), b)| !p.equal(b)).collect();
        // Embedding, first layer, second layer, norm.
        assert_eq!(moved, [false, false, false, true, true, true], "{policy:?}");
        assert!(chain.bits().iter().all(|x| x.is_finite()));
        assert!(chain.parameters().iter().all(|(_, parameter)| !parameter.grad().defined()));
        let norm = optimizer.step_in_backward(&chain.loss(0, 1.0, false), RATE, Some(1.0)).unwrap();
        assert!(norm.is_finite() && chain.bits().iter().all(|x| x.is_finite()), "it goes on afterwards");
    }
}

#[test]
fn a_tied_embedding_is_moved_once_by_its_whole_gradient() {
    let chain = Chain::new(Kind::Float);
    chain.loss(0, 1.0, false).backward();
    let whole = chain.embedding.grad().copy();
    chain.parameters().iter().for_each(|(_, parameter)| drop(torch_ext::autograd::take_gradient(parameter).unwrap()));
    let mut optimizer = chain.optimizer(OptimizerState::Mixed, Gradients::InBackward);
    optimizer.step_in_backward(&chain.loss(0, 1.0, false), RATE, None).unwrap();
    let mean = optimizer.state().find(|(name, _)| name == "mean.model.embed_tokens.weight").unwrap().1;
    let off = (mean - whole * 0.1).abs().max().double_value(&[]);
    assert!(off < 1e-8, "{off}");
}

#[test]
fn a_gradient_that_comes_late_is_an_error_and_no_second_step() {
    let chain = Chain::new(Kind::Float);
    let mut optimizer = chain.optimizer(OptimizerState::Mixed, Gradients::InBackward);
    // The norm, of the head, is used again below everything, and recomputed there.
    let norm = chain.norm.shallow_clone();
    let work = move |x: &[Tensor]| Ok::<_, AutogradError>(vec![&x[0] * &norm]);
    let x = chain.embedding.index_select(0, &Tensor::from_slice(&[1_i64, 2]));
    let x = checkpoint(&[&x], work).unwrap().remove(0).matmul(&chain.layers[0][0]);
    let work = {
        let norm = chain.norm.shallow_clone();
        move |x: &[Tensor]| Ok::<_, AutogradError>(vec![&x[0] * &norm])
    };
    let loss = checkpoint(&[&x], work).unwrap().remove(0).sum(Kind::Float);
    let refused = optimizer.step_in_backward(&loss, RATE, None).unwrap_err().to_string();
    assert!(refused.contains("model.norm.weight was added to after"), "{refused}");
    assert_eq!(optimizer.slots().len(), 6, "the parameters are back");
}
