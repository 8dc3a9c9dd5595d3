//! Two ways to compute one thing. Models are the golden checkpoints, whose attention is sharp: a flat softmax would let
//! wrong positions pass.

use attention::{DocumentStarts, Mask};
use bowline::model::{KvCache, ModelFolder, Pass, PlanTensors};
use eval::{LanguageModel, Prefix, TokenScore};
use rope_scaling::Precision;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};
use testkit::{Class, assert_same, same};

use super::support::golden::{self, case, cases, nll};
use super::support::program::bowline;
use super::support::{numbers, tiny};

/// Another order of the same float32 sums; the golden logits have a spread of two and a half.
const SUMS: Class = Class::Close { absolute: 1e-4, relative: 0.0 };

fn log_probs(scores: &[TokenScore]) -> Vec<f32> {
    scores.iter().map(|score| score.log_prob).collect()
}

/// `tokens` read one by one into a cache of `total`, with the logits after each from the `from`th on.
fn step_by_step(model: &ModelFolder, tokens: &[u32], total: usize, from: usize) -> Vec<Vec<f32>> {
    let reader = model.reader();
    let mut kept = reader.kept(&tokens[..from], total).unwrap();
    let mut logits = vec![kept.next_logits()];
    for &token in &tokens[from..] {
        kept.push(token).unwrap();
        logits.push(kept.next_logits());
    }
    logits
}

#[test]
fn a_cache_filled_token_by_token_equals_one_whole_pass_under_every_scheme() {
    for case in cases() {
        let (model, tokens) = (case.load("libtorch"), &case.tokens[..64]);
        let reader = model.reader();
        let total = case.tokens.len();
        for (place, stepped) in step_by_step(&model, tokens, total, 5).into_iter().enumerate() {
            let whole = reader.kept(&tokens[..5 + place], total).unwrap().next_logits();
            same(&stepped, &whole, SUMS).unwrap_or_else(|it| panic!("{} after {}: {it}", case.name, 5 + place));
        }
    }
}

/// A cache under frequencies of a growing length would differ from the pass over the whole length.
#[test]
fn dynamic_frequencies_follow_the_total_and_not_what_was_read_so_far() {
    let case = case("dynamic-mqa");
    let (model, tokens) = (case.load("libtorch"), &case.tokens);
    let last = step_by_step(&model, tokens, tokens.len(), 200).pop().unwrap();
    let expected: Vec<f32> = numbers(&case.record["last_logits"]).into_iter().map(|x| x as f32).collect();
    assert_same(&last, &expected, SUMS);
    let longer = step_by_step(&model, tokens, 2 * tokens.len(), 200).pop().unwrap();
    assert!(same(&longer, &expected, Class::Close { absolute: 0.1, relative: 0.0 }).is_err(), "another total shows");
}

#[test]
fn greedy_continuation_takes_the_largest_logit_of_a_whole_pass_each_time() {
    let case = case("llama3-gqa");
    let model = case.load("libtorch");
    let reader = model.reader();
    let prompt = &case.tokens[..30];
    let grown = reader.prefix(prompt, 50).unwrap().greedy(20, &[]).unwrap();
    let mut tokens = prompt.to_vec();
    for &token in &grown {
        let logits = reader.kept(&tokens, 50).unwrap().next_logits();
        let top = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
        assert_eq!(token as usize, top, "after {} tokens", tokens.len());
        tokens.push(token);
    }
    let stop = grown[7];
    let first = grown.iter().position(|&token| token == stop).unwrap();
    assert_eq!(reader.prefix(prompt, 50).unwrap().greedy(20, &[stop]).unwrap(), grown[..=first]);
}

#[test]
fn a_prefix_scores_a_continuation_as_the_whole_does() {
    for case in cases() {
        let (model, tokens) = (case.load("libtorch"), &case.tokens);
        let cut = tokens.len() / 3;
        let reader = model.reader();
        let whole = reader.score(tokens, cut..tokens.len()).unwrap();
        let split = reader.prefix(&tokens[..cut], tokens.len()).unwrap().score(&tokens[cut..]).unwrap();
        same(&log_probs(&split), &log_probs(&whole), SUMS).unwrap_or_else(|it| panic!("{}: {it}", case.name));
        let tops = |scores: &[TokenScore]| scores.iter().map(|score| score.top).collect::<Vec<_>>();
        assert_eq!(tops(&split), tops(&whole), "{}", case.name);
    }
}

