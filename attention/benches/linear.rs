//! Speed of the products of a linear map beside libtorch's (MKL), in turns; sizes of models that a laptop trains.
//!
//! ```text
//! cargo bench -p attention --profile dev --bench linear
//! ```
//!
//! GFLOP/s of the least time of each, on libtorch's threads (`OMP_NUM_THREADS`), and the ratio of times. From these follow the
//! limits in `experiments/model/products.rs`.

// A benchmark has nobody to hand an error to.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use attention::tiled::linear::{self, Map};
use attention::tiled::{Isa, fma_peak_gflops};
use tch::{Device, Kind, Tensor};

/// Rows, inputs, outputs.
const SIZES: [[usize; 3]; 13] = [
    [4096, 160, 160],
    [4096, 160, 432],
    [4096, 432, 160],
    [4096, 160, 2048],
    [4096, 576, 576],
    [4096, 576, 1536],
    [4096, 1536, 576],
    [2048, 1024, 1024],
    [1024, 2048, 2048],
    [512, 160, 432],
    [512, 576, 1536],
    [128, 160, 432],
    [16, 160, 432],
];

/// Arithmetic that each way does in all, about.
const FLOP: f64 = 5e9;

/// Uniform between -1 and 1.
fn drawn(rows: usize, width: usize) -> Tensor {
    let size = [rows, width].map(|n| i64::try_from(n).unwrap());
    Tensor::rand(size, (Kind::Float, Device::Cpu)) * 2.0 - 1.0
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.view([-1])).unwrap()
}

/// Seconds of the least of some runs of both, in turns.
fn in_turns(repeats: usize, ours: &mut dyn FnMut(), theirs: &mut dyn FnMut()) -> [f64; 2] {
    let seconds = |way: &mut dyn FnMut()| {
        let start = Instant::now();
        way();
        start.elapsed().as_secs_f64()
    };
    (0..repeats).fold([f64::INFINITY; 2], |[a, b], _| [a.min(seconds(ours)), b.min(seconds(theirs))])
}

fn main() {
    let _guard = tch::no_grad_guard();
    let threads = tch::get_num_threads();
    let peak = f64::from(threads) * fma_peak_gflops(Isa::best());
    println!("{threads} threads, {}, {peak:.0} GFLOP/s of multiply-adds alone", Isa::best());
    println!("rows x inputs -> outputs: GFLOP/s of ours, of libtorch, time of libtorch / time of ours");
    for [rows, inputs, outputs] in SIZES {
        let (x, weight, dy) = (drawn(rows, inputs), drawn(outputs, inputs), drawn(rows, outputs));
        let (x_numbers, dy_numbers, weight_numbers) = (numbers(&x), numbers(&dy), numbers(&weight));
        let (mut y, mut dx, mut dw) =
            (vec![0.0; rows * outputs], vec![0.0; rows * inputs], vec![0.0; outputs * inputs]);
        let (to_y, to_dx, to_dw) = (dy.empty_like(), x.empty_like(), weight.empty_like());
        let map = Map { weight: &weight_numbers, inputs, outputs };
        let flop = 2.0 * (rows * inputs * outputs) as f64;
        let repeats = (FLOP / flop) as usize + 3;
        let times = [
            in_turns(repeats, &mut || linear::forward(map, &x_numbers, &mut y, false), &mut || {
                let _ = x.f_mm_out(&to_y, &weight.tr()).unwrap();
            }),
            in_turns(repeats, &mut || linear::pulled(map, &dy_numbers, &mut dx, false), &mut || {
                let _ = dy.f_mm_out(&to_dx, &weight).unwrap();
            }),
            in_turns(
                repeats,
                &mut || linear::gathered(&dy_numbers, &x_numbers, [outputs, inputs], &mut dw, false),
                &mut || {
                    let _ = dy.tr().f_mm_out(&to_dw, &x).unwrap();
                },
            ),
        ];
        let told = ["y", "dx", "dW"].into_iter().zip(times).map(|(name, [ours, theirs])| {
            let speed = |seconds: f64| flop / seconds / 1e9;
            format!("{name} {:.0} {:.0} {:.2}", speed(ours), speed(theirs), theirs / ours)
        });
        println!("{rows:>5} x {inputs:>4} -> {outputs:>4}:  {}", told.collect::<Vec<_>>().join(",  "));
    }
}
