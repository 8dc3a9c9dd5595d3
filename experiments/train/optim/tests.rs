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

#[test]
fn bfloat16_parameters_move_with_float32_moments() {
    let parameters = parameters(Kind::BFloat16);
    let mut optimizer = optimizer(CONFIG, &parameters);
    train(&mut optimizer, &parameters, 0..SCALES.len(), false);
    assert!(optimizer.slots().iter().all(|slot| slot.mean.kind() == Kind::Float && !slot.is_fusible()));
    // Each of six steps and the start round a number of at most one to eight bits.
    let error = worst(&flat(&parameters), &twin(Variant::Right));
    assert!(error < 7.0 / 256.0, "{error}");
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
    let straight = trained(CONFIG, Kind::Float, false);
    let before = parameters(Kind::Float);
    let mut first = optimizer(CONFIG, &before);
    train(&mut first, &before, 0..2, false);
    let after: Vec<Tensor> = before.iter().map(|p| p.detach().copy().set_requires_grad(true)).collect();
    let mut second = optimizer(CONFIG, &after);
    let read = |name: &str, mean: &mut Tensor, square: &mut Tensor| {
        let slot = first.slots().iter().find(|slot| slot.name == name).unwrap();
        mean.copy_(&slot.mean);
        square.copy_(&slot.square);
        Ok(())
    };
    second.restore(first.steps(), read).unwrap();
    train(&mut second, &after, 2..SCALES.len(), false);
    assert!(flat(&after) == straight);
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
