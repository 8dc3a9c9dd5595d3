//! The twin's warp primitives, lane by lane, against the layouts of the PTX ISA turned round: from the place in a matrix to
//! the lane and word that hold it, where the twin goes from lanes to places.

use attention::DType;
use attention::cuda::kernels::{self, Generation, Pass, Scores, Spec};
use attention::cuda::params::Params;
use half::{bf16, f16};
use torch_ext::cuda::TableKernel;

use crate::support::random::Random;
use crate::twin_machine::{Launch, Program, compile};

/// Stores what each lane is given: by matrix loads of a 16x16 tile at q, and by a product of words at k, v and sums at lse.
const PROBE: &str = r"
KERNEL(32, 1) probe(const Params p) {
    int lane = thread_index();
    copy_async(shared_address(16 * lane), (const char *)p.q + 16 * lane, 16);
    copy_commit();
    copy_wait<0>();
    barrier();
    u32 plain[4], turned[4], address = shared_address(32 * (lane % 16) + 16 * (lane / 16));
    load_matrices(plain, address);
    load_matrices_transposed(turned, address);
    u32 a[4], b[2];
    float c[4];
    for (int i = 0; i < 4; i++) a[i] = load_int((const int *)p.k + 4 * lane + i);
    for (int i = 0; i < 2; i++) b[i] = load_int((const int *)p.v + 2 * lane + i);
    for (int i = 0; i < 4; i++) c[i] = load_float((const float *)p.lse + 4 * lane + i);
    multiply_add(c, a, b[0], b[1]);
    for (int i = 0; i < 4; i++) {
        store_word((u32 *)p.dk + 4 * lane + i, plain[i]);
        store_word((u32 *)p.dv + 4 * lane + i, turned[i]);
        store_float((float *)p.lse + 4 * lane + i, c[i]);
    }
    store_word((u32 *)p.dq + lane, pack(load_float((const float *)p.output + 2 * lane), load_float((const float *)p.output + 2 * lane + 1)));
}
";

fn probe(dtype: DType) -> Program {
    let spec = Spec { generation: Generation::First, pass: Pass::Forward, dtype, head_dim: 64, scores: Scores::Plain };
    let kernel = kernels::kernel(spec).unwrap();
    let params = kernel.parts().into_iter().filter(|(file, _)| *file == "params.cuh");
    let mut parts: Vec<(&str, String)> = params.map(|(file, text)| (file, text.to_owned())).collect();
    parts.push(("probe.cu", PROBE.to_owned()));
    compile(&parts, "probe", &kernel.options())
}

fn element(dtype: DType, x: f32) -> u16 {
    if dtype == DType::F16 { f16::from_f32(x).to_bits() } else { bf16::from_f32(x).to_bits() }
}

fn value(dtype: DType, bits: u16) -> f32 {
    if dtype == DType::F16 { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() }
}

fn bytes<const N: usize>(words: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
    words.into_iter().flatten().collect()
}

fn words(buffer: &[u8]) -> Vec<u32> {
    buffer.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect()
}

/// Lane and word of an element of a 16x16 left factor, and whether it is the upper half.
fn left(row: usize, column: usize) -> (usize, usize, bool) {
    (row % 8 * 4 + column % 8 / 2, row / 8 + 2 * (column / 8), column % 2 == 1)
}

/// The same for a 16x8 right factor.
fn right(row: usize, column: usize) -> (usize, usize, bool) {
    (column * 4 + row % 8 / 2, row / 8, row % 2 == 1)
}

/// Lane and number of an element of a 16x8 sum.
fn sum(row: usize, column: usize) -> (usize, usize) {
    (row % 8 * 4 + column / 2, row / 8 * 2 + column % 2)
}

/// Words of 32 lanes from a matrix and its layout.
fn spread(
    rows: usize,
    columns: usize,
    each: usize,
    bits: impl Fn(usize, usize) -> u16,
    layout: fn(usize, usize) -> (usize, usize, bool),
) -> Vec<u32> {
    let mut words = vec![0_u32; 32 * each];
    for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        let (lane, word, upper) = layout(row, column);
        words[each * lane + word] |= u32::from(bits(row, column)) << if upper { 16 } else { 0 };
    }
    words
}

