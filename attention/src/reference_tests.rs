//! The reference against numbers worked out by hand, and against what must hold for any attention.

use ndarray::{Array4, Axis, concatenate, s};
use proptest::prelude::*;

use super::*;
use crate::{Alibi, DocumentStarts, Mask};

#[allow(dead_code)] // The table of cases uses more of it.
#[path = "../tests/support/random.rs"]
mod random;
use random::Random;

/// One head of size one: each token is one number.
fn tokens(values: &[f64]) -> Array4<f64> {
    Array4::from_shape_vec([1, 1, values.len(), 1], values.to_vec()).unwrap()
}

fn two_tokens() -> AttnProblem {
    let shape = AttnShape { batch: 1, query_heads: 1, key_heads: 1, query_len: 2, key_len: 2, head_dim: 1 };
    AttnProblem::new(shape).unwrap()
}

fn run(problem: &AttnProblem, q: &Array4<f64>, k: &Array4<f64>, v: &Array4<f64>) -> Forward {
    forward(problem, q.view(), k.view(), v.view()).unwrap()
}

/// Largest difference, NaN if there is one anywhere.
fn distance<'a>(a: impl IntoIterator<Item = &'a f64>, b: impl IntoIterator<Item = &'a f64>) -> f64 {
    let apart = |(x, y): (&f64, &f64)| if x == y { 0.0 } else { (x - y).abs() };
    a.into_iter().zip(b).map(apart).fold(0.0, |worst, d| if d <= worst { worst } else { d })
}

#[test]
fn two_tokens_by_hand() {
    // Row 0: scores 0 and ln 3, weights 1/4 and 3/4: 10/4 + 60/4 = 17.5. Row 1: 0 and 2 ln 3, weights 1/10 and 9/10.
    let (q, k, v) = (tokens(&[1.0, 2.0]), tokens(&[0.0, 3.0_f64.ln()]), tokens(&[10.0, 20.0]));
    let answer = run(&two_tokens(), &q, &k, &v);
    assert!(distance(&answer.output, &[17.5, 19.0]) < 1e-13);
    assert!(distance(&answer.log_sum_exp, &[4.0_f64.ln(), 10.0_f64.ln()]) < 1e-13);
    // Causal: row 0 sees only itself, score 0.
    let causal = two_tokens().with_mask(Mask::Causal { offset: 0 }).unwrap();
    let answer = run(&causal, &q, &k, &v);
    assert!(distance(&answer.output, &[10.0, 19.0]) < 1e-13);
    assert!(distance(&answer.log_sum_exp, &[0.0, 10.0_f64.ln()]) < 1e-13);
}

#[test]
fn alibi_by_hand() {
    // Slope ln 2: a distance of one halves the weight, so 2/3 and 1/3: (2*3 + 9)/3 = 5, and (3 + 2*9)/3 = 7.
    let problem = two_tokens().with_alibi(Alibi::new(&[2.0_f64.ln()]).unwrap()).unwrap();
    let answer = run(&problem, &tokens(&[0.0, 0.0]), &tokens(&[1.0, 1.0]), &tokens(&[3.0, 9.0]));
    assert!(distance(&answer.output, &[5.0, 7.0]) < 1e-13);
}

#[test]
fn soft_cap_by_hand() {
    // A cap of 2 on a score of 2 atanh(ln 2 / 2) gives ln 2: weights 1/3 and 2/3, so (3 + 2*9)/3 = 7.
    let problem = two_tokens().with_soft_cap(2.0).unwrap();
    let score = 2.0 * (2.0_f64.ln() / 2.0).atanh();
    let answer = run(&problem, &tokens(&[1.0, 1.0]), &tokens(&[0.0, score]), &tokens(&[3.0, 9.0]));
    assert!(distance(&answer.output, &[7.0, 7.0]) < 1e-13);
}

#[test]
fn a_blind_row_is_zero_with_minus_infinity_and_gives_no_gradient() {
    let problem = two_tokens().with_mask(Mask::Causal { offset: -1 }).unwrap();
    let (q, k, v) = (tokens(&[1.0, 2.0]), tokens(&[3.0, 4.0]), tokens(&[5.0, 6.0]));
    let answer = run(&problem, &q, &k, &v);
    assert_eq!(answer.output, tokens(&[0.0, 5.0]));
    assert_eq!(answer.log_sum_exp[(0, 0, 0)], f64::NEG_INFINITY);
    let grads = backward(&problem, q.view(), k.view(), v.view(), tokens(&[7.0, 8.0]).view()).unwrap();
    assert_eq!(grads.v, tokens(&[8.0, 0.0]));
    assert_eq!((grads.q, grads.k), (tokens(&[0.0, 0.0]), tokens(&[0.0, 0.0])));
}

