//! Speed of the tiled kernels on one thread beside the FMA peak of that thread.
//!
//! `cargo bench -p attention --no-default-features -- [length] [head_dim] [isa]`

use std::time::Instant;

use attention::tiled::{self, Isa, View};
use attention::workload::Workload;
use attention::{AttnProblem, AttnShape};

/// Best of some runs, in seconds.
fn best(mut run: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    let mut runs = 0;
    while runs < 3 || (start.elapsed().as_secs_f64() < 1.0 && runs < 20) {
        let round = Instant::now();
        run();
        best = best.min(round.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

/// Uniform in (-1.7, 1.7): deviation about 1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / 8_388_608.0 - 1.0) * 1.7
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn forward(isa: Isa, problem: &AttnProblem) -> f64 {
    let shape = problem.shape();
    let (query_dims, key_dims) = (shape.query_dims(), shape.key_dims());
    let (q, k, v) = (
        numbers(query_dims.iter().product(), 1),
        numbers(key_dims.iter().product(), 2),
        numbers(key_dims.iter().product(), 3),
    );
    let (mut output, mut lse) = (vec![0.0; q.len()], vec![0.0; q.len() / shape.head_dim]);
    let (q, k, v) = (View::contiguous(&q, query_dims), View::contiguous(&k, key_dims), View::contiguous(&v, key_dims));
    best(|| tiled::forward_by(isa, problem, q, k, v, &mut output, &mut lse).unwrap())
}

fn backward(isa: Isa, problem: &AttnProblem) -> f64 {
    let shape = problem.shape();
    let (queries, keys) = (shape.query_dims(), shape.key_dims());
    let of = |dims: [usize; 4], seed| numbers(dims.iter().product(), seed);
    let (q, k, v, grad) = (of(queries, 1), of(keys, 2), of(keys, 3), of(queries, 4));
    let (mut output, mut lse) = (vec![0.0; q.len()], vec![0.0; q.len() / shape.head_dim]);
    let (q, k, v) = (View::contiguous(&q, queries), View::contiguous(&k, keys), View::contiguous(&v, keys));
    tiled::forward_by(isa, problem, q, k, v, &mut output, &mut lse).unwrap();
    let (output, grad) = (View::contiguous(&output, queries), View::contiguous(&grad, queries));
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.data.len()], vec![0.0; k.data.len()], vec![0.0; v.data.len()]);
    best(|| {
        tiled::backward_by(isa, problem, q, k, v, output, &lse, grad, &mut dq, &mut dk, &mut dv).unwrap();
    })
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let number = |at: usize, default: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(default);
    let (length, head_dim) = (number(0, 4096), number(1, 128));
    let isa = Isa::ALL.into_iter().find(|isa| words.get(2).is_some_and(|w| w == isa.name())).unwrap_or(Isa::best());
    let shape = AttnShape { batch: 1, query_heads: 1, key_heads: 1, query_len: length, key_len: length, head_dim };
    let threads = rayon::current_num_threads();
    let peak = tiled::fma_peak_gflops(isa) * threads as f64;
    println!("{isa}, {threads} threads, peak {peak:.1} GFLOP/s");
    for workload in Workload::ALL {
        let problem = workload.problem(shape).unwrap();
        let operations = problem.visible_pairs() as f64 * 4.0 * head_dim as f64;
        for (pass, operations, seconds) in [
            ("forward", operations, forward(isa, &problem)),
            ("backward", 2.5 * operations, backward(isa, &problem)),
        ] {
            let speed = operations / seconds / 1e9;
            println!("{workload:>10} {pass:>8} {length} x {head_dim}: {speed:.1} GFLOP/s, {:.1} %", 100.0 * speed / peak);
        }
    }
}
