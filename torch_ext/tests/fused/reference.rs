//! Every operation in f64, number by number, as its paper has it; never made fast.

/// Rows of a norm: what was normed, weights, and the answer.
pub(crate) struct Normed {
    pub(crate) out: Vec<f64>,
    mean: Vec<f64>,
    rstd: Vec<f64>,
}

/// RMSNorm (Zhang and Sennrich 2019, equation 4), or LayerNorm (Ba et al. 2016, equation 3) where `layer`.
pub(crate) fn norm(layer: bool, x: &[f64], weight: &[f64], bias: Option<&[f64]>, epsilon: f64) -> Normed {
    let columns = weight.len();
    let mut normed = Normed { out: Vec::new(), mean: Vec::new(), rstd: Vec::new() };
    for row in x.chunks(columns) {
        let mean = if layer { row.iter().sum::<f64>() / columns as f64 } else { 0.0 };
        let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / columns as f64;
        let rstd = 1.0 / (square + epsilon).sqrt();
        for (column, x) in row.iter().enumerate() {
            normed.out.push((x - mean) * rstd * weight[column] + bias.map_or(0.0, |bias| bias[column]));
        }
        normed.mean.push(mean);
        normed.rstd.push(rstd);
    }
    normed
}

/// Gradients by what was normed, by the weight and by the bias.
pub(crate) fn norm_backward(
    layer: bool,
    x: &[f64],
    weight: &[f64],
    normed: &Normed,
    grad: &[f64],
    grad_sum: Option<&[f64]>,
) -> [Vec<f64>; 3] {
    let columns = weight.len();
    let (mut by_x, mut by_weight, mut by_bias) = (Vec::new(), vec![0.0; columns], vec![0.0; columns]);
    for (row, (x, grad)) in x.chunks(columns).zip(grad.chunks(columns)).enumerate() {
        let rstd = normed.rstd[row];
        let n: Vec<f64> = x.iter().map(|x| (x - normed.mean[row]) * rstd).collect();
        let g: Vec<f64> = grad.iter().zip(weight).map(|(grad, weight)| grad * weight).collect();
        let along = n.iter().zip(&g).map(|(n, g)| n * g).sum::<f64>() / columns as f64;
        let level = if layer { g.iter().sum::<f64>() / columns as f64 } else { 0.0 };
        for column in 0..columns {
            let passed = grad_sum.map_or(0.0, |grad_sum| grad_sum[row * columns + column]);
            by_x.push(rstd * (g[column] - level - n[column] * along) + passed);
            by_weight[column] += grad[column] * n[column];
            by_bias[column] += grad[column];
        }
    }
    [by_x, by_weight, by_bias]
}

/// SwiGLU (Shazeer 2020, equation 6) and its gradients: product, by gate, by up.
pub(crate) fn swiglu(gate: &[f64], up: &[f64], grad: &[f64]) -> [Vec<f64>; 3] {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let three = gate.iter().zip(up).zip(grad).map(|((&gate, &up), &grad)| {
        let (sigma, silu) = (sigmoid(gate), gate * sigmoid(gate));
        [silu * up, grad * up * (sigma + silu * (1.0 - sigma)), grad * silu]
    });
    let three: Vec<[f64; 3]> = three.collect();
    [0, 1, 2].map(|which| three.iter().map(|numbers| numbers[which]).collect())
}

/// Cross-entropy of rows and the gradient by the logits of the losses' sum with the rows' factors; zero where the target is
/// `ignored`, NaN where it is no column.
pub(crate) fn cross_entropy(
    logits: &[f64],
    columns: usize,
    targets: &[i64],
    ignored: i64,
    factors: &[f64],
) -> [Vec<f64>; 2] {
    let (mut losses, mut gradient) = (Vec::new(), Vec::new());
    for ((row, &target), factor) in logits.chunks(columns).zip(targets).zip(factors) {
        if target == ignored {
            losses.push(0.0);
            gradient.extend(vec![0.0; columns]);
            continue;
        }
        let Some(&at_target) = usize::try_from(target).ok().and_then(|target| row.get(target)) else {
            losses.push(f64::NAN);
            gradient.extend(vec![f64::NAN; columns]);
            continue;
        };
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - most).exp()).sum();
        losses.push(most + sum.ln() - at_target);
        let one_hot = |column: usize| if column as i64 == target { 1.0 } else { 0.0 };
        gradient.extend(row.iter().enumerate().map(|(i, x)| factor * ((x - most).exp() / sum - one_hot(i))));
    }
    [losses, gradient]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slope of `f` at place `at` of `x`.
    fn slope(x: &[f64], at: usize, f: impl Fn(&[f64]) -> f64) -> f64 {
        let moved = |by: f64| {
            let mut x = x.to_vec();
            x[at] += by;
            f(&x)
        };
        (moved(1e-5) - moved(-1e-5)) / 2e-5
    }

    fn near(found: &[f64], slopes: impl Fn(usize) -> f64) {
        for (at, found) in found.iter().enumerate() {
            assert!((found - slopes(at)).abs() < 1e-7, "{at}: {found}");
        }
    }

    #[test]
    fn gradients_are_the_slopes() {
        let mut random = testkit::SplitMix64::new(3);
        let (x, weight, grad, sum) = (random.normals(12), random.normals(4), random.normals(12), random.normals(12));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        for layer in [false, true] {
            let normed = norm(layer, &x, &weight, None, 1e-3);
            let [by_x, by_weight, by_bias] = norm_backward(layer, &x, &weight, &normed, &grad, Some(&sum));
            let value = |x: &[f64], weight: &[f64]| dot(&norm(layer, x, weight, None, 1e-3).out, &grad) + dot(x, &sum);
            near(&by_x, |at| slope(&x, at, |x| value(x, &weight)));
            near(&by_weight, |at| slope(&weight, at, |weight| value(&x, weight)));
            near(&by_bias, |at| {
                slope(&[0.0; 4], at, |bias| dot(&norm(layer, &x, &weight, Some(bias), 1e-3).out, &grad))
            });
        }
        let [_, by_gate, by_up] = swiglu(&x, &sum, &grad);
        near(&by_gate, |at| slope(&x, at, |gate| dot(&swiglu(gate, &sum, &grad)[0], &grad)));
        near(&by_up, |at| slope(&sum, at, |up| dot(&swiglu(&x, up, &grad)[0], &grad)));
        let (targets, factors) = ([3, -100, 0], [0.5, 1.0, 2.0]);
        let [_, by_logits] = cross_entropy(&x, 4, &targets, -100, &factors);
        near(&by_logits, |at| slope(&x, at, |x| dot(&cross_entropy(x, 4, &targets, -100, &factors)[0], &factors)));
    }
}
