use std::path::Path;

use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::*;
use crate::data::rng::CounterRng;

/// What bitsandbytes made of the matrices of `tests/golden/make/nf4.py`.
fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nf4.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The weights of that script.
fn weights(count: usize) -> Vec<f32> {
    let of = |place: usize| {
        let even = 2.0 * ((place as u64 * 2_654_435_761) % (1 << 32)) as f64 / 4_294_967_296.0 - 1.0;
        let width = 0.01 + 0.003 * (place / 64 % 7) as f64;
        if place / 64 == 2 { 0.0 } else { (even * even * even * width) as f32 }
    };
    (0..count).map(of).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as f32).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    Vec::try_from(tensor.shallow_clone()).unwrap()
}

/// The scheme in plain loops: weights to weights, in float64 after float32 scales.
fn twin(weights: &[f32]) -> Vec<f64> {
    let nearest = |x: f64, levels: &[f32]| {
        let mut best = 0;
        for index in 0..levels.len() {
            if (x - f64::from(levels[index])).abs() < (x - f64::from(levels[best])).abs() {
                best = index;
            }
        }
        f64::from(levels[best])
    };
    let largest = |numbers: &[f64]| numbers.iter().fold(0.0_f64, |most, x| most.max(x.abs()));
    let wide: Vec<f64> = weights.iter().map(|&w| f64::from(w)).collect();
    let scales: Vec<f64> = wide.chunks(BLOCK).map(largest).collect();
    let mean = scales.iter().sum::<f64>() / scales.len() as f64;
    let mut stood_for = Vec::new();
    for block in scales.chunks(SCALE_BLOCK) {
        let less: Vec<f64> = block.iter().map(|scale| scale - mean).collect();
        let most = largest(&less);
        stood_for.extend(
            less.iter().map(|x| nearest(if most > 0.0 { x / most } else { 0.0 }, &dynamic_levels()) * most + mean),
        );
    }
    let of_block = |(index, block): (usize, &[f64])| {
        let (scale, back) = (scales[index], stood_for[index]);
        block.iter().map(|w| nearest(if scale > 0.0 { w / scale } else { 0.0 }, &LEVELS) * back).collect::<Vec<_>>()
    };
    wide.chunks(BLOCK).enumerate().flat_map(of_block).collect()
}

fn matrix(rows: i64, columns: i64, values: &[f32]) -> Tensor {
    Tensor::from_slice(values).view([rows, columns])
}

fn random(seed: u64, count: u64) -> Vec<f32> {
    let rng = CounterRng::new(seed);
    (0..count).map(|n| (0.02 * rng.normal(n)) as f32).collect()
}

/// Standard normal distribution function: `1/2 + phi(x) (x + x^3 / 3 + x^5 / 15 + ..)`.
fn normal_cdf(x: f64) -> f64 {
    let (mut sum, mut term) = (x, x);
    for n in (3..400).step_by(2) {
        term *= x * x / f64::from(n);
        sum += term;
    }
    0.5 + sum * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

fn normal_quantile(p: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if normal_cdf(middle) < p { low = middle } else { high = middle }
    }
    low
}

#[test]
fn levels_are_the_quantiles_of_appendix_e_and_those_of_bitsandbytes() {
    assert_eq!(LEVELS.to_vec(), floats(&golden()["levels"]));
    let end = 0.967_708_3;
    let quantile = |index: i32, steps: i32| normal_quantile(end + (0.5 - end) * f64::from(index) / f64::from(steps));
    let mut levels: Vec<f64> = (0..8).map(|i| quantile(i, 8)).chain((0..7).map(|i| -quantile(i, 7))).collect();
    levels.push(0.0);
    levels.sort_by(f64::total_cmp);
    for (level, expected) in levels.iter().zip(LEVELS) {
        // The published ones come of float32 arithmetic.
        assert!((level / levels[15] - f64::from(expected)).abs() < 1.2e-7, "{level} {expected}");
    }
}

#[test]
fn levels_of_scales_are_those_of_bitsandbytes() {
    let expected = floats(&golden()["scale_levels"]);
    assert_eq!(expected.len(), 256);
    for (level, expected) in dynamic_levels().iter().zip(expected) {
        assert!((level - expected).abs() <= 1.3e-7 * expected.abs(), "{level} {expected}");
    }
}

