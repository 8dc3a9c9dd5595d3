//! The twin's copy engine and wgmma against plain arithmetic: boxes and their exchange byte by byte, products of every kind that
//! the kernels ask for by their definition, and pieces of work each given out once.

use attention::DType;
use attention::cuda::hopper::{Launch as Told, TensorMap};
use attention::cuda::kernels::{Generation, Kernel, Pass, Scores, Spec, kernel};
use attention::cuda::params::{Params, Strides};
use half::bf16;
use torch_ext::cuda::TableKernel;

use crate::support::random::Random;
use crate::twin_machine::{Launch, Program, compile, described};

fn forward() -> Kernel {
    let (generation, pass, dtype, scores) = (Generation::Second, Pass::Forward, DType::BF16, Scores::Plain);
    kernel(Spec { generation, pass, dtype, head_dim: 128, scores }).unwrap()
}

fn program(text: &str) -> Program {
    let kernel = forward();
    let parts = kernel.parts();
    beside(&kernel, &parts[..parts.len() - 1], text)
}

/// A probe beside some parts of a kernel.
fn beside(kernel: &Kernel, parts: &[(&'static str, &'static str)], text: &str) -> Program {
    let mut parts: Vec<(&str, String)> = parts[1..].iter().map(|(file, text)| (*file, (*text).to_owned())).collect();
    parts.push(("probe.cu", text.to_owned()));
    compile(&parts, "probe", &kernel.options())
}

/// Tiles of q (128 rows), k and v (128 rows each) by the copy engine to shared memory, which goes to dq; then the products q k^T
/// of the first 64 rows of q, q v of those 64 rows and the first 128 rows of v, with q once in shared memory and once in
/// registers, and k^T v with k turned, whose sums go to dk, dv, lse and delta.
const PROBE: &str = r"
DEVICE void store_sums(void *to, const float (&sums)[16][4]) {
    int lane = thread_index() % 32, row = thread_index() / 32 * 16 + lane / 4;
    for (int n = 0; n < 16; n++)
        for (int i = 0; i < 4; i++) store_float((float *)to + (row + i / 2 * 8) * 128 + 8 * n + lane % 4 * 2 + i % 2, sums[n][i]);
}
KERNEL(128, 1) probe(GRID_CONSTANT const Launch launch) {
    u32 full = shared_address(3 * TILE_BYTES(128));
    if (thread_index() == 0) {
        mbarrier_init(full, 1);
        mbarrier_init_fence();
        mbarrier_expect(full, 3 * TILE_BYTES(128));
        for (int box = 0; box < 2; box++) {
            tensor_load(shared_address(box * BOX_BYTES(128)), launch.q, full, 64 * box, 8, 1, 0);
            tensor_load(shared_address(TILE_BYTES(128) + box * BOX_BYTES(128)), launch.k, full, 64 * box, 0, 0, 0);
            tensor_load(shared_address(2 * TILE_BYTES(128) + box * BOX_BYTES(128)), launch.v, full, 64 * box, -4, 0, 0);
        }
    }
    barrier();
    mbarrier_wait(full, 0);
    for (int word = thread_index(); word < 3 * TILE_BYTES(128) / 4; word += 128)
        store_word((u32 *)launch.p.dq + word, (u32)load_shared_int(shared_address(4 * word)));
    u64 q = descriptor(shared_address(0), 0), k = descriptor(shared_address(TILE_BYTES(128)), 0);
    u64 k_turned = descriptor(shared_address(TILE_BYTES(128)), BOX_BYTES(128));
    u64 v = descriptor(shared_address(2 * TILE_BYTES(128)), BOX_BYTES(128));
    float both[16][4], registers[16][4], turned[16][4];
    wgmma_fence();
    multiply_shared<false, false, false>(both, q, k);
    for (int step = 1; step < 8; step++)
        multiply_shared<true, false, false>(both, columns_on<128>(q, step), columns_on<128>(k, step));
    multiply_shared<false, true, true>(turned, k_turned, v);
    for (int step = 1; step < 8; step++) multiply_shared<true, true, true>(turned, rows_on(k_turned, step), rows_on(v, step));
    wgmma_commit();
    wgmma_wait<0>();
    store_sums(launch.p.dk, both);
    store_sums(launch.p.delta, turned);
    // The sums of q k^T, rounded, are the left factor of the next.
    u32 factor[8][4];
    pack_factor(factor, both);
    clear(registers);
    wgmma_fence();
    for (int step = 0; step < 8; step++) multiply_registers<true, true>(registers, factor[step], rows_on(v, step));
    wgmma_commit();
    wgmma_wait<0>();
    store_sums(launch.p.dv, registers);
}
";

