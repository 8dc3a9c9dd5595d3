//! The fused and the plain path against the paper in float64, one number at a time; and what the policies of memory promise.

use tch::Kind;

use super::*;
use crate::config::{Gradients, OptimizerState};

const CONFIG: AdamConfig =
    AdamConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decayed: Decayed::Matrices };
const RATE: f64 = 0.02;
/// Sizes around the width of vector registers, one too long for one thread, and vectors as well as matrices.
const SHAPES: [&[i64]; 7] = [&[3, 5], &[7], &[64, 33], &[1], &[2, 3, 4], &[1030], &[301, 129]];
/// Factors on the gradient, one a step.
const SCALES: [f64; 6] = [1.0, 0.37, 1.0, 0.05, 0.8, 1.0];

/// Numbers between -1 and 1 that look random, the same for the same arguments.
fn numbers(shape: &[i64], salt: usize) -> Tensor {
    let count = shape.iter().product::<i64>() as usize;
    let number = |place: usize| ((place * 37 + salt * 1013) as f64 * 0.7123).sin() as f32;
    Tensor::from_slice(&(0..count).map(number).collect::<Vec<_>>()).view(shape)
}

fn parameters(kind: Kind) -> Vec<Tensor> {
    let parameter = |(salt, shape): (usize, &&[i64])| numbers(shape, salt).to_kind(kind).set_requires_grad(true);
    SHAPES.iter().enumerate().map(parameter).collect()
}

fn named(parameters: &[Tensor]) -> Vec<(String, &Tensor)> {
    parameters.iter().enumerate().map(|(place, parameter)| (format!("p{place}"), parameter)).collect()
}

fn optimizer(config: AdamConfig, parameters: &[Tensor]) -> AdamW {
    AdamW::new(config, named(parameters)).unwrap()
}

fn keeping(optimizer: OptimizerState, gradients: Gradients) -> Keeping {
    Keeping { memory: Memory { optimizer, gradients, ..Memory::default() }, seed: 5, shard: Shard::WHOLE }
}

fn kept(optimizer: OptimizerState, gradients: Gradients, parameters: &[Tensor]) -> AdamW {
    AdamW::keeping(CONFIG, keeping(optimizer, gradients), named(parameters)).unwrap()
}

fn gradient(place: usize, step: usize) -> Tensor {
    numbers(SHAPES[place], 100 + 7 * step + place)
}

/// Gives every parameter the gradient of `step` by a backward pass.
fn differentiate(parameters: &[Tensor], step: usize) {
    for (place, parameter) in parameters.iter().enumerate() {
        (parameter * gradient(place, step).to_kind(parameter.kind())).sum(parameter.kind()).backward();
    }
}

/// Takes the steps in `range`, by the plain path or as a run would.
fn train(optimizer: &mut AdamW, parameters: &[Tensor], range: std::ops::Range<usize>, plain: bool) {
    for step in range {
        differentiate(parameters, step);
        optimizer.advance(RATE, SCALES[step], !plain).unwrap();
    }
}

fn trained(config: AdamConfig, kind: Kind, plain: bool) -> Vec<f64> {
    let parameters = parameters(kind);
    let mut optimizer = optimizer(config, &parameters);
    train(&mut optimizer, &parameters, 0..SCALES.len(), plain);
    flat(&parameters)
}

fn flat(tensors: &[Tensor]) -> Vec<f64> {
    tensors.iter().flat_map(|tensor| Vec::<f64>::try_from(tensor.to_kind(Kind::Double).view(-1)).unwrap()).collect()
}

/// The optimizer, and ways to get it wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Variant {
    Right,
    NoBiasCorrection,
    CoupledDecay,
    NoDecay,
    DecayOfVectors,
    ScaleIgnored,
    ScaleDivides,
    EpsilonInsideRoot,
}

