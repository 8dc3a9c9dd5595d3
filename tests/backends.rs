//! The model on every attention backend: the same perplexity, the same training, and a choice that is told.

use std::path::Path;

use attention::Backend;
use bowline::assets;
use bowline::model::{LoadOptions, ModelFolder, Positions};
use bowline::train::{StepMetrics, read_metrics};
use rope_scaling::Precision;
use tch::{Device, Kind};

use super::support::golden::nll;
use super::support::program::bowline;
use super::support::tiny;

/// Relative distance of two perplexities that rounding may cause.
const PERPLEXITY: f64 = 1e-4;

/// Relative distance of two losses of the same step that rounding may cause within the first twenty steps: each step
/// feeds the last one's rounding to the next.
const LOSS: f64 = 1e-4;

/// Backends that take tensors in main memory, and the choice among them.
fn on_cpu() -> impl Iterator<Item = Backend> {
    Backend::all().filter(|backend| backend.runs_on(Device::Cpu)).chain([Backend::auto()])
}

fn bundled(backend: Backend) -> ModelFolder {
    let precision = Precision::HubCompatible;
    let options = LoadOptions { device: Device::Cpu, kind: Some(Kind::Float), backend, precision };
    ModelFolder::load("bundled", options).unwrap()
}

/// The first tokens of a held-out book.
fn held_out(model: &ModelFolder, count: usize) -> Vec<u32> {
    let book = assets::text("bundled:heldout").join("austen-persuasion.txt.zst");
    let text = String::from_utf8(zstd::decode_all(std::fs::File::open(book).unwrap()).unwrap()).unwrap();
    let start = text.char_indices().nth(5000).unwrap().0;
    let words: String = text[start..].chars().take(8 * count).collect();
    let mut tokens = model.tokenizer().unwrap().encode(&words).unwrap();
    assert!(tokens.len() >= count);
    tokens.truncate(count);
    tokens
}

fn perplexity(nll: &[f64]) -> f64 {
    (nll.iter().sum::<f64>() / nll.len() as f64).exp()
}

fn apart(a: f64, b: f64) -> f64 {
    ((a - b) / b).abs()
}

#[test]
fn the_bundled_model_has_the_same_perplexity_on_every_backend() {
    let exact = bundled(Backend::from_name("reference").unwrap());
    let tokens = held_out(&exact, 200);
    let exact = perplexity(&nll(&exact, &tokens));
    for backend in on_cpu() {
        let found = perplexity(&nll(&bundled(backend), &tokens));
        println!("{}: {found} beside {exact}, {:.1e} apart", backend.name(), apart(found, exact));
        assert!(apart(found, exact) < PERPLEXITY, "{}: {found} beside {exact}", backend.name());
    }
    // What the comparison would not let pass: positions one off, as rotated by a base 2 % larger.
    let mut moved = bundled(Backend::auto());
    let mut rope = moved.llama.config.positions.rope("the test").unwrap().clone();
    rope.geometry = rope.geometry.with_base(rope.geometry.base() * 1.02).unwrap();
    moved.llama.config.positions = Positions::Rope(rope);
    assert!(apart(perplexity(&nll(&moved, &tokens)), exact) > PERPLEXITY);
}

#[test]
fn a_text_read_token_by_token_scores_as_in_one_pass_on_every_backend() {
    let whole = bundled(Backend::from_name("reference").unwrap());
    let tokens = held_out(&whole, 40);
    let exact = nll(&whole, &tokens);
    for backend in on_cpu() {
        let model = bundled(backend);
        let reader = model.reader();
        let mut kept = reader.kept(&tokens[..20], tokens.len()).unwrap();
        for (place, &token) in tokens.iter().enumerate().skip(20) {
            let logits = kept.next_logits();
            let most = logits.iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x));
            let sum: f64 = logits.iter().map(|&x| f64::from(x - most).exp()).sum();
            let found = sum.ln() - f64::from(logits[token as usize] - most);
            assert!((found - exact[place - 1]).abs() < 1e-4, "{}, token {place}: {found}", backend.name());
            kept.push(token).unwrap();
        }
    }
}

