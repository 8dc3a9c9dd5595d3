//! Rotation in place, run lane by lane: against its formula, and back again.

use attention::cuda::kernels::{self, Kernel};
use attention::cuda::params::Params;
use attention::cuda::rotation_params;
use attention::{AttnProblem, AttnShape, DType};
use ndarray::Array4;
use tch::{Kind, Tensor};
use torch_ext::cuda::TableKernel;

use crate::support::plain::Rounding;
use crate::support::random::Random;
use crate::support::turns::{Turn, agree, angle, rotated, turns};
use crate::twin_machine::{Launch, compile};
use crate::twin_problem::Memory;

const SHAPE: AttnShape = AttnShape { batch: 2, query_heads: 3, key_heads: 1, query_len: 5, key_len: 9, head_dim: 80 };
/// Channels beyond twice as many pairs stay.
const PAIRS: usize = 32;
const KEY_OFFSET: usize = 2;

/// Queries and keys after the kernel.
fn run(dtype: DType, q: &Array4<f64>, k: &Array4<f64>, back: bool) -> (Array4<f64>, Array4<f64>) {
    let mut memory = Memory { dtype, buffers: Vec::new() };
    let mut p = Params::of(&AttnProblem::new(SHAPE).unwrap()).unwrap();
    (p.q, p.q_strides) = memory.tensor(q.view(), true);
    (p.k, p.k_strides) = memory.tensor(k.view(), false);
    let pairs = (0..SHAPE.key_len + KEY_OFFSET).flat_map(|position| (0..PAIRS).map(move |pair| angle(position, pair)));
    p.angles = memory.floats(pairs.flat_map(|angle| [angle.cos() as f32, angle.sin() as f32]));
    (p.pairs, p.key_offset, p.inverse) = (PAIRS as i32, KEY_OFFSET as i32, i32::from(back));
    launch(&kernels::rotation(dtype).unwrap(), &p, &mut memory.buffers);
    (memory.elements(p.q, SHAPE.query_dims(), true), memory.elements(p.k, SHAPE.key_dims(), false))
}

fn launch(kernel: &Kernel, params: &Params, buffers: &mut [Vec<u8>]) {
    let parts: Vec<(&str, String)> =
        kernel.parts()[1..].iter().map(|(file, text)| (*file, (*text).to_owned())).collect();
    let program = compile(&parts, kernel.spec.pass.entry(), &kernel.options());
    let (grid, threads) = (kernel.grid(params), kernel.threads());
    program.run(Launch { grid, threads, shared_bytes: 0, seed: 1, at_once: 1, params, buffers }).unwrap();
}

/// A case of the device by the twin: a launch as `attention::cuda::rotate` makes it, over the bytes of the same tensors.
fn by_twin(turn: &Turn, inverse: bool) -> Result<(), String> {
    let (before, angles) = (turn.whole(), turn.angles());
    let told = rotation_params(&turn.x(&before), &angles, inverse).unwrap();
    assert_eq!((told.q, told.angles), (before.data_ptr() as u64, angles.data_ptr() as u64));
    let bytes = |tensor: &Tensor| Vec::<u8>::try_from(tensor.view(-1).view_dtype(Kind::Uint8)).unwrap();
    let mut buffers = [bytes(&before), bytes(&angles)];
    launch(&turn.kernel(), &Params { q: 1, angles: 2, ..told }, &mut buffers);
    let after = Tensor::from_slice(&buffers[0]).view_dtype(before.kind()).view_as(&before);
    turn.judge(&before, &after)
}

#[test]
fn the_cases_of_the_device_pass_by_the_twin_and_a_turn_the_wrong_way_does_not() {
    for turn in turns() {
        by_twin(&turn, turn.inverse).unwrap_or_else(|reason| panic!("{turn:?}: {reason}"));
        assert!(by_twin(&turn, !turn.inverse).is_err(), "{turn:?}");
    }
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
            agree(dtype, &rotated(&q, PAIRS, offset, back), &found_q).unwrap();
            agree(dtype, &rotated(&k, PAIRS, KEY_OFFSET, back), &found_k).unwrap();
        }
        // The formula itself turns back, and a turn the wrong way would show.
        let back = rotated(&rotated(&q, PAIRS, 4, false), PAIRS, 4, true);
        assert!((&back - &q).iter().all(|x| x.abs() < 1e-12));
        assert!((rotated(&q, PAIRS, 4, true) - rotated(&q, PAIRS, 4, false)).iter().any(|x| x.abs() > 0.1));
    }
}