#[test]
fn nan_in_an_input_is_not_hidden() {
    let (q, k, v) = (tokens(&[f64::NAN, 2.0]), tokens(&[3.0, 4.0]), tokens(&[5.0, 6.0]));
    let answer = run(&two_tokens(), &q, &k, &v);
    assert!(answer.output[(0, 0, 0, 0)].is_nan() && answer.log_sum_exp[(0, 0, 0)].is_nan());
    assert!(answer.output[(0, 0, 1, 0)].is_finite());
}

#[test]
fn arrays_that_do_not_fit_are_named_with_both_shapes() {
    let (two, three) = (tokens(&[1.0, 2.0]), tokens(&[1.0, 2.0, 3.0]));
    let error = forward(&two_tokens(), two.view(), two.view(), three.view()).unwrap_err();
    assert_eq!(error.to_string(), "v has shape [1, 1, 3, 1], the attention problem says [1, 1, 2, 1]");
}

/// A small problem of any kind, and inputs for it.
#[derive(Debug, Clone)]
struct Sample {
    problem: AttnProblem,
    q: Array4<f64>,
    k: Array4<f64>,
    v: Array4<f64>,
}

fn mask_of(kind: usize, shape: &AttnShape, random: &mut Random) -> Mask {
    let offset = shape.causal_offset();
    let starts = |random: &mut Random| {
        let cut = 1 + random.below(shape.key_len);
        if cut < shape.key_len { vec![0, cut] } else { vec![0] }
    };
    match kind {
        0 => Mask::Full,
        1 => Mask::Causal { offset },
        2 => Mask::Window { size: 1 + random.below(4), sinks: random.below(3), offset },
        _ => {
            let rows = (0..shape.batch).map(|_| starts(random)).collect();
            Mask::Documents { starts: DocumentStarts::new(rows).unwrap(), offset }
        }
    }
}

