//! What a training run promises: the same seed gives the same bits, stopping and going on changes nothing, and whatever
//! goes wrong leaves the last good checkpoint.
//!
//! Runs of one test share a folder, and with it the tokenized text.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bowline::config::Recipe;
use bowline::disk::{Faults, inject};
use bowline::error::{Failure, FailureKind};
use bowline::model::weights::Checkpoint;
use bowline::runtime::run_dir::RunDir;
use bowline::runtime::signals::{GRACE, StopFlag};
use bowline::train::{Resume, RunOptions, StepMetrics, read_metrics, read_state, train};
use rustix::io::Errno;
use tch::{Kind, Tensor};
use tempfile::TempDir;
use testkit::{Class, assert_same};

use super::support::program::{Running, bowline, command};
use super::support::{copy_folder, files, golden, json, tiny};

/// A folder with text in it, for runs of one recipe.
pub(super) struct Bench {
    home: TempDir,
    recipe: String,
}

impl Bench {
    pub(super) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let recipe = tiny::recipe(&tiny::write_text(home.path()));
        Self { home, recipe }
    }

    pub(super) fn with_one_stage(steps: u64) -> Self {
        let bench = Self::new();
        let recipe = tiny::one_stage(&bench.path("text"), steps);
        Self { recipe, ..bench }
    }

    /// The same of the bundled model, at a rate that it bears.
    pub(super) fn on_bundled(steps: u64) -> Self {
        let bench = Self::with_one_stage(steps);
        let (head, rest) = bench.recipe.split_once("[model.new]").unwrap();
        let (_, rest) = rest.split_once("[optimizer]").unwrap();
        let recipe = format!("{}[optimizer]{rest}", head.replace("tokenizer = \"bundled\"", "from = \"bundled\""));
        let recipe = recipe.replace("learning_rate = 1e-2", "learning_rate = 1e-3");
        Self { recipe, ..bench }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs the recipe with settings laid over it, in this process.
    pub(super) fn run(&self, out: &str, resume: Resume, settings: &[&str]) -> Result<PathBuf, Failure> {
        self.run_until(out, resume, settings, &StopFlag::default())
    }

    fn run_until(&self, out: &str, resume: Resume, settings: &[&str], stop: &StopFlag) -> Result<PathBuf, Failure> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let recipe = Recipe::layered(&self.recipe, &settings).unwrap();
        let out = self.path(out);
        train(recipe, &options(out, resume), stop)
    }

    /// Runs as [`run`](Self::run) does where keys may differ from those of the checkpoint.
    pub(super) fn run_allowing(
        &self,
        out: &str,
        resume: Resume,
        settings: &[&str],
        allowed: &[&str],
    ) -> Result<PathBuf, Failure> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let recipe = Recipe::layered(&self.recipe, &settings).unwrap();
        let allow_changes = allowed.iter().map(ToString::to_string).collect();
        train(recipe, &RunOptions { allow_changes, ..options(self.path(out), resume) }, &StopFlag::default())
    }

    /// The recipe's text.
    pub(super) fn recipe(&self) -> &str {
        &self.recipe
    }

    /// The program on the recipe's file.
    fn command(&self, out: &str, more: &[&str]) -> Command {
        tiny::write(self.home.path(), "recipe.toml", &self.recipe);
        let arguments = ["train", "recipe.toml", "--device", "cpu", "--out", out];
        command(self.home.path(), arguments.iter().chain(more))
    }
}

fn options(out: PathBuf, resume: Resume) -> RunOptions {
    RunOptions { out, resume, allow_changes: Vec::new(), device: Some("cpu".to_owned()), dry_run: false }
}

/// What must be equal of every step: the number of the step, of its tokens, and the bits of what was computed.
pub(super) fn trace(run: &Path) -> Vec<(u64, u64, u64, u64, u64)> {
    let bits =
        |m: &StepMetrics| (m.step, m.tokens, m.loss.to_bits(), m.gradient_norm.to_bits(), m.learning_rate.to_bits());
    read_metrics(run).unwrap().iter().map(bits).collect()
}

