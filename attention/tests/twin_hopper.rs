//! The text of the kernels of generation 2 on the host twin: under the error budget, with bugs planted, in any order.

use attention::cuda::kernels::Generation;
use attention::cuda::kernels_of;
use attention::{Alibi, AttnProblem, AttnShape, DType, DocumentStarts, Mask};

use crate::support::cases::Case;
use crate::twin_attention::{Truth, for_every_kernel, small_cases};
use crate::twin_problem::{Mutation, Run, Way, run_by};

const EVERY: Way = Way::Ordered { blocks: u32::MAX, run: Run::InTurn };
const ONE: Way = Way::Ordered { blocks: 1, run: Run::InTurn };

/// Whether generation 2 has kernels for a case.
fn is_taken(case: &Case) -> bool {
    kernels_of(Generation::Second, &case.problem, case.dtype).is_some()
}

#[test]
fn every_kernel_text_keeps_the_error_budget() {
    let (mut refused, mut tightest) = (Vec::new(), (0.0, String::new()));
    let cases: Vec<Case> = small_cases().into_iter().chain(for_every_kernel()).filter(is_taken).collect();
    let ways = [EVERY, ONE, Way::Unordered { blocks: 3, run: Run::AtOnce }];
    for (case, way) in cases.iter().zip(ways.into_iter().cycle()) {
        let i = case.inputs();
        match run_by(way, case, &i, None, 1).and_then(|answer| Truth::of(case, &i).judge(case, &i, &answer)) {
            Ok(used) if used > tightest.0 => tightest = (used, case.describe()),
            Ok(_) => {}
            Err(reason) => refused.push(format!("{} {way:?}: {reason}", case.describe())),
        }
    }
    println!("{} cases; tightest at {:.0} % of the budget: {}", cases.len(), 100.0 * tightest.0, tightest.1);
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

/// Several tiles of queries and keys, none of them whole, with everything that a mutation needs to show.
fn cases() -> [Case; 2] {
    let shape = AttnShape { batch: 1, query_heads: 2, key_heads: 1, query_len: 300, key_len: 420, head_dim: 64 };
    let window = Mask::Window { size: 70, sinks: 3, offset: 120 };
    let starts = DocumentStarts::new(vec![vec![0, 330, 400]]).unwrap();
    let alibi = Alibi::new(&[0.25, 0.0625]).unwrap();
    let problem = |mask| AttnProblem::new(shape).unwrap().with_mask(mask).unwrap();
    // ALiBi would make too little of what a window hides.
    let documents = problem(Mask::Documents { starts, offset: 120 }).with_alibi(alibi).unwrap();
    [problem(window), documents].map(|problem| Case { number: 1000, problem, dtype: DType::BF16, sharpness: 4.0 })
}

const fn bug(file: &'static str, from: &'static str, to: &'static str) -> Mutation {
    Mutation { file, from, to }
}

const MUTATIONS: [Mutation; 33] = [
    // Descriptors and the exchange.
    bug("hopper/tile.cuh", "(1024 >> 4) << 32", "(2048 >> 4) << 32"),
    bug("hopper/tile.cuh", "step % 4 * 32", "step % 4 * 16"),
    bug("hopper/tile.cuh", "step * 16 * 128", "step * 8 * 128"),
    bug("hopper/tile.cuh", "row * 128 + row % 8 * 16 +", "row * 128 +"),
    bug("hopper/tile.cuh", "factor[n / 2][n % 2 * 2 + half] = pack", "factor[n / 2][half * 2 + n % 2] = pack"),
    bug("hopper/keys.cu", "DQ_QUERY(group) / 64 * BOX_BYTES(TILE_N)", "0"),
    bug("hopper/keys.cu", "(row % 8 ^ lane % 4 / 2 ^", "(lane % 4 / 2 ^"),
    // Parities, arrivals, rings.
    bug("hopper/tile.cuh", "count / LENGTH % 2", "0"),
    bug("hopper/forward.cu", "q_parity ^= 1;\n            u64 k = keys();", "u64 k = keys();"),
    bug("hopper/forward.cu", "4 * CONSUMERS);\n        for", "1);\n        for"),
    bug(
        "hopper/forward.cu",
        "mbarrier_expect(full, BOXES * BOX_BYTES(rows))",
        "mbarrier_expect(full, BOX_BYTES(rows) / 2)",
    ),
    bug("hopper/forward.cu", "mbarrier_wait(shared_address(V_FULL(v_ring.stage())), v_ring.parity());", ""),
    bug("hopper/forward.cu", "if (next_group == 0) group_arrive", "if (false) group_arrive"),
    bug("hopper/keys.cu", "mbarrier_wait(shared_address(DQ_EMPTY(group)), dq_parity);", ""),
    bug("hopper/keys.cu", "arrive(DQ_FULL(group, dq_parity ^ 1));", "arrive(DQ_FULL(group, 0));"),
    bug("hopper/keys.cu", "mbarrier_wait(shared_address(KV_FULL), steps.letters.ring.count % 2);", ""),
    bug("hopper/keys.cu", "group_barrier(CONSUMERS_BARRIER, 2 * WARPGROUP);", ""),
    bug(
        "hopper/keys.cu",
        "        warp_barrier();\n        if (lane == 0) mbarrier_arrive",
        "        if (lane == 0) mbarrier_arrive",
    ),
    // Products under way.
    bug("hopper/forward.cu", "wgmma_wait<1>();", ""),
    bug(
        "hopper/forward.cu",
        "                wgmma_wait<0>();\n                hold(output);\n                release_values();",
        "                release_values();\n                wgmma_wait<0>();",
    ),
    bug("hopper/forward.cu", "if (raised) scale_rows(output, shrink);", ""),
    bug("hopper/keys.cu", "wgmma_wait<1>();\n                hold(dk);", ""),
    bug("hopper/keys.cu", "Q_EMPTY(ring.stage_before())", "Q_EMPTY(stage)"),
    bug("hopper/keys.cu", "if (LATE_DK) {\n            wgmma_wait<0>();", "if (LATE_DK) {"),
    bug(
        "hopper/keys.cu",
        "    wgmma_fence();\n    UNROLL for (int step = 0; step < TILE_M / 16",
        "    UNROLL for (int step = 0; step < TILE_M / 16",
    ),
    // Proxies.
    bug("hopper/forward.cu", "        async_fence();\n", ""),
    bug("hopper/keys.cu", "64 * group, factor);\n            async_fence();", "64 * group, factor);"),
    bug("hopper/forward.cu", "if (stores) bulk_wait_read();", ""),
    // Masks and edges.
    bug(
        "hopper/forward.cu",
        "rows.all_last = mask.last_key(group_first)",
        "rows.all_last = mask.last_key(group_first + 63)",
    ),
    bug("hopper/keys.cu", "mask.before(query, columns.key + 8 * (i / 2)) |", ""),
    bug("hopper/keys.cu", "min_(mask.sinks, end - 1)", "group_first"),
    // Turns and sums.
    bug("hopper/launch.cuh", "tile + 1 - min_((p.sinks + KEYS - 1) / KEYS, tile)", "1"),
    bug("hopper/prepare.cu", "{0, 0, 0, 0}", "{0x3f800000, 0, 0, 0}"),
];

#[test]
fn every_planted_bug_is_rejected() {
    let cases = cases().map(|case| {
        let i = case.inputs();
        let truth = Truth::of(&case, &i);
        (case, i, truth)
    });
    // A bug of order shows in most orders, not in every one.
    let cases = &cases;
    let verdicts = |mutation, seeds: std::ops::Range<u32>| {
        seeds.flat_map(move |seed| cases.iter().map(move |case| (seed, case))).map(move |(seed, (case, i, truth))| {
            let answer = run_by(ONE, case, i, mutation, seed)?;
            truth.judge(case, i, &answer).map(drop)
        })
    };
    let mut survivors = Vec::new();
    verdicts(None, 0..1).for_each(|verdict| verdict.expect("without a bug"));
    for mutation in MUTATIONS {
        match verdicts(Some(mutation), 0..8).find_map(Result::err) {
            Some(reason) => println!("{}: {:?}\n    {reason}", mutation.file, mutation.to),
            None => survivors.push(mutation),
        }
    }
    assert!(survivors.is_empty(), "nothing rejects {survivors:#?}");
}

#[test]
fn any_order_of_warps_and_copies_and_any_share_of_the_work_gives_the_same_bits() {
    for case in cases() {
        let i = case.inputs();
        let ways = [(EVERY, 1), (EVERY, 2), (ONE, 3)];
        let answers = ways.map(|(way, seed)| run_by(way, &case, &i, None, seed).unwrap().bytes);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{}", case.describe());
    }
}

/// Three tiles of keys, of which all add to the gradient of the last queries.
fn shared_case() -> Case {
    let shape = AttnShape { batch: 1, query_heads: 2, key_heads: 2, query_len: 300, key_len: 300, head_dim: 64 };
    let problem = AttnProblem::new(shape).unwrap().with_mask(Mask::Causal { offset: 0 }).unwrap();
    Case { number: 1001, problem, dtype: DType::BF16, sharpness: 1.0 }
}

/// Fewer blocks than pieces of work, and one for each.
const TOGETHER: [u32; 2] = [3, u32::MAX];

#[test]
fn blocks_that_run_at_once_add_by_turns_to_the_same_bits_and_without_turns_to_others() {
    let case = shared_case();
    let i = case.inputs();
    let bytes = |way, seed| run_by(way, &case, &i, None, seed).unwrap().bytes;
    let alone = bytes(ONE, 1);
    let ordered = |(seed, blocks)| bytes(Way::Ordered { blocks, run: Run::AtOnce }, seed);
    assert!((2..10).zip(TOGETHER.into_iter().cycle()).map(ordered).all(|found| found == alone));
    let unordered = |seed| bytes(Way::Unordered { blocks: u32::MAX, run: Run::AtOnce }, seed);
    // The first two numbers of a sum may come in either order.
    assert!((2..14).any(|seed| unordered(seed) != alone), "the twin adds in one order alone");
}

/// Bugs between blocks.
const BETWEEN_BLOCKS: [Mutation; 9] = [
    bug("hopper/keys.cu", "while (load_acquire(turn()) != -mine) continue;", ""),
    // The next block is told before what this one adds has been added.
    bug(
        "hopper/keys.cu",
        "                bulk_wait();\n                global_async_fence();\n                add_release",
        "                add_release",
    ),
    // What one adds has been read, not added; is not put before the number that tells the next, or by neither fence nor release;
    // or the next asks for its own without having put that number before it.
    bug(
        "hopper/keys.cu",
        "bulk_wait();\n                global_async_fence();",
        "bulk_wait_read();\n                global_async_fence();",
    ),
    bug("hopper/keys.cu", "bulk_wait();\n                global_async_fence();", "bulk_wait();"),
    bug("hopper/keys.cu", "add_release(turn(), passed_on);", "add_relaxed(turn(), passed_on);"),
    bug("hopper/keys.cu", "load_acquire(turn())", "load_relaxed(turn())"),
    bug("hopper/keys.cu", "-mine) continue;\n                global_async_fence();", "-mine) continue;"),
    // The fence before what it is to put in order.
    bug(
        "hopper/keys.cu",
        "bulk_wait();\n                global_async_fence();",
        "global_async_fence();\n                bulk_wait();",
    ),
    // Pieces in an order in which a block waits for one that no block has begun.
    bug("hopper/keys.cu", "launch.shortest_first ? launch.tiles - 1 - piece.tile : piece.tile", "piece.tile"),
];

#[test]
fn every_bug_between_blocks_is_rejected_when_they_run_at_once() {
    let case = shared_case();
    let i = case.inputs();
    let right = run_by(ONE, &case, &i, None, 1).unwrap().bytes;
    for mutation in BETWEEN_BLOCKS {
        let found =
            |(seed, blocks)| match run_by(Way::Ordered { blocks, run: Run::AtOnce }, &case, &i, Some(mutation), seed) {
                Ok(answer) if answer.bytes == right => None,
                Ok(_) => Some(format!("other bits with seed {seed}")),
                Err(rule) => Some(rule),
            };
        let verdict = (1..33).zip(TOGETHER.into_iter().cycle()).find_map(found);
        println!("{:?} {:?}: {verdict:?}", mutation.from, mutation.to);
        assert!(verdict.is_some(), "nothing rejects {mutation:?}");
    }
}
