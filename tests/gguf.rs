//! GGUF files: exact weights, transformers' own numbers, the same model as the exported folder, vocabularies, positions, and a
//! sentence for each thing that can be wrong. The makers are `tests/golden/make/gguf_files.py` and `support/gguf.rs`.

use std::path::{Path, PathBuf};

use bowline::model::ModelFolder;
use bowline::model::gguf::{self, GgufCheckpoint, Header, TensorType};
use bowline::tokenizer::Tokenizer;
use rope_scaling::RopeScaling;
use tch::{Kind, Tensor};
use testkit::{Class, same};

use super::support::gguf::{Gguf, Meta};
use super::support::program::bowline;
use super::support::{golden, ids, json, numbers, tiny};

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf")
}

fn load(path: &Path) -> ModelFolder {
    golden::load(path, "libtorch", Kind::Float)
}

/// The first weight whose bits differ, a NaN being like any other.
fn differing(ours: &[f32], theirs: &[f32]) -> Option<(usize, f32, f32)> {
    assert_eq!(ours.len(), theirs.len());
    let bits = |x: f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
    let at = ours.iter().zip(theirs).position(|(a, b)| bits(*a) != bits(*b))?;
    Some((at, ours[at], theirs[at]))
}

/// The data of a tensor in a file.
fn data<'a>(file: &'a [u8], header: &Header, name: &str) -> (TensorType, usize, &'a [u8]) {
    let place = header.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    (place.kind.unwrap(), *place.shape.last().unwrap(), &file[place.range()])
}

#[test]
fn every_block_type_is_what_gguf_py_makes_of_it_and_what_its_twin_says_bit_by_bit() {
    let file = std::fs::read(home().join("blocks.gguf")).unwrap();
    let header = Header::parse(&file).unwrap();
    let quantised = TensorType::ALL.into_iter().filter(|kind| kind.block() > 1);
    let mut compared = 0;
    for kind in quantised {
        let (stored, columns, blocks) = data(&file, &header, &kind.to_string());
        assert_eq!(stored, kind);
        let ours = gguf::dequantised(kind, blocks, columns, |row| row);
        let (_, _, expected) = data(&file, &header, &format!("{kind}.expected"));
        let expected: Vec<f32> = expected.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(differing(&ours, &expected), None, "{kind} against gguf-py");
        let twin: Vec<f32> = blocks
            .chunks_exact(kind.block_bytes())
            .flat_map(|block| (0..kind.block()).map(move |i| gguf::weight(kind, block, i)))
            .collect();
        assert_eq!(differing(&ours, &twin), None, "{kind} against its twin");
        compared += 1;
    }
    assert_eq!(compared, 10);
}

#[test]
fn any_bytes_are_the_same_weights_in_the_fast_loop_and_one_by_one() {
    let mut random = testkit::SplitMix64::new(5);
    for kind in TensorType::ALL {
        let columns = kind.block() * 2;
        let bytes: Vec<u8> = (0..kind.row_bytes(columns).unwrap() * 24).map(|_| random.below(256) as u8).collect();
        let fast = gguf::dequantised(kind, &bytes, columns, |row| row);
        let twin: Vec<f32> = bytes
            .chunks_exact(kind.block_bytes())
            .flat_map(|block| (0..kind.block()).map(move |i| gguf::weight(kind, block, i)))
            .collect();
        assert_eq!(differing(&fast, &twin), None, "{kind}");
        // The comparison sees a single bit of a single weight.
        let mut planted = twin.clone();
        let at = twin.iter().rposition(|x| x.is_finite()).unwrap();
        planted[at] = f32::from_bits(planted[at].to_bits() ^ 1);
        assert_eq!(differing(&fast, &planted).map(|(at, ..)| at), Some(at), "{kind}");
    }
}

#[test]
fn rows_are_taken_from_where_they_are_asked_for() {
    let bytes: Vec<u8> = (0..34 * 3).map(|i| (i * 31 % 251) as u8).collect();
    let straight = gguf::dequantised(TensorType::Q8_0, &bytes, 32, |row| row);
    let turned = gguf::dequantised(TensorType::Q8_0, &bytes, 32, |row| 2 - row);
    assert_eq!(differing(&straight[..32], &turned[64..]), None);
}

