//! The BTLM family: numbers of an independent forward pass (`tests/golden/make/btlm.py`), checkpoints written and read back,
//! positions scaled, and what muP promises over widths.

use std::path::{Path, PathBuf};

use bowline::model::{Llama, ModelConfig, ModelFolder, Pass};
use bowline::train::{AdamConfig, AdamW, Decayed, summed_loss};
use eval::LanguageModel;
use rope_scaling::Precision;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use testkit::{Class, same};

use super::support::golden::{edit_json, load, nll};
use super::support::program::bowline;
use super::support::{copy_folder, ids, json as read_json, numbers, tiny};

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/btlm_tiny")
}

fn tolerance() -> Class {
    Class::Close { absolute: read_json(&home().join("cases.json"))["tolerance"].as_f64().unwrap(), relative: 0.0 }
}

/// The folder of a case, with files in place of links, and its record.
fn case(name: &str) -> (tempfile::TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&home().join(name), folder.path());
    (folder, read_json(&home().join(name).join("nll.json")))
}

fn names() -> Vec<String> {
    let table = read_json(&home().join("cases.json"));
    table["cases"].as_array().unwrap().iter().map(|case| case["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_case_scores_as_the_independent_forward_pass_does() {
    assert_eq!(names().len(), 3);
    for name in names() {
        let (folder, record) = case(&name);
        let tokens = ids(&record["tokens"]);
        for backend in ["libtorch", "reference", "tiled"] {
            let model = load(folder.path(), backend, Kind::Float);
            same(&nll(&model, &tokens), &numbers(&record["nll"]), tolerance())
                .unwrap_or_else(|mismatch| panic!("{name} on {backend}: {mismatch}"));
        }
        let model = load(folder.path(), "libtorch", Kind::Float);
        for piece in [1, 7] {
            let reader = model.reader().with_chunk(Some(piece));
            let scores = reader.score(&tokens, 1..tokens.len()).unwrap();
            let nll: Vec<f64> = scores.iter().map(|score| -f64::from(score.log_prob)).collect();
            same(&nll, &numbers(&record["nll"]), tolerance())
                .unwrap_or_else(|mismatch| panic!("{name} in pieces of {piece}: {mismatch}"));
        }
        let kept = model.reader().kept(&tokens, tokens.len()).unwrap().next_logits();
        let logits: Vec<f64> = kept.into_iter().map(f64::from).collect();
        same(&logits, &numbers(&record["last_logits"]), tolerance()).unwrap_or_else(|m| panic!("{name}: {m}"));
    }
}

#[test]
fn misreadings_of_a_config_are_told_apart() {
    type Edit = fn(&mut Value);
    let edits: [(&str, Edit); 5] = [
        ("plain", |config| config["mup_scale_qk_dot_by_d"] = json!(false)),
        ("plain", |config| config["mup_embeddings_scale"] = json!(1.0)),
        ("plain", |config| config["mup_width_scale"] = json!(1.0)),
        ("fixed-odd", |config| config["alibi_scaling"] = Value::Null),
        ("dynamic", |config| config["alibi_scaling"]["train_seq_len"] = json!(160)),
    ];
    for (name, edit) in edits {
        let (folder, record) = case(name);
        edit_json(&folder.path().join("config.json"), edit);
        let model = load(folder.path(), "libtorch", Kind::Float);
        let wrong = nll(&model, &ids(&record["tokens"]));
        assert!(same(&wrong, &numbers(&record["nll"]), tolerance()).is_err(), "{name}");
    }
}

#[test]
fn a_prefix_kept_goes_on_as_the_whole_does() {
    let (folder, record) = case("fixed-odd");
    let model = load(folder.path(), "tiled", Kind::Float);
    let tokens = ids(&record["tokens"]);
    let reader = model.reader();
    let whole = reader.kept(&tokens, tokens.len()).unwrap().next_logits();
    let mut grown = reader.kept(&tokens[..40], tokens.len()).unwrap();
    tokens[40..].iter().for_each(|&token| grown.push(token).unwrap());
    let grown = grown.next_logits();
    let widened = |logits: Vec<f32>| logits.into_iter().map(f64::from).collect::<Vec<_>>();
    same(&widened(grown), &widened(whole), Class::Close { absolute: 1e-4, relative: 0.0 }).unwrap();
}

#[test]
fn what_is_written_is_the_checkpoint_that_was_read() {
    let (folder, record) = case("dynamic");
    let model = load(folder.path(), "libtorch", Kind::Float);
    let again = tempfile::tempdir().unwrap();
    model.write(again.path()).unwrap();
    let config = read_json(&again.path().join("config.json"));
    assert_eq!(config["alibi_scaling"], json!({"type": "linear", "train_seq_len": 64}));
    assert_eq!((&config["model_type"], &config["n_positions"]), (&json!("btlm"), &json!(64)));
    assert!(config.get("rope_scaling").is_none(), "{config}");
    let stored = |dir: &Path| bowline::model::weights::Checkpoint::open(dir).unwrap();
    let (first, second) = (stored(folder.path()), stored(again.path()));
    let mut compared = 0;
    for name in first.names() {
        assert_eq!(first.tensor(name).unwrap().data, second.tensor(name).unwrap().data, "{name}");
        compared += 1;
    }
    assert_eq!((compared, second.names().count()), (2 * 14 + 3, 2 * 14 + 3));
    let read = load(again.path(), "libtorch", Kind::Float);
    same(&nll(&read, &ids(&record["tokens"])), &numbers(&record["nll"]), tolerance()).unwrap();
}

#[test]
fn a_config_that_cannot_be_is_told_in_its_own_words() {
    let refused = |edit: fn(&mut Value), words: &[&str]| {
        let (folder, _) = case("plain");
        edit_json(&folder.path().join("config.json"), edit);
        let ran = bowline(folder.path(), ["inspect", "."]).expect(2);
        words.iter().for_each(|word| assert!(ran.err.contains(word), "{word}: {ran}"));
    };
    refused(|config| config["n_embd"] = json!(0), &["/n_embd", "0"]);
    refused(|config| config["activation_function"] = json!("gelu"), &["/activation_function", "gelu"]);
    refused(|config| config["position_embedding_type"] = json!("learned"), &["/position_embedding_type", "learned"]);
    refused(|config| config["mup_width_scale"] = json!(-1), &["/mup_width_scale", "-1"]);
    refused(|config| config["alibi_scaling"] = json!({"type": "linear"}), &["/alibi_scaling"]);
    let (folder, _) = case("plain");
    edit_json(&folder.path().join("config.json"), |config| config["n_layer"] = json!(3));
    tiny::write(folder.path(), "ids.json", "[1, 2, 3]");
    let ran = bowline(folder.path(), ["score", ".", "--tokens", "ids.json"]).expect(3);
    assert!(ran.err.contains("transformer.h.2"), "{ran}");
}

#[test]
fn commands_know_the_family_and_its_ways_to_a_longer_context() {
    let (folder, record) = case("plain");
    let dir = folder.path();
    tiny::write(dir, "ids.json", &record["tokens"].to_string());
    let page = bowline(dir, ["inspect", "."]).expect(0);
    assert!(page.out.contains("scheme            alibi\n") && page.out.contains("0.250000"), "{page}");
    let plain = bowline(dir, ["score", ".", "--tokens", "ids.json", "--json", "-"]).expect(0).json();
    same(&numbers(&plain["nll"]), &numbers(&record["nll"]), tolerance()).unwrap();
    let method = |spelling: &str| {
        let ran = bowline(dir, ["score", ".", "--tokens", "ids.json", "--method", spelling, "--json", "-"]);
        numbers(&ran.expect(0).json()["nll"])
    };
    // 96 tokens over a trained context of 64: the dynamic scale is 1.5.
    same(&method("alibi-dynamic:factor=2"), &method("linear:factor=1.5"), tolerance()).unwrap();
    assert!(same(&method("linear:factor=2"), &numbers(&record["nll"]), tolerance()).is_err());
    for spelling in ["yarn:factor=2", "self-extend:group=2,window=16"] {
        let ran = bowline(dir, ["score", ".", "--tokens", "ids.json", "--method", spelling]).expect(2);
        assert!(ran.err.contains("ALiBi"), "{ran}");
    }
    let rotary = tempfile::tempdir().unwrap();
    let other = ["score", "bundled", "--tokens", "ids.json", "--method", "alibi-dynamic:factor=2"];
    tiny::write(rotary.path(), "ids.json", "[1, 2, 3]");
    let ran = bowline(rotary.path(), other).expect(2);
    assert!(ran.err.contains("alibi-dynamic"), "{ran}");
}

/// A new model of a width, with the multipliers that hyper-parameters found at width 32 ask for, or without.
fn of_width(width: usize, mup: bool) -> Llama {
    let scale = if mup { 32.0 / width as f64 } else { 1.0 };
    let config = json!({
        "model_type": "btlm", "activation_function": "swiglu", "position_embedding_type": "alibi", "vocab_size": 64,
        "n_embd": width, "n_inner": 2 * width, "n_layer": 2, "n_head": width / 16, "n_positions": 64,
        "initializer_range": 0.08, "mup_width_scale": scale, "mup_embeddings_scale": 6.0, "mup_output_alpha": 2.0,
        "mup_scale_qk_dot_by_d": mup,
    });
    let config = ModelConfig::from_hf(&config).unwrap();
    let backend = attention::Backend::from_name("libtorch").unwrap();
    Llama::new_random(config, backend, 5, Kind::Float, Device::Cpu).unwrap()
}

/// How far, root mean square, five steps move the logits of the tokens that they are trained on.
fn moved(width: usize, mup: bool) -> f64 {
    let model = of_width(width, mup);
    let tokens: Vec<i64> = (0..4 * 33).map(|i| (i * i * 7 + 3 * i) % 61).collect();
    let tokens = Tensor::from_slice(&tokens).view([4, 33]);
    let (inputs, targets) = (tokens.narrow(1, 0, 32).contiguous(), tokens.narrow(1, 1, 32).contiguous());
    let plan = model.positions(&model.config.encoding().plan(32, Precision::Exact).unwrap());
    let pass = Pass { plan: &plan, offset: 0, mask: attention::Mask::Causal { offset: 0 } };
    let logits = || tch::no_grad(|| model.logits(&model.hidden(&inputs, &pass, None).unwrap()));
    let before = logits();
    for (_, parameter) in model.parameters() {
        let _ = parameter.set_requires_grad(true);
    }
    let adam = AdamConfig { beta1: 0.9, beta2: 0.95, epsilon: 1e-12, weight_decay: 0.0, decayed: Decayed::Matrices };
    let mut optimizer = AdamW::new(adam, model.parameters()).unwrap();
    optimizer.set_rates(|name| model.config.mup.rate(name));
    for _ in 0..5 {
        let hidden = model.hidden(&inputs, &pass, None).unwrap();
        (summed_loss(&model, &hidden, &targets).unwrap() / 128.0).backward();
        optimizer.step(0.01, 1.0).unwrap();
    }
    (logits() - before).square().mean(Kind::Double).double_value(&[]).sqrt()
}

#[test]
fn under_mup_steps_move_logits_alike_at_every_width() {
    // Coordinate check (Yang et al. 2022, section D.1): what a few steps change must not grow with the width. Without the
    // multipliers it does.
    let growth = |mup: bool| moved(256, mup) / moved(32, mup);
    let (with, without) = (growth(true), growth(false));
    assert!((0.4..2.0).contains(&with), "under muP the change at 8 times the width is {with} times that at the first");
    assert!(without > 2.5 * with, "{without} without muP, {with} with it");
}

#[test]
fn a_new_model_of_the_family_trains_in_stages_and_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write(dir.path(), "text.txt", &tiny::text(3, 4000));
    let recipe = "name = \"btlm\"\nseed = 3\n\n[model]\ntokenizer = \"bundled\"\n[model.new]\nfamily = \"btlm\"\nhidden_size = 48\n\
         intermediate_size = 64\nnum_hidden_layers = 2\nnum_attention_heads = 3\nnum_key_value_heads = 3\n\
         max_position_embeddings = 64\ntie_word_embeddings = true\ninitializer_range = 0.073\n[model.new.mup]\n\
         width_scale = 0.5\nembeddings_scale = 14.6\noutput_alpha = 2.22\nscale_by_d = true\n\n[optimizer]\n\
         learning_rate = 0.012\nwarmup_steps = 2\nschedule = \"linear\"\nweight_decay = 0.1\nclip_norm = 1.0\n\n\
         [[source]]\nname = \"text\"\npaths = [\"text.txt\"]\n\n[[stage]]\nlength = 32\nbatch = 4\nsteps = 6\n\n\
         [[stage]]\nlength = 64\nbatch = 2\nsteps = 4\n";
    tiny::write(dir.path(), "recipe.toml", recipe);
    bowline(dir.path(), ["train", "recipe.toml", "--out", "run", "--device", "cpu"]).expect(0);
    let losses: Vec<f64> =
        bowline::train::read_metrics(&dir.path().join("run")).unwrap().iter().map(|m| m.loss).collect();
    assert!(losses.len() == 10 && losses[9] < losses[0], "{losses:?}");
    bowline(dir.path(), ["export", "run", "model"]).expect(0);
    let model: ModelFolder = load(&dir.path().join("model"), "libtorch", Kind::Float);
    assert_eq!(model.llama.config.mup.output_alpha, 2.22);
    assert!(nll(&model, &[1, 2, 3, 4, 5]).iter().all(|x| x.is_finite()));
    let odd = bowline(dir.path(), ["train", "recipe.toml", "--set", "model.new.num_key_value_heads=1"]).expect(2);
    assert!(odd.err.contains("model.new.num_key_value_heads"), "{odd}");
}
