//! What holds for every geometry and scheme.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use proptest::prelude::*;
use rope_scaling::hf::{Extension, HfPositions, Reach, extend, from_hf};
use rope_scaling::{
    AlibiScaling, Frequencies, Pairing, PositionEncoding, Precision, RopeGeometry, RopeScaling, RotaryTable, rotated,
};
use serde_json::{Map, json};
use testkit::{Class, SplitMix64, same};

fn geometry() -> impl Strategy<Value = RopeGeometry> {
    let sizes = (2..=64_usize).prop_flat_map(|half| (Just(2 * half), 2..=half));
    (sizes, 1.5_f64..1e7, 16..200_000_usize)
        .prop_map(|((head, half), base, original)| RopeGeometry::new(head, 2 * half, base, original).unwrap())
}

fn factor() -> impl Strategy<Value = f64> {
    prop_oneof![1.0_f64..64.0, (1_u8..64).prop_map(f64::from)]
}

/// Any valid scheme for a geometry of `pairs` pairs.
fn scaling(pairs: usize) -> impl Strategy<Value = RopeScaling> {
    let divisors = || proptest::collection::vec(1.0_f64..64.0, pairs);
    let betas = || (1.0_f64..64.0, 0.1_f64..1.0, any::<bool>());
    // Exactly 1 is how NTK-by-parts is written, so a YaRN with it reads back under that name.
    let temperature = || proptest::option::of(1.001_f64..2.0);
    prop_oneof![
        Just(RopeScaling::None),
        factor().prop_map(|factor| RopeScaling::Linear { factor }),
        factor().prop_map(|factor| RopeScaling::NtkAware { factor }),
        factor().prop_map(|factor| RopeScaling::DynamicNtk { factor }),
        (factor(), betas(), temperature(), temperature(), temperature()).prop_map(
            |(factor, (beta_fast, beta_slow, truncate), attention_factor, mscale, mscale_all_dim)| RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                truncate,
                attention_factor,
                mscale,
                mscale_all_dim,
            }
        ),
        (factor(), betas()).prop_map(|(factor, (beta_fast, beta_slow, truncate))| RopeScaling::NtkByParts {
            factor,
            beta_fast,
            beta_slow,
            truncate
        }),
        (factor(), 0.5_f64..4.0, 0.1_f64..8.0).prop_map(|(factor, low, above)| RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: low + above,
        }),
        (divisors(), divisors(), factor(), temperature(), 0..300_usize).prop_map(
            |(short, long, factor, attention_factor, start_tokens)| RopeScaling::LongRope {
                short,
                long,
                factor,
                attention_factor,
                start_tokens
            }
        ),
        (factor(), betas()).prop_map(|(factor, (beta_fast, beta_slow, truncate))| RopeScaling::DynamicYarn {
            factor,
            beta_fast,
            beta_slow,
            truncate
        }),
    ]
}

fn model() -> impl Strategy<Value = (RopeGeometry, RopeScaling)> {
    geometry().prop_flat_map(|geometry| (Just(geometry), scaling(geometry.pairs())))
}