/// Algorithm 2 of the paper in float64, number by number.
fn twin(variant: Variant) -> Vec<f64> {
    let AdamConfig { beta1, beta2, epsilon, weight_decay, .. } = CONFIG;
    let mut moved = Vec::new();
    for (place, shape) in SHAPES.iter().enumerate() {
        let mut parameter = flat(&[numbers(shape, place)]);
        let (mut mean, mut square) = (vec![0.0; parameter.len()], vec![0.0; parameter.len()]);
        let decays = (shape.len() > 1 || variant == Variant::DecayOfVectors) && variant != Variant::NoDecay;
        let decay = if decays { weight_decay } else { 0.0 };
        for (step, scale) in SCALES.iter().enumerate() {
            let correct =
                |beta: f64| if variant == Variant::NoBiasCorrection { 1.0 } else { 1.0 - beta.powi(step as i32 + 1) };
            for (i, &raw) in flat(&[gradient(place, step)]).iter().enumerate() {
                let mut g = match variant {
                    Variant::ScaleIgnored => raw,
                    Variant::ScaleDivides => raw / scale,
                    _ => raw * scale,
                };
                match variant {
                    Variant::CoupledDecay => g += decay * parameter[i],
                    _ => parameter[i] *= 1.0 - RATE * decay,
                }
                mean[i] = beta1 * mean[i] + (1.0 - beta1) * g;
                square[i] = beta2 * square[i] + (1.0 - beta2) * g * g;
                let root = match variant {
                    Variant::EpsilonInsideRoot => (square[i] / correct(beta2) + 1e-5).sqrt(),
                    _ => (square[i] / correct(beta2)).sqrt() + epsilon,
                };
                parameter[i] -= RATE * mean[i] / correct(beta1) / root;
            }
        }
        moved.extend(parameter);
    }
    moved
}

/// Largest difference; infinite where it is not a number.
fn worst(candidate: &[f64], truth: &[f64]) -> f64 {
    assert_eq!(candidate.len(), truth.len());
    let differences = candidate.iter().zip(truth).map(|(a, b)| (a - b).abs());
    differences.map(|off| if off.is_nan() { f64::INFINITY } else { off }).fold(0.0, f64::max)
}

/// Whether `candidate` errs by at most twice as much as the plain path in the same precision, plus half a float32 ULP.
fn accepts(candidate: &[f64]) -> Result<(), String> {
    let truth = twin(Variant::Right);
    let (error, plain) = (worst(candidate, &truth), worst(&trained(CONFIG, Kind::Float, true), &truth));
    let largest = truth.iter().fold(0.0_f64, |most, number| most.max(number.abs()));
    let budget = 2.0 * plain + 0.5 * largest * f64::from(f32::EPSILON);
    assert!(budget < 1e-5, "the plain path itself is off by {plain}");
    if error <= budget { Ok(()) } else { Err(format!("off by {error}, allowed {budget}")) }
}

#[test]
fn the_fused_path_is_the_paper_to_float_rounding() {
    accepts(&trained(CONFIG, Kind::Float, false)).unwrap();
    assert_ne!(trained(CONFIG, Kind::Float, false), flat(&parameters(Kind::Float)));
}

#[test]
fn wrong_optimizers_are_rejected() {
    accepts(&twin(Variant::Right)).unwrap();
    use Variant::*;
    let wrong =
        [NoBiasCorrection, CoupledDecay, NoDecay, DecayOfVectors, ScaleIgnored, ScaleDivides, EpsilonInsideRoot];
    for variant in wrong {
        assert!(accepts(&twin(variant)).is_err(), "{variant:?} was accepted");
    }
    let mut poisoned = twin(Right);
    poisoned[3] = f64::NAN;
    assert!(accepts(&poisoned).is_err());
}

#[test]
fn vectors_are_decayed_when_asked_and_only_then() {
    let config = AdamConfig { decayed: Decayed::Everything, ..CONFIG };
    for plain in [false, true] {
        let error = worst(&trained(config, Kind::Float, plain), &twin(Variant::DecayOfVectors));
        assert!(error < 1e-5, "{error}");
    }
    let text = r#"{"beta1":0.9,"beta2":0.95,"epsilon":1e-8,"weight_decay":0.1}"#;
    assert_eq!(serde_json::from_str::<AdamConfig>(text).unwrap(), CONFIG);
}