/// Small whole numbers over four, whose products and sums are exact.
fn matrix(random: &mut Random, rows: usize) -> Vec<bf16> {
    (0..rows * 128).map(|_| bf16::from_f64((random.normal() * 2.0).round() / 4.0)).collect()
}

#[test]
fn boxes_lie_as_the_exchange_says_and_products_are_those_of_their_definition() {
    let mut random = Random::new(5);
    // Two heads of 100 rows; the box of q begins at row 8 of the second, that of v four rows before the first.
    let [q, k, v] = [200, 200, 200].map(|rows| matrix(&mut random, rows));
    let p = Params {
        q: 1,
        k: 2,
        v: 3,
        dq: 4,
        dk: 5,
        dv: 6,
        delta: 7,
        q_strides: Strides { batch: 0, head: 12_800, row: 128 },
        k_strides: Strides { batch: 0, head: 12_800, row: 128 },
        v_strides: Strides { batch: 0, head: 12_800, row: 128 },
        batch: 1,
        query_heads: 2,
        key_heads: 2,
        query_len: 100,
        key_len: 100,
        head_dim: 128,
        ..Params::default()
    };
    let told = Told::of(&forward(), &p, 0, |tiled| Ok::<_, ()>(described(tiled))).unwrap();
    let bytes = |matrix: &[bf16]| -> Vec<u8> { matrix.iter().flat_map(|x| x.to_ne_bytes()).collect() };
    let mut buffers = vec![bytes(&q), bytes(&k), bytes(&v), vec![0; 3 * 32_768]];
    buffers.extend([vec![0; 4 * 64 * 128], vec![0; 4 * 64 * 128], vec![0; 4 * 64 * 128]]);
    let launch = Launch {
        grid: [1, 1, 1],
        threads: 128,
        shared_bytes: 3 * 32_768 + 8,
        seed: 3,
        at_once: 1,
        params: &told,
        buffers: &mut buffers,
    };
    program(PROBE).run(launch).unwrap();

    // What a tile holds: rows beyond the tensor, and before it, are zeros.
    let tile = |matrix: &[bf16], head: usize, first: i64, row: usize, column: usize| {
        let line = first + row as i64;
        if (0..100).contains(&line) { matrix[(head * 100 + line as usize) * 128 + column].to_f64() } else { 0.0 }
    };
    let [q, k, v] = [(q, 1, 8), (k, 0, 0), (v, 0, -4)]
        .map(|(matrix, head, first)| move |row: usize, column: usize| tile(&matrix, head, first, row, column));
    let at = |tile: usize, row: usize, column: usize| {
        let (chunk, within) = (column % 64 / 8, column % 8);
        let place = tile * 32_768 + column / 64 * 16_384 + row * 128 + (chunk ^ (row % 8)) * 16 + within * 2;
        bf16::from_ne_bytes(buffers[3][place..place + 2].try_into().unwrap()).to_f64()
    };
    for (row, column) in (0..128).flat_map(|row| (0..128).map(move |column| (row, column))) {
        let found = [0, 1, 2].map(|tile| at(tile, row, column));
        assert_eq!(found, [q(row, column), k(row, column), v(row, column)], "({row}, {column})");
    }
    let sums = |buffer: usize, row: usize, column: usize| {
        let place = 4 * (row * 128 + column);
        f64::from(f32::from_ne_bytes(buffers[buffer][place..place + 4].try_into().unwrap()))
    };
    for (row, column) in (0..64).flat_map(|row| (0..128).map(move |column| (row, column))) {
        let scores = |other: usize| (0..128).map(|d| q(row, d) * k(other, d)).sum::<f64>();
        assert_eq!(sums(4, row, column), scores(column), "q k^T ({row}, {column})");
        let turned: f64 = (0..128).map(|key| k(key, row) * v(key, column)).sum();
        assert_eq!(sums(6, row, column), turned, "k^T v ({row}, {column})");
        let rounded = |other: usize| bf16::from_f64(sums(4, row, other)).to_f64();
        let product: f64 = (0..128).map(|other| rounded(other) * v(other, column)).sum();
        assert!((sums(5, row, column) - product).abs() < 1e-3 * product.abs().max(1.0), "weights v ({row}, {column})");
    }
}