/// Twenty steps by the program.
fn curve(home: &Path, recipe: &Path, name: &str, more: &[&str]) -> (Vec<StepMetrics>, String) {
    let out = home.join(name);
    let mut arguments = vec!["train", recipe.to_str().unwrap(), "--device", "cpu", "--out", out.to_str().unwrap()];
    arguments.extend(more);
    bowline(home, arguments).expect(0);
    (read_metrics(&out).unwrap(), std::fs::read_to_string(out.join("log.txt")).unwrap())
}

fn farthest(a: &[StepMetrics], b: &[StepMetrics]) -> f64 {
    assert_eq!((a.len(), b.len()), (20, 20));
    a.iter().zip(b).map(|(a, b)| apart(a.loss, b.loss)).fold(0.0, f64::max)
}

#[test]
fn training_on_tiled_and_on_libtorch_is_the_same_within_rounding_and_the_log_says_which_it_was() {
    let home = tempfile::tempdir().unwrap();
    let text = tiny::write_text(home.path());
    let recipe = tiny::write(home.path(), "recipe.toml", &tiny::one_stage(&text, 20));
    let run = |name: &str, more: &[&str]| curve(home.path(), &recipe, name, more);
    let (tiled, log) = run("tiled", &["--backend", "tiled"]);
    assert!(log.contains("attention: tiled") && log.contains("asked for by name"), "{log}");
    let (libtorch, log) = run("libtorch", &["--set", "model.backend=libtorch"]);
    assert!(log.contains("attention: libtorch (flash)"), "{log}");
    println!("{:.1e} apart at most over {} steps", farthest(&tiled, &libtorch), tiled.len());
    assert!(farthest(&tiled, &libtorch) < LOSS);
    // On the CPU this is what nobody has to ask for, and its bits are the same every time.
    let (auto, log) = run("auto", &[]);
    assert!(log.contains("attention: tiled") && log.contains("fastest"), "{log}");
    assert_eq!(farthest(&auto, &tiled), 0.0);
    // What the comparison would not let pass.
    let (other, _) = run("other", &["--set", "optimizer.learning_rate=1.01e-2"]);
    assert!(farthest(&other, &libtorch) > LOSS);
}

#[test]
fn a_backend_that_was_asked_for_is_not_replaced_by_another() {
    let home = tempfile::tempdir().unwrap();
    let text = tiny::write(home.path(), "text.txt", &tiny::text(1, 60));
    let score = |backend: &str| {
        let text = text.to_str().unwrap();
        bowline(home.path(), ["score", "bundled", "--device", "cpu", "--text", text, "--backend", backend])
    };
    score("auto").expect(0);
    let declined = score("cuda").expect(2);
    let expected = "attention backend cuda does not run on cpu; there are tiled, libtorch, reference";
    assert!(declined.err.contains(expected), "{}", declined.err);
    let unknown = score("flash").expect(2);
    assert!(unknown.err.contains("there is no attention backend \"flash\"; this build has"), "{}", unknown.err);
}

#[test]
fn doctor_lists_backends_with_reasons() {
    let home = tempfile::tempdir().unwrap();
    let found = bowline(home.path(), ["doctor", "--json"]).expect(0).json();
    let backends = found["backends"].as_array().unwrap();
    let named = |name: &str| backends.iter().find(|backend| backend["name"] == name).unwrap();
    let says = |name: &str, words: &str| named(name)["notes"].to_string().contains(words);
    assert_eq!(named("tiled")["default_on"][0], "cpu");
    assert!(says("tiled", "default on cpu: it is the fastest on the CPU"), "{found}");
    assert!(says("libtorch", "its kernel on cpu: flash for causal"), "{found}");
    assert!(!named("cuda")["notes"].as_array().unwrap().is_empty(), "{found}");
    assert!(bowline(home.path(), ["doctor"]).expect(0).out.contains("default on cpu"));
}
