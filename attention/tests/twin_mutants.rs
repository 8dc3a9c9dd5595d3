//! Kernel texts with a bug planted: each must be rejected by the judgement that the kernels pass, or for a broken rule.

use attention::{Alibi, AttnProblem, AttnShape, DType, DocumentStarts, Mask};

use crate::support::cases::Case;
use crate::twin_attention::Truth;
use crate::twin_problem::{Mutation, run};

const MUTATIONS: [Mutation; 19] = [
    // Barriers and copies.
    Mutation { file: "forward.cu", from: "copy_wait<0>();\n        barrier();", to: "copy_wait<0>();" },
    Mutation {
        file: "forward.cu",
        from: "copy_wait<0>();\n        barrier();",
        to: "barrier();\n        copy_wait<0>();",
    },
    Mutation { file: "keys.cu", from: "copy_wait<0>();", to: "copy_wait<1>();" },
    Mutation { file: "queries.cu", from: "copy_wait<0>();\n        barrier();", to: "copy_wait<0>();" },
    Mutation { file: "keys.cu", from: "u32 stage = stages + (n & 1) * STAGE_BYTES", to: "u32 stage = stages" },
    // The mask.
    Mutation { file: "mask.cuh", from: "query + offset + 1)", to: "query + offset + 2)" },
    Mutation { file: "mask.cuh", from: "position - window + 1", to: "position - window" },
    Mutation { file: "mask.cuh", from: "(last + SIZE - 1) / SIZE", to: "last / SIZE" },
    Mutation { file: "mask.cuh", from: "return key_end <= last &&", to: "return key <= last &&" },
    Mutation { file: "mask.cuh", from: "load_int(starts + next) - offset", to: "load_int(starts + next) - offset - 1" },
    // Softmax.
    Mutation { file: "forward.cu", from: "sum[block][half] *= shrink;", to: "" },
    Mutation { file: "forward.cu", from: "output[block][n][2 * half + i] *= shrink;", to: ";" },
    Mutation { file: "scores.cuh", from: "load_float(p.slopes + head) * LOG2_E", to: "load_float(p.slopes + head)" },
    // Gradients.
    Mutation { file: "queries.cu", from: "(gradient - delta)", to: "gradient" },
    Mutation { file: "keys.cu", from: "half, p.scale,", to: "half, 1.0f," },
    Mutation { file: "keys.cu", from: "Scores::of(p, turn.head)", to: "Scores::of(p, key_head * group)" },
    // Layouts and edges.
    Mutation { file: "products.cuh", from: "right[0], right[1]);", to: "right[1], right[0]);" },
    Mutation { file: "tile.cuh", from: "(chunk ^ swizzle(row + at)) << 4", to: "chunk << 4" },
    Mutation { file: "forward.cu", from: "if (row >= p.query_len) continue;", to: "" },
];

/// Several tiles of queries and keys, none of them whole, with everything that a mutation needs to show.
fn cases() -> [Case; 2] {
    let shape = |batch| AttnShape { batch, query_heads: 2, key_heads: 1, query_len: 133, key_len: 150, head_dim: 64 };
    let alibi = || Alibi::new(&[0.25, 0.0625]).unwrap();
    let window = Mask::Window { size: 70, sinks: 3, offset: 17 };
    let starts = DocumentStarts::new(vec![vec![0, 40, 146]]).unwrap();
    let problem = |mask| AttnProblem::new(shape(1)).unwrap().with_mask(mask).unwrap().with_alibi(alibi()).unwrap();
    [window, Mask::Documents { starts, offset: 17 }].map(|mask| Case {
        number: 1000,
        problem: problem(mask),
        dtype: DType::BF16,
        sharpness: 4.0,
    })
}

#[test]
fn every_planted_bug_is_rejected() {
    let cases = cases().map(|case| {
        let i = case.inputs();
        let truth = Truth::of(&case, &i);
        (case, i, truth)
    });
    let verdicts = |mutation| {
        cases.iter().map(move |(case, i, truth)| {
            run(case, i, mutation, 7).and_then(|answer| truth.judge(case, i, &answer)).map(drop)
        })
    };
    verdicts(None).for_each(|verdict| verdict.expect("without a bug"));
    let mut survivors = Vec::new();
    for mutation in MUTATIONS {
        match verdicts(Some(mutation)).find_map(Result::err) {
            Some(reason) => println!("{}: {:?}\n    {reason}", mutation.file, mutation.to),
            None => survivors.push(mutation),
        }
    }
    assert!(survivors.is_empty(), "nothing rejects {survivors:#?}");
}

#[test]
fn any_order_of_warps_and_lanes_gives_the_same_bits() {
    for case in cases() {
        let i = case.inputs();
        let answers: Vec<_> = (1..4).map(|seed| run(&case, &i, None, seed).unwrap().bytes).collect();
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{}", case.describe());
    }
}

#[test]
fn rows_that_are_not_exchanged_cost_bank_conflicts() {
    let plain = Mutation {
        file: "tile.cuh",
        from: "return (row >> (3 - SWIZZLE_BITS))",
        to: "return 0 * (row >> (3 - SWIZZLE_BITS))",
    };
    let [case, _] = cases();
    assert!(run(&case, &case.inputs(), Some(plain), 1).unwrap().bank_conflicts > 0);
}