/// Counts how often each piece is given out, and says in which order.
const PIECES: &str = r"
KERNEL(32, 1) probe(GRID_CONSTANT const Launch launch) {
    if (thread_index() != 0) return;
    Piece piece;
    for (u32 round = 0; Piece::of(launch, round, piece); round++) {
        int plane = piece.batch * launch.heads + piece.head, at = plane * launch.tiles + piece.tile;
        store_float((float *)launch.p.dq + at, load_float((const float *)launch.p.dq + at) + 1.0f);
        int place = round * grid_x() + (round % 2 ? grid_x() - 1 - block_x() : block_x());
        store_word((u32 *)launch.p.dk + place, (u32)at);
    }
}
";

#[test]
fn every_piece_is_given_out_once_and_the_first_tiles_of_a_section_come_first() {
    let program = program(PIECES);
    for (section, blocks) in [(7, 5), (3, 5), (3, 64), (1, 3), (7, 1)] {
        let (heads, batch, tiles) = (7, 1, 9);
        let p = Params { dq: 1, dk: 2, batch, ..Params::default() };
        let planes = heads * batch;
        let told = Told {
            maps: [TensorMap::default(); 6],
            params: p,
            turns: 0,
            heads,
            tiles,
            section,
            group: 1,
            planes,
            section_pieces: section * tiles,
            pieces: planes * tiles,
            shortest_first: 0,
        };
        let count = (planes * tiles) as usize;
        let mut buffers = vec![vec![0; 4 * count]; 2];
        let grid = [blocks, 1, 1];
        let launch =
            Launch { grid, threads: 32, shared_bytes: 16, seed: 1, at_once: 1, params: &told, buffers: &mut buffers };
        program.run(launch).unwrap();
        let once = buffers[0].chunks(4).all(|bytes| f32::from_ne_bytes(bytes.try_into().unwrap()) == 1.0);
        assert!(once, "{section} {blocks}");
        let order: Vec<i32> = buffers[1].chunks(4).map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap())).collect();
        let tile_of_section = |&at: &i32| (at / tiles / section, at % tiles);
        assert!(order.iter().map(tile_of_section).is_sorted(), "{section} {blocks}: {order:?}");
    }
}

/// Tiles of keys in the order in which turns give them out: how many come to a tile of queries when it is not their turn, and how
/// often any comes.
const TURNS: &str = r"
KERNEL(32, 1) probe(GRID_CONSTANT const Launch launch) {
    if (thread_index() != 0) return;
    const Params &p = launch.p;
    Mask mask = Mask::of(p, 0);
    for (int query = 0; query < p.padded_query_len; query += TILE_M) {
        Turns turns = Turns::of<TILE_M, TILE_N>(mask, query);
        store_word(launch.turns + query / TILE_M * 2, turns.next);
        store_word(launch.turns + query / TILE_M * 2 + 1, turns.first);
    }
    u32 untimely = 0, count = 0;
    Steps steps = Steps::of();
    for (int tile = 0; tile < launch.tiles; tile++) {
        steps.write(launch, {tile, 0, 0});
        steps.each([&](int head, int query_tile) {
            int *turn = launch.turns + 2 * turn_of(p, TILE_M, head, 0, query_tile), mine = steps.first_key() / TILE_N;
            untimely += load_int(turn) != -mine;
            store_word(turn, load_int(turn) + Turns::rise<TILE_N>(p, mine, load_int(turn + 1)));
            count++;
        });
    }
    store_word(p.dq, untimely);
    store_word((u32 *)p.dq + 1, count);
}
";

