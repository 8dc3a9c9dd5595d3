//! Every spelling in, every bad value named.

use serde_json::{Map, Value, json};

use super::{Extension, HfAlibi, HfPositions, Reach, alibi_from_hf, extend, from_hf, original};
use crate::alibi::AlibiScaling;
use crate::scaling::RopeScaling;

/// A LLaMA-2-7B config with the given keys on top; null removes nothing, it stands as null.
fn config(rest: Value) -> Value {
    let mut config = json!({"hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 4096});
    config.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    config
}

fn read(rest: Value) -> HfPositions {
    from_hf(&config(rest)).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The findings' lines.
fn errors(rest: Value) -> Vec<String> {
    let config = config(rest);
    match from_hf(&config) {
        Ok(positions) => panic!("{config} was read as {positions:?}"),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

#[track_caller]
fn one_error(rest: Value, pointer: &str, words: &str) {
    let lines = errors(rest);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with(&format!("{pointer}: ")), "{} is not about {pointer}", lines[0]);
    assert!(lines[0].contains(words), "{} does not say {words}", lines[0]);
}

#[test]
fn anchor_checkpoints_read_as_what_they_are() {
    let together = read(json!({"max_position_embeddings": 32768, "rope_scaling": {"type": "linear", "factor": 8.0}}));
    assert_eq!(together.scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!((together.geometry.original_context(), together.geometry.base()), (4096, 10_000.0));
    assert_eq!(together.geometry.head_dim(), 128);

    let yarn = json!({"type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "finetuned": true});
    let yarn = read(json!({"max_position_embeddings": 65536, "rope_scaling": yarn, "auto_map": {"AutoModel": "x.Y"}}));
    assert_eq!((yarn.scaling, yarn.finetuned), (RopeScaling::yarn(16.0), Some(true)));
    assert!(yarn.notes.iter().any(|note| note.starts_with("auto_map")));

    let code_llama = read(json!({"max_position_embeddings": 16384, "rope_theta": 1e6}));
    assert_eq!((code_llama.scaling, code_llama.geometry.base()), (RopeScaling::None, 1e6));
    assert_eq!(code_llama.geometry.original_context(), 16_384);
}

#[test]
fn a_linear_limit_that_may_not_have_been_raised_is_noted() {
    // LongQLoRA: factor 2, limit left at 4096.
    let unraised = read(json!({"rope_scaling": {"type": "linear", "factor": 2.0}}));
    assert_eq!(unraised.geometry.original_context(), 2048);
    assert!(unraised.notes.iter().any(|note| note.contains("not raised")), "{:?}", unraised.notes);
    let indivisible = read(json!({"rope_scaling": {"type": "linear", "factor": 3.0}}));
    assert_eq!(indivisible.geometry.original_context(), 4096);
    assert!(indivisible.notes.iter().any(|note| note.contains("not raised")), "{:?}", indivisible.notes);
}

#[test]
fn old_and_new_spellings_mean_the_same() {
    let old = read(json!({"rope_theta": 5e5, "rope_scaling": {"type": "dynamic", "factor": 2.0}}));
    for same in [
        json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "dynamic", "factor": 2}}),
        json!({"rope_theta": 5e5, "rope_scaling": {"type": "dynamic", "rope_type": "dynamic", "factor": 2.0}}),
        json!({"rope_scaling": {"rope_theta": 5e5, "type": "dynamic", "factor": 2.0}}),
        json!({"rope_parameters": {"rope_theta": 5e5, "rope_type": "dynamic", "factor": 2.0}}),
        json!({"rope_theta": 5e5, "rope_scaling": {"type": "dynamic", "factor": 2.0},
               "rope_parameters": {"rope_theta": 5e5, "rope_type": "dynamic", "factor": 2.0}}),
        json!({"rope_parameters": {"full_attention": {"rope_theta": 5e5, "rope_type": "dynamic", "factor": 2.0}}}),
    ] {
        let new = read(same.clone());
        assert_eq!((&new.scaling, new.geometry), (&old.scaling, old.geometry), "{same}");
    }
}

#[test]
fn nothing_null_and_neutral_settings_mean_no_scaling() {
    for neutral in [
        json!({}),
        json!({"rope_scaling": null}),
        json!({"rope_scaling": {}}),
        json!({"rope_scaling": null, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}),
        json!({"rope_scaling": {"type": "default"}}),
        json!({"rope_scaling": {"type": "default", "factor": 1.0}}),
        json!({"rope_parameters": {"rope_theta": 10000}}),
        json!({"rope_condense_ratio": 1}),
    ] {
        assert_eq!(read(neutral.clone()).scaling, RopeScaling::None, "{neutral}");
    }
}

#[test]
fn a_null_beside_scaling_parameters_is_noted() {
    let half = read(json!({"rope_scaling": null, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}));
    assert_eq!(half.scaling, RopeScaling::DynamicNtk { factor: 2.0 });
    assert!(half.notes.iter().any(|note| note.contains("before 5")), "{:?}", half.notes);
}

#[test]
fn the_condense_ratio_is_linear_scaling_applied_once() {
    let alone = read(json!({"max_position_embeddings": 16384, "rope_condense_ratio": 8}));
    let linear = json!({"type": "linear", "factor": 8.0});
    let both = read(json!({"max_position_embeddings": 16384, "rope_condense_ratio": 8, "rope_scaling": linear}));
    for positions in [alone, both] {
        assert_eq!(positions.scaling, RopeScaling::Linear { factor: 8.0 });
        assert_eq!(positions.geometry.original_context(), 2048);
        assert!(positions.notes.iter().any(|note| note.contains("rope_condense_ratio")));
    }
    let other = json!({"rope_condense_ratio": 4, "rope_scaling": {"type": "linear", "factor": 8.0}});
    one_error(other, "/rope_condense_ratio", "scale twice");
    let dynamic = json!({"rope_condense_ratio": 4, "rope_scaling": {"type": "dynamic", "factor": 8.0}});
    one_error(dynamic, "/rope_condense_ratio", "scale twice");
}

#[test]
fn su_is_longrope_and_its_factor_may_be_implied() {
    let lists = json!({"type": "su", "short_factor": vec![1.0; 64], "long_factor": vec![4.0; 64]});
    let phi =
        json!({"max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "rope_scaling": lists});
    let RopeScaling::LongRope { factor, attention_factor, .. } = read(phi).scaling else { panic!("LongRoPE") };
    assert_eq!((factor, attention_factor), (32.0, None));
}

#[test]
fn an_attention_factor_of_one_is_ntk_by_parts() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.0,
        "original_max_position_embeddings": 1024});
    assert_eq!(read(json!({"rope_scaling": yarn})).scaling, RopeScaling::ntk_by_parts(4.0));
}

#[test]
fn head_size_is_explicit_or_derived_and_may_be_partly_rotated() {
    assert_eq!(read(json!({"head_dim": 80})).geometry.head_dim(), 80);
    let partly = read(json!({"partial_rotary_factor": 0.4, "head_dim": 80}));
    assert_eq!((partly.geometry.head_dim(), partly.geometry.rotary_dim()), (80, 32));
    assert_eq!(read(json!({"rope_parameters": {"partial_rotary_factor": 0.5}})).geometry.rotary_dim(), 64);
    one_error(json!({"head_dim": 81}), "/head_dim", "even");
    one_error(json!({"hidden_size": 4095}), "/hidden_size", "multiple");
    one_error(json!({"hidden_size": null}), "/hidden_size", "missing");
    one_error(json!({"num_attention_heads": 0}), "/num_attention_heads", "at least 1");
    one_error(json!({"num_key_value_heads": 5}), "/num_key_value_heads", "divide");
    one_error(json!({"partial_rotary_factor": 0.0}), "/partial_rotary_factor", "above 0");
    one_error(json!({"partial_rotary_factor": 1.5}), "/partial_rotary_factor", "at most 1");
    one_error(json!({"partial_rotary_factor": 0.51}), "/partial_rotary_factor", "even");
}

#[test]
fn numbers_out_of_range_or_of_the_wrong_kind_are_named() {
    let linear = |factor: Value| json!({"rope_scaling": {"type": "linear", "factor": factor}});
    one_error(linear(json!("8")), "/rope_scaling/factor", "is \"8\"");
    one_error(linear(json!(0)), "/rope_scaling/factor", "at least 1");
    one_error(linear(json!(-2.0)), "/rope_scaling/factor", "is -2");
    one_error(linear(json!(true)), "/rope_scaling/factor", "number");
    one_error(linear(Value::Null), "/rope_scaling/factor", "missing");
    one_error(json!({"rope_theta": 0}), "/rope_theta", "above 0");
    one_error(json!({"rope_theta": "1e4"}), "/rope_theta", "number");
    one_error(json!({"max_position_embeddings": 0}), "/max_position_embeddings", "at least 1");
    one_error(json!({"max_position_embeddings": 40.5}), "/max_position_embeddings", "whole");
    one_error(json!({"max_position_embeddings": 1e300}), "/max_position_embeddings", "whole");
    one_error(json!({"rope_scaling": [8]}), "/rope_scaling", "object");
}

#[test]
fn unknown_schemes_and_keys_are_named_with_the_nearest_known_one() {
    one_error(
        json!({"rope_scaling": {"type": "linaer", "factor": 8}}),
        "/rope_scaling/type",
        "did you mean \"linear\"?",
    );
    one_error(json!({"rope_scaling": {"rope_type": "ntk", "factor": 8}}), "/rope_scaling/rope_type", "rope_theta");
    one_error(json!({"rope_scaling": {"rope_type": "proportional"}}), "/rope_scaling/rope_type", "not supported");
    let misspelt = json!({"type": "linear", "factor": 8, "facter": 8});
    one_error(json!({"rope_scaling": misspelt}), "/rope_scaling/facter", "did you mean \"factor\"?");
    let foreign = json!({"type": "linear", "factor": 8, "beta_fast": 32});
    one_error(json!({"rope_scaling": foreign}), "/rope_scaling/beta_fast", "not a parameter of linear");
    one_error(json!({"rope_scaling": {"factor": 8}}), "/rope_scaling/rope_type", "names no scheme");
    one_error(json!({"rope_scaling": {"type": "default", "factor": 8}}), "/rope_scaling/factor", "lost");
    one_error(json!({"rope_scalling": null}), "/rope_scalling", "did you mean \"rope_scaling\"?");
    one_error(json!({"rope_tetha": 5e5}), "/rope_tetha", "did you mean \"rope_theta\"?");
    assert!(read(json!({"rope_flavour": 1})).notes.iter().any(|note| note.contains("rope_flavour")));
}

#[test]
fn schemes_that_need_the_original_context_are_refused_without_it() {
    let lists = json!({"type": "longrope", "short_factor": vec![1.0; 64], "long_factor": vec![4.0; 64]});
    let llama3 = json!({"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4});
    for scaling in [json!({"type": "yarn", "factor": 16}), llama3, lists] {
        one_error(json!({"rope_scaling": scaling}), "/rope_scaling/original_max_position_embeddings", "missing");
    }
}

#[test]
fn spellings_that_disagree_are_refused() {
    let types = json!({"type": "linear", "rope_type": "dynamic", "factor": 2});
    one_error(json!({"rope_scaling": types}), "/rope_scaling/type", "disagrees");
    let forms = json!({"rope_theta": 10000, "rope_scaling": {"type": "dynamic", "factor": 2},
        "rope_parameters": {"rope_type": "dynamic", "factor": 4}});
    one_error(forms, "/rope_parameters", "declares");
    let bases = json!({"rope_theta": 10000, "rope_parameters": {"rope_type": "default", "rope_theta": 500_000}});
    one_error(bases, "/rope_parameters/rope_theta", "disagrees with /rope_theta");
    // Readers of the old spelling would take 10000.
    let hidden = json!({"rope_scaling": {"type": "dynamic", "factor": 2},
        "rope_parameters": {"rope_type": "dynamic", "factor": 2, "rope_theta": 500_000}});
    one_error(hidden, "/rope_parameters/rope_theta", "without a base");
    let originals = json!({"original_max_position_embeddings": 1024, "rope_scaling":
        {"type": "yarn", "factor": 4, "original_max_position_embeddings": 2048}});
    one_error(originals, "/rope_scaling/original_max_position_embeddings", "disagrees");
    let dynamic = json!({"rope_scaling": {"type": "dynamic", "factor": 4, "original_max_position_embeddings": 2048}});
    one_error(dynamic, "/max_position_embeddings", "original context");
    let layers = json!({"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}});
    one_error(json!({"rope_parameters": layers}), "/rope_parameters", "kinds of layers");
}

#[test]
fn parameters_are_judged_against_the_geometry() {
    let lists = |short: Value, long: Value| {
        json!({"rope_scaling": {"type": "longrope", "short_factor": short, "long_factor": long, "factor": 2.0,
            "original_max_position_embeddings": 2048}})
    };
    one_error(lists(json!(vec![1.0; 64]), json!(vec![1.0; 63])), "/rope_scaling/long_factor", "63 numbers");
    one_error(lists(json!(vec![0.0; 64]), json!(vec![1.0; 64])), "/rope_scaling/short_factor", "above 0");
    one_error(lists(json!("1"), json!(vec![1.0; 64])), "/rope_scaling/short_factor", "list");
    let yarn = |key: &str, value: Value| {
        let mut yarn = json!({"type": "yarn", "factor": 2, "original_max_position_embeddings": 2048});
        yarn[key] = value;
        json!({ "rope_scaling": yarn })
    };
    one_error(yarn("beta_fast", json!(0.5)), "/rope_scaling/beta_fast", "beta_slow");
    one_error(yarn("attention_factor", json!(-1)), "/rope_scaling/attention_factor", "above 0");
    one_error(yarn("truncate", json!("yes")), "/rope_scaling/truncate", "true or false");
    let limits = json!({"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1,
        "original_max_position_embeddings": 1024});
    one_error(json!({"rope_scaling": limits}), "/rope_scaling/high_freq_factor", "low_freq_factor");
}

#[test]
fn all_findings_come_together() {
    let lines = errors(json!({
        "hidden_size": 4095, "rope_theta": -1, "num_key_value_heads": 5,
        "rope_scaling": {"type": "yarn", "factor": "16", "beta_fats": 32, "beta_slow": -1},
    }));
    for pointer in [
        "/hidden_size",
        "/rope_theta",
        "/num_key_value_heads",
        "/rope_scaling/factor",
        "/rope_scaling/beta_fats",
        "/rope_scaling/beta_slow",
        "/rope_scaling/original_max_position_embeddings",
    ] {
        assert_eq!(lines.iter().filter(|line| line.starts_with(pointer)).count(), 1, "{pointer} in {lines:#?}");
    }
    assert_eq!(from_hf(&json!([1])).unwrap_err().findings().len(), 1);
}

#[test]
fn written_configs_hold_both_spellings() {
    let yarn =
        extend(&HfPositions::plain(128, 10_000.0, 4096).unwrap(), &Extension::Yarn, Reach::Factor(16.0)).unwrap();
    let keys = yarn.to_hf();
    let old = json!({"type": "yarn", "rope_type": "yarn", "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 4096});
    let new = json!({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 4096});
    assert_eq!((&keys["rope_scaling"], &keys["rope_parameters"]), (&old, &new));
    assert_eq!((&keys["rope_theta"], &keys["max_position_embeddings"]), (&json!(10000.0), &json!(65536)));
}

#[test]
fn static_ntk_is_written_as_its_base_and_a_dynamic_limit_is_not_raised() {
    let plain = HfPositions::plain(128, 10_000.0, 4096).unwrap();
    let ntk = extend(&plain, &Extension::Ntk, Reach::Factor(4.0)).unwrap().to_hf();
    assert_eq!(ntk["rope_scaling"], Value::Null);
    assert!((ntk["rope_theta"].as_f64().unwrap() - 40_889.94).abs() < 0.005);
    let mut dynamic = extend(&plain, &Extension::Dynamic, Reach::Factor(4.0)).unwrap();
    dynamic.max_position_embeddings = 16_384;
    assert_eq!(dynamic.to_hf()["max_position_embeddings"], 4096);
}

#[test]
fn merging_leaves_no_stale_key() {
    let mut old = config(json!({"rope_condense_ratio": 8, "partial_rotary_factor": 0.5, "vocab_size": 32000,
        "original_max_position_embeddings": 1}));
    let map = old.as_object_mut().unwrap();
    HfPositions::plain(128, 5e5, 8192).unwrap().merge_into(map);
    let read_back = from_hf(&old).unwrap();
    assert_eq!((read_back.geometry.base(), read_back.max_position_embeddings), (5e5, 8192));
    assert_eq!(read_back.geometry.rotary_dim(), 128);
    assert_eq!(old["vocab_size"], 32000);
}

#[test]
fn a_record_that_contradicts_the_config_is_refused() {
    let record = |record: Value| json!({ "rope_theta": 40_889.94, "bowline_positions": record });
    let far = json!({"scheme": "ntk", "factor": 8.0, "base": 10000.0, "original_context": 4096});
    one_error(record(far), "/bowline_positions", "82684");
    one_error(record(json!({"scheme": "abf", "original_context": 4096})), "/bowline_positions/base", "missing");
    one_error(record(json!({"scheme": "pi", "original_context": 4096})), "/bowline_positions/scheme", "must be");
    let linear = json!({"scheme": "linear", "original_context": 4096});
    one_error(record(linear), "/bowline_positions", "declares default");
    one_error(record(json!(1)), "/bowline_positions", "object");
}

#[test]
fn an_extended_model_is_not_extended_again() {
    let plain = HfPositions::plain(128, 10_000.0, 4096).unwrap();
    let methods =
        [Extension::Linear, Extension::Ntk, Extension::Dynamic, Extension::Yarn, Extension::Abf { base: 5e5 }];
    for method in methods {
        let once = extend(&plain, &method, Reach::Factor(2.0)).unwrap();
        let mut written = config(json!({}));
        once.merge_into(written.as_object_mut().unwrap());
        for extended in [once, from_hf(&written).unwrap()] {
            let again = extend(&extended, &Extension::Linear, Reach::Factor(2.0));
            assert!(again.is_err_and(|error| error.to_string().contains("already extended")), "{method:?}");
        }
    }
}

#[test]
fn an_extended_model_knows_what_it_was_and_may_be_extended_from_there() {
    let plain = HfPositions::plain(128, 10_000.0, 4096).unwrap();
    let methods =
        [Extension::Linear, Extension::Ntk, Extension::Dynamic, Extension::Yarn, Extension::Abf { base: 5e5 }];
    for method in methods {
        let once = extend(&plain, &method, Reach::Factor(16.0)).unwrap();
        let mut written = config(json!({}));
        once.merge_into(written.as_object_mut().unwrap());
        for extended in [once, from_hf(&written).unwrap()] {
            let before = original(&extended).unwrap();
            assert_eq!(before, plain, "{method:?}");
            let further = extend(&before, &Extension::Yarn, Reach::Factor(32.0)).unwrap();
            assert_eq!((further.scaling, further.max_position_embeddings), (RopeScaling::yarn(32.0), 131_072));
        }
    }
    assert!(original(&plain).is_err_and(|error| error.to_string().contains("not extended")));
    let alibi = json!({"n_head": 32, "n_positions": 8192, "position_embedding_type": "alibi"});
    let alibi = alibi_from_hf(&alibi).unwrap().unwrap();
    for method in ["alibi-fixed", "alibi-dynamic"] {
        assert_eq!(alibi.extended(method, Reach::Factor(2.0)).unwrap().original(), Ok(alibi), "{method}");
    }
    assert!(alibi.original().is_err());
}

#[test]
fn extensions_refuse_what_does_not_extend() {
    let plain = HfPositions::plain(128, 10_000.0, 4096).unwrap();
    for factor in [0.5, 0.0, f64::NAN, f64::INFINITY, 1e300] {
        assert!(extend(&plain, &Extension::Linear, Reach::Factor(factor)).is_err(), "{factor}");
    }
    assert!(extend(&plain, &Extension::Linear, Reach::Context(4095)).is_err());
    for base in [10_000.0, 1.0, f64::NAN, f64::INFINITY] {
        assert!(extend(&plain, &Extension::Abf { base }, Reach::Factor(2.0)).is_err(), "{base}");
    }
    assert_eq!(extend(&plain, &Extension::Yarn, Reach::Context(32_768)).unwrap().scaling, RopeScaling::yarn(8.0));
    assert_eq!(Extension::named("pi", None), Ok(Extension::Linear));
    assert_eq!(Extension::named("abf", Some(2e5)), Ok(Extension::Abf { base: 2e5 }));
    assert!(Extension::named("abf", None).is_err());
    assert!(Extension::named("yarn", Some(2e5)).is_err());
    assert!(Extension::named("yearn", None).is_err_and(|error| error.to_string().contains("\"yarn\"")));
}

#[test]
fn alibi_configs_read_with_both_scalings() {
    let btlm = |scaling: Value| {
        let config = json!({"position_embedding_type": "alibi", "n_head": 32, "n_positions": 8192, "n_embd": 2560,
            "alibi_scaling": scaling});
        alibi_from_hf(&config)
    };
    let found = |scaling, original_context| {
        Ok(Some(HfAlibi { heads: 32, scaling, original_context, max_position_embeddings: 8192 }))
    };
    assert_eq!(btlm(Value::Null), found(AlibiScaling::None, 8192));
    let fixed = json!({"type": "linear", "factor": 2.0});
    assert_eq!(btlm(fixed), found(AlibiScaling::Fixed { factor: 2.0 }, 4096));
    let odd = json!({"type": "linear", "factor": 3.0});
    assert_eq!(btlm(odd), found(AlibiScaling::Fixed { factor: 3.0 }, 8192), "8192 / 3 is no context");
    let dynamic = json!({"type": "linear", "train_seq_len": 2048});
    assert_eq!(btlm(dynamic), found(AlibiScaling::Dynamic { train_context: 2048 }, 2048));
    for bad in [
        json!({"type": "linear"}),
        json!({"type": "linear", "factor": 2, "train_seq_len": 8192}),
        json!({"type": "ntk", "factor": 2}),
        json!({"type": "linear", "factor": 0.5}),
        json!({"type": "linear", "facter": 2}),
        json!(2),
    ] {
        assert!(btlm(bad.clone()).is_err(), "{bad}");
    }
    assert_eq!(alibi_from_hf(&config(json!({}))), Ok(None));
    let plain = btlm(Value::Null).unwrap().unwrap();
    for method in ["alibi-fixed", "alibi-dynamic", "linear"] {
        let extended = plain.extended(method, Reach::Factor(2.0)).unwrap();
        assert_eq!((extended.max_position_embeddings, extended.original_context), (16_384, 8192), "{method}");
        let mut written = Map::from_iter([("n_head".to_owned(), json!(32)), ("n_positions".to_owned(), json!(8192))]);
        extended.merge_into(&mut written);
        assert_eq!(alibi_from_hf(&Value::Object(written)), Ok(Some(extended)), "{method}");
        assert!(extended.extended(method, Reach::Factor(2.0)).is_err(), "{method} twice");
    }
    let refused = plain.extended("yarn", Reach::Factor(2.0)).unwrap_err().to_string();
    assert!(refused.contains("yarn") && refused.contains("alibi-dynamic"), "{refused}");
    assert!(plain.extended("linear", Reach::Factor(0.5)).is_err());
    one_error(json!({"position_embedding_type": "alibi"}), "/position_embedding_type", "ALiBi");
}

#[test]
fn the_method_llama3_has_the_limits_of_the_published_config() {
    // As in the config.json of Llama 3.1.
    let published = json!({"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
        "original_max_position_embeddings": 8192});
    let plain = HfPositions::plain(128, 500_000.0, 8192).unwrap();
    let extended = extend(&plain, &Extension::named("llama3", None).unwrap(), Reach::Factor(8.0)).unwrap();
    let read = read(json!({"rope_theta": 500_000, "rope_scaling": published}));
    assert_eq!((&extended.scaling, extended.geometry.original_context()), (&read.scaling, 8192));
}