#[test]
fn fragments_and_products_are_those_of_the_ptx_isa() {
    for dtype in [DType::BF16, DType::F16] {
        let mut random = Random::new(3);
        let mut matrix =
            |count: usize| -> Vec<u16> { (0..count).map(|_| element(dtype, random.normal() as f32)).collect() };
        let (tile, a, b) = (matrix(256), matrix(256), matrix(128));
        let sums: Vec<f32> = matrix(128).into_iter().map(|bits| value(dtype, bits)).collect();
        let mut c = [0.0_f32; 128];
        (0..16).for_each(|row| {
            (0..8).for_each(|column| c[4 * sum(row, column).0 + sum(row, column).1] = sums[8 * row + column]);
        });
        let a_words = spread(16, 16, 4, |row, column| a[16 * row + column], left);
        let b_words = spread(16, 8, 2, |row, column| b[8 * row + column], right);
        let mut buffers = vec![
            bytes(tile.iter().map(|bits| bits.to_ne_bytes())),
            bytes(a_words.iter().map(|word| word.to_ne_bytes())),
            bytes(b_words.iter().map(|word| word.to_ne_bytes())),
            bytes(c.iter().map(|x| x.to_ne_bytes())),
            vec![0xff; 512],
            vec![0xff; 512],
            vec![0xff; 128],
            bytes(ROUNDED.iter().map(|x| x.to_ne_bytes())),
        ];
        let params = Params { q: 1, k: 2, v: 3, lse: 4, dk: 5, dv: 6, dq: 7, output: 8, ..Params::default() };
        let launch = Launch {
            grid: [1; 3],
            threads: 32,
            shared_bytes: 512,
            seed: 1,
            at_once: 1,
            params: &params,
            buffers: &mut buffers,
        };
        // Rows of 32 bytes are not exchanged here, so there are conflicts.
        assert!(probe(dtype).run(launch).unwrap() > 0);
        assert_eq!(words(&buffers[4]), spread(16, 16, 4, |row, column| tile[16 * row + column], left), "{dtype}");
        // Transposed matrix by matrix: blocks of 8x8 stay where they are, with the words in the same order.
        let turned = |row: usize, column: usize| tile[16 * (row / 8 * 8 + column % 8) + column / 8 * 8 + row % 8];
        assert_eq!(words(&buffers[5]), spread(16, 16, 4, turned, left), "{dtype}");
        for (row, column) in (0..16).flat_map(|row| (0..8).map(move |column| (row, column))) {
            let term = |k: usize| f64::from(value(dtype, a[16 * row + k])) * f64::from(value(dtype, b[8 * k + column]));
            let wanted = f64::from(sums[8 * row + column]) + (0..16).map(term).sum::<f64>();
            let (lane, number) = sum(row, column);
            let found = f32::from_bits(words(&buffers[3])[4 * lane + number]);
            assert!((f64::from(found) - wanted).abs() < 1e-5, "{dtype} ({row}, {column}): {found} instead of {wanted}");
        }
        let rounded: Vec<u32> = ROUNDED
            .chunks(2)
            .map(|pair| u32::from(element(dtype, pair[0])) | u32::from(element(dtype, pair[1])) << 16)
            .collect();
        assert_eq!(words(&buffers[6])[..rounded.len()], rounded, "{dtype}");
    }
}

/// Numbers whose rounding is awkward: ties, subnormal and too large for float16, signed zeros.
const ROUNDED: [f32; 64] = {
    let mut all = [0.0_f32; 64];
    let some = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        1.001_953_1,
        1.003_906_3,
        1.000_488_3,
        1.001_464_8,
        65_504.0,
        65_519.0,
        65_520.0,
        -70_000.0,
        6.1e-5,
        5.9e-8,
        2.9e-8,
        3.0e-8,
        -1.0e-6,
        1.0e-30,
        3.0e38,
        0.1,
        -0.2,
        0.333_333,
        1.0e-5,
        6.097_6e-5,
    ];
    let mut i = 0;
    while i < some.len() {
        all[i] = some[i];
        i += 1;
    }
    all
};
