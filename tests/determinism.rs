//! What a training run promises: the same seed gives the same bits, stopping and going on changes nothing, and whatever
//! goes wrong leaves the last good checkpoint.
//!
//! Runs of one test share a folder, and with it the tokenized text.

use std::path::{Path, PathBuf};

use bowline::config::Recipe;
use bowline::error::{Failure, FailureKind};
use bowline::model::weights::Checkpoint;
use bowline::runtime::run_dir::RunDir;
use bowline::runtime::signals::StopFlag;
use bowline::train::{Resume, RunOptions, StepMetrics, read_metrics, read_state, train};
use tempfile::TempDir;
use testkit::{Class, assert_same};

use super::support::program::{Running, bowline, command};
use super::support::{copy_folder, files, golden, json, tiny};

/// A folder with text in it, for runs of one recipe.
struct Bench {
    home: TempDir,
    recipe: String,
}

impl Bench {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let recipe = tiny::recipe(&tiny::write_text(home.path()));
        Self { home, recipe }
    }

    fn with_one_stage(steps: u64) -> Self {
        let bench = Self::new();
        let recipe = tiny::one_stage(&bench.path("text"), steps);
        Self { recipe, ..bench }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs the recipe with settings laid over it, in this process.
    fn run(&self, out: &str, resume: Resume, settings: &[&str]) -> Result<PathBuf, Failure> {
        self.run_until(out, resume, settings, &StopFlag::default())
    }

    fn run_until(&self, out: &str, resume: Resume, settings: &[&str], stop: &StopFlag) -> Result<PathBuf, Failure> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let recipe = Recipe::layered(&self.recipe, &settings).unwrap();
        let out = self.path(out);
        train(recipe, &RunOptions { out, resume, device: Some("cpu".to_owned()), dry_run: false }, stop)
    }

    /// The program on the recipe's file.
    fn command(&self, out: &str, more: &[&str]) -> std::process::Command {
        tiny::write(self.home.path(), "recipe.toml", &self.recipe);
        let arguments = ["train", "recipe.toml", "--device", "cpu", "--out", out];
        command(self.home.path(), arguments.iter().chain(more))
    }
}

/// What must be equal of every step: the number of the step, of its tokens, and the bits of what was computed.
fn trace(run: &Path) -> Vec<(u64, u64, u64, u64, u64)> {
    let bits =
        |m: &StepMetrics| (m.step, m.tokens, m.loss.to_bits(), m.gradient_norm.to_bits(), m.learning_rate.to_bits());
    read_metrics(run).unwrap().iter().map(bits).collect()
}

/// Weights and moments of a checkpoint, byte for byte.
fn content(checkpoint: &Path) -> Vec<Vec<u8>> {
    let files = ["model.safetensors", "optimizer/model.safetensors"];
    files.iter().map(|file| std::fs::read(checkpoint.join(file)).unwrap()).collect()
}

/// All numbers of the float32 tensors of a folder whose names start so.
fn values(folder: &Path, prefix: &str) -> Vec<f32> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let names = checkpoint.names().filter(|name| name.starts_with(prefix));
    let bytes: Vec<u8> = names.flat_map(|name| checkpoint.tensor(name).unwrap().data.to_vec()).collect();
    bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
}

fn step(run: &Path, number: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{number}"))
}

#[test]
fn the_same_seed_gives_the_same_bits_and_another_seed_others() {
    let bench = Bench::new();
    let run = |out: &str, seed: &str| bench.run(out, Resume::Never, &[seed]).unwrap();
    let (one, same, other) = (run("one", "seed=7"), run("same", "seed=7"), run("other", "seed=8"));
    assert_eq!(trace(&one).len(), 8);
    assert_eq!(trace(&one), trace(&same));
    assert_eq!(content(&step(&one, 8)), content(&step(&same, 8)));
    let losses = |run: &Path| trace(run).into_iter().map(|line| line.2).collect::<Vec<_>>();
    assert!(losses(&one).iter().zip(&losses(&other)).all(|(a, b)| a != b), "another seed, other batches");
}

