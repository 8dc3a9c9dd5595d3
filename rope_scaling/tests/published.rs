//! The golden table of the field notes: 128 channels, base 10,000, original context 4,096, to six digits.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use rope_scaling::{RopeGeometry, RopeScaling};
use testkit::{Class, assert_same};

const PAIRS: [usize; 7] = [1, 20, 21, 32, 45, 46, 63];

fn llama() -> RopeGeometry {
    RopeGeometry::new(128, 128, 10_000.0, 4096).unwrap()
}

fn check(scaling: &RopeScaling, row: [f64; 7], attention_factor: f64) {
    let got = scaling.frequencies(&llama(), 4096);
    let picked: Vec<f64> = PAIRS.iter().map(|pair| got.inv_freq[*pair]).collect();
    assert_same(&picked, &row, Class::Close { absolute: 0.0, relative: 6e-6 });
    assert_same(&[got.attention_factor], &[attention_factor], Class::Close { absolute: 5e-7, relative: 0.0 });
}

#[test]
fn every_row_of_the_published_table_is_met() {
    let (linear, ntk) = (RopeScaling::Linear { factor: 4.0 }, |factor| RopeScaling::NtkAware { factor });
    let none = [8.65964e-1, 5.62341e-2, 4.86968e-2, 1.00000e-2, 1.53993e-3, 1.33352e-3, 1.15478e-4];
    check(&RopeScaling::None, none, 1.0);
    check(&linear, [2.16491e-1, 1.40585e-2, 1.21742e-2, 2.5e-3, 3.84982e-4, 3.33380e-4, 2.88695e-5], 1.0);
    let row = [8.47117e-1, 3.62134e-2, 3.06770e-2, 4.94529e-3, 5.72081e-4, 4.84619e-4, 2.88695e-5];
    check(&ntk(4.0), row, 1.0);
    let row = [8.37848e-1, 2.90606e-2, 2.43484e-2, 3.47766e-3, 3.48687e-4, 2.92147e-4, 1.44348e-5];
    check(&ntk(8.0), row, 1.0);
    let row = [8.65964e-1, 5.62341e-2, 4.72920e-2, 6.53846e-3, 4.29403e-4, 3.33380e-4, 2.88695e-5];
    check(&RopeScaling::yarn(4.0), row, 1.138_629);
    check(&RopeScaling::ntk_by_parts(4.0), row, 1.0);
    let row = [8.65964e-1, 5.62341e-2, 4.70579e-2, 5.96154e-3, 2.44315e-4, 1.66690e-4, 1.44348e-5];
    check(&RopeScaling::yarn(8.0), row, 1.207_944);
}

#[test]
fn dynamic_bases_are_the_published_ones() {
    let base = |factor, length| RopeScaling::DynamicNtk { factor }.effective_base(&llama(), length).round();
    assert_eq!(base(4.0, 16_384), 135_402.0);
    assert_eq!(base(4.0, 32_768), 305_922.0);
    assert_eq!(base(8.0, 32_768), 607_779.0);
    assert_eq!(base(2.0, 16_384), 72_196.0);
    assert_eq!(base(4.0, 4096), 10_000.0);
}

#[test]
fn static_bases_are_the_published_ones() {
    let base = |factor| RopeScaling::NtkAware { factor }.effective_base(&llama(), 4096);
    assert_same(&[base(4.0), base(8.0)], &[40_889.94, 82_684.62], Class::Close { absolute: 0.005, relative: 0.0 });
}

#[test]
fn the_untruncated_ramp_has_the_published_bounds() {
    let positions = serde_json::json!({"hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 32768,
        "rope_scaling": {"type": "yarn", "factor": 8, "original_max_position_embeddings": 4096, "truncate": false}});
    let ramp = rope_scaling::describe(&rope_scaling::hf::from_hf(&positions).unwrap(), None).ramp.unwrap();
    // The notes print 20.9446; by hand it is 64 ln(4096 / 64 pi) / ln 10000 = 20.94448.
    assert_same(&[ramp.low, ramp.high], &[20.94448, 45.02690], Class::Close { absolute: 5e-5, relative: 0.0 });
}
