//! Nodes: their gradients, their errors, their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tch::{Device, Kind, Tensor};

use super::*;

type Answer = Result<Vec<Option<Tensor>>, String>;

/// Counts how many of its clones are left.
#[derive(Clone)]
struct Alive(Arc<()>);

impl Alive {
    fn new() -> Self {
        Self(Arc::new(()))
    }

    /// Clones elsewhere.
    fn others(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

fn leaf(values: &[f64]) -> Tensor {
    Tensor::from_slice(values).set_requires_grad(true)
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach()).unwrap()
}

/// `x * y` with a backward that holds `alive`, saving inputs and output.
fn product(x: &Tensor, y: &Tensor, alive: &Alive) -> Tensor {
    let alive = alive.clone();
    let backward = move |call: Backward| -> Answer {
        assert!(alive.others() >= 1 && !grad_enabled());
        let (x, y, z) = (&call.saved[0], &call.saved[1], &call.saved[2]);
        assert_eq!(values(z), values(&(x * y)));
        let grad = call.gradients[0].as_ref();
        Ok(vec![grad.map(|g| g * y), call.wanted[1].then(|| grad.map(|g| g * x)).flatten()])
    };
    let forward = || {
        assert!(!grad_enabled());
        let z = x * y;
        let saved = vec![x.shallow_clone(), y.shallow_clone(), z.shallow_clone()];
        Ok::<_, AutogradError>(Recorded { outputs: vec![z], saved })
    };
    custom("product", &[x, y], forward, backward).unwrap().remove(0)
}

/// One input, one output, nothing saved, and this backward.
fn node_with(x: &Tensor, backward: impl Fn(Backward) -> Answer + Send + 'static) -> Tensor {
    let forward = || Ok::<_, AutogradError>(Recorded { outputs: vec![x * 2.0], saved: vec![] });
    custom("doubled", &[x], forward, backward).unwrap().remove(0)
}

fn error_of(result: Result<(), tch::TchError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn gradients_are_those_of_the_closure_in_the_midst_of_libtorchs() {
    let (alive, x, y) = (Alive::new(), leaf(&[1.0, 2.0, 3.0]), leaf(&[4.0, 5.0, 6.0]));
    product(&(&x * &x), &y.exp(), &alive).sin().sum(Kind::Double).backward();
    let [found_x, found_y] = [&x, &y].map(Tensor::grad);
    let (plain_x, plain_y) = (leaf(&[1.0, 2.0, 3.0]), leaf(&[4.0, 5.0, 6.0]));
    ((&plain_x * &plain_x) * plain_y.exp()).sin().sum(Kind::Double).backward();
    assert_eq!((values(&found_x), values(&found_y)), (values(&plain_x.grad()), values(&plain_y.grad())));
}

#[test]
fn closure_and_saved_tensors_go_with_the_graph() {
    let (alive, x, y) = (Alive::new(), leaf(&[1.0]), leaf(&[4.0]));
    // The output is among the saved tensors: a circle of owners if it were kept as it is.
    let z = product(&x, &y, &alive);
    assert_eq!(alive.others(), 1);
    drop(z);
    assert_eq!(alive.others(), 0, "dropped with the output");
    let z = product(&x, &y, &alive);
    z.backward();
    assert_eq!(alive.others(), 0, "dropped by the backward, though the output is still there");
    let again = error_of(z.f_backward());
    assert!(again.contains("the backward of product: its graph was freed"), "{again}");
}

#[test]
fn where_nothing_is_tracked_nothing_is_kept() {
    let (alive, x) = (Alive::new(), leaf(&[1.0]));
    let z = tch::no_grad(|| product(&x, &x, &alive));
    assert!(!z.requires_grad() && alive.others() == 0);
    let plain = Tensor::from_slice(&[1.0]);
    let z = product(&plain, &plain, &alive);
    assert!(!z.requires_grad() && alive.others() == 0 && grad_enabled());
}

#[test]
fn a_kept_graph_serves_twice_and_is_not_differentiated_twice() {
    let (alive, x, y) = (Alive::new(), leaf(&[3.0]), leaf(&[4.0]));
    let z = product(&x, &y, &alive);
    let once = Tensor::f_run_backward(&[&z], &[&x], true, false).unwrap();
    let twice = Tensor::f_run_backward(&[&z], &[&x], true, false).unwrap();
    assert_eq!((values(&once[0]), values(&twice[0])), (vec![4.0], vec![4.0]));
    let error = Tensor::f_run_backward(&[&z], &[&x], true, true).unwrap_err().to_string();
    assert!(error.contains("product") && error.contains("gradients of its gradients"), "{error}");
    drop(z);
    assert_eq!(alive.others(), 0);
}

#[test]
fn errors_and_panics_are_errors_of_the_backward_pass() {
    let x = leaf(&[1.0]);
    let refused = error_of(node_with(&x, |_| Err("no such gradient".to_owned())).f_backward());
    assert!(refused.contains("the backward of doubled: no such gradient"), "{refused}");
    let panicked = error_of(node_with(&x, |_| panic!("at {}", 7)).f_backward());
    assert!(panicked.contains("the backward of doubled: panicked: at 7"), "{panicked}");
    let counted = error_of(node_with(&x, |_| Ok(vec![])).f_backward());
    assert!(counted.contains("0 gradients came for 1 inputs"), "{counted}");
    let shaped = error_of(node_with(&x, |_| Ok(vec![Some(Tensor::from_slice(&[1.0, 2.0]))])).f_backward());
    assert!(shaped.contains("gradient 0 has shape [2], its input [1]"), "{shaped}");
    assert!(!x.grad().defined(), "nothing was added meanwhile");
    node_with(&x, |call| Ok(vec![call.gradients[0].as_ref().map(|g| g * 2.0)])).backward();
    assert_eq!(values(&x.grad()), [2.0], "and the next one works");
}

#[test]
fn a_saved_tensor_that_was_changed_in_place_is_noticed() {
    let (alive, x) = (Alive::new(), leaf(&[1.0]));
    let mut y = &x * 1.0;
    let z = product(&x, &y, &alive);
    let _ = y.g_add_scalar_(1.0);
    let error = error_of(z.f_backward());
    assert!(error.contains("modified by an inplace operation"), "{error}");
    let mut z = product(&x, &(&x * 1.0), &alive);
    let _ = z.g_add_scalar_(1.0);
    let error = error_of(z.f_backward());
    assert!(error.contains("modified by an inplace operation"), "{error}");
}

#[test]
fn a_failing_forward_makes_no_node() {
    let (alive, x) = (Alive::new(), leaf(&[1.0]));
    let held = alive.clone();
    let failed = custom(
        "failing",
        &[&x],
        || Err(AutogradError("not today".into())),
        move |_| -> Answer {
            let _ = &held;
            Ok(vec![])
        },
    );
    assert_eq!(failed.unwrap_err().to_string(), "not today");
    let held = alive.clone();
    let forward = || Ok(Recorded { outputs: vec![Tensor::from_slice(&[1_i64])], saved: vec![] });
    let whole = custom::<AutogradError, String>("whole", &[&x], forward, move |_| {
        let _ = &held;
        Ok(vec![])
    });
    assert!(whole.unwrap_err().to_string().contains("not support dtype"));
    let forward = || Ok(Recorded { outputs: vec![&x * 1.0], saved: vec![Tensor::new()] });
    let undefined = custom::<AutogradError, String>("undefined", &[&x], forward, |_| Ok(vec![]));
    assert!(undefined.unwrap_err().to_string().contains("undefined"));
    assert_eq!(alive.others(), 0);
}

#[test]
fn an_output_that_is_an_input_gets_a_history_of_its_own() {
    let x = leaf(&[1.0, 2.0]);
    let backward = |call: Backward| -> Answer { Ok(vec![call.gradients[0].as_ref().map(|g| g * 10.0)]) };
    let forward = || Ok::<_, AutogradError>(Recorded { outputs: vec![x.shallow_clone()], saved: vec![] });
    let same = custom("same", &[&x], forward, backward).unwrap().remove(0);
    let view = || Ok::<_, AutogradError>(Recorded { outputs: vec![x.narrow(0, 0, 1)], saved: vec![] });
    let part = custom("part", &[&x], view, |call: Backward| -> Answer {
        Ok(vec![call.gradients[0].as_ref().map(|g| Tensor::cat(&[g * 100.0, g * 0.0], 0))])
    });
    (same.sum(Kind::Double) + part.unwrap().remove(0).sum(Kind::Double)).backward();
    assert!(x.is_leaf() && values(&x.grad()) == [110.0, 10.0], "{:?}", values(&x.grad()));
}

#[test]
fn unused_outputs_and_unwanted_inputs_are_told() {
    let (x, y) = (leaf(&[1.0]), Tensor::from_slice(&[5.0]));
    let forward = || Ok::<_, AutogradError>(Recorded { outputs: vec![&x + &y, &x * &y], saved: vec![] });
    let backward = |call: Backward| -> Answer {
        assert!(call.gradients[0].is_none() && call.gradients[1].is_some());
        assert_eq!(call.wanted, [true, false]);
        Ok(vec![call.gradients[1].as_ref().map(|g| g * 5.0), None])
    };
    let outputs = custom("two", &[&x, &y], forward, backward).unwrap();
    outputs[1].backward();
    assert_eq!(values(&x.grad()), [5.0]);
}

#[test]
fn a_backward_may_run_on_another_thread_and_a_deep_graph_comes_apart() {
    let alive = Alive::new();
    let x = leaf(&[1.0]);
    let mut y = x.shallow_clone();
    for _ in 0..20_000 {
        let held = alive.clone();
        y = node_with(&y, move |call| {
            let _ = &held;
            Ok(vec![call.gradients[0].as_ref().map(Tensor::shallow_clone)])
        });
    }
    assert_eq!(alive.others(), 20_000);
    let y = std::thread::spawn(move || {
        y.backward();
        y
    });
    let y = y.join().unwrap();
    assert_eq!((values(&x.grad()), alive.others()), (vec![1.0], 0));
    drop(y);
    // Never differentiated: taken apart from the last node on.
    let end = (0..20_000).fold(leaf(&[1.0]), |y, _| node_with(&y, |_| Ok(vec![None])));
    drop(end);
}

#[test]
fn roots_with_their_gradients_reach_the_leaves() {
    let x = leaf(&[1.0, 2.0]);
    let (double, triple) = (&x * 2.0, &x * 3.0);
    backward(&[&double, &triple], &[Some(&Tensor::from_slice(&[1.0, 10.0])), Some(&Tensor::from_slice(&[1.0, 0.0]))])
        .unwrap();
    assert_eq!(values(&x.grad()), [5.0, 20.0]);
    assert!(backward(&[&double], &[]).is_err());
    assert!(backward(&[&Tensor::from_slice(&[1.0])], &[None]).is_err(), "a root without a history");
}

#[test]
fn no_grad_is_seen_and_left_as_it_was() {
    assert!(grad_enabled());
    tch::no_grad(|| assert!(!grad_enabled()));
    tch::no_grad(|| {
        let _tracked = Tracked::new();
        assert!(grad_enabled());
    });
    assert!(grad_enabled());
}

mod checkpoints {
    use super::*;
    use crate::{generator_state, set_generator_state, test_lock};

    /// Two layers and a dropout between them.
    struct Layers {
        first: Tensor,
        second: Tensor,
    }

    impl Layers {
        fn new() -> Self {
            tch::manual_seed(5);
            let [first, second] = [0, 1].map(|_| Tensor::randn([8, 8], (Kind::Float, Device::Cpu)));
            Self { first: first.set_requires_grad(true), second: second.set_requires_grad(true) }
        }

        fn handle(&self) -> Self {
            Self { first: self.first.shallow_clone(), second: self.second.shallow_clone() }
        }

        fn run(&self, x: &Tensor) -> Tensor {
            x.matmul(&self.first).tanh().dropout(0.5, true).matmul(&self.second).tanh()
        }

        fn floats(&self) -> [Vec<f32>; 2] {
            [&self.first, &self.second].map(|w| Vec::try_from(w.grad().view(-1)).unwrap())
        }
    }

    fn input() -> Tensor {
        Tensor::arange(32, (Kind::Float, Device::Cpu)).view([4, 8]).sin()
    }

    /// Output, gradients of both layers, gradient of the input.
    type Seen = (Vec<f32>, [Vec<f32>; 2], Vec<f32>);

    fn seen(layers: &Layers, step: impl Fn(&Tensor) -> Tensor) -> Seen {
        let x = input().set_requires_grad(true);
        tch::manual_seed(6);
        // Two segments one after the other, and draws after them, which a second run must not repeat.
        let y = step(&step(&x));
        let z = &y * Tensor::rand_like(&y);
        z.sum(Kind::Float).backward();
        let flat = |t: &Tensor| Vec::<f32>::try_from(t.detach().reshape(-1)).unwrap();
        (flat(&z), layers.floats(), flat(&x.grad()))
    }

    fn checkpointed(layers: &Layers) -> impl Fn(&Tensor) -> Tensor + use<> {
        let layers = layers.handle();
        move |x: &Tensor| {
            let layers = layers.handle();
            let run = move |inputs: &[Tensor]| Ok::<_, AutogradError>(vec![layers.run(&inputs[0])]);
            checkpoint(&[x], run).unwrap().remove(0)
        }
    }

    #[test]
    fn recomputed_gradients_are_those_of_a_plain_run_bit_for_bit_dropout_included() {
        let _alone = test_lock();
        let plain_layers = Layers::new();
        let plain = seen(&plain_layers, |x| plain_layers.run(x));
        let layers = Layers::new();
        let again = seen(&layers, checkpointed(&layers));
        // The layers serve twice; each segment adds to their gradients when its turn comes, as libtorch does.
        assert_eq!(plain, again);
        // A second run with other random numbers is told apart by the same comparison.
        let layers = Layers::new();
        let handle = layers.handle();
        let strayed = seen(&layers, move |x| {
            let layers = handle.handle();
            let run = move |inputs: &[Tensor]| {
                if grad_enabled() {
                    let _ = Tensor::rand([1], (Kind::Float, Device::Cpu));
                }
                Ok::<_, AutogradError>(vec![layers.run(&inputs[0])])
            };
            checkpoint(&[x], run).unwrap().remove(0)
        });
        assert_eq!(plain.0, strayed.0);
        assert_ne!(plain.1, strayed.1);
    }

    #[test]
    fn leaves_inside_get_their_gradient_though_no_input_asks_for_one() {
        let _alone = test_lock();
        let layers = Layers::new();
        let y = checkpointed(&layers)(&input());
        assert!(y.requires_grad());
        let before = generator_state(Device::Cpu).unwrap();
        y.sum(Kind::Float).backward();
        assert!(generator_state(Device::Cpu).unwrap().equal(&before), "the generator is left as it was found");
        assert!(layers.floats().iter().flatten().any(|&g| g != 0.0));
        set_generator_state(Device::Cpu, &before).unwrap();
    }

    #[test]
    fn it_computes_once_more_and_then_lets_go() {
        let _alone = test_lock();
        let (runs, alive) = (Arc::new(AtomicUsize::new(0)), Alive::new());
        let (counter, held) = (Arc::clone(&runs), alive.clone());
        let x = leaf(&[2.0]);
        let inner = move |inputs: &[Tensor]| {
            let (_, runs) = (&held, counter.fetch_add(1, Ordering::Relaxed));
            assert_eq!(grad_enabled(), runs > 0);
            Ok::<_, AutogradError>(vec![inputs[0].exp(), &inputs[0] * 3.0])
        };
        let outputs = checkpoint(&[&x], inner).unwrap();
        assert_eq!((runs.load(Ordering::Relaxed), alive.others()), (1, 1));
        outputs[1].backward();
        assert_eq!((runs.load(Ordering::Relaxed), alive.others()), (2, 0));
        assert_eq!(values(&x.grad()), [3.0]);
        let untracked = tch::no_grad(|| checkpoint(&[&x], |i| Ok::<_, AutogradError>(vec![i[0].exp()])).unwrap());
        assert!(!untracked[0].requires_grad());
    }

    #[test]
    fn one_inside_another_works_and_errors_come_out() {
        let _alone = test_lock();
        let x = leaf(&[0.5]);
        let outer = |inputs: &[Tensor]| checkpoint(&[&inputs[0].sin()], |i| Ok::<_, AutogradError>(vec![i[0].exp()]));
        checkpoint(&[&x], outer).unwrap()[0].backward();
        let expected = 0.5_f64.sin().exp() * 0.5_f64.cos();
        assert!((x.grad().double_value(&[]) - expected).abs() < 1e-15);
        let failing = |inputs: &[Tensor]| match grad_enabled() {
            true => Err(AutogradError("the file is gone".into())),
            false => Ok(vec![inputs[0].exp()]),
        };
        let error = error_of(checkpoint(&[&x], failing).unwrap()[0].f_backward());
        assert!(error.contains("the backward of checkpoint: the file is gone"), "{error}");
    }
}