#[test]
fn a_run_taken_up_at_any_checkpoint_ends_with_the_same_bits() {
    let bench = Bench::new();
    let every = "checkpoint.every=1";
    let straight = bench.run("straight", Resume::Never, &[every]).unwrap();
    let (whole, end) = (trace(&straight), content(&step(&straight, 8)));
    // Step 5 is the last of the first stage.
    for k in [1, 4, 5, 6, 7] {
        let resumed = bench.run(&format!("from-{k}"), Resume::From(step(&straight, k)), &[every]).unwrap();
        assert_eq!(trace(&resumed), whole[k as usize..], "taken up at {k}");
        assert_eq!(content(&step(&resumed, 8)), end, "taken up at {k}");
        assert_eq!(read_state(&step(&resumed, 8)).unwrap(), read_state(&step(&straight, 8)).unwrap());
    }
}

#[test]
fn moments_matter_for_going_on() {
    let bench = Bench::new();
    let straight = bench.run("straight", Resume::Never, &[]).unwrap();
    // The weights alone, as if moments and position in the data had been forgotten.
    let start = format!("model.from={:?}", step(&straight, 4).display());
    let text = bench.recipe.split_once("[model.new]").unwrap();
    let (_, rest) = text.1.split_once("[optimizer]").unwrap();
    let recipe = Recipe::layered(&format!("{}[optimizer]{rest}", text.0), &[start]).unwrap();
    let options =
        RunOptions { out: bench.path("weights"), resume: Resume::Never, device: Some("cpu".into()), dry_run: false };
    let run = train(recipe, &options, &StopFlag::default()).unwrap();
    assert_ne!(trace(&run)[0].2, trace(&straight)[4].2, "the comparison of bits would not see a forgotten state");
}

#[test]
fn a_stop_saves_at_once_and_auto_goes_on_from_there() {
    let bench = Bench::new();
    let straight = bench.run("straight", Resume::Never, &[]).unwrap();
    let stop = StopFlag::default();
    stop.raise();
    let stopped = bench.run_until("stopped", Resume::Auto, &[], &stop).unwrap_err();
    assert_eq!((stopped.kind(), stopped.exit_code()), (FailureKind::Interrupted, 5));
    assert!(stopped.to_string().contains("step 1 of 8"), "{stopped}");
    let run = bench.run("stopped", Resume::Auto, &[]).unwrap();
    assert_eq!(trace(&run), trace(&straight), "each step once, those before the stop included");
    assert_eq!(content(&step(&run, 8)), content(&step(&straight, 8)));
}

#[test]
fn sigterm_exits_5_with_a_checkpoint_and_resuming_ends_with_the_same_bits() {
    let bench = Bench::with_one_stage(150);
    let straight = Running::start(bench.command("straight", &[])).finished().expect(0);
    assert_eq!(straight.out.trim(), "straight");
    let mut running = Running::start(bench.command("stopped", &[]));
    let run = bench.path("stopped");
    running.until_lines(&run.join("metrics.jsonl"), 3);
    running.signal("TERM");
    let stopped = running.finished().expect(5);
    assert!(stopped.err.contains("bowline: stopped at step "), "{stopped}");
    let lines = trace(&run).len() as u64;
    assert!((3..150).contains(&lines), "the signal came after {lines} steps");
    assert_eq!(read_state(&step(&run, lines)).unwrap().step, lines, "the checkpoint is whole and of the last step");
    let resumed = Running::start(bench.command("stopped", &[])).finished().expect(0);
    assert!(resumed.err.contains(&format!("(step {lines})")), "{resumed}");
    assert_eq!(trace(&run), trace(&bench.path("straight")));
    assert_eq!(content(&step(&run, 150)), content(&step(&bench.path("straight"), 150)));
}

#[test]
fn a_killed_run_goes_on_from_its_last_checkpoint() {
    let mut bench = Bench::with_one_stage(150);
    bench.recipe += "[checkpoint]\nevery = 10\n";
    let mut running = Running::start(bench.command("killed", &[]));
    let run = bench.path("killed");
    running.until_lines(&run.join("metrics.jsonl"), 25);
    running.signal("KILL");
    assert_eq!(running.finished().code, None);
    // What a process leaves that is killed while it saves and while it writes a line.
    std::fs::create_dir(run.join("checkpoints/.tmp-step-30-1-0")).unwrap();
    let metrics = run.join("metrics.jsonl");
    let text = std::fs::read_to_string(&metrics).unwrap();
    std::fs::write(&metrics, &text[..text.len() - 20]).unwrap();
    Running::start(bench.command("killed", &[])).finished().expect(0);
    Running::start(bench.command("straight", &[])).finished().expect(0);
    assert_eq!(trace(&run), trace(&bench.path("straight")));
    assert!(!files(&run).iter().any(|file| file.contains(".tmp-")));
}

