//! The fused loss beside libtorch's plain one, which holds all logits.

use tch::Reduction;

use super::*;

const VOCAB: i64 = 37;
const WIDTH: i64 = 12;

/// Loss, gradient by the hidden states, gradient by the head.
struct Answer {
    loss: f64,
    hidden: Option<Tensor>,
    head: Option<Tensor>,
}

/// Hidden states, head, targets of which some are not counted, weights.
fn case(tokens: i64, kind: Kind) -> [Tensor; 4] {
    tch::manual_seed(3);
    let options = (Kind::Float, Device::Cpu);
    let hidden = Tensor::randn([tokens, WIDTH], options).to_kind(kind);
    let head = Tensor::randn([VOCAB, WIDTH], options).to_kind(kind);
    let targets = Tensor::randint(VOCAB, [tokens], (Kind::Int64, Device::Cpu));
    let _ = targets.narrow(0, 1, tokens / 3).fill_(UNCOUNTED);
    [hidden, head, targets, Tensor::rand([tokens], options) + 0.1]
}

fn with_gradients(
    [hidden, head]: [&Tensor; 2],
    [by_hidden, by_head]: [bool; 2],
    loss: impl FnOnce(&Tensor, &Tensor) -> Tensor,
) -> Answer {
    let hidden = hidden.detach().copy().set_requires_grad(by_hidden);
    let head = head.detach().copy().set_requires_grad(by_head);
    let loss = loss(&hidden, &head) / 7.0;
    if by_hidden || by_head {
        loss.backward();
    }
    let grad = |t: &Tensor| Some(t.grad()).filter(Tensor::defined);
    Answer { loss: loss.double_value(&[]), hidden: grad(&hidden), head: grad(&head) }
}

/// libtorch's cross-entropy of all logits at once, each token's part times its weight.
fn plain(hidden: &Tensor, head: &Tensor, targets: &Tensor, weights: &Tensor) -> Tensor {
    let logits = hidden.linear(head, None::<&Tensor>).to_kind(Kind::Double);
    let losses = logits.cross_entropy_loss(targets, None::<&Tensor>, Reduction::None, UNCOUNTED, 0.0);
    (losses * weights).sum(Kind::Double)
}

fn fused(hidden: &Tensor, head: &Tensor, targets: &Tensor, weights: Option<&Tensor>, rows: i64) -> Tensor {
    linear_cross_entropy(hidden, head, Tokens::new(targets, weights, VOCAB).unwrap(), rows).unwrap()
}

/// The largest distance, in parts of the largest number.
fn apart(found: &Option<Tensor>, expected: &Option<Tensor>) -> f64 {
    let (Some(found), Some(expected)) = (found, expected) else {
        return if found.is_none() && expected.is_none() { 0.0 } else { f64::INFINITY };
    };
    let apart = (found.to_kind(Kind::Double) - expected.to_kind(Kind::Double)).abs().max().double_value(&[]);
    apart / expected.abs().max().double_value(&[])
}

#[test]
fn loss_and_gradients_are_those_of_the_plain_one_whatever_is_cut_weighed_left_out_or_frozen() {
    let bound = |kind| match kind {
        Kind::Double => 1e-6, // weights and sums of losses are float32
        Kind::Float => 2e-6,
        _ => 2e-2,
    };
    for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
        for (tokens, rows) in [(50, 64), (50, 16), (50, 7), (3, 1)] {
            let [hidden, head, targets, weights] = case(tokens, kind);
            for wanted in [[true, true], [true, false], [false, true], [false, false]] {
                for weights in [None, Some(&weights)] {
                    let ones = targets.ones_like().to_kind(Kind::Float);
                    let expected = with_gradients([&hidden, &head], wanted, |hidden, head| {
                        plain(hidden, head, &targets, weights.unwrap_or(&ones))
                    });
                    let found = with_gradients([&hidden, &head], wanted, |hidden, head| {
                        fused(hidden, head, &targets, weights, rows)
                    });
                    let loss = (found.loss - expected.loss).abs() / expected.loss;
                    let worst = [loss, apart(&found.hidden, &expected.hidden), apart(&found.head, &expected.head)];
                    let within = worst.iter().all(|&apart| apart <= bound(kind));
                    assert!(within, "{kind:?}, {tokens} by {rows}, {wanted:?}: {worst:?}");
                }
            }
        }
    }
}

#[test]
fn a_target_left_counted_and_a_gradient_not_scaled_are_told_apart() {
    let [hidden, head, targets, weights] = case(50, Kind::Float);
    let expected = with_gradients([&hidden, &head], [true; 2], |hidden, head| plain(hidden, head, &targets, &weights));
    let zeroed = targets.clamp_min(0);
    let wrong = with_gradients([&hidden, &head], [true; 2], |h, w| fused(h, w, &zeroed, Some(&weights), 16));
    assert!(apart(&wrong.hidden, &expected.hidden) > 0.1 && (wrong.loss - expected.loss).abs() > 0.1);
    let wrong = with_gradients([&hidden, &head], [true; 2], |h, w| fused(h, w, &targets, None, 16));
    assert!(apart(&wrong.head, &expected.head) > 0.1);
}

#[test]
fn nothing_counted_is_a_loss_of_zero_and_an_unknown_id_an_error() {
    let [hidden, head, targets, _] = case(6, Kind::Float);
    let none = targets.full_like(UNCOUNTED);
    let answer = with_gradients([&hidden, &head], [true; 2], |h, w| fused(h, w, &none, None, 4));
    assert_eq!(answer.loss, 0.0);
    assert_eq!(answer.hidden.unwrap().abs().max().double_value(&[]), 0.0);
    for id in [VOCAB, -1] {
        let error = Tokens::new(&targets.full_like(id), None, VOCAB).err().unwrap().to_string();
        assert!(error.contains(&id.to_string()) && error.contains("37"), "{error}");
    }
}

#[test]
fn a_second_backward_is_refused_and_a_piece_is_a_part_of_the_whole() {
    let [hidden, head, targets, _] = case(6, Kind::Float);
    let loss = fused(&hidden.set_requires_grad(true), &head, &targets, None, 4);
    Tensor::run_backward(&[&loss], &[&hidden], true, false);
    let again = Tensor::f_run_backward(&[&loss], &[&hidden], false, false).unwrap_err().to_string();
    assert!(again.contains("one backward pass"), "{again}");
    assert_eq!(loss_rows(0, 600, Device::Cpu), 256);
    assert_eq!(loss_rows(0, 4096, Device::Cpu), 682);
    assert_eq!(loss_rows(0, 32_768, Device::Cuda(0)), 2048);
    assert_eq!(loss_rows(0, 10, Device::Cuda(0)), 512);
    assert_eq!(loss_rows(100, 4096, Device::Cpu), 100);
}
