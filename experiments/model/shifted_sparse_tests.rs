use rope_scaling::{PositionEncoding, Precision, RopeGeometry, RopeScaling};
use tch::{Device, Kind};

use super::*;
use crate::data::rng::CounterRng;

const HEAD_DIM: i64 = 8;
const LENGTH: i64 = 24;

fn plan() -> PlanTensors {
    let geometry = RopeGeometry::new(HEAD_DIM as usize, HEAD_DIM as usize, 10_000.0, 64).unwrap();
    let encoding = PositionEncoding::Rope { geometry, scaling: RopeScaling::None };
    PlanTensors::new(&encoding.plan(LENGTH as usize, Precision::Exact).unwrap(), Device::Cpu)
}

fn drawn(name: &str, batch: i64, heads: i64) -> Tensor {
    let rng = CounterRng::new(9).stream(name);
    let count = batch * LENGTH * heads * HEAD_DIM;
    let values: Vec<f32> = (0..count as u64).map(|n| 1.5 * rng.normal(n) as f32).collect();
    // As a projection leaves it.
    Tensor::from_slice(&values).view([batch, LENGTH, heads, HEAD_DIM]).transpose(1, 2).set_requires_grad(true)
}

/// How the twin puts the shifted heads into groups.
#[derive(Clone, Copy, PartialEq)]
enum Ends {
    /// The first and the last half group stand alone.
    Apart,
    /// They are one, in the order in which rolling the sequence leaves them.
    Rolled,
}

/// Softmax over every pair that a mask of all pairs allows, in float64.
fn twin(q: &Tensor, k: &Tensor, v: &Tensor, group: i64, starts: Option<&[Vec<i64>]>, ends: Ends) -> Tensor {
    let (batch, heads, key_heads) = (q.size()[0], q.size()[1], k.size()[1]);
    let share = heads / key_heads;
    // An even number of key heads is halved, else the query heads are.
    let kept = if key_heads % 2 == 0 { key_heads / 2 * share } else { heads / 2 };
    let document = |row: i64, place: i64| match starts {
        Some(starts) => starts[row as usize].iter().filter(|&&start| start <= place).count(),
        None => 0,
    };
    let visible = |row: i64, head: i64, query: i64, key: i64| {
        let shifted = head >= kept;
        let turned = |place: i64| if shifted { (place - group / 2).rem_euclid(LENGTH) } else { place };
        let of = |place: i64| if shifted { (place + group / 2) / group } else { place / group };
        let inside = match ends {
            Ends::Apart => of(query) == of(key) && key <= query,
            Ends::Rolled => turned(query) / group == turned(key) / group && turned(key) <= turned(query),
        };
        inside && document(row, query) == document(row, key)
    };
    let mut mask = vec![f64::NEG_INFINITY; (batch * heads * LENGTH * LENGTH) as usize];
    for (at, cell) in mask.iter_mut().enumerate() {
        let at = at as i64;
        let (row, head) = (at / (heads * LENGTH * LENGTH), at / (LENGTH * LENGTH) % heads);
        if visible(row, head, at / LENGTH % LENGTH, at % LENGTH) {
            *cell = 0.0;
        }
    }
    let mask = Tensor::from_slice(&mask).view([batch, heads, LENGTH, LENGTH]);
    let wide = |x: &Tensor| x.to_kind(Kind::Double);
    let repeated = |x: &Tensor| wide(x).repeat_interleave_self_int(share, 1, None);
    let scores = wide(q).matmul(&repeated(k).transpose(2, 3)) / (HEAD_DIM as f64).sqrt() + mask;
    scores.softmax(-1, Kind::Double).matmul(&repeated(v))
}

fn close(found: &Tensor, expected: &Tensor) -> bool {
    found.to_kind(Kind::Double).allclose(&expected.to_kind(Kind::Double), 1e-5, 1e-5, false)
}

