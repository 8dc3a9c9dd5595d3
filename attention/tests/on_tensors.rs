//! What backends owe on tensors beyond numbers.

use attention::{AttnError, AttnProblem, AttnShape, Backend, Feature, Mask, Unsupported};
use tch::{Device, Kind, Tensor};

const SHAPE: AttnShape = AttnShape { batch: 2, query_heads: 4, key_heads: 2, query_len: 5, key_len: 9, head_dim: 8 };

fn problem() -> AttnProblem {
    AttnProblem::new(SHAPE).unwrap().with_mask(Mask::causal(&SHAPE)).unwrap()
}

fn normal(dims: [i64; 4]) -> Tensor {
    Tensor::randn(dims, (Kind::Float, Device::Cpu))
}

/// q, k and v that fit [`SHAPE`].
fn tensors() -> [Tensor; 3] {
    [normal([2, 4, 5, 8]), normal([2, 2, 9, 8]), normal([2, 2, 9, 8])]
}

#[test]
fn tensors_that_do_not_fit_are_named_with_what_came() {
    let [q, k, v] = tensors();
    for backend in Backend::all() {
        let message =
            |q: &Tensor, k: &Tensor, v: &Tensor| backend.forward(&problem(), q, k, v).unwrap_err().to_string();
        let short = message(&q, &k.narrow(2, 0, 8), &v);
        assert_eq!(short, "k has shape [2, 2, 8, 8], the attention problem says [2, 2, 9, 8]");
        let mixed = message(&q, &k, &v.to_kind(Kind::Half));
        assert_eq!(mixed, "v is Half where q is Float: q, k and v must agree");
        let whole = message(&q.to_kind(Kind::Int64), &k.to_kind(Kind::Int64), &v.to_kind(Kind::Int64));
        assert!(whole.contains("got Int64"), "{whole}");
    }
}

#[test]
fn strides_do_not_matter() {
    let [q, k, v] = tensors();
    // The layout that a model's projections give: heads inside positions.
    let swapped = [&q, &k, &v].map(|t| t.transpose(1, 2).contiguous().transpose(1, 2));
    let [qs, ks, vs] = &swapped;
    assert!(!qs.is_contiguous());
    for backend in Backend::all() {
        let plain = backend.forward(&problem(), &q, &k, &v).unwrap();
        let strided = backend.forward(&problem(), qs, ks, vs).unwrap();
        assert!(plain.allclose(&strided, 1e-6, 1e-6, false), "{}", backend.name());
    }
}

#[test]
fn the_reference_refuses_to_lose_a_gradient() {
    let [q, k, v] = tensors();
    let k = k.set_requires_grad(true);
    let reference = Backend::from_name("reference").unwrap();
    let error = reference.forward(&problem(), &q, &k, &v).unwrap_err();
    let expected = Unsupported { backend: "reference", feature: Feature::Gradients };
    assert!(matches!(&error, AttnError::Unsupported(found) if *found == expected), "{error}");
    assert!(error.to_string().contains("gradients"), "{error}");
    let output = tch::no_grad(|| reference.forward(&problem(), &q, &k, &v)).unwrap();
    assert_eq!(output.size(), [2, 4, 5, 8]);
}

#[test]
fn a_kept_bias_is_not_taken_for_another_problems() {
    let [q, k, v] = tensors();
    let (libtorch, reference) = (Backend::from_name("libtorch").unwrap(), Backend::from_name("reference").unwrap());
    let at = |offset| AttnProblem::new(SHAPE).unwrap().with_mask(Mask::Causal { offset }).unwrap();
    let window = AttnProblem::new(SHAPE).unwrap().with_mask(Mask::Window { size: 2, sinks: 1, offset: 4 }).unwrap();
    for problem in [at(4), at(3), at(4), window, at(-2), at(4)] {
        let [found, exact] = [libtorch, reference].map(|backend| backend.forward(&problem, &q, &k, &v).unwrap());
        assert!(found.allclose(&exact, 1e-5, 1e-5, false), "{problem:?}");
    }
}

#[test]
fn several_threads_may_ask_at_once() {
    let ask = |offset: i64| {
        let [q, k, v] = tensors();
        let problem = AttnProblem::new(SHAPE).unwrap().with_mask(Mask::Causal { offset }).unwrap();
        let [found, exact] = ["libtorch", "reference"]
            .map(|name| Backend::from_name(name).unwrap().forward(&problem, &q, &k, &v).unwrap());
        assert!(found.allclose(&exact, 1e-5, 1e-5, false), "offset {offset}");
    };
    std::thread::scope(|scope| {
        for offset in 0..4 {
            scope.spawn(move || (0..20).for_each(|_| ask(offset)));
        }
    });
}