#[test]
fn every_tile_of_keys_that_adds_to_a_tile_of_queries_has_its_turn_when_those_before_it_had() {
    let kernel = kernel(Spec { pass: Pass::Keys, ..forward().spec }).unwrap();
    let program = beside(&kernel, &kernel.parts(), TURNS);
    let mut visits = 0;
    let mut check = |p: Params, starts: &[i32]| {
        let words = |numbers: &[i32]| numbers.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<u8>>();
        let padded_query_len = (p.query_len + 127) / 128 * 128;
        let mut buffers = vec![vec![0; 8], words(starts), words(&[0, starts.len() as i32])];
        buffers.push(vec![0xff; 8 * padded_query_len as usize / 64]);
        let tables = if starts.is_empty() { [0, 0] } else { [2, 3] };
        let p = Params { dq: 1, starts: tables[0], start_offsets: tables[1], padded_query_len, ..p };
        let p = Params { batch: 1, query_heads: 1, key_heads: 1, head_dim: 128, ..p };
        let told = Told::of(&kernel, &p, 4, |_| Ok::<_, ()>(TensorMap::default())).unwrap();
        let (grid, buffers) = ([1, 1, 1], &mut buffers);
        let shared_bytes = kernel.shared_bytes;
        program.run(Launch { grid, threads: 32, shared_bytes, seed: 1, at_once: 1, params: &told, buffers }).unwrap();
        let found = [0, 4].map(|at| u32::from_ne_bytes(buffers[0][at..at + 4].try_into().unwrap()));
        assert_eq!(found[0], 0, "{p:?} {starts:?}");
        visits += found[1];
    };
    for (query_len, key_len) in [(1, 1), (300, 420), (420, 300), (1, 900), (1000, 1000), (129, 1025)] {
        for offset in [key_len - query_len, 0, -70, 37] {
            let free = Params { query_len, key_len, offset, window: 1 << 29, ..Params::default() };
            check(free, &[]);
            let ordered = Params { ordered: 1, ..free };
            check(ordered, &[]);
            check(ordered, &[0]);
            check(ordered, &[0, 17, 128, 130, 260]);
            for window in [1, 20, 200, 500] {
                for sinks in [0, 1, 128, 300] {
                    check(Params { window, sinks, ..ordered }, &[]);
                }
            }
        }
    }
    assert!(visits > 1000, "{visits}");
}

/// Tiles of 16 keys that 32 queries see all of, by their numbers and one by one: how many differ, and how many there are.
const VISIBLE: &str = r"
KERNEL(32, 1) probe(GRID_CONSTANT const Launch launch) {
    if (thread_index() != 0) return;
    const Params &p = launch.p;
    Mask mask = Mask::of(p, 0);
    u32 differ = 0, whole = 0;
    for (int query = 0; query < p.query_len; query += 32) {
        KeyTiles<16> tiles = KeyTiles<16>::of(mask, query / 64 * 64, min_(query / 64 * 64 + 64, p.query_len));
        int first = mask.first_key(min_(query + 32, p.query_len) - 1), last = mask.last_key(query);
        VisibleTiles those = tiles.all_visible(mask, first, last);
        for (int n = 0; n < tiles.count; n++) {
            bool visible = mask.all_visible(first, last, tiles.key(n), tiles.key(n) + 16);
            differ += visible != (n < those.sinks_end || (n >= those.first && n < those.end));
            whole += visible;
        }
    }
    store_word(p.dq, differ);
    store_word((u32 *)p.dq + 1, whole);
}
";

#[test]
fn tiles_that_need_no_mask_are_those_that_all_queries_see() {
    let program = program(VISIBLE);
    let mut whole = 0;
    let mut check = |p: Params, starts: &[i32]| {
        let words = |numbers: &[i32]| numbers.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<u8>>();
        let mut buffers = vec![vec![0; 8], words(starts), words(&[0, starts.len() as i32])];
        let tables = if starts.is_empty() { [0, 0] } else { [2, 3] };
        let p =
            Params { dq: 1, starts: tables[0], start_offsets: tables[1], batch: 1, query_heads: 1, key_heads: 1, ..p };
        let told = Told::of(&forward(), &p, 0, |_| Ok::<_, ()>(TensorMap::default())).unwrap();
        let grid = [1, 1, 1];
        let buffers = &mut buffers;
        program
            .run(Launch { grid, threads: 32, shared_bytes: 16, seed: 1, at_once: 1, params: &told, buffers })
            .unwrap();
        let found = [0, 4].map(|at| u32::from_ne_bytes(buffers[0][at..at + 4].try_into().unwrap()));
        assert_eq!(found[0], 0, "{p:?} {starts:?}");
        whole += found[1];
    };
    for (query_len, key_len) in [(70, 70), (100, 231), (128, 64), (33, 300)] {
        let offset = key_len - query_len;
        let free = Params { query_len, key_len, offset, window: 1 << 29, ..Params::default() };
        check(free, &[]);
        let ordered = Params { ordered: 1, ..free };
        check(ordered, &[]);
        check(ordered, &[0, 17, 64, 128]);
        for (window, sinks) in [(1, 0), (20, 3), (20, 16), (40, 50), (64, 0), (90, 100), (500, 20)] {
            check(Params { window, sinks, ..ordered }, &[]);
        }
    }
    assert!(whole > 100, "{whole}");
}