#[test]
fn a_model_scores_as_transformers_does_and_rows_out_of_order_would_not() {
    let record = json(&home().join("tiny.json"));
    let tolerance = Class::Close { absolute: 2e-4, relative: 0.0 };
    let model = load(&home().join("tiny.gguf"));
    let (tokens, expected) = (ids(&record["tokens"]), numbers(&record["nll"]));
    same(&golden::nll(&model, &tokens), &expected, tolerance).unwrap();
    // The query rows as the file has them: neighbours where halves belong.
    let query = &model.llama.parameters().into_iter().find(|(name, _)| name.contains("0.self_attn.q_proj")).unwrap().1;
    let stored: Vec<i64> = (0..64)
        .map(|row| {
            let (head, channel) = (row / 16, row % 16);
            head * 16 + channel % 2 * 8 + channel / 2
        })
        .collect();
    let unturned = query.index_select(0, &Tensor::from_slice(&stored));
    tch::no_grad(|| query.shallow_clone().copy_(&unturned));
    assert!(same(&golden::nll(&model, &tokens), &expected, tolerance).is_err(), "the order of rows is not seen");
}

#[test]
fn the_program_scores_inspects_generates_evaluates_exports_and_trains_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let _ = std::fs::copy(home().join("tiny.gguf"), dir.join("tiny.gguf")).unwrap();
    let record = json(&home().join("tiny.json"));
    tiny::write(dir, "ids.json", &record["tokens"].to_string());
    let scored = bowline(dir, ["score", "tiny.gguf", "--tokens", "ids.json", "--json", "-"]).expect(0).json();
    same(&numbers(&scored["nll"]), &numbers(&record["nll"]), Class::Close { absolute: 2e-4, relative: 0.0 }).unwrap();

    let inspected = bowline(dir, ["inspect", "tiny.gguf", "--json"]).expect(0).json();
    assert_eq!(inspected["shape"]["key_heads"], 2);
    tiny::write(dir, "prompt.txt", "the 12 the");
    bowline(dir, ["generate", "tiny.gguf", "--prompt", "the 12", "--max-tokens", "3"]).expect(0);
    std::fs::create_dir(dir.join("text")).unwrap();
    tiny::write(&dir.join("text"), "a.txt", &tiny::text(3, 400));
    let evaluated = ["eval", "perplexity", "tiny.gguf", "--data", "text", "--lengths", "32,64", "--out", "e"];
    bowline(dir, evaluated).expect(0);

    bowline(dir, ["export", "tiny.gguf", "exported"]).expect(0);
    let again = bowline(dir, ["score", "exported", "--tokens", "ids.json", "--json", "-"]).expect(0).json();
    assert_eq!(numbers(&again["nll"]), numbers(&scored["nll"]), "the folder is the same model");
    let texts = ["--text", "prompt.txt", "--json", "-"];
    let of_text = |place: &str| bowline(dir, [&["score", place], &texts[..]].concat()).expect(0).json();
    assert_eq!(of_text("exported")["nll"], of_text("tiny.gguf")["nll"], "the folder has the same tokenizer");
    // A folder with one GGUF file and no config.json is that file.
    std::fs::create_dir(dir.join("only")).unwrap();
    std::fs::rename(dir.join("tiny.gguf"), dir.join("only/tiny.gguf")).unwrap();
    assert_eq!(of_text("only")["nll"], of_text("exported")["nll"]);

    let recipe = format!(
        "name = \"t\"\n[model]\nfrom = \"only/tiny.gguf\"\n[positions]\nmethod = \"yarn\"\nfactor = 2.0\n[optimizer]\n\
         learning_rate = 1e-3\n[[source]]\nname = \"text\"\npaths = [{:?}]\n[[stage]]\nlength = 300\nbatch = 1\nsteps = 2\n\
         mix = {{ text = 1.0 }}\n",
        dir.join("text")
    );
    tiny::write(dir, "recipe.toml", &recipe);
    bowline(dir, ["train", "recipe.toml", "--out", "run"]).expect(0);
    bowline(dir, ["export", "run", "trained"]).expect(0);
    let config = json(&dir.join("trained/config.json"));
    assert_eq!((&config["max_position_embeddings"], &config["rope_scaling"]["factor"]), (&512.into(), &2.0.into()));
}

