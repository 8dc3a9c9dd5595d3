//! Every loop on every instruction set against the equations in f64.

use super::*;
use crate::tiled::simd::{Isa, dispatch};

/// Widths of one number, of less than a vector, of whole vectors and of what lies between.
const WIDTHS: [usize; 7] = [1, 7, 16, 40, 100, 160, 433];
const ROWS: usize = 3;

fn sets() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

fn by<W: Work>(isa: Isa, work: W) -> W::Answer {
    dispatch(isa, Compiled(work)).unwrap()
}

/// Numbers between -3 and 3 that repeat late.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (f64::from(state >> 8) / f64::from(1 << 24) * 6.0 - 3.0) as f32
    };
    (0..count).map(|_| next()).collect()
}

/// The largest distance in units of the last place of the largest number expected.
fn distance(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let most = expected.iter().fold(f64::from(f32::MIN_POSITIVE), |most, x| most.max(x.abs()));
    let apart = found.iter().zip(expected).map(|(&f, e)| (f64::from(f) - e).abs());
    // NaN is not passed over.
    apart.fold(0.0, |worst, d| if d <= worst { worst } else { d }) / (most * f64::from(f32::EPSILON))
}

#[track_caller]
fn near(what: &str, found: &[f32], expected: &[f64], units: f64) {
    let apart = distance(found, expected);
    assert!(apart <= units, "{what}: {apart} units apart");
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|&x| f64::from(x)).collect()
}

/// One row: its inverse root mean square.
fn root(x: &[f64], epsilon: f64) -> f64 {
    1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + epsilon).sqrt()
}

#[test]
fn the_norm_and_its_derivatives_are_those_of_the_equation() {
    let epsilon = 1e-5_f32;
    for (isa, width) in sets().flat_map(|isa| WIDTHS.map(|width| (isa, width))) {
        let [x, grad, onto] = [1, 2, 3].map(|seed| numbers(ROWS * width, seed));
        let weight = numbers(width, 4);
        let mut out = vec![f32::NAN; x.len()];
        by(isa, RmsNorm { x: &x, weight: &weight, epsilon, out: &mut out });
        let (mut normed, mut pulled, mut weights) = (vec![], vec![], vec![0.0; width]);
        for row in 0..ROWS {
            let range = row * width..(row + 1) * width;
            let (x, grad, onto) = (wide(&x[range.clone()]), wide(&grad[range.clone()]), wide(&onto[range]));
            let (r, w) = (root(&x, f64::from(epsilon)), wide(&weight));
            let dot: f64 = (0..width).map(|i| w[i] * grad[i] * x[i]).sum();
            normed.extend((0..width).map(|i| w[i] * x[i] * r));
            pulled.extend((0..width).map(|i| onto[i] + r * w[i] * grad[i] - x[i] * r.powi(3) * dot / width as f64));
            (0..width).for_each(|i| weights[i] += grad[i] * x[i] * r);
        }
        near(&format!("{isa} {width} norm"), &out, &normed, 4.0);
        let mut sums = vec![0.0; width];
        let mut pull = |onto| {
            let mut out = vec![f32::NAN; x.len()];
            let (x, weight, grad) = (&x[..], &weight[..], &grad[..]);
            let weight_grad = &mut sums[..];
            by(isa, RmsNormBack { x, weight, epsilon, grad, onto, out: &mut out, weight_grad });
            out
        };
        let alone = pull(None);
        near(&format!("{isa} {width} pull"), &pull(Some(&onto)), &pulled, 16.0);
        let rest: Vec<f64> = pulled.iter().zip(wide(&onto)).map(|(p, o)| p - o).collect();
        // Of a row of one number the derivative is what is left of two terms that cancel but for the epsilon.
        if width > 1 {
            near(&format!("{isa} {width} pull alone"), &alone, &rest, 32.0);
        }
        // Both calls added to the sums.
        let twice: Vec<f64> = weights.iter().map(|sum| 2.0 * sum).collect();
        near(&format!("{isa} {width} weights"), &sums, &twice, 8.0);
        // The epsilon left out, or the mean taken for the sum, is told apart.
        assert!(width < 2 || distance(&alone, &pulled) > 1e3);
    }
}