#[test]
fn a_second_interrupt_ends_the_process_at_once() {
    let mut bench = Bench::with_one_stage(5);
    // Steps of many seconds.
    bench.recipe = bench.recipe.replace("batch = 4", "batch = 100000");
    let mut running = Running::start(bench.command("busy", &[]));
    running.until_lines(&bench.path("busy/provenance.json"), 1);
    running.signal("INT");
    std::thread::sleep(std::time::Duration::from_millis(50));
    running.signal("INT");
    running.finished().expect(130);
    assert!(!bench.path("busy/checkpoints").exists());
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_over() {
    let bench = Bench::new();
    let straight = bench.run("straight", Resume::Never, &[]).unwrap();
    for damage in ["truncated", "no manifest", "no weights"] {
        let run = bench.path(damage);
        copy_folder(&straight, &run);
        std::fs::remove_dir_all(step(&run, 8)).unwrap();
        let newest = step(&run, 6);
        let weights = newest.join("model.safetensors");
        match damage {
            "truncated" => {
                let bytes = std::fs::read(&weights).unwrap();
                std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
            }
            "no manifest" => std::fs::remove_file(newest.join("manifest.json")).unwrap(),
            _ => std::fs::remove_file(&weights).unwrap(),
        }
        let resumed = bench.run(damage, Resume::Auto, &[]).unwrap();
        assert_eq!(trace(&resumed), trace(&straight), "{damage}");
        assert_eq!(content(&step(&resumed, 8)), content(&step(&straight, 8)), "{damage}");
        assert_eq!(content(&step(&resumed, 6)), content(&step(&straight, 6)), "{damage}: made anew");
    }
}

#[test]
fn a_checkpoint_whose_bytes_changed_is_refused_by_name() {
    let bench = Bench::new();
    let run = bench.run("run", Resume::Never, &[]).unwrap();
    let path = step(&run, 8).join("optimizer/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let refused = bench.run("other", Resume::From(step(&run, 8)), &[]).unwrap_err();
    assert_eq!(refused.kind(), FailureKind::Data);
    assert!(refused.to_string().contains("optimizer/model.safetensors"), "{refused}");
}

#[test]
fn only_as_many_checkpoints_stay_as_the_recipe_keeps() {
    let bench = Bench::new();
    let run = bench.run("run", Resume::Never, &["checkpoint.every=1", "checkpoint.keep=2"]).unwrap();
    let mut kept: Vec<String> = std::fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    assert_eq!(kept, ["latest", "step-7", "step-8"]);
    assert_eq!(std::fs::read_to_string(run.join("checkpoints/latest")).unwrap(), "step-8\n");
}

#[test]
fn a_run_folder_in_use_is_refused() {
    let bench = Bench::new();
    let held = RunDir::open(&bench.path("run")).unwrap();
    let refused = Running::start(bench.command("run", &[])).finished().expect(2);
    assert_eq!(
        refused.err,
        "bowline: run is in use by another bowline process; wait for it, or give another folder with --out\n"
    );
    assert_eq!(files(&bench.path("run")), [".lock"], "the second process writes nothing");
    drop(held);
    Running::start(bench.command("run", &[])).finished().expect(0);
}

#[test]
fn a_changed_recipe_is_refused_on_resume_and_leaves_the_run_as_it_was() {
    let bench = Bench::new();
    let run = bench.run("run", Resume::Auto, &[]).unwrap();
    std::fs::remove_dir_all(step(&run, 8)).unwrap();
    let about = |file: &str| std::fs::read(run.join(file)).unwrap();
    let before = (about("resolved.toml"), about("metrics.jsonl"), about("provenance.json"));
    for change in ["optimizer.learning_rate=2e-2", "seed=8", "stage.1.steps=4", "model.new.rope_theta=20000.0"] {
        let refused = bench.run("run", Resume::Auto, &[change]).unwrap_err();
        assert_eq!(refused.kind(), FailureKind::Config, "{change}");
        let said = refused.to_string();
        assert!(said.contains("step-6") && said.contains("recipe"), "{change}: {said}");
        assert_eq!((about("resolved.toml"), about("metrics.jsonl"), about("provenance.json")), before, "{change}");
    }
    // What only says when to save may change.
    bench.run("run", Resume::Auto, &["checkpoint.every=3"]).unwrap();
}

#[test]
fn changed_text_is_refused_on_resume() {
    let bench = Bench::new();
    let run = bench.run("run", Resume::Auto, &[]).unwrap();
    std::fs::remove_dir_all(step(&run, 8)).unwrap();
    std::fs::write(bench.path("text/1.txt"), tiny::text(99, 400)).unwrap();
    let refused = bench.run("run", Resume::Auto, &[]).unwrap_err();
    assert_eq!(refused.kind(), FailureKind::Config);
    assert!(refused.to_string().contains("data"), "{refused}");
}

#[test]
fn never_starts_over_and_nothing_of_the_earlier_run_is_taken_for_its_own() {
    let bench = Bench::new();
    bench.run("run", Resume::Auto, &[]).unwrap();
    let run = bench.run("run", Resume::Never, &["seed=8"]).unwrap();
    let fresh = bench.run("fresh", Resume::Never, &["seed=8"]).unwrap();
    assert_eq!(trace(&run), trace(&fresh));
    for number in [2, 4, 6, 8] {
        assert_eq!(content(&step(&run, number)), content(&step(&fresh, number)), "step {number} is of the earlier run");
    }
    // A shorter run: the newest checkpoint must be its own and not the earlier run's last.
    let run = bench.run("run", Resume::Never, &["seed=8", "stage.1.steps=1"]).unwrap();
    let fresh = bench.run("shorter", Resume::Never, &["seed=8", "stage.1.steps=1"]).unwrap();
    let newest = bowline::train::Store::new(run.join("checkpoints"), 1).newest().unwrap();
    assert_eq!(newest, step(&run, 6));
    assert_eq!(content(&newest), content(&step(&fresh, 6)));
    assert!(run.join("checkpoints-before-1/step-8").exists(), "and nothing of it is lost");
}

/// After one step the first moment is `(1 - beta1)` times the gradient that the optimizer got.
fn gradient_used(run: &Path) -> f64 {
    let mean = values(&step(run, 1).join("optimizer"), "mean.");
    mean.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt() / 0.1
}

#[test]
fn clipping_brings_the_gradient_to_its_limit_and_no_further() {
    let bench = Bench::with_one_stage(1);
    let measured = |run: &Path| read_metrics(run).unwrap()[0].gradient_norm;
    let free = bench.run("free", Resume::Never, &["optimizer.clip_norm=1e9"]).unwrap();
    let norm = measured(&free);
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-4;
    assert!(close(gradient_used(&free), norm), "{} used, {norm} measured", gradient_used(&free));
    let limit = norm / 3.0;
    let clipped = bench.run("clipped", Resume::Never, &[&format!("optimizer.clip_norm={limit}")]).unwrap();
    assert!(close(measured(&clipped), norm), "the norm is recorded before clipping");
    assert!(close(gradient_used(&clipped), limit), "{} used, the limit is {limit}", gradient_used(&clipped));
    let loose = bench.run("loose", Resume::Never, &[&format!("optimizer.clip_norm={}", norm * 2.0)]).unwrap();
    assert_eq!(content(&step(&loose, 1)), content(&step(&free, 1)), "a limit that is not reached changes nothing");
}

#[test]
fn accumulated_passes_equal_one_pass_over_the_whole_batch() {
    let bench = Bench::with_one_stage(6);
    let run = |micro: u64| {
        let out = format!("micro-{micro}");
        bench.run(&out, Resume::Never, &[&format!("stage.0.micro_batch={micro}")]).unwrap()
    };
    let whole = run(4);
    let losses = |run: &Path| read_metrics(run).unwrap().iter().map(|m| m.loss).collect::<Vec<_>>();
    for micro in [1, 2] {
        let parts = run(micro);
        assert_same(&losses(&parts), &losses(&whole), Class::Close { absolute: 2e-4, relative: 0.0 });
        let norms = |run: &Path| read_metrics(run).unwrap()[0].gradient_norm;
        assert!((norms(&parts) / norms(&whole) - 1.0).abs() < 1e-4, "micro batch {micro}");
    }
}

/// A model folder of which one weight is NaN.
fn poisoned(folder: &Path) {
    tiny::write_model(folder);
    poison(&folder.join("model.safetensors"));
}

/// Makes the last number of a safetensors file NaN.
fn poison(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

/// `recipe` starting from a folder instead of a new model.
fn starting_from(recipe: &str, folder: &Path) -> String {
    let (head, rest) = recipe.split_once("tokenizer = \"bundled\"").unwrap();
    let (_, tail) = rest.split_once("[optimizer]").unwrap();
    format!("{head}from = {folder:?}\n[optimizer]{tail}")
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_before_anything_moves() {
    let mut bench = Bench::with_one_stage(3);
    poisoned(&bench.path("poisoned"));
    bench.recipe = starting_from(&bench.recipe, &bench.path("poisoned"));
    let stopped = Running::start(bench.command("run", &[])).finished().expect(3);
    let said = stopped.err.lines().last().unwrap();
    assert!(said.contains("step 1") && said.contains("NaN") && said.contains("nothing was updated"), "{said}");
    assert!(!bench.path("run/checkpoints").exists(), "nothing that looks like a result");
    assert_eq!(read_metrics(&bench.path("run")).unwrap(), []);
}

#[test]
fn the_checkpoint_before_a_loss_that_is_not_finite_stays() {
    let bench = Bench::new();
    let run = bench.run("run", Resume::Auto, &[]).unwrap();
    // As if step 8 had not been reached, and something had broken a weight at step 6.
    std::fs::remove_dir_all(step(&run, 8)).unwrap();
    let newest = step(&run, 6);
    poison(&newest.join("model.safetensors"));
    let hash = blake3::hash(&std::fs::read(newest.join("model.safetensors")).unwrap()).to_hex().to_string();
    golden::edit_json(&newest.join("manifest.json"), |manifest| {
        let entries = manifest["files"].as_array_mut().unwrap();
        let entry = entries.iter_mut().find(|entry| entry["name"] == "model.safetensors").unwrap();
        entry["blake3"] = hash.into();
    });
    let before = content(&newest);
    let stopped = bench.run("run", Resume::Auto, &[]).unwrap_err();
    assert_eq!(stopped.kind(), FailureKind::Data);
    let said = stopped.to_string();
    assert!(said.contains("step 7") && said.contains("step-6"), "{said}");
    assert_eq!(content(&newest), before);
    assert_eq!(trace(&run).len(), 6);
}

#[test]
fn weights_that_a_step_made_infinite_are_never_saved_as_a_checkpoint() {
    let bench = Bench::with_one_stage(4);
    let settings = ["optimizer.learning_rate=1e39", "checkpoint.every=1"];
    let stopped = bench.run("run", Resume::Never, &settings).unwrap_err();
    assert_eq!(stopped.kind(), FailureKind::Data, "{stopped}");
    for number in 1..=4 {
        assert!(!step(&bench.path("run"), number).exists(), "step {number} was saved: {stopped}");
    }
}

#[test]
fn provenance_names_what_the_run_was_made_of() {
    let bench = Bench::with_one_stage(1);
    let run = bench.run("run", Resume::Never, &["seed=21"]).unwrap();
    let about = json(&run.join("provenance.json"));
    assert_eq!(about["seeds"]["run"], 21);
    assert_eq!((about["device"].as_str(), about["dtype"].as_str()), (Some("cpu"), Some("float32")));
    assert!(about["hashes"]["data"].is_string() && about["hashes"]["tokenizer"].is_string(), "{about}");
    let resolved: Recipe = Recipe::parse(&std::fs::read_to_string(run.join("resolved.toml")).unwrap()).unwrap();
    assert_eq!((resolved.seed, resolved.stages[0].steps), (21, 1));
    let again = bowline(&bench.path("."), ["train", "run/resolved.toml", "--device", "cpu", "--out", "again"]);
    again.expect(0);
    assert_eq!(trace(&bench.path("again")).len(), 1);
}