/// Weights and moments of a checkpoint, byte for byte.
pub(super) fn content(checkpoint: &Path) -> Vec<Vec<u8>> {
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

pub(super) fn step(run: &Path, number: u64) -> PathBuf {
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
    let run = train(recipe, &options(bench.path("weights"), Resume::Never), &StopFlag::default()).unwrap();
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
    // As launchers do: to the process, and to its group.
    running.signal("TERM");
    running.signal("TERM");
    let stopped = running.finished().expect(5);
    assert!(stopped.err.contains("bowline: SIGTERM: stopping after the step in hand"), "{stopped}");
    assert!(stopped.err.contains("bowline: stopped at step ") && !stopped.err.contains("again"), "{stopped}");
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

/// Two steps that are saved, and a third of many sequences, `micro` of them a pass.
fn busy(batch: u64, micro: u64) -> Bench {
    let mut bench = Bench::with_one_stage(2);
    let stage = bench.recipe.find("[[stage]]").unwrap();
    let long = bench.recipe[stage..].replace("batch = 4", &format!("batch = {batch}\nmicro_batch = {micro}"));
    bench.recipe += &format!("{long}[checkpoint]\nevery = 1\n");
    bench
}

#[test]
fn an_echo_of_a_signal_ends_nothing_and_a_later_one_ends_the_process_at_once() {
    // To deal so many sequences takes minutes, and little memory before the process is ended.
    let bench = busy(10_000_000, 0);
    let run = bench.path("busy");
    let mut running = Running::start(bench.command("busy", &[]));
    running.until_lines(&step(&run, 2).join("manifest.json"), 1);
    running.signal("INT");
    running.signal("INT");
    std::thread::sleep(GRACE + Duration::from_millis(100));
    // Another signal than before, so that the exit code tells which one it was.
    running.signal("TERM");
    let ended = running.finished().expect(143);
    assert!(ended.err.contains("SIGTERM again: stopped at once, nothing saved"), "{ended}");
    assert_eq!(read_state(&step(&run, 2)).unwrap().step, 2, "what was saved before is whole");
    assert!(!step(&run, 3).exists());
}

#[test]
fn a_stop_does_not_wait_for_the_passes_left_of_a_long_step() {
    let bench = busy(20_000, 4);
    let run = bench.path("busy");
    let mut running = Running::start(bench.command("busy", &[]));
    running.until_lines(&run.join("metrics.jsonl"), 2);
    running.signal("USR1");
    let stopped = running.finished().expect(5);
    assert!(stopped.err.contains("stopped at step 2 of 4; saved busy/checkpoints/step-2"), "{stopped}");
    assert_eq!(trace(&run).len(), 2);
    read_state(&step(&run, 2)).unwrap();
}

#[test]
fn a_closed_terminal_is_a_stop_unless_it_was_to_be_ignored() {
    let bench = Bench::with_one_stage(150);
    let hang_up = |command: Command, out: &str| {
        let mut running = Running::start(command);
        running.until_lines(&bench.path(out).join("metrics.jsonl"), 3);
        running.signal("HUP");
        running.finished()
    };
    let direct = bench.command("direct", &[]);
    let mut under_nohup = Command::new("nohup");
    under_nohup.arg(direct.get_program()).args(bench.command("nohup", &[]).get_args());
    under_nohup.current_dir(bench.path(".")).stdin(Stdio::null()).env("OMP_NUM_THREADS", "1");
    hang_up(under_nohup, "nohup").expect(0);
    // A test run that itself ignores the signal hands that on.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status
        .lines()
        .any(|line| line.starts_with("SigIgn:") && line.ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f']));
    hang_up(direct, "direct").expect(if ignored { 0 } else { 5 });
}

/// Ways to damage a checkpoint, each with what is said of it.
const DAMAGE: [(&str, &str); 4] = [
    ("truncated", "model.safetensors: is "),
    ("no manifest", "holds no manifest.json"),
    ("no weights", "could not read"),
    ("changed", "model.safetensors: its content differs"),
];

fn damage(checkpoint: &Path, how: &str) {
    let weights = checkpoint.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    match how {
        "truncated" => std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap(),
        "no manifest" => std::fs::remove_file(checkpoint.join("manifest.json")).unwrap(),
        "no weights" => std::fs::remove_file(&weights).unwrap(),
        _ => std::fs::write(&weights, [&bytes[..bytes.len() - 1], &[bytes[bytes.len() - 1] ^ 1]].concat()).unwrap(),
    }
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_over_with_a_warning() {
    let bench = Bench::new();
    let straight = bench.run("straight", Resume::Never, &[]).unwrap();
    for (how, said) in DAMAGE {
        let out = how.replace(' ', "-");
        let run = bench.path(&out);
        copy_folder(&straight, &run);
        std::fs::remove_dir_all(step(&run, 8)).unwrap();
        damage(&step(&run, 6), how);
        let resumed = Running::start(bench.command(&out, &[])).finished().expect(0);
        let warnings: Vec<&str> = resumed.err.lines().filter(|line| line.starts_with("warning: ")).collect();
        let [warning] = warnings[..] else { panic!("{resumed}") };
        assert!(warning.contains("step-6 is passed over as damaged") && warning.contains(said), "{warning}");
        assert!(resumed.err.contains("goes on from") && resumed.err.contains("(step 4)"), "{resumed}");
        assert_eq!(trace(&run), trace(&straight), "{how}");
        assert_eq!(content(&step(&run, 8)), content(&step(&straight, 8)), "{how}");
        assert_eq!(content(&step(&run, 6)), content(&step(&straight, 6)), "{how}: made anew");
        assert!(run.join("checkpoints-before-1/step-6").exists(), "{how}: what is left of it can be looked at");
    }
}

#[test]
fn a_damaged_checkpoint_that_is_asked_for_is_refused_by_name() {
    let bench = Bench::new();
    let run = bench.run("run", Resume::Never, &[]).unwrap();
    for (how, said) in DAMAGE {
        let copy = bench.path(&how.replace(' ', "-"));
        copy_folder(&step(&run, 8), &copy);
        damage(&copy, how);
        let refused = bench.run("other", Resume::From(copy), &[]).unwrap_err();
        assert_eq!(refused.exit_code(), 3, "{how}: {refused}");
        assert!(refused.to_string().contains(said) && refused.to_string().lines().count() == 1, "{how}: {refused}");
    }
    let refused = bench.run("other", Resume::From(run), &[]).unwrap_err();
    assert!(refused.exit_code() == 3 && refused.to_string().contains("RUN/checkpoints/step-100"), "{refused}");
}

#[test]
fn going_on_from_an_earlier_checkpoint_sets_the_later_ones_aside() {
    let bench = Bench::new();
    let run = bench.run("run", Resume::Never, &["checkpoint.keep=2"]).unwrap();
    let later = content(&step(&run, 8));
    let again = bench.run("run", Resume::From(step(&run, 6)), &["checkpoint.keep=2"]).unwrap();
    assert_eq!(content(&step(&again, 8)), later);
    assert_eq!(content(&run.join("checkpoints-before-1/step-8")), later);
}

#[test]
fn a_save_that_fails_anywhere_leaves_something_whole_to_go_on_from() {
    let bench = Bench::with_one_stage(3);
    let every = ["checkpoint.every=1"];
    let straight = bench.run("straight", Resume::Never, &every).unwrap();
    // Every seventeenth operation, of three saves; the store's own tests take every one.
    for at in (1..).step_by(17) {
        let out = format!("at-{at}");
        let under = bench.path(&out).join("checkpoints");
        let injection = inject(Faults { under, at, reason: Errno::NOSPC, dead: at % 2 == 0 });
        let failed = bench.run(&out, Resume::Auto, &every);
        let struck = injection.struck();
        drop(injection);
        if let Err(failure) = &failed {
            let said = failure.to_string();
            assert!(failure.exit_code() == 2 && said.starts_with("the disk is full"), "{at}: {said}");
            assert_eq!(said.lines().count(), 1, "{at}: {said}");
        }
        let run = bench.run(&out, Resume::Auto, &every).unwrap();
        assert_eq!(trace(&run), trace(&straight), "operation {at}");
        assert_eq!(content(&step(&run, 3)), content(&step(&straight, 3)), "operation {at}");
        if !struck {
            failed.unwrap();
            assert!(at > 60, "only {at} operations in three saves");
            break;
        }
        std::fs::remove_dir_all(run).unwrap();
    }
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
    let cases = [
        ("optimizer.learning_rate=2e-2", "optimizer.learning_rate: 0.02 in the recipe, 0.01 in the checkpoint"),
        ("seed=8", "seed: 8 in the recipe, 7 in the checkpoint"),
        ("stage.1.steps=4", "stage.1.steps: 4 in the recipe, 3 in the checkpoint (steps can be added where"),
        ("model.new.rope_theta=20000.0", "model.new.rope_theta: 20000.0 in the recipe, 10000.0 in the checkpoint"),
    ];
    for (change, line) in cases {
        let refused = bench.run("run", Resume::Auto, &[change]).unwrap_err();
        assert_eq!(refused.exit_code(), 2, "{change}");
        let said = refused.to_string();
        assert!(said.contains("step-6 was written by another recipe:\n") && said.contains(line), "{change}: {said}");
        assert_eq!(said.lines().count(), 3, "{change}: {said}");
        assert_eq!((about("resolved.toml"), about("metrics.jsonl"), about("provenance.json")), before, "{change}");
    }
    // What only says when to save may change.
    bench.run("run", Resume::Auto, &["checkpoint.every=3", "description=words", "name=other"]).unwrap();
}

#[test]
fn a_change_that_the_user_allows_is_made() {
    let bench = Bench::new();
    let run = bench.run("run", Resume::Auto, &[]).unwrap();
    std::fs::remove_dir_all(step(&run, 8)).unwrap();
    let rate = |run: &Path| read_metrics(run).unwrap()[7].learning_rate;
    let before = rate(&run);
    let more = ["--set", "optimizer.learning_rate=2e-2", "--allow-change", "optimizer.learning_rate"];
    Running::start(bench.command("run", &more)).finished().expect(0);
    assert!((rate(&run) / before - 2.0).abs() < 1e-12);
    let refused = Running::start(bench.command("run", &["--allow-change", "model"])).finished().expect(2);
    assert!(refused.err.contains("--allow-change model"), "{refused}");
}

#[test]
fn steps_that_are_added_at_a_constant_rate_are_those_of_a_longer_run() {
    let bench = Bench::with_one_stage(3);
    let constant = "optimizer.schedule=constant";
    let longer = [constant, "stage.0.steps=6"];
    let straight = bench.run("straight", Resume::Never, &longer).unwrap();
    bench.run("run", Resume::Auto, &[constant]).unwrap();
    let run = bench.run("run", Resume::Auto, &longer).unwrap();
    assert_eq!(trace(&run), trace(&straight));
    assert_eq!(content(&step(&run, 6)), content(&step(&straight, 6)));
}

/// Numbers of a stored tensor as float32.
fn stored(folder: &Path, name: &str) -> Tensor {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let view = checkpoint.tensor(name).unwrap();
    let kind = if view.dtype.size() == 2 { Kind::BFloat16 } else { Kind::Float };
    let shape: Vec<i64> = view.shape.iter().map(|&n| n as i64).collect();
    Tensor::from_data_size(view.data, &shape, kind)
}

#[test]
fn a_bfloat16_run_keeps_float32_weights_and_goes_on_with_the_same_bits() {
    let bench = Bench::new();
    let low = "model.dtype=bfloat16";
    let straight = bench.run("straight", Resume::Never, &[low]).unwrap();
    for k in [4, 6] {
        let resumed = bench.run(&format!("from-{k}"), Resume::From(step(&straight, k)), &[low]).unwrap();
        assert_eq!(trace(&resumed), trace(&straight)[k as usize..], "taken up at {k}");
        assert_eq!(content(&step(&resumed, 8)), content(&step(&straight, 8)), "taken up at {k}");
    }
    let (end, name) = (step(&straight, 8), "model.layers.0.mlp.up_proj.weight");
    let (weight, master) = (stored(&end, name), stored(&end.join("optimizer"), &format!("master.{name}")));
    assert_eq!((weight.kind(), master.kind()), (Kind::BFloat16, Kind::Float));
    assert!(weight.equal(&master.to_kind(Kind::BFloat16)), "weights are masters, rounded");
    assert!(!weight.to_kind(Kind::Float).equal(&master), "and not the other way round");
    for (out, dtype, expected) in [("trained", None, &weight), ("full", Some("float32"), &master)] {
        let dtype = dtype.into_iter().flat_map(|dtype| ["--dtype", dtype]);
        let arguments = ["export", "straight", out].into_iter().chain(dtype);
        bowline(&bench.path("."), arguments).expect(0);
        assert!(stored(&bench.path(out), name).equal(expected), "{out}");
    }
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
fn steps_that_are_not_finite_are_passed_over_as_often_as_the_recipe_says() {
    let mut bench = Bench::with_one_stage(5);
    poisoned(&bench.path("poisoned"));
    bench.recipe = starting_from(&bench.recipe, &bench.path("poisoned"));
    let more = ["--set", "optimizer.non_finite_steps=2"];
    let stopped = Running::start(bench.command("run", &more)).finished().expect(3);
    let warnings = stopped.err.lines().filter(|line| line.contains("the step was passed over")).count();
    assert_eq!(warnings, 2, "{stopped}");
    assert!(stopped.err.lines().last().unwrap().contains("step 3"), "{stopped}");
    let found = json(&bench.path("run/not-finite.json"));
    assert_eq!((found["step"].as_u64(), found["first_sequence"].as_u64()), (Some(3), Some(8)));
    assert_eq!(found["tokens"].as_array().unwrap().len(), 4);
    assert_eq!(found["tokens"][0].as_array().unwrap().len(), 33);
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
