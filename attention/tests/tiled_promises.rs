//! What the tiled kernels promise beside right numbers: views, threads, head sizes, errors, NaN.

use attention::tiled::{self, Isa, TiledError, View};
use attention::{Alibi, AttnProblem, AttnShape, DType, DocumentStarts, Feature, Mask, reference};
use ndarray::Array4;
use proptest::prelude::*;

use crate::support::cases::{Case, Inputs};
use crate::tiled_backward::gradients;
use crate::tiled_forward::{array4, attend, elements, sets};

fn inputs(problem: &AttnProblem, seed: usize) -> Inputs {
    Case { number: seed, problem: problem.clone(), dtype: DType::F32, sharpness: 1.5 }.inputs()
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}

/// Work on a pool of so many threads.
fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let shape = AttnShape { batch: 1, query_heads: 4, key_heads: 2, query_len: 701, key_len: 733, head_dim: 40 };
    let starts = DocumentStarts::new(vec![vec![0, 90, 400]]).unwrap();
    let offset = shape.causal_offset();
    let masks = [Mask::Full, Mask::causal(&shape), Mask::Window { size: 150, sinks: 3, offset }];
    for mask in masks.into_iter().chain([Mask::Documents { starts, offset }]) {
        let problem = AttnProblem::new(shape).unwrap().with_mask(mask).unwrap();
        let i = inputs(&problem, 7);
        let run = |threads| {
            on_threads(threads, || {
                let (output, lse) = attend::<f32>(Isa::best(), &problem, &i);
                let grads = gradients::<f32>(Isa::best(), &problem, &i);
                [output, lse].iter().chain(&grads).map(|numbers| bits(numbers)).collect::<Vec<_>>()
            })
        };
        let one = run(1);
        for threads in [2, 3, 7] {
            assert!(run(threads) == one, "{} on {threads} threads", problem.mask().name());
        }
    }
}

#[test]
fn one_head_of_one_sequence_has_the_same_bits_on_every_number_of_threads() {
    let shape = AttnShape { batch: 1, query_heads: 1, key_heads: 1, query_len: 1100, key_len: 1100, head_dim: 64 };
    let problem = AttnProblem::new(shape).unwrap().with_mask(Mask::causal(&shape)).unwrap();
    let i = inputs(&problem, 8);
    let run = |threads| on_threads(threads, || gradients::<f32>(Isa::best(), &problem, &i).map(|grad| bits(&grad)));
    let one = run(1);
    for threads in [2, 3, 4] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

/// The same numbers with other strides: heads side by side in each position, and gaps.
fn scattered(numbers: &[f32], dims: [usize; 4], gap: usize) -> (Vec<f32>, [usize; 3]) {
    let [batch, heads, len, head_dim] = dims;
    let row = head_dim + gap;
    let strides = [len * heads * row, row, heads * row];
    let mut data = vec![f32::NAN; batch * strides[0]];
    let mut rows = numbers.chunks_exact(head_dim);
    for (b, h, n) in (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..len).map(move |n| (b, h, n)))) {
        let at = b * strides[0] + h * strides[1] + n * strides[2];
        data[at..at + head_dim].copy_from_slice(rows.next().unwrap());
    }
    (data, strides)
}

#[test]
fn strides_change_nothing() {
    let shape = AttnShape { batch: 2, query_heads: 4, key_heads: 2, query_len: 70, key_len: 131, head_dim: 32 };
    let problem = AttnProblem::new(shape).unwrap().with_mask(Mask::causal(&shape)).unwrap();
    let i = inputs(&problem, 3);
    let (queries, keys) = (shape.query_dims(), shape.key_dims());
    for isa in sets() {
        let (output, lse) = attend::<f32>(isa, &problem, &i);
        let expected = gradients::<f32>(isa, &problem, &i);
        let scatter = |array: &Array4<f64>, dims, gap| scattered(&elements::<f32>(array), dims, gap);
        let (q, k, v) = (scatter(&i.q, queries, 0), scatter(&i.k, keys, 5), scatter(&i.v, keys, 16));
        let (grad, seen) = (scatter(&i.grad_output, queries, 3), scattered(&output, queries, 1));
        fn view((data, strides): &(Vec<f32>, [usize; 3])) -> View<'_, f32> {
            View { data, strides: *strides }
        }
        let (mut again, mut lse_again) = (vec![f32::NAN; output.len()], vec![f32::NAN; lse.len()]);
        tiled::forward_by(isa, &problem, view(&q), view(&k), view(&v), &mut again, &mut lse_again).unwrap();
        assert_eq!((bits(&again), bits(&lse_again)), (bits(&output), bits(&lse)), "{isa}");
        let [mut dq, mut dk, mut dv] = expected.clone().map(|grad| vec![f32::NAN; grad.len()]);
        let (q, k, v, seen, grad) = (view(&q), view(&k), view(&v), view(&seen), view(&grad));
        tiled::backward_by(isa, &problem, q, k, v, seen, &lse, grad, &mut dq, &mut dk, &mut dv).unwrap();
        assert_eq!([dq, dk, dv].map(|grad| bits(&grad)), expected.map(|grad| bits(&grad)), "{isa}");
    }
}