/// `tensors` rounded to bfloat16 and back, as parameters.
fn rounded(tensors: &[Tensor]) -> Vec<Tensor> {
    let round = |t: &Tensor| t.detach().to_kind(Kind::BFloat16).to_kind(Kind::Float).set_requires_grad(true);
    tensors.iter().map(round).collect()
}

#[test]
fn a_bfloat16_run_is_a_float32_run_on_the_same_gradients_rounded_at_the_end() {
    for plain in [false, true] {
        let low = parameters(Kind::BFloat16);
        let mut of_low = optimizer(CONFIG, &low);
        let full = rounded(&parameters(Kind::Float));
        let mut of_full = optimizer(CONFIG, &full);
        for (step, scale) in SCALES.into_iter().enumerate() {
            train(&mut of_low, &low, step..step + 1, plain);
            for (place, parameter) in full.iter().enumerate() {
                let gradient = gradient(place, step).to_kind(Kind::BFloat16).to_kind(Kind::Float);
                (parameter * gradient).sum(Kind::Float).backward();
            }
            of_full.advance(RATE, scale, !plain).unwrap();
        }
        let masters: Vec<Tensor> = of_low.slots().iter().map(|slot| slot.master().unwrap().shallow_clone()).collect();
        assert!(flat(&masters) == flat(&full), "plain: {plain}");
        assert!(flat(&low) == flat(&rounded(&full)), "plain: {plain}");
        assert!(low.iter().all(Tensor::is_leaf));
    }
}

/// The mean of 64 bfloat16 weights of 1 after `steps` of a twentieth of their last bit each; without a master they are
/// rounded to the nearest after each.
fn crept(steps: usize, optimizer: OptimizerState, with_master: bool) -> f64 {
    let weight = Tensor::ones([64], (Kind::BFloat16, tch::Device::Cpu)).set_requires_grad(true);
    let config = AdamConfig { weight_decay: 0.0, ..CONFIG };
    let mut optimizer =
        AdamW::keeping(config, keeping(optimizer, Gradients::Kept), vec![("w".into(), &weight)]).unwrap();
    for _ in 0..steps {
        weight.sum(Kind::BFloat16).backward();
        optimizer.step(2e-4, 1.0).unwrap();
        if !with_master {
            let slot = &optimizer.slots[0];
            tch::no_grad(|| slot.master().unwrap().shallow_clone().copy_(&slot.parameter));
        }
    }
    weight.mean(Kind::Double).double_value(&[])
}

#[test]
fn updates_below_the_last_bit_add_up_in_the_master_or_by_chance_and_are_lost_otherwise() {
    // The gradient is 1 throughout, so that each step moves by the learning rate.
    for policy in [OptimizerState::Mixed, OptimizerState::Bfloat16, OptimizerState::Int8] {
        let error = (crept(400, policy, true) - (1.0 - 400.0 * 2e-4)).abs();
        assert!(error < 1.0 / 256.0, "{policy:?} is off by {error}");
    }
    assert_eq!(crept(400, OptimizerState::Mixed, false), 1.0, "or this test would not see a forgotten master");
}

/// The norm of 600 gradients of about a hundredth, added in the weight's own type or gathered.
fn gathered_norm(gather: bool) -> f64 {
    let weight = Tensor::ones([1], (Kind::BFloat16, tch::Device::Cpu)).set_requires_grad(true);
    let mut optimizer = AdamW::new(CONFIG, vec![("w".into(), &weight)]).unwrap();
    for _ in 0..600 {
        (&weight * 0.010_009_765_625).sum(Kind::BFloat16).backward();
        if gather {
            optimizer.gather_gradients().unwrap();
        }
    }
    let norm = optimizer.gradient_norm().unwrap();
    optimizer.forget_gradients().unwrap();
    assert_eq!(optimizer.gradient_norm().unwrap(), 0.0);
    norm
}

#[test]
fn gradients_of_many_passes_are_gathered_in_float32() {
    let exact = 600.0 * 0.010_009_765_625;
    assert!((gathered_norm(true) / exact - 1.0).abs() < 1e-5, "{}", gathered_norm(true));
    assert!((gathered_norm(false) / exact - 1.0).abs() > 0.05, "or this test would not see sums in bfloat16");
}