/// Positions as a config can hold them.
fn positions() -> impl Strategy<Value = HfPositions> {
    let abf = proptest::option::of(1.1_f64..100.0);
    (model(), 1..1_000_000_usize, abf, proptest::option::of(any::<bool>())).prop_map(
        |((geometry, scaling), max, abf, finetuned)| HfPositions {
            pretrained_base: abf.filter(|_| scaling == RopeScaling::None).map(|raised| geometry.base() / raised),
            max_position_embeddings: match scaling {
                RopeScaling::DynamicNtk { .. } => geometry.original_context(),
                _ => max,
            },
            geometry,
            scaling,
            finetuned,
            notes: Vec::new(),
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(positions in positions()) {
        let heads = 3;
        let mut config = Map::new();
        config.insert("hidden_size".into(), json!(positions.geometry.head_dim() * heads));
        config.insert("num_attention_heads".into(), json!(heads));
        config.extend(positions.to_hf());
        let text = serde_json::to_string(&config).unwrap();
        let read = from_hf(&serde_json::from_str(&text).unwrap());
        let read = read.unwrap_or_else(|errors| panic!("{text}\n{errors}"));
        prop_assert_eq!(HfPositions { notes: Vec::new(), ..read }, positions);
    }

    #[test]
    fn each_spelling_alone_reads_as_both_do(positions in positions()) {
        let mut config = Map::from_iter([("head_dim".to_owned(), json!(positions.geometry.head_dim()))]);
        config.insert("num_attention_heads".into(), json!(1));
        config.extend(positions.to_hf());
        let both = from_hf(&config.clone().into()).unwrap();
        for dropped in [vec!["rope_parameters"], vec!["rope_scaling", "rope_theta", "partial_rotary_factor"]] {
            let mut one = config.clone();
            one.retain(|key, _| !dropped.contains(&key.as_str()));
            let one = from_hf(&one.into()).unwrap_or_else(|errors| panic!("without {dropped:?}: {errors}"));
            let notes = both.notes.clone();
            prop_assert_eq!(HfPositions { notes, ..one }, both.clone());
        }
    }

    #[test]
    fn factor_one_is_no_scaling(geometry in geometry(), length in 1..1_000_000_usize) {
        let plain = RopeScaling::None.frequencies(&geometry, length);
        let ones = vec![1.0; geometry.pairs()];
        let neutral = [
            RopeScaling::Linear { factor: 1.0 },
            RopeScaling::NtkAware { factor: 1.0 },
            RopeScaling::yarn(1.0),
            RopeScaling::ntk_by_parts(1.0),
            RopeScaling::Llama3 { factor: 1.0, low_freq_factor: 1.0, high_freq_factor: 4.0 },
            RopeScaling::LongRope { short: ones.clone(), long: ones, factor: 1.0, attention_factor: None, start_tokens: 0 },
        ];
        for scaling in neutral {
            let got = scaling.frequencies(&geometry, length);
            let class = Class::Close { absolute: 0.0, relative: 1e-14 };
            same(&got.inv_freq, &plain.inv_freq, class).unwrap_or_else(|error| panic!("{scaling:?}: {error}"));
            prop_assert_eq!(got.attention_factor, 1.0);
        }
    }

    #[test]
    fn dynamic_scaling_is_none_up_to_the_original_context_and_slower_beyond(geometry in geometry(), factor in factor()) {
        let scaling = RopeScaling::DynamicNtk { factor };
        let original = geometry.original_context();
        let plain = RopeScaling::None.frequencies(&geometry, original);
        prop_assert_eq!(&scaling.frequencies(&geometry, original), &plain);
        let longer = scaling.frequencies(&geometry, 2 * original).inv_freq;
        prop_assert!(longer.iter().zip(&plain.inv_freq).skip(1).all(|(longer, plain)| longer < plain));
    }

    #[test]
    fn dynamic_yarn_is_yarn_of_the_length_ratio(geometry in geometry(), beyond in 1_usize..1_000_000) {
        let (dynamic, original) = (RopeScaling::dynamic_yarn(8.0), geometry.original_context());
        prop_assert_eq!(dynamic.frequencies(&geometry, original), RopeScaling::None.frequencies(&geometry, original));
        let length = original + beyond;
        let fixed = RopeScaling::yarn(length as f64 / original as f64);
        prop_assert_eq!(dynamic.frequencies(&geometry, length), fixed.frequencies(&geometry, length));
    }

    #[test]
    fn frequencies_fall_from_pair_to_pair((geometry, scaling) in model(), length in 1..1_000_000_usize) {
        // LongRoPE's lists are free to do as they like.
        if !matches!(scaling, RopeScaling::LongRope { .. }) {
            let got = scaling.frequencies(&geometry, length).inv_freq;
            prop_assert!(got.windows(2).all(|pair| pair[1] < pair[0]), "{:?}", got);
        }
    }

    #[test]
    fn frequencies_lie_between_plain_and_divided((geometry, scaling) in model()) {
        let length = geometry.original_context();
        if matches!(scaling, RopeScaling::Yarn { .. } | RopeScaling::NtkByParts { .. } | RopeScaling::Llama3 { .. }
            | RopeScaling::Linear { .. } | RopeScaling::NtkAware { .. }) {
            let plain = RopeScaling::None.frequencies(&geometry, length).inv_freq;
            for (got, plain) in scaling.frequencies(&geometry, length).inv_freq.iter().zip(plain) {
                prop_assert!(*got <= plain * (1.0 + 1e-12) && *got >= plain / scaling.factor() * (1.0 - 1e-12));
            }
        }
    }

    #[test]
    fn rotation_scales_the_norm_by_the_attention_factor_alone(
        (geometry, scaling) in model(), position in 0..1_000_000_usize, seed in any::<u64>(), interleaved in any::<bool>(),
    ) {
        let pairing = if interleaved { Pairing::Interleaved } else { Pairing::HalfSplit };
        let head = SplitMix64::new(seed).normals(geometry.head_dim());
        let frequencies = scaling.frequencies(&geometry, position + 1);
        let turned = rotated(&head, position, &frequencies, pairing).unwrap();
        let (rotary, rest) = head.split_at(geometry.rotary_dim());
        let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
        let expected = norm(rotary) * frequencies.attention_factor;
        prop_assert!((norm(&turned[..geometry.rotary_dim()]) - expected).abs() <= 1e-12 * expected);
        prop_assert_eq!(&turned[geometry.rotary_dim()..], rest);
    }

    #[test]
    fn scores_depend_on_the_distance_alone(
        (geometry, scaling) in model(), query in 0..5_000_usize, key in 0..5_000_usize, shift in 1..5_000_usize,
        seed in any::<u64>(), interleaved in any::<bool>(),
    ) {
        let pairing = if interleaved { Pairing::Interleaved } else { Pairing::HalfSplit };
        let mut random = SplitMix64::new(seed);
        let (q, k) = (random.normals(geometry.head_dim()), random.normals(geometry.head_dim()));
        let frequencies = scaling.frequencies(&geometry, 10_000);
        let score = |query, key| -> f64 {
            let q = rotated(&q, query, &frequencies, pairing).unwrap();
            let k = rotated(&k, key, &frequencies, pairing).unwrap();
            q.iter().zip(&k).map(|(q, k)| q * k).sum()
        };
        let size = (geometry.head_dim() as f64) * frequencies.attention_factor.powi(2);
        prop_assert!((score(query, key) - score(query + shift, key + shift)).abs() <= 1e-11 * size);
    }

    #[test]
    fn tables_apply_as_the_reference_rotation_does(
        (geometry, scaling) in model(), position in 0..100_000_usize, seed in any::<u64>(),
    ) {
        let head = SplitMix64::new(seed).normals(geometry.head_dim());
        let frequencies = scaling.frequencies(&geometry, position + 1);
        let table = RotaryTable::new(&frequencies, position..position + 1, Pairing::HalfSplit, Precision::Exact);
        let (cos, sin) = table.row(position).unwrap();
        let turned = rotated(&head, position, &frequencies, Pairing::HalfSplit).unwrap();
        let pairs = geometry.pairs();
        for pair in 0..pairs {
            let (x, y) = (head[pair], head[pair + pairs]);
            let (c, s) = (f64::from(cos[pair]), f64::from(sin[pair]));
            prop_assert!((x * c - y * s - turned[pair]).abs() < 2e-6);
            prop_assert!((x * s + y * c - turned[pair + pairs]).abs() < 2e-6);
        }
    }

    #[test]
    fn fingerprints_follow_what_happens_to_a_position((geometry, scaling) in model(), one in 1..300_usize, other in 1..300_usize) {
        let geometry = geometry.with_original_context(128).unwrap();
        let encoding = PositionEncoding::Rope { geometry, scaling: scaling.clone() };
        for precision in [Precision::HubCompatible, Precision::Exact] {
            let (first, second) = (encoding.plan(one, precision).unwrap(), encoding.plan(other, precision).unwrap());
            let at = |length| scaling.frequencies_in(&geometry, length, precision);
            prop_assert_eq!(first.fingerprint() == second.fingerprint(), at(one) == at(other));
            if !encoding.depends_on_length() {
                prop_assert_eq!(first.fingerprint(), second.fingerprint());
            }
        }
    }

    #[test]
    fn extending_by_a_factor_or_to_its_context_is_the_same(half in 1..64_usize, context in 16..10_000_usize, times in 2..33_usize) {
        let plain = HfPositions::plain(2 * half + 2, 10_000.0, context).unwrap();
        let methods = [
            Extension::Linear,
            Extension::Ntk,
            Extension::Dynamic,
            Extension::Yarn,
            Extension::NtkByParts,
            Extension::DynamicYarn,
            Extension::Llama3,
        ];
        for method in methods {
            let by = extend(&plain, &method, Reach::Factor(times as f64)).unwrap();
            let to = extend(&plain, &method, Reach::Context(times * context)).unwrap();
            prop_assert_eq!(&by, &to);
            prop_assert_eq!(by.geometry.original_context(), context);
        }
    }
}

fn plan(scaling: RopeScaling, length: usize) -> u64 {
    let geometry = RopeGeometry::new(64, 64, 10_000.0, 256).unwrap();
    PositionEncoding::Rope { geometry, scaling }.plan(length, Precision::HubCompatible).unwrap().fingerprint()
}

#[test]
fn fingerprints_tell_schemes_apart_and_lengths_only_where_they_matter() {
    let dynamic = || RopeScaling::DynamicNtk { factor: 2.0 };
    assert_eq!(plan(RopeScaling::yarn(4.0), 100), plan(RopeScaling::yarn(4.0), 1000));
    assert_eq!(plan(dynamic(), 100), plan(dynamic(), 256));
    assert_eq!(plan(dynamic(), 100), plan(RopeScaling::None, 1000));
    assert_ne!(plan(dynamic(), 256), plan(dynamic(), 257));
    assert_ne!(plan(RopeScaling::yarn(4.0), 100), plan(RopeScaling::ntk_by_parts(4.0), 100));
    assert_eq!(plan(RopeScaling::dynamic_yarn(4.0), 256), plan(RopeScaling::None, 100));
    assert_eq!(plan(RopeScaling::dynamic_yarn(4.0), 1024), plan(RopeScaling::yarn(4.0), 1));
    assert_ne!(plan(RopeScaling::dynamic_yarn(4.0), 1024), plan(RopeScaling::dynamic_yarn(4.0), 1025));
    let starting = |start_tokens| RopeScaling::LongRope {
        short: vec![1.0; 32],
        long: vec![2.0; 32],
        factor: 4.0,
        attention_factor: None,
        start_tokens,
    };
    assert_eq!(plan(starting(0), 256), plan(starting(4), 256));
    assert_ne!(plan(starting(0), 257), plan(starting(4), 257));
    let alibi = |scaling| PositionEncoding::Alibi { heads: 12, scaling, original_context: 256 };
    let slopes = |scaling, length| alibi(scaling).plan(length, Precision::Exact).unwrap();
    let growing = AlibiScaling::Dynamic { train_context: 256 };
    assert_eq!(slopes(growing, 100).fingerprint(), slopes(AlibiScaling::None, 200).fingerprint());
    assert_ne!(slopes(growing, 512).fingerprint(), slopes(growing, 513).fingerprint());
    assert_eq!(slopes(growing, 512).alibi_slopes().unwrap().len(), 12);
    assert!(slopes(growing, 512).rotary().is_none());
}

#[test]
fn plans_of_no_or_too_many_tokens_and_of_bad_schemes_are_errors() {
    let geometry = RopeGeometry::new(64, 64, 10_000.0, 256).unwrap();
    let encoding = |scaling| PositionEncoding::Rope { geometry, scaling };
    assert!(encoding(RopeScaling::None).plan(0, Precision::Exact).is_err());
    assert!(encoding(RopeScaling::None).plan(usize::MAX, Precision::Exact).is_err());
    for factor in [0.5, f64::NAN, f64::INFINITY, -1.0] {
        assert!(encoding(RopeScaling::Linear { factor }).plan(8, Precision::Exact).is_err(), "{factor}");
    }
    let short = RopeScaling::LongRope {
        short: vec![1.0],
        long: vec![1.0; 32],
        factor: 2.0,
        attention_factor: None,
        start_tokens: 0,
    };
    assert!(encoding(short.clone()).plan(8, Precision::Exact).is_err());
    // Unvalidated, the missing divisors are NaN and not a plausible number.
    assert!(short.frequencies(&geometry, 8).inv_freq[1].is_nan());
    let pair = RopeGeometry::new(2, 2, 10_000.0, 256).unwrap();
    assert!(RopeScaling::NtkAware { factor: 2.0 }.validate(&pair).is_err());
}

#[test]
fn positions_outside_a_table_are_errors_never_wraps() {
    let frequencies = Frequencies { inv_freq: vec![1.0, 0.1], attention_factor: 1.0, start: None };
    let table = RotaryTable::new(&frequencies, 5..8, Pairing::Interleaved, Precision::Exact);
    assert_eq!((table.cos().len(), table.sin().len(), table.pairs()), (6, 6, 2));
    for position in [0, 4, 8, usize::MAX] {
        assert!(table.row(position).is_err(), "{position}");
    }
    let (cos, sin) = table.row(7).unwrap();
    assert_eq!((cos[0], sin[1]), (7.0_f64.cos() as f32, 0.7_f64.sin() as f32));
    assert!(rotated(&[1.0; 3], 0, &frequencies, Pairing::HalfSplit).is_err());
}

#[test]
fn the_two_pairings_turn_different_channels() {
    let frequencies =
        Frequencies { inv_freq: vec![std::f64::consts::FRAC_PI_2, 0.0], attention_factor: 1.0, start: None };
    let turned = |pairing| rotated(&[1.0, 2.0, 3.0, 4.0], 1, &frequencies, pairing).unwrap();
    let close = Class::Close { absolute: 1e-15, relative: 1e-15 };
    testkit::assert_same(&turned(Pairing::HalfSplit), &[-3.0, 2.0, 1.0, 4.0], close);
    testkit::assert_same(&turned(Pairing::Interleaved), &[-2.0, 1.0, 3.0, 4.0], close);
}