/// The tokenizer of a made file.
fn tokenizer(file: &Gguf) -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    let path = file.write(folder.path(), "m.gguf");
    GgufCheckpoint::open(&path).unwrap().tokenizer(1 << 20).unwrap().unwrap()
}

fn spelt(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    tokenizer.encode(text).unwrap().into_iter().map(|id| tokenizer.token_of(id).unwrap()).collect()
}

/// A byte-level vocabulary with merges that the ways to split text disagree about.
fn byte_level(pre: &str) -> Gguf {
    let mut file = Gguf::tiny();
    let letters: Vec<String> = (0_u8..=255).map(letter).collect();
    let merged = ["\u{120}1", "12", "123", "\u{120}a", "23"].map(str::to_owned);
    let tokens: Vec<String> = ["<s>", "</s>"].map(str::to_owned).into_iter().chain(letters).chain(merged).collect();
    file.set("tokenizer.ggml.token_type", Meta::Numbers([vec![3; 2], vec![1; tokens.len() - 2]].concat()));
    file.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
    let merges = ["\u{120} 1", "1 2", "12 3", "\u{120} a"].map(str::to_owned);
    file.set("tokenizer.ggml.merges", Meta::Texts(merges.to_vec()));
    file.set("tokenizer.ggml.pre", Meta::Text(pre.to_owned()));
    file
}

/// The letter that stands for a byte.
fn letter(byte: u8) -> String {
    let plain = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let code = if plain(byte) { u32::from(byte) } else { 256 + (0..byte).filter(|b| !plain(*b)).count() as u32 };
    char::from_u32(code).unwrap().to_string()
}

#[test]
fn each_rule_for_splitting_text_is_its_own() {
    let split = |pre: &str, text: &str| spelt(&tokenizer(&byte_level(pre)), text).join("|");
    assert_eq!(split("smollm", "a 123"), "a|\u{120}|1|2|3");
    assert_eq!(split("gpt-2", "a 123"), "a|\u{120}1|2|3");
    // Llama 3 takes digits in threes without a space before, and a whole word of the vocabulary before any merge.
    assert_eq!(split("llama-bpe", "a 123"), "a|\u{120}|123");
    assert_eq!(split("llama-bpe", "a 23"), "a|\u{120}|23");
    assert_eq!(split("gpt-2", "b a"), "b|\u{120}a");
    let mut unnamed = byte_level("gpt-2");
    unnamed.without("tokenizer.ggml.pre");
    assert_eq!(spelt(&tokenizer(&unnamed), "a 123").join("|"), "a|\u{120}1|2|3", "no name is GPT-2's");
}

/// A SentencePiece vocabulary: unknown, ends, bytes, then pieces with falling scores.
fn sentence_piece() -> Gguf {
    let mut file = Gguf::tiny();
    let ends = ["<unk>", "<s>", "</s>"].map(str::to_owned);
    let bytes = (0_u16..256).map(|byte| format!("<0x{byte:02X}>"));
    let pieces = ["\u{2581}a", "ab", "bc", "\u{2581}", "a", "b", "c"].map(str::to_owned);
    let tokens: Vec<String> = ends.into_iter().chain(bytes).chain(pieces).collect();
    let kinds = [vec![2, 3, 3], vec![6; 256], vec![1; 7]].concat();
    let scores = [vec![0.0; 259], vec![-3.0, -2.0, -1.0, -4.0, -5.0, -6.0, -7.0]].concat();
    file.set("tokenizer.ggml.model", Meta::Text("llama".to_owned()));
    file.set("tokenizer.ggml.token_type", Meta::Numbers(kinds)).set("tokenizer.ggml.scores", Meta::Singles(scores));
    file.set("tokenizer.ggml.tokens", Meta::Texts(tokens)).set("tokenizer.ggml.bos_token_id", Meta::Number(1));
    file.set("tokenizer.ggml.eos_token_id", Meta::Number(2)).without("tokenizer.ggml.add_bos_token");
    file
}

