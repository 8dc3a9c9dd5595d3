//! Rotation in place, run lane by lane: against its formula, and back again.

use attention::cuda::kernels::{HEAD_DIMS, Pass, Scores, Spec, kernel};
use attention::cuda::params::Params;
use attention::{AttnProblem, AttnShape, DType};
use ndarray::Array4;

use crate::support::plain::Rounding;
use crate::support::random::Random;
use crate::twin_machine::{Launch, compile};
use crate::twin_problem::Memory;

const SHAPE: AttnShape = AttnShape { batch: 2, query_heads: 3, key_heads: 1, query_len: 5, key_len: 9, head_dim: 80 };
/// Channels beyond twice as many pairs stay.
const PAIRS: usize = 32;
const KEY_OFFSET: usize = 2;

fn angle(position: usize, pair: usize) -> f64 {
    position as f64 * 0.9_f64.powi(pair as i32)
}

/// The formula; `back` turns the other way.
fn rotated(x: &Array4<f64>, offset: usize, back: bool) -> Array4<f64> {
    let sign = if back { -1.0 } else { 1.0 };
    Array4::from_shape_fn(x.dim(), |(batch, head, row, channel)| {
        let at = |channel: usize| x[(batch, head, row, channel)];
        let (sin, cos) = (sign * angle(row + offset, channel % PAIRS)).sin_cos();
        match channel / PAIRS {
            0 => at(channel) * cos - at(channel + PAIRS) * sin,
            1 => at(channel - PAIRS) * sin + at(channel) * cos,
            _ => at(channel),
        }
    })
}

/// Queries and keys after the kernel.
fn run(dtype: DType, q: &Array4<f64>, k: &Array4<f64>, back: bool) -> (Array4<f64>, Array4<f64>) {
    let mut memory = Memory { dtype, buffers: Vec::new() };
    let mut p = Params::of(&AttnProblem::new(SHAPE).unwrap()).unwrap();
    (p.q, p.q_strides) = memory.tensor(q.view(), true);
    (p.k, p.k_strides) = memory.tensor(k.view(), false);
    let pairs = (0..SHAPE.key_len + KEY_OFFSET).flat_map(|position| (0..PAIRS).map(move |pair| angle(position, pair)));
    p.angles = memory.floats(pairs.flat_map(|angle| [angle.cos() as f32, angle.sin() as f32]));
    (p.pairs, p.key_offset, p.inverse) = (PAIRS as i32, KEY_OFFSET as i32, i32::from(back));
    let kernel = kernel(Spec { pass: Pass::Rotate, dtype, head_dim: HEAD_DIMS[0], scores: Scores::Plain }).unwrap();
    let parts: Vec<(&str, String)> =
        kernel.parts()[1..].iter().map(|(file, text)| (*file, (*text).to_owned())).collect();
    let program = compile(&parts, Pass::Rotate.entry(), &kernel.options());
    let launch = Launch {
        grid: kernel.grid(&p),
        threads: kernel.threads(),
        shared_bytes: 0,
        seed: 1,
        params: &p,
        buffers: &mut memory.buffers,
    };
    program.run(launch).unwrap();
    (memory.elements(p.q, SHAPE.query_dims(), true), memory.elements(p.k, SHAPE.key_dims(), false))
}

#[test]
fn rotation_is_the_formula_rounded_once_and_turns_back() {
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        let mut random = Random::new(5);
        let mut array = |dims| random.normal_array(dims).mapv(|x| f64::from(Rounding(dtype).round(x as f32)));
        let (q, k) = (array(SHAPE.query_dims()), array(SHAPE.key_dims()));
        for back in [false, true] {
            let (found_q, found_k) = run(dtype, &q, &k, back);
            // Queries stand behind a prefix of key_len - query_len.
            let offset = SHAPE.key_len - SHAPE.query_len;
            for (found, wanted) in [(found_q, rotated(&q, offset, back)), (found_k, rotated(&k, KEY_OFFSET, back))] {
                for (found, wanted) in found.iter().zip(&wanted) {
                    let allowed = 1.01 * dtype.unit_roundoff() * wanted.abs() + 1e-6;
                    assert!((found - wanted).abs() <= allowed, "{dtype}: {found} instead of {wanted}");
                }
            }
        }
        // The formula itself turns back, and a turn the wrong way would show.
        let back = rotated(&rotated(&q, 4, false), 4, true);
        assert!((&back - &q).iter().all(|x| x.abs() < 1e-12));
        assert!((rotated(&q, 4, true) - rotated(&q, 4, false)).iter().any(|x| x.abs() > 0.1));
    }
}