#[test]
fn parameters_without_a_gradient_are_left_and_scattered_ones_refused() {
    let (moved, idle) = (numbers(&[5, 3], 0).set_requires_grad(true), numbers(&[4], 1).set_requires_grad(true));
    let mut optimizer = AdamW::new(CONFIG, vec![("a".into(), &moved), ("b".into(), &idle)]).unwrap();
    // A gradient in another layout than its parameter.
    (moved.tr() * numbers(&[3, 5], 2)).sum(Kind::Float).backward();
    let norm = numbers(&[3, 5], 2).norm().double_value(&[]);
    assert!((optimizer.gradient_norm().unwrap() - norm).abs() < 1e-6);
    optimizer.step(RATE, 1.0).unwrap();
    let expected = numbers(&[5, 3], 0) * (1.0 - RATE * 0.1) - numbers(&[3, 5], 2).tr().sign() * RATE;
    assert!((moved - expected).abs().max().double_value(&[]) < 1e-6);
    assert_eq!(flat(&[idle]), flat(&[numbers(&[4], 1)]));
    assert_eq!(optimizer.gradient_norm().unwrap(), 0.0);
    let transposed = numbers(&[5, 3], 0).tr();
    let refused = AdamW::new(CONFIG, vec![("wte".into(), &transposed)]).unwrap_err().to_string();
    assert!(refused.contains("wte") && refused.contains("not in one piece"), "{refused}");
    let half = numbers(&[3], 0).to_kind(Kind::Half);
    let low = keeping(OptimizerState::Int8, Gradients::Kept);
    assert!(AdamW::keeping(CONFIG, low, vec![("w".into(), &half)]).unwrap_err().to_string().contains("Half"));
}

#[test]
fn stopping_and_resuming_gives_the_same_bits() {
    use OptimizerState::*;
    let policies = [
        (Kind::Float, Mixed, &["mean.", "square."][..]),
        (Kind::BFloat16, Mixed, &["mean.", "square.", "master."]),
        (Kind::BFloat16, Bfloat16, &["mean.", "square."]),
        (Kind::BFloat16, Int8, &["mean.", "square.", "mean_scale.", "square_scale."]),
        (Kind::Float, Int8, &["mean.", "square.", "mean_scale.", "square_scale."]),
    ];
    for (kind, policy, parts) in policies {
        let optimizer = |parameters: &[Tensor]| kept(policy, Gradients::Kept, parameters);
        let straight = {
            let parameters = parameters(kind);
            train(&mut optimizer(&parameters), &parameters, 0..SCALES.len(), false);
            flat(&parameters)
        };
        let before = parameters(kind);
        let mut first = optimizer(&before);
        train(&mut first, &before, 0..2, false);
        let state: std::collections::BTreeMap<String, Tensor> =
            first.state().map(|(name, tensor)| (name, tensor.copy())).collect();
        assert_eq!(state.len(), parts.len() * SHAPES.len());
        let resumed = |forgotten: &str| {
            let after: Vec<Tensor> = before.iter().map(|p| p.detach().copy().set_requires_grad(true)).collect();
            let mut second = optimizer(&after);
            let read = |name: &str, into: &mut Tensor| {
                if forgotten.is_empty() || !name.starts_with(forgotten) {
                    into.copy_(&state[name]);
                }
                Ok(())
            };
            second.restore(first.steps(), first.norm_before(), read).unwrap();
            train(&mut second, &after, 2..SCALES.len(), false);
            flat(&after)
        };
        assert!(resumed("") == straight, "{kind:?} {policy:?}");
        for part in parts {
            assert!(resumed(part) != straight, "{kind:?} {policy:?}: {part} may be forgotten");
        }
    }
}