#[test]
fn output_and_gradients_are_those_of_a_mask_over_all_pairs() {
    let backends = ["libtorch", "tiled"].map(|name| Backend::from_name(name).unwrap());
    let causal = Mask::Causal { offset: 0 };
    for (batch, heads, key_heads, share) in
        [(1, 4, 2, 0.25), (2, 4, 4, 0.25), (2, 3, 1, 1.0 / 3.0), (1, 9, 3, 0.5), (1, 2, 2, 1.0)]
    {
        let sparse = ShiftedSparse::new(LENGTH as usize, share).unwrap();
        let run = |attend: &dyn Fn(&Tensor, &Tensor, &Tensor) -> Tensor| {
            let tensors = [drawn("q", batch, heads), drawn("k", batch, key_heads), drawn("v", batch, key_heads)];
            let output = attend(&tensors[0], &tensors[1], &tensors[2]);
            (&output * drawn("weights", batch, heads).detach()).sum(Kind::Double).backward();
            (output.detach(), tensors.map(|tensor| tensor.grad()))
        };
        let group = sparse.group as i64;
        let (expected, expected_grads) = run(&|q, k, v| twin(q, k, v, group, None, Ends::Apart));
        for backend in backends {
            let plan = plan();
            let (output, grads) = run(&|q, k, v| sparse.attend(backend, (&plan, &causal), [q, k, v]).unwrap());
            let name = backend.name();
            assert!(close(&output, &expected), "{name}: {heads} heads over {key_heads}, groups of {group}");
            for (grad, expected) in grads.iter().zip(&expected_grads) {
                assert!(close(grad, expected), "{name}: {heads} heads over {key_heads}, groups of {group}");
            }
            let tensors = [drawn("q", batch, heads), drawn("k", batch, key_heads), drawn("v", batch, key_heads)];
            let tensors = tensors.each_ref().map(Tensor::detach);
            let (place, tensors) = ((&plan, &causal), tensors.each_ref());
            // libtorch has nothing but its graph.
            assert_eq!(sparse.goes_back_alone(backend, place, tensors).unwrap(), name == "tiled");
            if name == "tiled" {
                let answer = sparse.answered(backend, place, tensors).unwrap();
                assert!(close(&answer.output, &expected), "{heads} heads over {key_heads}, groups of {group}");
                let weights = drawn("weights", batch, heads).detach();
                let grads = sparse.backward(backend, place, tensors, (&answer, &weights)).unwrap();
                for ((grad, expected), whose) in grads.iter().zip(&expected_grads).zip(["q", "k", "v"]) {
                    assert!(close(grad, expected), "{whose}: {heads} heads over {key_heads}, groups of {group}");
                }
            }
            let (rolled, _) = run(&|q, k, v| twin(q, k, v, group, None, Ends::Rolled));
            assert!(!close(&output, &rolled), "half groups at the ends that see each other would pass");
        }
    }
}

#[test]
fn documents_stay_apart_inside_groups() {
    let sparse = ShiftedSparse::new(LENGTH as usize, 1.0 / 3.0).unwrap();
    let rows = [vec![0, 3, 8, 15], vec![0, 12]];
    let starts = DocumentStarts::new(rows.clone().into()).unwrap();
    let rows = rows.map(|row| row.into_iter().map(|start: usize| start as i64).collect::<Vec<_>>());
    let mask = Mask::Documents { starts, offset: 0 };
    let (q, k, v) = (drawn("q", 2, 4), drawn("k", 2, 2), drawn("v", 2, 2));
    let found = sparse.attend(Backend::from_name("libtorch").unwrap(), (&plan(), &mask), [&q, &k, &v]).unwrap();
    let expected = twin(&q, &k, &v, sparse.group as i64, Some(&rows), Ends::Apart);
    assert!(close(&found, &expected));
    assert!(!close(&found, &twin(&q, &k, &v, sparse.group as i64, None, Ends::Apart)));
    let tiled = Backend::from_name("tiled").unwrap();
    let answer = sparse.answered(tiled, (&plan(), &mask), [&q.detach(), &k.detach(), &v.detach()]).unwrap();
    assert!(close(&answer.output, &expected));
}

#[test]
fn no_token_sees_a_later_one() {
    let sparse = ShiftedSparse::new(LENGTH as usize, 0.5).unwrap();
    let (q, k, v) = (drawn("q", 1, 4), drawn("k", 1, 4), drawn("v", 1, 4));
    let backend = Backend::from_name("libtorch").unwrap();
    let attend = |v: &Tensor| sparse.attend(backend, (&plan(), &Mask::Causal { offset: 0 }), [&q, &k, v]).unwrap();
    let (plain, changed) = (attend(&v), v.detach().copy());
    let _ = changed.narrow(2, LENGTH - 1, 1).fill_(7.0);
    let earlier = |x: &Tensor| x.detach().narrow(2, 0, LENGTH - 1);
    let other = attend(&changed);
    assert!(earlier(&other).equal(&earlier(&plain)) && !other.equal(&plain));
}

#[test]
fn groups_must_fill_the_length_evenly() {
    for (length, share) in [(24, 0.25), (4096, 0.25), (24, 1.0)] {
        assert!(ShiftedSparse::new(length, share).is_ok(), "{length} {share}");
    }
    for (length, share) in [(24, 0.0), (24, 1.5), (24, 0.3), (24, 0.125), (10, 0.25), (24, f64::NAN)] {
        assert!(ShiftedSparse::new(length, share).is_err(), "{length} {share}");
    }
}

#[test]
fn document_starts_are_counted_from_a_groups_first_token() {
    assert_eq!(within(&[0, 3, 8, 15], 8, 8), [0, 7]);
    assert_eq!(within(&[0, 3], 4, 8), [0]);
}