prop_compose! {
    fn samples(masks: std::ops::Range<usize>)(
        kind in masks,
        (batch, key_heads, group) in (1..3_usize, 1..3_usize, 1..4_usize),
        (query_len, key_len, head_dim) in (1..7_usize, 1..8_usize, 1..6_usize),
        alibi in any::<bool>(),
        seed in any::<u64>(),
    ) -> Sample {
        let shape = AttnShape { batch, query_heads: key_heads * group, key_heads, query_len, key_len, head_dim };
        let mut random = Random::new(seed);
        let mask = mask_of(kind, &shape, &mut random);
        let mut problem = AttnProblem::new(shape).unwrap().with_mask(mask).unwrap();
        if alibi {
            let slopes: Vec<f64> = (0..shape.query_heads).map(|head| 0.5 / (head + 1) as f64).collect();
            problem = problem.with_alibi(Alibi::new(&slopes).unwrap()).unwrap();
        }
        let q = random.normal_array(shape.query_dims());
        let (k, v) = (random.normal_array(shape.key_dims()), random.normal_array(shape.key_dims()));
        Sample { problem, q, k, v }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn weights_of_a_row_sum_to_one_or_to_nothing(sample in samples(0..4)) {
        let Sample { problem, q, k, .. } = sample;
        let sums = weights(&problem, q.view(), k.view()).unwrap().sum_axis(Axis(3));
        for ((batch, _, query), sum) in sums.indexed_iter() {
            let expected = if problem.is_blind(batch, query) { 0.0 } else { 1.0 };
            prop_assert!((sum - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn keys_and_values_may_be_permuted_together(sample in samples(0..1), turn in 0..7_usize) {
        let Sample { problem, q, k, v } = sample;
        // Without ALiBi, which orders the keys.
        let problem = AttnProblem::new(*problem.shape()).unwrap();
        let order: Vec<usize> = (0..k.dim().2).map(|key| (key + turn) % k.dim().2).rev().collect();
        let turned = run(&problem, &q, &k.select(Axis(2), &order), &v.select(Axis(2), &order));
        let plain = run(&problem, &q, &k, &v);
        prop_assert!(distance(&turned.output, &plain.output) < 1e-12);
    }

    #[test]
    fn a_constant_on_every_score_moves_the_log_sum_exp_alone(sample in samples(0..4), constant in -3.0..3.0_f64) {
        let Sample { problem, q, k, v } = sample;
        let shifted = run(&problem, &q, &(&k + constant), &v);
        let plain = run(&problem, &q, &k, &v);
        prop_assert!(distance(&shifted.output, &plain.output) < 1e-11);
        let shift = q.sum_axis(Axis(3)) * constant * problem.scale();
        prop_assert!(distance(&shifted.log_sum_exp, &(plain.log_sum_exp + shift)) < 1e-11);
    }

    #[test]
    fn parts_of_the_keys_merge_by_log_sum_exp(sample in samples(1..3), cut in 1..7_usize) {
        let Sample { problem, q, k, v } = sample;
        let cut = cut.min(k.dim().2 - 1);
        prop_assume!(cut > 0);
        let whole = run(&problem, &q, &k, &v);
        let part = |from: usize, to: usize| {
            let shape = AttnShape { key_len: to - from, ..*problem.shape() };
            let mask = match *problem.mask() {
                Mask::Window { size, sinks, offset } =>
                    Mask::Window { size, sinks: sinks.saturating_sub(from), offset: offset - signed(from) },
                _ => Mask::Causal { offset: problem.query_offset() - signed(from) },
            };
            let mut part = AttnProblem::new(shape).unwrap().with_mask(mask).unwrap();
            if let Some(alibi) = problem.alibi() {
                part = part.with_alibi(alibi.clone()).unwrap();
            }
            let span = s![.., .., from..to, ..];
            run(&part, &q, &k.slice(span).to_owned(), &v.slice(span).to_owned())
        };
        let (left, right) = (part(0, cut), part(cut, k.dim().2));
        for (index, &lse) in whole.log_sum_exp.indexed_iter() {
            let (batch, head, query) = index;
            if lse == f64::NEG_INFINITY {
                prop_assert_eq!(left.log_sum_exp[index].max(right.log_sum_exp[index]), lse);
                continue;
            }
            let (l, r) = ((left.log_sum_exp[index] - lse).exp(), (right.log_sum_exp[index] - lse).exp());
            prop_assert!((l + r - 1.0).abs() < 1e-12);
            let row = s![batch, head, query, ..];
            let merged = &left.output.slice(row) * l + &right.output.slice(row) * r;
            prop_assert!(distance(&merged, whole.output.slice(row)) < 1e-12);
        }
    }

    #[test]
    fn shared_key_heads_equal_repeated_ones(sample in samples(0..4)) {
        let Sample { problem, q, k, v } = sample;
        let shape = problem.shape();
        let heads: Vec<usize> = (0..shape.query_heads).map(|head| shape.key_head_of(head)).collect();
        let repeated = AttnShape { key_heads: shape.query_heads, ..*shape };
        let mut all = AttnProblem::new(repeated).unwrap().with_mask(problem.mask().clone()).unwrap();
        if let Some(alibi) = problem.alibi() {
            all = all.with_alibi(alibi.clone()).unwrap();
        }
        let apart = run(&all, &q, &k.select(Axis(1), &heads), &v.select(Axis(1), &heads));
        prop_assert_eq!(apart, run(&problem, &q, &k, &v));
    }

    #[test]
    fn zero_slopes_equal_no_slopes(sample in samples(0..4)) {
        let Sample { problem, q, k, v } = sample;
        let bare = AttnProblem::new(*problem.shape()).unwrap().with_mask(problem.mask().clone()).unwrap();
        let flat = Alibi::new(&vec![0.0; problem.shape().query_heads]).unwrap();
        let with_flat = bare.clone().with_alibi(flat).unwrap();
        prop_assert_eq!(run(&with_flat, &q, &k, &v), run(&bare, &q, &k, &v));
    }

    #[test]
    fn a_wide_cap_changes_nothing_and_a_cap_bounds_the_log_sum_exp(sample in samples(0..1)) {
        let Sample { problem, q, k, v } = sample;
        let bare = AttnProblem::new(*problem.shape()).unwrap();
        let wide = bare.clone().with_soft_cap(1e9).unwrap();
        prop_assert!(distance(&run(&wide, &q, &k, &v).output, &run(&bare, &q, &k, &v).output) < 1e-9);
        let tight = run(&bare.with_soft_cap(0.25).unwrap(), &q, &k, &v);
        let most = 0.25 + (problem.shape().key_len as f64).ln();
        prop_assert!(tight.log_sum_exp.iter().all(|&lse| lse <= most + 1e-12));
    }

    #[test]
    fn rows_of_a_batch_do_not_touch(sample in samples(0..3)) {
        let Sample { problem, q, k, v } = sample;
        let double = |a: &Array4<f64>| concatenate(Axis(0), &[a.view(), a.view()]).unwrap();
        let shape = AttnShape { batch: 2 * problem.shape().batch, ..*problem.shape() };
        let mut twice = AttnProblem::new(shape).unwrap().with_mask(problem.mask().clone()).unwrap();
        if let Some(alibi) = problem.alibi() {
            twice = twice.with_alibi(alibi.clone()).unwrap();
        }
        let answer = run(&twice, &double(&q), &double(&k), &double(&v));
        prop_assert_eq!(answer.output, double(&run(&problem, &q, &k, &v).output));
    }
}
