use super::super::kernels::{Generation, hopper_table};
use super::super::params::Params;
use super::*;
use crate::{AttnProblem, AttnShape};

const SHAPE: AttnShape =
    AttnShape { batch: 2, query_heads: 4, key_heads: 2, query_len: 300, key_len: 500, head_dim: 80 };

fn some(pass: Pass, head_dim: usize) -> Kernel {
    let (generation, dtype, scores) = (Generation::Second, DType::BF16, Scores::Plain);
    super::super::kernels::kernel(Spec { generation, pass, dtype, head_dim, scores }).unwrap()
}

fn params() -> Params {
    Params::of(&AttnProblem::new(SHAPE).unwrap()).unwrap()
}

#[test]
fn every_kernel_fits_hopper_and_registers_are_those_that_a_block_has() {
    for kernel in hopper_table() {
        assert!(kernel.shared_bytes <= 227 * 1024, "{kernel:?}");
        let [_, _, (_, producer), (_, consumer)] = defines(kernel.spec);
        let (groups, at_entry) = (consumers(kernel.spec), 65_536 / (32 * kernel.warps) / 8 * 8);
        assert!(!stays(kernel.spec.pass) || producer + groups * consumer <= (groups + 1) * at_entry, "{kernel:?}");
    }
}

#[test]
fn head_sizes_are_padded_to_64_or_128() {
    assert_eq!(padded_head_dim(40, Scores::Alibi), Some(64));
    assert_eq!(padded_head_dim(64, Scores::Capped), Some(128));
    assert_eq!(padded_head_dim(80, Scores::Plain), Some(128));
    assert_eq!([0, 12, 136].map(|head_dim| padded_head_dim(head_dim, Scores::Plain)), [None; 3]);
}

#[test]
fn descriptors_tell_bytes_and_sound_strides() {
    let strides = crate::cuda::params::Strides { batch: 96_000, head: 80, row: 320 };
    let p = Params { q: 4096, q_strides: strides, batch: 1, ..params() };
    let [q, ..] = Tiled::of_kernel(&some(Pass::Forward, 128), &p);
    let expected =
        Tiled { address: 4096, dims: [80, 300, 4, 1], strides: [640, 160, 160], rows: 128, element_bytes: 2 };
    assert_eq!(q, Some(expected));
    let [.., sums] = Tiled::of_kernel(&some(Pass::Keys, 128), &p);
    let sums = sums.unwrap();
    assert_eq!((sums.dims, sums.strides, sums.columns()), ([80, 384, 4, 1], [320, 320 * 384, 320], 32));
}

#[test]
fn work_is_counted_in_tiles_of_planes_and_sections_fit_the_cache() {
    let launch = |pass, p: &Params| Launch::of::<()>(&some(pass, 128), p, 0, |_| Ok(TensorMap::default())).unwrap();
    let forward = launch(Pass::Forward, &params());
    assert_eq!((forward.heads, forward.tiles, forward.planes, forward.pieces), (4, 3, 8, 24));
    assert_eq!(
        (forward.section, forward.section_pieces, forward.grid(&some(Pass::Forward, 128), 132)),
        (8, 24, [24, 1, 1])
    );
    let keys = launch(Pass::Keys, &params());
    let by_turns = Launch { turns: 4096, ..keys };
    let wait = |launch: &Launch, pass| launch.blocks_wait(&some(pass, 128));
    assert_eq!(
        (wait(&by_turns, Pass::Keys), wait(&by_turns, Pass::Prepare), wait(&keys, Pass::Keys)),
        (true, false, false)
    );
    assert_eq!((keys.heads, keys.tiles, keys.planes, keys.group), (2, 4, 4, 2));
    // 64 Ki keys of 128 columns are 32 MiB a head, with their values.
    let long = launch(Pass::Forward, &Params { key_len: 1 << 16, head_dim: 128, ..params() });
    assert_eq!((long.section, long.section_pieces), (2, 6));
}

#[test]
fn the_structure_has_the_size_that_the_text_gives_it() {
    assert_eq!((align_of::<Launch>(), size_of::<TensorMap>()), (128, 128));
    assert_eq!(size_of::<Launch>(), (6 * 128 + size_of::<Params>() + 8 + 8 * 4_usize).next_multiple_of(128));
}