#[test]
fn continuations_and_branches_leave_a_prefix_as_it_was() {
    let case = case("yarn-gqa");
    let (model, tokens) = (case.load("libtorch"), &case.tokens);
    let reader = model.reader();
    let prefix = reader.prefix(&tokens[..60], 120).unwrap();
    let bits = |prefix: &dyn Prefix| -> Vec<u32> {
        log_probs(&prefix.score(&tokens[60..90]).unwrap()).iter().map(|x| x.to_bits()).collect()
    };
    let before = bits(&*prefix);
    prefix.greedy(40, &[]).unwrap();
    prefix.score(&tokens[100..150]).unwrap();
    let branch = prefix.extended(&tokens[60..80]).unwrap();
    let other = prefix.extended(&tokens[150..190]).unwrap();
    assert_eq!((prefix.len(), branch.len(), other.len()), (60, 80, 100));
    other.greedy(10, &[]).unwrap();
    assert_eq!(bits(&*prefix), before, "the prefix changed");
    let tail = log_probs(&prefix.score(&tokens[60..90]).unwrap())[20..].to_vec();
    assert_same(&log_probs(&branch.score(&tokens[80..90]).unwrap()), &tail, SUMS);
    assert!(prefix.score(&tokens[60..122]).is_err(), "the total of 120 is passed");
}

#[test]
fn scoring_in_pieces_equals_scoring_at_once() {
    let case = case("abf-gqa");
    let model = case.load("libtorch");
    // Longer than the rows that go through the output head at once, and not a multiple of them.
    let tokens: Vec<u32> = case.tokens.iter().copied().cycle().take(1100).collect();
    let reader = model.reader();
    let whole = log_probs(&reader.score(&tokens, 1..1100).unwrap());
    for range in [1..2, 1..400, 399..1099, 1000..1100, 1099..1100] {
        let part = log_probs(&reader.score(&tokens, range.clone()).unwrap());
        same(&part, &whole[range.start - 1..range.end - 1], SUMS).unwrap_or_else(|it| panic!("{range:?}: {it}"));
    }
}

/// Hidden states `[batch, length, hidden]` of rows of equal length under a mask.
fn hidden(model: &ModelFolder, rows: &[&[u32]], mask: Mask) -> Tensor {
    let length = rows[0].len() as i64;
    let ids: Vec<i64> = rows.concat().into_iter().map(i64::from).collect();
    let tokens = Tensor::from_slice(&ids).view([rows.len() as i64, length]);
    let plan = model.encoding().plan(rows[0].len(), Precision::HubCompatible).unwrap();
    let pass = Pass { plan: &PlanTensors::new(&plan, Device::Cpu), offset: 0, mask };
    no_grad(|| model.llama.hidden(&tokens, &pass, None)).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    Vec::<f32>::try_from(tensor.contiguous().reshape([-1])).unwrap()
}

#[test]
fn packed_documents_behind_a_mask_equal_documents_read_apart() {
    // Rotation is relative, so a document later in a row sees the same angles up to float32's rounding.
    let close = Class::Close { absolute: 2e-3, relative: 0.0 };
    for name in ["default-mha", "yarn-gqa", "llama3-gqa"] {
        let case = case(name);
        let (model, tokens) = (case.load("libtorch"), &case.tokens);
        let rows = [&tokens[..100], &tokens[50..150]];
        let starts = [vec![0, 37, 70], vec![0, 1]];
        let causal = Mask::Causal { offset: 0 };
        let mask = Mask::Documents { starts: DocumentStarts::new(starts.to_vec()).unwrap(), offset: 0 };
        let (packed, blurred) = (hidden(&model, &rows, mask), hidden(&model, &rows, causal.clone()));
        for (row, starts) in starts.iter().enumerate() {
            let ends = starts[1..].iter().copied().chain([100]);
            for (&start, end) in starts.iter().zip(ends) {
                let alone = flat(&hidden(&model, &[&rows[row][start..end]], causal.clone()));
                let part =
                    |all: &Tensor| flat(&all.select(0, row as i64).narrow(0, start as i64, (end - start) as i64));
                same(&part(&packed), &alone, close)
                    .unwrap_or_else(|it| panic!("{name} row {row} {start}..{end}: {it}"));
                assert!(start == 0 || same(&part(&blurred), &alone, close).is_err(), "without the mask it would show");
            }
        }
    }
}