#[test]
fn the_norm_is_that_of_all_gradients_and_clipping_brings_it_to_the_limit() {
    let parameters = parameters(Kind::Float);
    let mut optimizer = optimizer(CONFIG, &parameters);
    assert_eq!(optimizer.gradient_norm().unwrap(), 0.0);
    differentiate(&parameters, 0);
    let all: Vec<f64> = (0..SHAPES.len()).flat_map(|place| flat(&[gradient(place, 0)])).collect();
    let expected = all.iter().map(|g| g * g).sum::<f64>().sqrt();
    let norm = optimizer.gradient_norm().unwrap();
    assert!((norm / expected - 1.0).abs() < 1e-12, "{norm}, not {expected}");
    assert_eq!((clip_factor(norm, None), clip_factor(0.5, Some(1.0))), (1.0, 1.0));
    assert!((norm * clip_factor(norm, Some(0.25)) - 0.25).abs() < 1e-12);
    optimizer.forget_gradients().unwrap();
    assert_eq!(optimizer.gradient_norm().unwrap(), 0.0);
}

const POLICIES: [OptimizerState; 3] = [OptimizerState::Mixed, OptimizerState::Bfloat16, OptimizerState::Int8];

#[test]
fn state_takes_the_bytes_that_are_promised() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for policy in POLICIES {
            let parameters = parameters(kind);
            let optimizer = kept(policy, Gradients::Kept, &parameters);
            let memory = Memory { optimizer: policy, ..Memory::default() };
            for slot in optimizer.slots() {
                let promised = AdamW::state_bytes(kind, slot.parameter.numel() as u64, &memory);
                assert_eq!(slot.bytes(), promised, "{kind:?} {policy:?} {:?}", slot.parameter.size());
            }
        }
    }
}

/// Root mean square of the difference from the paper, over that of the way gone.
fn relative_error(kind: Kind, policy: OptimizerState) -> f64 {
    let parameters = parameters(kind);
    train(&mut kept(policy, Gradients::Kept, &parameters), &parameters, 0..SCALES.len(), false);
    let (found, truth) = (flat(&parameters), twin(Variant::Right));
    let start: Vec<f64> = SHAPES.iter().enumerate().flat_map(|(place, shape)| flat(&[numbers(shape, place)])).collect();
    let squares = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    (squares(&found, &truth) / squares(&start, &truth)).sqrt()
}

#[test]
fn policies_of_less_memory_stay_near_the_paper() {
    // Weights of 8 bits are off by up to 2^-8 of themselves, of a way of about 0.1.
    for (kind, policy, most) in [
        (Kind::Float, OptimizerState::Bfloat16, 0.02),
        (Kind::Float, OptimizerState::Int8, 0.05),
        (Kind::BFloat16, OptimizerState::Bfloat16, 0.08),
        (Kind::BFloat16, OptimizerState::Int8, 0.09),
    ] {
        let error = relative_error(kind, policy);
        assert!(error < most, "{kind:?} {policy:?}: {error}");
    }
}

#[test]
fn shards_of_several_processes_leave_the_bits_of_one() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for policy in POLICIES {
            let whole = parameters(kind);
            train(&mut kept(policy, Gradients::Kept, &whole), &whole, 0..3, false);
            let shared = parameters(kind);
            let mut processes: Vec<AdamW> = (0..3)
                .map(|rank| {
                    let keeping = Keeping { shard: Shard::new(rank, 3).unwrap(), ..keeping(policy, Gradients::Kept) };
                    AdamW::keeping(CONFIG, keeping, named(&shared)).unwrap()
                })
                .collect();
            for (step, scale) in SCALES.into_iter().enumerate().take(3) {
                for optimizer in &mut processes {
                    // Each is given the whole gradient and takes its part, as a reduction over all would leave it.
                    for (place, parameter) in shared.iter().enumerate() {
                        let gradient = gradient(place, step).to_kind(kind);
                        (parameter * gradient).sum(kind).backward();
                    }
                    optimizer.step(RATE, scale).unwrap();
                }
            }
            assert!(flat(&shared) == flat(&whole), "{kind:?} {policy:?}");
            let bytes = |optimizer: &AdamW| optimizer.slots().iter().map(Slot::bytes).sum::<u64>();
            let of_whole = bytes(&kept(policy, Gradients::Kept, &whole));
            assert_eq!(processes.iter().map(bytes).sum::<u64>(), of_whole, "{kind:?} {policy:?}");
        }
    }
}