#[test]
fn sentence_piece_merges_the_best_score_first_and_falls_back_to_bytes() {
    let tokenizer = tokenizer(&sentence_piece());
    // bc (-1) goes before ab (-2) and before a space with a (-3).
    assert_eq!(spelt(&tokenizer, "abc").join(" "), "\u{2581}a bc");
    assert_eq!(spelt(&tokenizer, "ab").join(" "), "\u{2581} ab");
    assert_eq!(spelt(&tokenizer, "a\u{e9}").join(" "), "\u{2581}a <0xC3> <0xA9>");
    let ids = tokenizer.encode("abc a\u{e9} c").unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "abc a\u{e9} c");
    assert_eq!((tokenizer.bos(), tokenizer.stops()), (Some(1), &[2][..]), "bos is added unless the file says no");
}

/// Runs llama.cpp's own cases: its vocabulary files are Meta's and others', and lie beside nobody's checkout. The folder is
/// `models` of its source, as in the source package of llama-cpp-python 0.3.36.
#[test]
#[ignore = "BOWLINE_VOCABULARIES names the folder of llama.cpp's ggml-vocab-*.gguf files"]
fn vocabularies_of_llama_cpp_give_its_own_ids() {
    let folder = PathBuf::from(std::env::var_os("BOWLINE_VOCABULARIES").unwrap());
    let mut wrong = Vec::new();
    for name in ["llama-spm", "llama-bpe", "gpt-2", "refact", "starcoder"] {
        let path = folder.join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = GgufCheckpoint::open(&path).unwrap().tokenizer(1 << 20).unwrap().unwrap();
        let read = |suffix: &str| std::fs::read_to_string(format!("{}.{suffix}", path.display())).unwrap();
        let (texts, expected) = (read("inp"), read("out"));
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let cases: Vec<(&str, &str)> = texts.into_iter().zip(expected.lines()).collect();
        assert!(cases.len() > 40, "{name} has {} cases", cases.len());
        for (text, ids) in cases {
            let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let ours = tokenizer.encode(text).unwrap_or_default();
            if ours != ids {
                wrong.push(format!("{name}: {text:?}: {ours:?}, llama.cpp {ids:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

fn scaling(change: impl FnOnce(&mut Gguf)) -> (RopeScaling, usize, usize) {
    let mut file = Gguf::tiny();
    change(&mut file);
    let folder = tempfile::tempdir().unwrap();
    let path = file.write(folder.path(), "m.gguf");
    let config = GgufCheckpoint::open(&path).unwrap().config().unwrap_or_else(|e| panic!("{e}"));
    let positions = config.positions.rope("the test").unwrap().clone();
    (positions.scaling, positions.geometry.original_context(), positions.max_position_embeddings)
}

#[test]
fn position_keys_say_what_a_config_would() {
    let rope = |key: &str| format!("llama.rope.{key}");
    let text = |it: &str| Meta::Text(it.to_owned());
    assert_eq!(scaling(|_| {}), (RopeScaling::None, 64, 64));
    let linear = (RopeScaling::Linear { factor: 4.0 }, 16, 64);
    assert_eq!(
        scaling(|f| {
            f.set(&rope("scale_linear"), Meta::Single(4.0));
        }),
        linear,
        "the old key"
    );
    assert_eq!(
        scaling(|f| {
            f.set(&rope("scaling.factor"), Meta::Single(4.0));
        }),
        linear,
        "no type is linear"
    );
    let none = scaling(|f| {
        f.set(&rope("scaling.type"), text("none")).set(&rope("scaling.factor"), Meta::Single(4.0));
    });
    assert_eq!(none.0, RopeScaling::None);
    let (yarn, original, context) = scaling(|f| {
        f.set(&rope("scaling.type"), text("yarn")).set(&rope("scaling.factor"), Meta::Single(4.0));
        f.set(&rope("scaling.original_context_length"), Meta::Number(16))
            .set(&rope("scaling.attn_factor"), Meta::Single(0.5));
    });
    assert_eq!((original, context), (16, 64));
    let RopeScaling::Yarn { factor, attention_factor, .. } = yarn else { panic!("{yarn:?}") };
    assert_eq!((factor, attention_factor), (4.0, Some(0.5 * (0.1 * 4.0_f64.ln() + 1.0))));
}

/// The numbers that writers store for Llama 3.1: what the frequencies are divided by.
fn llama3_divisors(base: f64, factor: f64) -> Vec<u8> {
    let divisor = |pair: i32| {
        let wavelength = std::f64::consts::TAU * base.powf(f64::from(pair) / 8.0);
        let ramp = (8192.0 / wavelength - 1.0) / 3.0;
        match wavelength {
            w if w < 8192.0 / 4.0 => 1.0,
            w if w > 8192.0 => factor,
            _ => 1.0 / ((1.0 - ramp) / factor + ramp),
        }
    };
    (0..8).flat_map(|pair| (divisor(pair) as f32).to_le_bytes()).collect()
}

#[test]
fn stored_divisors_are_llama_3_where_they_are_its_formula_and_lists_otherwise() {
    let stored = |bytes: Vec<u8>| {
        scaling(|file| {
            file.set("llama.rope.freq_base", Meta::Single(500_000.0));
            file.tensors.push(("rope_freqs.weight".to_owned(), vec![8], 0, bytes));
        })
    };
    let (named, original, _) = stored(llama3_divisors(500_000.0, 8.0));
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. } = named else { panic!("{named:?}") };
    assert_eq!((factor, low_freq_factor, high_freq_factor, original), (8.0, 1.0, 4.0, 8192));
    let mut other = llama3_divisors(500_000.0, 8.0);
    other[..4].copy_from_slice(&1.5_f32.to_le_bytes());
    assert!(matches!(stored(other).0, RopeScaling::LongRope { .. }));
    assert_eq!(stored(1_f32.to_le_bytes().repeat(8)).0, RopeScaling::None);
}

/// Damages a file and expects exit code 3, or another, and words.
#[track_caller]
fn refused(damage: impl FnOnce(&mut Gguf), words: &[&str]) {
    let mut file = Gguf::tiny();
    damage(&mut file);
    refused_bytes(&file.bytes(), words);
}

#[track_caller]
fn refused_bytes(bytes: &[u8], words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("m.gguf"), bytes).unwrap();
    let path = folder.path().join("m.gguf");
    let options = bowline::model::LoadOptions {
        device: tch::Device::Cpu,
        kind: None,
        backend: attention::Backend::from_name("libtorch").unwrap(),
        precision: rope_scaling::Precision::HubCompatible,
    };
    let failure =
        ModelFolder::load(path.to_str().unwrap(), options).err().unwrap_or_else(|| panic!("{words:?} passed"));
    let said = failure.to_string();
    assert_eq!(failure.exit_code(), 3, "{said}");
    for word in words.iter().chain(&["m.gguf"]) {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
    assert!(said.lines().count() <= 3, "{said}");
}

#[test]
fn the_undamaged_file_loads() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&Gguf::tiny().write(folder.path(), "m.gguf"));
    assert!(golden::nll(&model, &[2, 3, 4, 5, 6]).iter().all(|x| x.is_finite()));
    assert_eq!((model.llama.config.bos, model.llama.config.eos.as_slice()), (None, &[1][..]));
    let mut second = Gguf::tiny();
    second.version = 2;
    assert!(Header::parse(&second.bytes()).is_ok());
}

#[test]
fn what_is_wrong_with_a_header_is_said() {
    let whole = Gguf::tiny().bytes();
    refused(|f| f.version = 1, &["version 1"]);
    refused(|f| f.version = 3_u32.swap_bytes(), &["big-endian"]);
    refused_bytes(&whole[..whole.len() - 64], &["output_norm.weight", "download is incomplete"]);
    refused_bytes(&whole[..40], &["download is incomplete"]);
    refused_bytes(b"<!DOCTYPE html><html>", &["HTML"]);
    refused_bytes(&[0; 64], &["begins with"]);
    refused(
        |f| {
            f.set("general.alignment", Meta::Number(0));
        },
        &["general.alignment", "0"],
    );
    refused(
        |f| {
            f.set("general.alignment", Meta::Number(24));
        },
        &["general.alignment", "24"],
    );
    refused(|f| f.pairs.push(("llama.block_count".to_owned(), Meta::Number(1))), &["llama.block_count", "twice"]);
    refused(|f| f.tensor("blk.0.attn_q.weight").1 = vec![1 << 33, 1 << 33], &["blk.0.attn_q.weight", "8589934592"]);
    refused(|f| f.tensor("blk.0.attn_q.weight").1 = vec![33, 32], &["blk.0.attn_q.weight", "33"]);
    refused(|f| f.tensor("blk.0.attn_q.weight").1 = vec![32, 0], &["blk.0.attn_q.weight", "empty"]);
    refused(|f| f.tensor("blk.0.attn_q.weight").1 = vec![2; 5], &["blk.0.attn_q.weight", "5 dimensions"]);
    refused(|f| f.tensor("blk.0.attn_q.weight").2 = 23, &["blk.0.attn_q.weight", "23", "IQ4_XS"]);
    refused(|f| f.tensor("blk.0.attn_q.weight").1 = vec![32, 64], &["blk.0.attn_k.weight", "within"]);
}

#[test]
fn what_is_wrong_with_a_model_is_said_by_its_key() {
    let set = |key: &'static str, value: Meta| {
        move |file: &mut Gguf| {
            file.set(key, value);
        }
    };
    let text = |it: &str| Meta::Text(it.to_owned());
    refused(set("general.architecture", text("qwen2")), &["general.architecture", "qwen2"]);
    refused(
        |f| {
            f.without("llama.block_count");
        },
        &["llama.block_count", "missing"],
    );
    refused(set("llama.block_count", Meta::Signed(-1)), &["llama.block_count", "-1"]);
    refused(set("llama.block_count", text("one")), &["llama.block_count", "one"]);
    refused(set("llama.attention.head_count", Meta::Number(0)), &["llama.attention.head_count"]);
    refused(set("llama.attention.head_count_kv", Meta::Number(3)), &["llama.attention.head_count_kv"]);
    refused(set("llama.rope.dimension_count", Meta::Number(8)), &["llama.rope.dimension_count", "8", "16"]);
    refused(set("llama.rope.freq_base", Meta::Single(f32::NAN)), &["llama.rope.freq_base", "NaN"]);
    refused(set("llama.rope.scaling.type", text("yarn")), &["llama.rope.scaling.factor", "yarn"]);
    refused(set("llama.rope.scaling.type", text("spiral")), &["llama.rope.scaling.type", "spiral"]);
    refused(set("llama.rope.scaling.speed", Meta::Number(1)), &["llama.rope.scaling.speed"]);
    refused(set("llama.expert_count", Meta::Number(8)), &["llama.expert_count", "8"]);
    refused(set("split.count", Meta::Number(3)), &["split.count", "3"]);
    refused(
        |f| f.tensor("blk.0.attn_q.weight").0 = "blk.0.attn_z.weight".to_owned(),
        &["blk.0.attn_q.weight", "blk.0.attn_z.weight", "metadata"],
    );
    refused(set("llama.feed_forward_length", Meta::Number(64)), &["blk.0.ffn_up.weight", "[32, 32]", "[64, 32]"]);
}

#[test]
fn what_is_wrong_with_a_vocabulary_is_said_by_its_key() {
    let set = |key: &'static str, value: Meta| {
        move |file: &mut Gguf| {
            file.set(key, value);
        }
    };
    let texts = |list: &[&str]| Meta::Texts(list.iter().map(|it| (*it).to_owned()).collect());
    refused(set("tokenizer.ggml.model", Meta::Text("bert".to_owned())), &["tokenizer.ggml.model", "bert"]);
    refused(set("tokenizer.ggml.pre", Meta::Text("dots".to_owned())), &["tokenizer.ggml.pre", "dots"]);
    refused(set("tokenizer.ggml.merges", texts(&["ab"])), &["tokenizer.ggml.merges", "ab"]);
    refused(set("tokenizer.ggml.merges", texts(&["a z"])), &["z", "not in the vocabulary"]);
    refused(set("tokenizer.ggml.tokens", texts(&["a", "a"])), &["tokenizer.ggml.tokens", "twice"]);
    refused(set("tokenizer.ggml.token_type", Meta::Numbers(vec![1; 3])), &["tokenizer.ggml.token_type", "3"]);
    refused(set("tokenizer.ggml.bos_token_id", Meta::Number(900)), &["900"]);
}