#[test]
fn schemes_at_factor_one_equal_no_scheme() {
    let plain = case("default-mha");
    let lists = json!([1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    let neutral = [
        json!({"rope_type": "linear", "factor": 1.0}),
        json!({"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 64}),
        json!({"rope_type": "llama3", "factor": 1.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}),
        json!({"rope_type": "longrope", "factor": 1.0, "short_factor": lists, "long_factor": lists,
               "original_max_position_embeddings": 64}),
    ];
    let expected = nll(&plain.load("libtorch"), &plain.tokens);
    for scheme in neutral {
        let folder = plain.folder_with(|config| config["rope_scaling"] = scheme.clone());
        let got = nll(&golden::load(folder.path(), "libtorch", Kind::Float), &plain.tokens);
        same(&got, &expected, Class::Close { absolute: 1e-5, relative: 0.0 })
            .unwrap_or_else(|it| panic!("{scheme}: {it}"));
    }
}

#[test]
fn dynamic_scaling_within_the_original_context_equals_none() {
    let case = case("dynamic-mqa");
    let tokens = &case.tokens[..64];
    let scaled = nll(&case.load("libtorch"), tokens);
    let folder = case.folder_with(|config| config["rope_scaling"] = Value::Null);
    let plain = nll(&golden::load(folder.path(), "libtorch", Kind::Float), tokens);
    assert_eq!(scaled, plain);
}

#[test]
fn half_precision_costs_little() {
    for case in cases() {
        let exact = case.record["mean_nll"].as_f64().unwrap();
        for (kind, budget) in [(Kind::BFloat16, 0.03), (Kind::Half, 0.004)] {
            let folder = case.folder();
            let scores = nll(&golden::load(folder.path(), "libtorch", kind), &case.tokens);
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            assert!((mean / exact - 1.0).abs() < budget, "{} in {kind:?}: {mean}, exact {exact}", case.name);
        }
    }
}

#[test]
fn a_cache_refuses_another_plan_and_another_place() {
    let case = case("dynamic-mqa");
    let model = case.load("libtorch");
    let plan =
        |length| PlanTensors::new(&model.encoding().plan(length, Precision::HubCompatible).unwrap(), Device::Cpu);
    let (short, long) = (plan(96), plan(128));
    assert_ne!(short.fingerprint(), long.fingerprint());
    let ids: Vec<i64> = case.tokens[..8].iter().map(|&id| i64::from(id)).collect();
    let tokens = Tensor::from_slice(&ids).unsqueeze(0);
    let mut cache = KvCache::new(&model.llama.config, 96, short.fingerprint(), Kind::Float, Device::Cpu).unwrap();
    let mut read = |plan: &PlanTensors, offset: i64| {
        let pass = Pass { plan, offset, mask: Mask::Causal { offset } };
        no_grad(|| model.llama.hidden(&tokens, &pass, Some(&mut cache))).map(drop)
    };
    read(&short, 0).unwrap();
    let refused = read(&long, 8).unwrap_err();
    assert!(refused.to_string().contains("another position plan"), "{refused}");
    let misplaced = read(&short, 9).unwrap_err();
    assert!(misplaced.to_string().contains("holds 8 tokens"), "{misplaced}");
    read(&short, 8).unwrap();
}

#[test]
fn writing_and_loading_keeps_every_number() {
    for name in ["yarn-odd-mqa", "longrope-long-mha", "abf-gqa"] {
        let case = case(name);
        let model = case.load("libtorch");
        let folder = tempfile::tempdir().unwrap();
        // A limit that makes several shards.
        model.write_sharded(folder.path(), 100_000).unwrap();
        assert!(folder.path().join("model.safetensors.index.json").exists(), "{name} is not sharded");
        let again = golden::load(folder.path(), "libtorch", Kind::Float);
        assert_eq!(nll(&again, &case.tokens), nll(&model, &case.tokens), "{name}");
    }
}

#[test]
fn a_text_scores_as_its_ids_do() {
    let dir = tempfile::tempdir().unwrap();
    let text = tiny::text(5, 60);
    tiny::write(dir.path(), "a.txt", &text);
    let tokenizer = tiny::bundled_tokenizer();
    let ids: Vec<u32> = tokenizer.bos().into_iter().chain(tokenizer.encode(&text).unwrap()).collect();
    tiny::write(dir.path(), "a.json", &json!(ids).to_string());
    let model = tiny::model().to_str().unwrap();
    let score =
        |what: &str, file: &str| bowline(dir.path(), ["score", model, what, file, "--json", "-"]).expect(0).json();
    let (of_text, of_ids) = (score("--text", "a.txt"), score("--tokens", "a.json"));
    assert_eq!(of_text, of_ids);
    assert_eq!(of_text["nll"].as_array().unwrap().len(), ids.len() - 1);
}
