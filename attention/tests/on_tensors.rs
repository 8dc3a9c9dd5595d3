//! What backends owe on tensors beyond numbers.

use attention::{Attended, AttnError, AttnProblem, AttnShape, Backend, Feature, Gradients, Mask, Unsupported};
use tch::{Device, Kind, Tensor};

use crate::support::cases::{Case, table};
use crate::support::runners::torch::{gradients, granted, qkv, tensor};

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

/// Backends that take tensors in main memory.
fn on_cpu() -> impl Iterator<Item = Backend> {
    Backend::all().filter(|backend| backend.runs_on(Device::Cpu))
}

#[test]
fn a_device_that_is_not_a_backends_is_named() {
    for backend in Backend::all().filter(|backend| !backend.runs_on(Device::Cpu)) {
        let [q, k, v] = tensors().map(|t| t.to_kind(Kind::BFloat16));
        let error = backend.forward(&problem(), &q, &k, &v).unwrap_err();
        assert!(matches!(&error, AttnError::Unsupported(u) if matches!(u.feature, Feature::Device(_))), "{error}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named_with_what_came() {
    let [q, k, v] = tensors();
    for backend in on_cpu() {
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
    // Twice the sign, the second time on paper only.
    let on_paper = v.neg().internal_neg_view();
    assert!(!qs.is_contiguous() && on_paper.is_neg());
    for backend in on_cpu() {
        let plain = backend.forward(&problem(), &q, &k, &v).unwrap();
        for [q, k, v] in [[qs, ks, vs], [&q, &k, &on_paper]] {
            let other = backend.forward(&problem(), q, k, v).unwrap();
            assert!(plain.allclose(&other, 1e-6, 1e-6, false), "{}", backend.name());
        }
    }
}

#[test]
fn a_gradient_that_is_the_same_at_all_positions_is_taken_as_it_comes() {
    // Whole vectors of every instruction set, so that nothing needs to be copied.
    let shape = AttnShape { head_dim: 16, ..SHAPE };
    let problem = AttnProblem::new(shape).unwrap().with_mask(Mask::causal(&shape)).unwrap();
    let given = [normal([2, 4, 5, 16]), normal([2, 2, 9, 16]), normal([2, 2, 9, 16])];
    let weights = normal([2, 4, 1, 16]);
    let gradients = |backend: Backend| {
        let [q, k, v] = given.each_ref().map(|t| t.detach().set_requires_grad(true));
        let output = backend.forward(&problem, &q, &k, &v).unwrap();
        let pooled = output.sum_dim_intlist([2_i64].as_slice(), true, Kind::Float);
        (pooled * &weights).sum(Kind::Float).backward();
        [q, k, v].map(|t| t.grad())
    };
    let exact = gradients(Backend::from_name("reference").unwrap());
    for backend in on_cpu() {
        for (found, exact) in gradients(backend).iter().zip(&exact) {
            assert!(found.allclose(exact, 1e-4, 1e-5, false), "{}", backend.name());
        }
    }
}

#[test]
fn log_sum_exp_and_gradients_are_given_or_refused_by_name() {
    let [q, k, v] = tensors();
    for backend in on_cpu() {
        match backend.attend(&problem(), &q, &k, &v) {
            Ok(attended) => {
                assert_eq!((attended.lse.size(), attended.lse.kind()), (vec![2, 4, 5], Kind::Float));
                let grads = backend.backward(&problem(), &q, &k, &v, &attended, &attended.output);
                grads.map(drop).or_else(refusal(backend, Feature::Gradients)).unwrap();
            }
            Err(error) => refusal(backend, Feature::LogSumExp)(error).unwrap(),
        }
    }
}

/// Passes the refusal of one feature, and nothing else.
fn refusal(backend: Backend, feature: Feature) -> impl FnOnce(AttnError) -> Result<(), AttnError> {
    let expected = Unsupported { backend: backend.name(), feature };
    move |error| match error {
        AttnError::Unsupported(found) if found == expected => Ok(()),
        error => Err(error),
    }
}

#[test]
fn a_backward_checks_what_it_is_given() {
    let [q, k, v] = tensors();
    let reference = Backend::from_name("reference").unwrap();
    let good = || reference.attend(&problem(), &q, &k, &v).unwrap();
    let message = |attended: &Attended, grad: &Tensor| {
        reference.backward(&problem(), &q, &k, &v, attended, grad).unwrap_err().to_string()
    };
    let Attended { output, lse } = good();
    let double = Attended { output: output.shallow_clone(), lse: lse.to_kind(Kind::Double) };
    assert_eq!(message(&double, &output), "lse is Double where q calls for Float");
    let short = Attended { output: output.shallow_clone(), lse: lse.narrow(2, 0, 4) };
    assert_eq!(message(&short, &output), "lse has shape [2, 4, 4], the attention problem says [2, 4, 5]");
    let turned = message(&good(), &output.transpose(2, 3));
    assert_eq!(turned, "grad_output has shape [2, 4, 8, 5], the attention problem says [2, 4, 5, 8]");
    let half = message(&good(), &output.to_kind(Kind::Half));
    assert_eq!(half, "grad_output is Half where q is Float: q, k and v must agree");
}

#[test]
fn gradients_of_gradients_are_refused_where_the_kernels_are_ours() {
    let [q, k, v] = tensors();
    let q = q.set_requires_grad(true);
    let reference = Backend::from_name("reference").unwrap();
    let loss = reference.forward(&problem(), &q, &k, &v).unwrap().sum(Kind::Float);
    let error = Tensor::f_run_backward(&[&loss], &[&q], true, true).unwrap_err().to_string();
    assert!(error.contains("the backward of reference attention: gradients of its gradients"), "{error}");
    assert!(!tch::no_grad(|| reference.forward(&problem(), &q, &k, &v)).unwrap().requires_grad());
}

#[test]
fn an_input_that_changed_since_the_forward_is_an_error_of_the_backward() {
    let [q, k, v] = tensors();
    let q = q.set_requires_grad(true);
    let mut k = k * 1.0;
    for backend in on_cpu() {
        let Ok(output) = backend.forward(&problem(), &q, &k, &v) else { continue };
        let _ = k.g_add_scalar_(1.0);
        let error = output.sum(Kind::Float).f_backward().unwrap_err().to_string();
        assert!(error.contains("modified by an inplace operation"), "{}: {error}", backend.name());
    }
}

/// Output, and gradients where there are any, of everything that a backend gives, one after the other.
fn everything(backend: Backend, case: &Case) -> Vec<Tensor> {
    let i = case.inputs();
    let [q, k, v] = qkv(backend, case, &i);
    let mut all = vec![tch::no_grad(|| backend.forward(&case.problem, &q, &k, &v)).unwrap()];
    if let Some(attended) = granted(backend.attend(&case.problem, &q, &k, &v), Feature::LogSumExp).unwrap() {
        let grad_output = tensor(&i.grad_output, q.kind()).to_device(q.device());
        let grads = backend.backward(&case.problem, &q, &k, &v, &attended, &grad_output);
        if let Some(Gradients { dq, dk, dv }) = granted(grads, Feature::Gradients).unwrap() {
            all.extend([dq, dk, dv]);
        }
        all.extend([attended.output, attended.lse]);
    }
    all.extend(gradients(backend, case, &i).into_iter().flatten());
    all
}

/// A few cases of every kind that this backend takes.
fn some_cases(backend: Backend) -> impl Iterator<Item = Case> {
    let most = if backend.name() == "reference" { 500_000 } else { 4_000_000 };
    let cases = table().into_iter().filter(move |case| case.work() <= most);
    cases.filter(move |case| backend.supports(&case.problem, case.dtype).is_ok()).take(12)
}

#[test]
fn the_same_question_has_the_same_answer_to_the_bit_on_any_number_of_threads() {
    let pools = [1, 3].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    for backend in Backend::all() {
        for case in some_cases(backend) {
            let first = everything(backend, &case);
            // libtorch has threads of its own and promises nothing across their number; once more is once more.
            let again = [everything(backend, &case)];
            let with_threads = pools.iter().map(|pool| pool.install(|| everything(backend, &case)));
            for other in again.into_iter().chain(with_threads) {
                let same = first.iter().zip(&other).all(|(a, b)| a.equal(b));
                assert!(same && first.len() == other.len(), "{} on {}", backend.name(), case.describe());
            }
        }
    }
}

#[test]
fn every_number_of_every_answer_is_written() {
    let clean: Vec<Vec<Tensor>> = Backend::all().flat_map(|b| some_cases(b).map(move |c| everything(b, &c))).collect();
    let poisoned = torch_ext::PoisonedMemory::new().unwrap();
    assert!(Tensor::empty([8], (Kind::Float, Device::Cpu)).isnan().all().int64_value(&[]) == 1);
    let again: Vec<Vec<Tensor>> = Backend::all().flat_map(|b| some_cases(b).map(move |c| everything(b, &c))).collect();
    drop(poisoned);
    let cases: Vec<String> =
        Backend::all().flat_map(|b| some_cases(b).map(move |c| format!("{} on {}", b.name(), c.describe()))).collect();
    for ((clean, again), case) in clean.iter().zip(&again).zip(cases) {
        assert!(clean.iter().zip(again).all(|(a, b)| a.equal(b)), "{case}");
        assert!(again.iter().all(|t| t.isnan().any().int64_value(&[]) == 0), "{case}");
    }
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