#[test]
fn swiglu_and_its_derivatives_are_those_of_the_equation() {
    for (isa, count) in sets().flat_map(|isa| WIDTHS.map(|width| (isa, width))) {
        let (gate, up, grad) = (numbers(count, 1), numbers(count, 2), numbers(count, 3));
        let sigmoid = |g: f64| 1.0 / (1.0 + (-g).exp());
        let expected = |of: &dyn Fn(f64, f64, f64) -> f64| -> Vec<f64> {
            (0..count).map(|i| of(f64::from(gate[i]), f64::from(up[i]), f64::from(grad[i]))).collect()
        };
        let product = expected(&|g, u, _| g * sigmoid(g) * u);
        let by_gate = expected(&|g, u, d| d * u * sigmoid(g) * (1.0 + g * (1.0 - sigmoid(g))));
        let by_up = expected(&|g, _, d| d * g * sigmoid(g));
        let mut out = vec![f32::NAN; count];
        by(isa, SwiGlu { gate: &gate, up: &up, out: &mut out });
        near(&format!("{isa} {count}"), &out, &product, 4.0);
        let (mut found, mut up_grad, mut again) = (grad.clone(), vec![f32::NAN; count], vec![f32::NAN; count]);
        let (gate, up) = (&gate[..], &up[..]);
        by(isa, SwiGluBack { gate, up, grad: &mut found, up_grad: &mut up_grad, product: &mut again });
        near(&format!("{isa} {count} by gate"), &found, &by_gate, 4.0);
        near(&format!("{isa} {count} by up"), &up_grad, &by_up, 4.0);
        assert_eq!(again, out, "{isa} {count}");
    }
}

#[test]
fn gates_far_out_are_open_or_shut_and_nan_stays() {
    for isa in sets() {
        let gate = [1e4, -1e4, 0.0, f32::NAN, 90.0, -90.0];
        let mut out = [f32::NAN; 6];
        by(isa, SwiGlu { gate: &gate, up: &[1.0; 6], out: &mut out });
        assert_eq!((out[0], out[2], out[4]), (1e4, 0.0, 90.0), "{isa}");
        assert!(out[1].abs() < 1e-30 && out[5].abs() < 1e-30 && out[3].is_nan(), "{isa}: {out:?}");
        let (mut grad, mut up_grad) = ([1.0; 6], [f32::NAN; 6]);
        by(isa, SwiGluBack { gate: &gate, up: &[1.0; 6], grad: &mut grad, up_grad: &mut up_grad, product: &mut [] });
        assert_eq!((grad[0], grad[2], up_grad[0]), (1.0, 0.5, 1e4), "{isa}");
        assert!(grad[1].abs() < 1e-30 && grad[3].is_nan() && up_grad[3].is_nan(), "{isa}: {grad:?}");
    }
}

#[test]
fn losses_and_their_derivatives_are_those_of_the_equation() {
    let targets = [Some(0), None, Some(6), Some(3)];
    let factors = [1.0_f32, 1.0, 0.5, 2.0];
    for width in [7, 16, 40, 433] {
        let mut logits = numbers(4 * width, 9);
        // A row far from zero, whose plain exponentials overflow.
        logits[..width].iter_mut().for_each(|logit| *logit = 100.0 * *logit + 500.0);
        let (mut losses, mut plain, mut gradient) = ([f32::NAN; 4], [f32::NAN; 4], logits.clone());
        cross_entropy(&logits, &targets, &factors, &mut plain);
        cross_entropy_gradient(&mut gradient, &targets, &factors, &mut losses);
        assert_eq!(losses, plain);
        for (row, (target, factor)) in targets.iter().zip(factors).enumerate() {
            let range = row * width..(row + 1) * width;
            let (x, factor) = (wide(&logits[range.clone()]), f64::from(factor));
            let most = x.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = x.iter().map(|x| (x - most).exp()).sum();
            let expected = |i: usize| match target {
                Some(target) => factor * ((x[i] - most).exp() / sum - f64::from(u8::from(i == *target))),
                None => 0.0,
            };
            let loss = target.map_or(0.0, |target| factor * (most + sum.ln() - x[target]));
            assert!((f64::from(losses[row]) - loss).abs() <= 1e-6 * (1.0 + loss), "{width} {row}: {}", losses[row]);
            let expected: Vec<f64> = (0..width).map(expected).collect();
            // Logits of 500 carry their own rounding into every weight; there the exponent is exact all the same.
            near(&format!("{width} {row}"), &gradient[range], &expected, 16.0);
        }
        let known: Vec<usize> = targets.iter().map(|target| target.unwrap_or(0)).collect();
        for (row, (log_prob, top)) in scored(&logits, &known).into_iter().enumerate() {
            let x = &logits[row * width..(row + 1) * width];
            assert!(x.iter().all(|&logit| logit <= x[top]));
            let loss = plain[row] / factors[row];
            assert!(targets[row].is_none() || (log_prob + loss).abs() <= 1e-6 * (1.0 + loss), "{log_prob} {loss}");
        }
    }
}