#[test]
fn codes_and_scales_are_those_of_bitsandbytes() {
    for case in golden()["cases"].as_array().unwrap() {
        let size = |key: &str| case[key].as_i64().unwrap();
        let (rows, columns) = (size("rows"), size("columns"));
        let made = Nf4Matrix::quantised(&matrix(rows, columns, &weights((rows * columns) as usize))).unwrap();
        assert_eq!(hex(&bytes(&made.codes)), case["codes"].as_str().unwrap());
        assert_eq!(hex(&bytes(&made.scale_codes)), case["scale_codes"].as_str().unwrap());
        let maxima: Vec<f32> = Vec::try_from(&made.scale_maxima).unwrap();
        for (found, expected) in maxima.iter().zip(floats(&case["scale_maxima"])) {
            assert!((found - expected).abs() < 1e-8, "{found} {expected}");
        }
        assert!((made.scale_mean.double_value(&[]) - case["scale_mean"].as_f64().unwrap()).abs() < 1e-8);
        let back: Vec<f32> = Vec::try_from(made.dequantised(Kind::Float).view([-1])).unwrap();
        let every = size("every") as usize;
        for (found, expected) in back.iter().step_by(every).zip(floats(&case["dequantised"])) {
            assert!((found - expected).abs() < 3e-8, "{found} {expected}");
        }
    }
}

#[test]
fn dequantised_weights_are_the_twins() {
    // Ragged: 5 x 77 weights are six blocks and one weight; 300 x 64 have a second block of scales.
    for (rows, columns) in [(5, 77), (300, 64), (1, 1), (3, 7)] {
        let values = random(rows as u64, (rows * columns) as u64);
        let found = Nf4Matrix::quantised(&matrix(rows, columns, &values)).unwrap().dequantised(Kind::Float);
        let found: Vec<f32> = Vec::try_from(found.view([-1])).unwrap();
        let far = found.iter().zip(twin(&values)).filter(|&(&found, expected)| {
            let near = (f64::from(found) - expected).abs() <= 1e-6 * expected.abs().max(1e-3);
            !near
        });
        // A quotient in the middle of two levels may go to either in another precision; of a scale, with its block.
        let far = far.count();
        assert!(far <= found.len() / 200, "{rows} x {columns}: {far}");
    }
}

#[test]
fn a_matrix_takes_the_bytes_that_are_counted() {
    for (rows, columns) in [(130, 128), (3, 7), (64, 64)] {
        let count = (rows * columns) as u64;
        let made = Nf4Matrix::quantised(&matrix(rows, columns, &random(1, count))).unwrap();
        assert_eq!(made.bytes(), nf4_bytes(count));
    }
    let per_weight = nf4_bytes(4096 * 4096) as f64 / (4096.0 * 4096.0);
    assert!((per_weight - 0.5159).abs() < 1e-4, "{per_weight}");
}

#[test]
fn a_product_and_its_gradient_are_those_of_the_weights_it_stands_for() {
    let made = Nf4Matrix::quantised(&matrix(24, 64, &random(2, 24 * 64))).unwrap();
    let (bias, values) = (Tensor::from_slice(&random(3, 24)), random(4, 2 * 5 * 64));
    let run = |product: &dyn Fn(&Tensor) -> Tensor| {
        let x = Tensor::from_slice(&values).view([2, 5, 64]).set_requires_grad(true);
        let y = product(&x);
        (&y * Tensor::arange(24, (Kind::Float, Device::Cpu))).sum(Kind::Float).backward();
        (y.detach(), x.grad())
    };
    let plain = made.dequantised(Kind::Float);
    let (expected, expected_grad) = run(&|x| x.linear(&plain, Some(&bias)));
    let (found, grad) = run(&|x| made.product(x, Some(&bias)));
    assert!(found.allclose(&expected, 1e-6, 1e-7, false) && grad.allclose(&expected_grad, 1e-6, 1e-7, false));
    let half = made.dequantised(Kind::BFloat16);
    assert!(half.equal(&plain.to_kind(Kind::BFloat16)));
}

#[test]
fn quantisation_leaves_normal_weights_near() {
    let values = random(5, 256 * 256);
    let weights = matrix(256, 256, &values);
    let back = Nf4Matrix::quantised(&weights).unwrap().dequantised(Kind::Float);
    let relative = ((&back - &weights).square().mean(Kind::Float) / weights.square().mean(Kind::Float)).sqrt();
    // Sixteen levels at the quantiles of what they stand for.
    assert!((0.05..0.12).contains(&relative.double_value(&[])), "{relative:?}");
}
