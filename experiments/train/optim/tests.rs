//! The fused and the plain path against the paper in float64, one number at a time.

use super::*;

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

fn optimizer(config: AdamConfig, parameters: &[Tensor]) -> AdamW {
    let named = parameters.iter().enumerate().map(|(place, parameter)| (format!("p{place}"), parameter)).collect();
    AdamW::new(config, named).unwrap()
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
        let fuses = if plain { |_: &Slot| false } else { Slot::is_fusible };
        optimizer.advance(RATE, SCALES[step], fuses);
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
            of_full.advance(RATE, scale, if plain { |_: &Slot| false } else { Slot::is_fusible });
        }
        let masters: Vec<Tensor> =
            of_low.slots().iter().map(|slot| slot.master.as_ref().unwrap().shallow_clone()).collect();
        assert!(flat(&masters) == flat(&full), "plain: {plain}");
        assert!(flat(&low) == flat(&rounded(&full)), "plain: {plain}");
        assert!(of_low.slots().iter().all(|slot| slot.is_fusible() && slot.parameter.is_leaf()));
    }
}

/// One bfloat16 weight of 1 after `steps` of a twentieth of its last bit each, with or without a master.
fn crept(steps: usize, with_master: bool) -> f64 {
    let weight = Tensor::ones([1], (Kind::BFloat16, tch::Device::Cpu)).set_requires_grad(true);
    let config = AdamConfig { weight_decay: 0.0, ..CONFIG };
    let mut optimizer = AdamW::new(config, vec![("w".into(), &weight)]).unwrap();
    for _ in 0..steps {
        if !with_master {
            optimizer.slots[0].master = None;
        }
        weight.sum(Kind::BFloat16).backward();
        optimizer.step(2e-4, 1.0);
    }
    weight.double_value(&[0])
}

#[test]
fn updates_below_the_last_bit_add_up_in_the_master_and_are_lost_without() {
    // The gradient is 1 throughout, so that each step moves by the learning rate.
    let error = (crept(400, true) - (1.0 - 400.0 * 2e-4)).abs();
    assert!(error < 1.0 / 256.0, "off by {error}");
    assert_eq!(crept(400, false), 1.0, "or this test would not see a forgotten master");
}

/// The norm of 600 gradients of about a hundredth, added in the weight's own type or gathered.
fn gathered_norm(gather: bool) -> f64 {
    let weight = Tensor::ones([1], (Kind::BFloat16, tch::Device::Cpu)).set_requires_grad(true);
    let mut optimizer = AdamW::new(CONFIG, vec![("w".into(), &weight)]).unwrap();
    for _ in 0..600 {
        (&weight * 0.010_009_765_625).sum(Kind::BFloat16).backward();
        if gather {
            optimizer.gather_gradients();
        }
    }
    let norm = optimizer.gradient_norm();
    optimizer.forget_gradients();
    assert_eq!(optimizer.gradient_norm(), 0.0);
    norm
}

#[test]
fn gradients_of_many_passes_are_gathered_in_float32() {
    let exact = 600.0 * 0.010_009_765_625;
    assert!((gathered_norm(true) / exact - 1.0).abs() < 1e-5, "{}", gathered_norm(true));
    assert!((gathered_norm(false) / exact - 1.0).abs() > 0.05, "or this test would not see sums in bfloat16");
}

#[test]
fn parameters_without_a_gradient_and_of_another_layout_are_served() {
    let transposed = numbers(&[5, 3], 0).tr().set_requires_grad(true);
    let idle = numbers(&[4], 1).set_requires_grad(true);
    let mut optimizer = AdamW::new(CONFIG, vec![("a".into(), &transposed), ("b".into(), &idle)]).unwrap();
    transposed.sum(Kind::Float).backward();
    assert!((optimizer.gradient_norm() - 15_f64.sqrt()).abs() < 1e-6);
    optimizer.step(RATE, 1.0);
    let expected = numbers(&[5, 3], 0).tr() * (1.0 - RATE * 0.1) - RATE;
    assert!((transposed - expected).abs().max().double_value(&[]) < 1e-6);
    assert_eq!(flat(&[idle]), flat(&[numbers(&[4], 1)]));
    assert_eq!(optimizer.gradient_norm(), 0.0);
}

#[test]
fn stopping_and_resuming_gives_the_same_bits() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let straight = trained(CONFIG, kind, false);
        let before = parameters(kind);
        let mut first = optimizer(CONFIG, &before);
        train(&mut first, &before, 0..2, false);
        let state: std::collections::BTreeMap<String, Tensor> =
            first.state().map(|(name, tensor)| (name, tensor.copy())).collect();
        let (per_slot, master) = if kind == Kind::Float { (2, "") } else { (3, "master.") };
        assert_eq!(state.len(), per_slot * SHAPES.len());
        let resumed = |forgotten: &str| {
            let after: Vec<Tensor> = before.iter().map(|p| p.detach().copy().set_requires_grad(true)).collect();
            let mut second = optimizer(CONFIG, &after);
            let read = |name: &str, into: &mut Tensor| {
                if forgotten.is_empty() || !name.starts_with(forgotten) {
                    into.copy_(&state[name]);
                }
                Ok(())
            };
            second.restore(first.steps(), read).unwrap();
            train(&mut second, &after, 2..SCALES.len(), false);
            flat(&after)
        };
        assert!(resumed("") == straight, "{kind:?}");
        for part in ["mean.", "square.", master].into_iter().filter(|part| !part.is_empty()) {
            assert!(resumed(part) != straight, "{kind:?}: {part} may be forgotten");
        }
    }
}

#[test]
fn the_norm_is_that_of_all_gradients_and_clipping_brings_it_to_the_limit() {
    let parameters = parameters(Kind::Float);
    let mut optimizer = optimizer(CONFIG, &parameters);
    assert_eq!(optimizer.gradient_norm(), 0.0);
    differentiate(&parameters, 0);
    let all: Vec<f64> = (0..SHAPES.len()).flat_map(|place| flat(&[gradient(place, 0)])).collect();
    let expected = all.iter().map(|g| g * g).sum::<f64>().sqrt();
    let norm = optimizer.gradient_norm();
    assert!((norm / expected - 1.0).abs() < 1e-12, "{norm}, not {expected}");
    assert_eq!((clip_factor(norm, None), clip_factor(0.5, Some(1.0))), (1.0, 1.0));
    assert!((norm * clip_factor(norm, Some(0.25)) - 0.25).abs() < 1e-12);
    optimizer.forget_gradients();
    assert_eq!(optimizer.gradient_norm(), 0.0);
}
