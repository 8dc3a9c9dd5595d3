//! Kernel texts with a bug planted: each must be rejected by the judgement that the kernels pass, or for a broken rule.

use tch::Device;
use torch_ext::fused::kernel::Element;
use torch_ext::fused::norm::Norm;

use crate::cases::{Case, Operation};
use crate::twin::{Mutation, Twin};

const RMS: Operation = Operation::Norm { norm: Norm::Rms, residual: true, bias: false };
const LAYER: Operation = Operation::Norm { norm: Norm::Layer, residual: false, bias: true };
const SWIGLU: Operation = Operation::SwiGlu { halves: true };
const ENTROPY: Operation = Operation::CrossEntropy { apart: 3, weights: true, gradient: Some(0.5) };

/// Bugs, and the operation that must show each.
const MUTATIONS: [(Operation, Mutation); 22] = [
    (RMS, bug("statistics.cuh", "+ epsilon", "")),
    (RMS, bug("statistics.cuh", "divide(square, (float)columns)", "divide(square, (float)(columns - 1))")),
    (RMS, bug("norm_forward.cu", "left[i] += right[i];", "")),
    (RMS, bug("norm_forward.cu", "numbers[i] * of.rstd * weight[i]", "numbers[i] * of.rstd")),
    (LAYER, bug("statistics.cuh", "at + i < columns ? numbers[i] - mean : 0.0f", "numbers[i] - mean")),
    (LAYER, bug("norm_forward.cu", "weight[i], bias[i])", "weight[i], 0.0f)")),
    (RMS, bug("norm_backward.cu", "- normed * along", "")),
    (LAYER, bug("norm_backward.cu", "* weight[i] - level", "* weight[i]")),
    (RMS, bug("norm_backward.cu", "passed[i]);", "0.0f);")),
    (RMS, bug("norm_backward.cu", "row += p.parts", "row += p.parts + 1")),
    (LAYER, bug("norm_backward.cu", "dbias[c][i] += grad[i];", "dbias[c][i] = grad[i];")),
    (RMS, bug("column_sums.cu", "for (; part < p.parts; part += WARPS)", "for (; part < p.parts - 1; part += WARPS)")),
    (RMS, bug("rows.cuh", "(turn++ & 1)", "0")),
    (RMS, bug("rows.cuh", "    barrier();\n    value = 0.0f;", "    value = 0.0f;")),
    (RMS, bug("pieces.cuh", "at + EACH <= length) return load_chunk", "at < length) return load_chunk")),
    (SWIGLU, bug("swiglu_backward.cu", "fma_(silu, 1.0f - sigma, sigma)", "sigma")),
    (SWIGLU, bug("swiglu_forward.cu", "piece.row * p.stride", "piece.row * p.columns")),
    (ENTROPY, bug("cross_entropy.cu", "sum *= exponential(most - from);", "")),
    (ENTROPY, bug("cross_entropy.cu", "if (at + i == target) numbers[i] -= weight;", "")),
    (ENTROPY, bug("cross_entropy.cu", "(int)(row * p.stride % EACH)", "0")),
    (ENTROPY, bug("cross_entropy.cu", "target == p.ignored || weight", "weight")),
    (ENTROPY, bug("cross_entropy.cu", "    barrier();\n    total", "    total")),
];

const fn bug(file: &'static str, from: &'static str, to: &'static str) -> Mutation {
    Mutation { file, from, to }
}

/// Small cases with rows of whole pieces and of others, several groups of rows, and more rows than groups.
fn cases(operation: Operation) -> Vec<Case> {
    let of = |element, rows, columns| Case { operation, element, rows, columns };
    let case = |rows, columns| of(Element::Bf16, rows, columns);
    match operation {
        // In float32 a mean over a row shows that is a little off, as of a warp that is late.
        Operation::Norm { .. } => vec![of(Element::F32, 35, 1500), case(33, 1003), case(90, 8)],
        Operation::SwiGlu { .. } => vec![case(5, 40)],
        Operation::CrossEntropy { .. } => vec![case(5, 9001), case(3, 64)],
    }
}

#[test]
fn every_planted_bug_is_rejected() {
    let verdict = |operation, mutation| {
        let twin = Twin { mutation, ..Twin::PLAIN };
        cases(operation).iter().find_map(|case| case.judged(&twin, Device::Cpu).err())
    };
    for operation in [RMS, LAYER, SWIGLU, ENTROPY] {
        assert_eq!(verdict(operation, None), None, "without a bug");
    }
    let mut survivors = Vec::new();
    for (operation, mutation) in MUTATIONS {
        match verdict(operation, Some(mutation)) {
            Some(reason) => println!("{}: {:?}\n    {reason}", mutation.file, mutation.to),
            None => survivors.push(mutation),
        }
    }
    assert!(survivors.is_empty(), "nothing rejects {survivors:#?}");
}