#[test]
fn a_logit_that_is_nan_makes_the_loss_nan() {
    for place in [0, 5, 39] {
        let mut logits = numbers(40, 2);
        logits[place] = f32::NAN;
        let mut losses = [0.0];
        cross_entropy(&logits, &[Some(1)], &[1.0], &mut losses);
        assert!(losses[0].is_nan() && scored(&logits, &[1])[0].0.is_nan());
        cross_entropy_gradient(&mut logits, &[Some(1)], &[1.0], &mut losses);
        assert!(losses[0].is_nan() && logits[7].is_nan());
    }
}

#[test]
fn a_norm_after_adding_has_the_bits_of_a_sum_and_its_norm() {
    for (isa, width) in sets().flat_map(|isa| WIDTHS.map(|width| (isa, width))) {
        let [x, added] = [1, 2].map(|seed| numbers(ROWS * width, seed));
        let (weight, epsilon) = (&numbers(width, 4)[..], 1e-5);
        let sum: Vec<f32> = x.iter().zip(&added).map(|(x, added)| x + added).collect();
        let (mut of_sum, mut out, mut over) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()], x);
        by(isa, RmsNorm { x: &sum, weight, epsilon, out: &mut of_sum });
        by(isa, AddRmsNorm { x: &mut over, added: &added, weight, epsilon, out: &mut out });
        assert_eq!((over, out), (sum, of_sum), "{isa} {width}");
    }
}

#[test]
fn pieces_join_to_the_whole_on_any_number_of_threads() {
    let (rows, width) = (5000, 24);
    let [x, grad, onto] = [1, 2, 3].map(|seed| numbers(rows * width, seed));
    let weight = numbers(width, 4);
    let given = RmsNormGradient { x: &x, weight: &weight, epsilon: 1e-5, grad: &grad, onto: Some(&onto) };
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut normed, mut pulled) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            rms_norm(&x, &weight, 1e-5, &mut normed);
            // Zeros change no number.
            let (mut over, mut again) = (x.clone(), vec![f32::NAN; x.len()]);
            rms_norm_after_adding(&mut over, &vec![0.0; x.len()], &weight, 1e-5, &mut again);
            assert_eq!(again, normed);
            let weights = rms_norm_backward(given, &mut pulled);
            let (mut product, mut by_up, mut by_gate) = (normed.clone(), normed.clone(), grad.clone());
            swiglu_backward(&x, &onto, &mut by_gate, &mut by_up, Some(&mut product));
            (normed, pulled, weights, product, by_gate)
        })
    };
    let (one, three) = (on(1), on(3));
    assert_eq!(one, three);
    let mut whole = vec![f32::NAN; x.len()];
    by(Isa::best(), RmsNorm { x: &x, weight: &weight, epsilon: 1e-5, out: &mut whole });
    assert_eq!(one.0, whole);
    let mut product = vec![f32::NAN; x.len()];
    swiglu(&x, &onto, &mut product);
    assert_eq!(one.3, product);
}
