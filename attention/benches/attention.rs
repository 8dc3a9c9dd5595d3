//! Speed of the tiled kernels beside the FMA peak measured in the same run, and beside libtorch where it is built in.
//!
//! ```text
//! cargo bench -p attention --profile dev -- [--length 4096] [--head-dim 128] [--heads 1] [--threads 2] [--isa avx2]
//!     [--workload causal] [--seconds 1]
//! ```
//!
//! A row is a workload, a pass, milliseconds of the best run, GFLOP/s over visible pairs, and their part of the peak. Without
//! the feature `torch` (`--no-default-features`) nothing but these kernels is built.

// A benchmark has nobody to hand an error to.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use attention::tiled::{self, Isa, View};
use attention::workload::Workload;
use attention::{AttnProblem, AttnShape};

/// What is asked for on the command line.
struct Options(Vec<String>);

impl Options {
    /// What follows `name`.
    fn get(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|word| word == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn number(&self, name: &str, default: usize) -> usize {
        self.get(name).map_or(default, |word| word.parse().unwrap())
    }
}

/// Best of runs over some seconds, after `prepare` each time; in seconds.
fn best<P>(seconds: f64, mut prepare: impl FnMut() -> P, mut run: impl FnMut(P)) -> f64 {
    let (start, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < 3 || start.elapsed().as_secs_f64() < seconds {
        let prepared = prepare();
        let round = Instant::now();
        run(prepared);
        best = best.min(round.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

/// Numbers that begin at a cache line, as a tensor's do.
fn aligned(mut numbers: Vec<f32>) -> &'static mut [f32] {
    let len = numbers.len();
    numbers.resize(len + 16, 0.0);
    let numbers = numbers.leak();
    let start = numbers.as_ptr().align_offset(64);
    numbers.copy_within(..len, start);
    &mut numbers[start..start + len]
}

/// Uniform with deviation 1.
fn numbers(dims: [usize; 4], seed: u64) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / 8_388_608.0 - 1.0) * 1.732
    };
    std::iter::repeat_with(next).take(dims.iter().product()).collect()
}

/// Seconds of a forward and of a backward pass by the tiled kernels.
fn tiled_passes(isa: Isa, problem: &AttnProblem, seconds: f64) -> [f64; 2] {
    let (queries, keys) = (problem.shape().query_dims(), problem.shape().key_dims());
    let [q, k, v, grad] =
        [(queries, 1), (keys, 2), (keys, 3), (queries, 4)].map(|(dims, seed)| &*aligned(numbers(dims, seed)));
    let (output, lse) = (aligned(vec![0.0; q.len()]), aligned(vec![0.0; q.len() / problem.shape().head_dim]));
    let [dq, dk, dv] = [q.len(), k.len(), v.len()].map(|len| aligned(vec![0.0; len]));
    let (q, k, v) = (View::contiguous(q, queries), View::contiguous(k, keys), View::contiguous(v, keys));
    let nothing = || ();
    let forward = best(seconds, nothing, |()| {
        tiled::forward_by(isa, problem, q, k, v, output, lse).unwrap();
    });
    let (output, grad) = (View::contiguous(output, queries), View::contiguous(grad, queries));
    let backward = best(seconds, nothing, |()| {
        tiled::backward_by(isa, problem, q, k, v, output, lse, grad, dq, dk, dv).unwrap();
    });
    [forward, backward]
}

/// The same by libtorch, which is given a dense bias where it has no other way.
#[cfg(feature = "torch")]
fn libtorch_passes(problem: &AttnProblem, seconds: f64) -> [f64; 2] {
    use tch::{Kind, Tensor};

    let tensor = |dims: [usize; 4], seed| {
        Tensor::from_slice(&numbers(dims, seed)).reshape(dims.map(|n| i64::try_from(n).unwrap()))
    };
    let (queries, keys) = (problem.shape().query_dims(), problem.shape().key_dims());
    let [q, k, v] = [tensor(queries, 1), tensor(keys, 2), tensor(keys, 3)].map(|t| t.set_requires_grad(true));
    let grad = tensor(queries, 4);
    let libtorch = attention::Backend::from_name("libtorch").unwrap();
    let output = || libtorch.forward(problem, &q, &k, &v).unwrap();
    let forward = best(seconds, || (), |()| drop(tch::no_grad(output)));
    let backward = best(seconds, || (output() * &grad).sum(Kind::Float), |loss| loss.backward());
    [forward, backward]
}

fn main() {
    let options = Options(std::env::args().collect());
    let (length, head_dim) = (options.number("--length", 4096), options.number("--head-dim", 128));
    let (heads, threads) = (options.number("--heads", 1), options.number("--threads", 1));
    let seconds = options.get("--seconds").map_or(1.0, |word| word.parse().unwrap());
    let isa = Isa::ALL.into_iter().find(|isa| options.get("--isa") == Some(isa.name())).unwrap_or(Isa::best());
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let shape =
        AttnShape { batch: 1, query_heads: heads, key_heads: heads, query_len: length, key_len: length, head_dim };
    let peak = rayon::broadcast(|_| tiled::fma_peak_gflops(isa)).into_iter().sum::<f64>();
    println!("{isa}, {threads} threads: peak {peak:.1} GFLOP/s; {shape}");
    let asked = |workload: &Workload| options.get("--workload").is_none_or(|name| name == workload.name());
    for workload in Workload::ALL.into_iter().filter(asked) {
        let problem = workload.problem(shape).unwrap();
        let forward_operations = problem.visible_pairs() as f64 * 4.0 * head_dim as f64;
        let row = |name: &str, passes: [f64; 2]| {
            for (pass, times, seconds) in [("forward", 1.0, passes[0]), ("backward", 2.5, passes[1])] {
                let (ms, speed) = (1e3 * seconds, times * forward_operations / seconds / 1e9);
                let part = 100.0 * speed / peak;
                println!("{name:>8} {workload:>10} {pass:>8}: {ms:8.2} ms {speed:7.1} GFLOP/s {part:5.1} % of peak");
            }
        };
        row("tiled", tiled_passes(isa, &problem, seconds));
        #[cfg(feature = "torch")]
        {
            tch::set_num_threads(i32::try_from(threads).unwrap());
            row("libtorch", libtorch_passes(&problem, seconds));
        }
    }
}