#[test]
fn a_stride_of_zero_repeats_one_head() {
    let shape = AttnShape { batch: 2, query_heads: 2, key_heads: 2, query_len: 9, key_len: 9, head_dim: 16 };
    let problem = AttnProblem::new(shape).unwrap();
    let data: Vec<f32> = (0..9 * 16).map(|x| (x as f32).sin()).collect();
    let view = View { data: &data, strides: [0, 0, 16] };
    let (mut output, mut lse) = (vec![f32::NAN; 4 * data.len()], vec![f32::NAN; 4 * 9]);
    tiled::forward(&problem, view, view, view, &mut output, &mut lse).unwrap();
    let heads: Vec<&[f32]> = output.chunks(data.len()).collect();
    assert!(heads.iter().all(|head| *head == heads[0]) && output.iter().all(|x| x.is_finite()));
}

#[test]
fn what_does_not_fit_is_named_with_its_sizes() {
    let shape = AttnShape { batch: 1, query_heads: 2, key_heads: 1, query_len: 3, key_len: 5, head_dim: 4 };
    let problem = AttnProblem::new(shape).unwrap();
    let (q, k) = (vec![0.0_f32; 24], vec![0.0_f32; 20]);
    let (query_view, key_view) = (View::contiguous(&q, shape.query_dims()), View::contiguous(&k, shape.key_dims()));
    let run = |q, k, output: usize, lse: usize| {
        tiled::forward(&problem, q, k, key_view, &mut vec![0.0; output], &mut vec![0.0; lse])
    };
    assert_eq!(run(query_view, key_view, 24, 6), Ok(()));
    let short = View { data: &k[..19], ..key_view };
    let too_short = TiledError::TooShort { tensor: "k", needed: Some(20), found: 19 };
    assert_eq!(run(query_view, short, 24, 6), Err(too_short));
    let far = View { data: &q, strides: [0, usize::MAX, 4] };
    assert!(matches!(run(far, key_view, 24, 6), Err(TiledError::TooShort { tensor: "q", .. })));
    let size = TiledError::Size { tensor: "output", expected: 24, found: 23 };
    assert_eq!(run(query_view, key_view, 23, 6), Err(size));
    let size = TiledError::Size { tensor: "lse", expected: 6, found: 7 };
    assert_eq!(run(query_view, key_view, 24, 7), Err(size));
}

#[test]
fn float64_and_wide_heads_are_declined() {
    let problem = |head_dim| {
        let shape = AttnShape { batch: 1, query_heads: 1, key_heads: 1, query_len: 1, key_len: 1, head_dim };
        AttnProblem::new(shape).unwrap()
    };
    assert_eq!(tiled::supports(&problem(256), DType::F32), Ok(()));
    assert_eq!(tiled::supports(&problem(257), DType::F32).unwrap_err().feature, Feature::HeadDim(257));
    assert_eq!(tiled::supports(&problem(64), DType::F64).unwrap_err().feature, Feature::DType(DType::F64));
}

#[test]
fn nan_in_an_input_reaches_every_row_that_sees_it_and_no_other() {
    let shape = AttnShape { batch: 1, query_heads: 1, key_heads: 1, query_len: 300, key_len: 300, head_dim: 16 };
    let problem = AttnProblem::new(shape).unwrap().with_mask(Mask::causal(&shape)).unwrap();
    for isa in sets() {
        let mut i = inputs(&problem, 11);
        i.k[(0, 0, 200, 3)] = f64::NAN;
        let (output, lse) = attend::<f32>(isa, &problem, &i);
        let nan = |query: usize| output[query * 16..(query + 1) * 16].iter().all(|x| x.is_nan()) && lse[query].is_nan();
        assert!((200..300).all(nan), "{isa}: NaN was lost");
        // Rows whose last tile of keys ends before the bad one.
        assert!((0..192).all(|query| lse[query].is_finite()), "{isa}: NaN spread");
    }
}

