//! Speed of the tiled kernels by every instruction set of this processor, beside libtorch where it is built in.
//!
//! ```text
//! cargo bench -p attention --profile dev -- causal/4096           # a group
//! cargo bench -p attention --profile dev -- --save-baseline old   # then: -- --baseline old
//! ```
//!
//! A group is a workload and a length at head size 128, one head, on the threads of rayon and libtorch (`RAYON_NUM_THREADS`,
//! `OMP_NUM_THREADS`). Throughput counts operations on visible pairs: an element a second is a FLOP a second. `bowline bench
//! attention` compares backends in turns and knows the peak; this is for one kernel before and after a change.

// A benchmark has nobody to hand an error to.
#![allow(clippy::unwrap_used)]

use attention::tiled::{self, Isa, View};
use attention::workload::Workload;
use attention::{AttnProblem, AttnShape};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};

const LENGTHS: [usize; 2] = [1024, 4096];
const HEAD_DIM: usize = 128;

/// Uniform with deviation 1.
fn numbers(dims: [usize; 4], seed: u64) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / 8_388_608.0 - 1.0) * 1.732
    };
    std::iter::repeat_with(next).take(dims.iter().product()).collect()
}

/// Both passes by one instruction set.
fn tiled_passes(criterion: &mut Criterion, name: &str, isa: Isa, problem: &AttnProblem) {
    let (queries, keys) = (problem.shape().query_dims(), problem.shape().key_dims());
    let [q, k, v, grad] = [(queries, 1), (keys, 2), (keys, 3), (queries, 4)].map(|(dims, seed)| numbers(dims, seed));
    let (mut output, mut lse) = (vec![0.0; q.len()], vec![0.0; q.len() / HEAD_DIM]);
    let [mut dq, mut dk, mut dv] = [q.len(), k.len(), v.len()].map(|len| vec![0.0; len]);
    let (q, k, v) = (View::contiguous(&q, queries), View::contiguous(&k, keys), View::contiguous(&v, keys));
    let mut forward = || tiled::forward_by(isa, problem, q, k, v, &mut output, &mut lse).unwrap();
    // The backward reads what the forward wrote, whichever of the two is asked for.
    forward();
    measure(criterion, name, &format!("tiled-{isa}"), "forward", problem, forward);
    let (output, grad) = (View::contiguous(&output, queries), View::contiguous(&grad, queries));
    measure(criterion, name, &format!("tiled-{isa}"), "backward", problem, || {
        tiled::backward_by(isa, problem, q, k, v, output, &lse, grad, &mut dq, &mut dk, &mut dv).unwrap();
    });
}

/// Both passes by libtorch, which is given a dense bias where it has no other way.
#[cfg(feature = "torch")]
fn libtorch_passes(criterion: &mut Criterion, name: &str, problem: &AttnProblem) {
    use tch::Tensor;

    let tensor = |dims: [usize; 4], seed| {
        let flat = Tensor::from_slice(&numbers(dims, seed));
        flat.reshape(dims.map(|n| i64::try_from(n).unwrap())).set_requires_grad(true)
    };
    let (queries, keys) = (problem.shape().query_dims(), problem.shape().key_dims());
    let [q, k, v] = [tensor(queries, 1), tensor(keys, 2), tensor(keys, 3)];
    let libtorch = attention::Backend::from_name("libtorch").unwrap();
    let output = || libtorch.forward(problem, &q, &k, &v).unwrap();
    measure(criterion, name, "libtorch", "forward", problem, || drop(tch::no_grad(output)));
    let output = output();
    measure(criterion, name, "libtorch", "backward", problem, || {
        drop(Tensor::run_backward(&[&output], &[&q, &k, &v], true, false));
    });
}

fn measure(
    criterion: &mut Criterion,
    name: &str,
    backend: &str,
    pass: &str,
    problem: &AttnProblem,
    mut run: impl FnMut(),
) {
    let each: u64 = if pass == "forward" { 4 } else { 10 };
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.throughput(Throughput::Elements(each * problem.visible_pairs() * HEAD_DIM as u64));
    group.bench_function(BenchmarkId::new(pass, backend), |bencher| bencher.iter(&mut run));
    group.finish();
}

fn attention_by_workload(criterion: &mut Criterion) {
    for (workload, length) in Workload::ALL.into_iter().flat_map(|w| LENGTHS.map(|n| (w, n))) {
        let shape = AttnShape {
            batch: 1,
            query_heads: 1,
            key_heads: 1,
            query_len: length,
            key_len: length,
            head_dim: HEAD_DIM,
        };
        let problem = workload.problem(shape).unwrap();
        let name = format!("{workload}/{length}");
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            tiled_passes(criterion, &name, isa, &problem);
        }
        #[cfg(feature = "torch")]
        libtorch_passes(criterion, &name, &problem);
    }
}

criterion_group!(benches, attention_by_workload);
criterion_main!(benches);