#[test]
fn huge_scores_and_far_biases_stay_finite() {
    let shape = AttnShape { batch: 1, query_heads: 1, key_heads: 1, query_len: 400, key_len: 400, head_dim: 8 };
    let problem = AttnProblem::new(shape).unwrap().with_scale(1e4).unwrap().with_mask(Mask::causal(&shape)).unwrap();
    let problem = problem.with_alibi(Alibi::new(&[1e6]).unwrap()).unwrap();
    let i = inputs(&problem, 12);
    for isa in sets() {
        let (output, lse) = attend::<f32>(isa, &problem, &i);
        assert!(output.iter().chain(&lse).all(|x| x.is_finite()), "{isa}");
        // A slope this steep leaves each query its own key.
        assert!((output[399 * 8] - i.v[(0, 0, 399, 0)] as f32).abs() < 1e-6, "{isa}");
    }
}

/// A small problem of any kind.
fn problems() -> impl Strategy<Value = AttnProblem> {
    let sizes = (1..3_usize, 1..3_usize, 1..3_usize, 1..120_usize, 1..230_usize, 1..100_usize);
    let options = (0..4_usize, -40..60_i64, 1..80_usize, 0..9_usize, any::<[bool; 2]>());
    let cuts = proptest::collection::vec(proptest::collection::btree_set(1..230_usize, 0..4), 2);
    (sizes, options, cuts).prop_map(|(sizes, options, cuts)| {
        let (batch, key_heads, group, query_len, key_len, head_dim) = sizes;
        let (kind, offset, size, sinks, [biased, capped]) = options;
        let shape = AttnShape { batch, query_heads: key_heads * group, key_heads, query_len, key_len, head_dim };
        let row = |cuts: &std::collections::BTreeSet<usize>| {
            std::iter::once(0).chain(cuts.iter().copied().filter(|&cut| cut < key_len)).collect::<Vec<usize>>()
        };
        let starts = || DocumentStarts::new((0..batch).map(|b| row(&cuts[b])).collect()).unwrap();
        let mask = match kind {
            0 => Mask::Full,
            1 => Mask::Causal { offset },
            2 => Mask::Window { size, sinks, offset },
            _ => Mask::Documents { starts: starts(), offset },
        };
        let mut problem = AttnProblem::new(shape).unwrap().with_mask(mask).unwrap();
        if biased {
            let slopes: Vec<f64> = (0..shape.query_heads).map(|head| 0.5 / (head + 1) as f64).collect();
            problem = problem.with_alibi(Alibi::new(&slopes).unwrap()).unwrap();
        }
        if capped { problem.with_soft_cap(3.0).unwrap() } else { problem }
    })
}

/// Largest difference; NaN if there is one.
fn distance(exact: &Array4<f64>, found: &Array4<f64>) -> f64 {
    exact.iter().zip(found).map(|(x, y)| (x - y).abs()).fold(0.0, |most, x| if x <= most { most } else { x })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_small_problem_is_answered_as_by_the_reference(problem in problems(), seed in 0..1000_usize) {
        let i = inputs(&problem, seed);
        let (q, k, v, grad) = (i.q.view(), i.k.view(), i.v.view(), i.grad_output.view());
        let exact = reference::forward(&problem, q, k, v).unwrap();
        let slopes = reference::backward(&problem, q, k, v, grad).unwrap();
        let dims = [problem.shape().query_dims(), problem.shape().key_dims(), problem.shape().key_dims()];
        for isa in sets() {
            let (output, lse) = attend::<f32>(isa, &problem, &i);
            prop_assert!(distance(&exact.output, &array4(&output, dims[0])) < 3e-5, "{isa}: output");
            let rows = exact.log_sum_exp.iter().zip(&lse);
            let lse_right = |(&x, &y): (&f64, &f32)| x == f64::from(y) || (x - f64::from(y)).abs() < 3e-5;
            prop_assert!(rows.clone().all(lse_right), "{isa}: lse");
            let found = gradients::<f32>(isa, &problem, &i);
            for (index, (name, exact)) in [("q", &slopes.q), ("k", &slopes.k), ("v", &slopes.v)].iter().enumerate() {
                let far = distance(exact, &array4(&found[index], dims[index]));
                prop_assert!(far < 3e-4, "{isa} by {name}: {far:e}");
            }
        }
    }
}
