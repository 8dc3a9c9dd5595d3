//! Policies of memory: each trains as the plain one does within its rounding, and each goes on from its checkpoints with
//! the same bits.

use std::collections::BTreeSet;
use std::path::Path;

use bowline::error::FailureKind;
use bowline::model::weights::{Checkpoint, Dtype};
use bowline::train::{Resume, read_metrics, read_state};

use super::determinism::{Bench, content, step, trace};

const FLOAT32: &str = "model.dtype=\"float32\"";
const BFLOAT16: &str = "model.dtype=\"bfloat16\"";
const LOW: &str = "memory.optimizer=\"bfloat16\"";
const BYTES: &str = "memory.optimizer=\"int8\"";
const IN_BACKWARD: &str = "memory.gradients=\"in-backward\"";
const ON_HOST: &str = "memory.optimizer_on_host=true";
const ATTENTION: &str = "memory.activations=\"attention\"";
const LAYERS: &str = "memory.activations=\"layers\"";
const OFFLOAD: &str = "memory.offload=true";
/// Tokens at once that are no divisor of a pass's.
const TILES: &str = "memory.mlp_tokens=24";
const PIECES: &str = "memory.loss_tokens=40";

fn losses(run: &Path) -> Vec<f64> {
    read_metrics(run).unwrap().iter().map(|m| m.loss).collect()
}

/// Root mean square of the differences.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
    (squares / a.len() as f64).sqrt()
}

/// How far the losses of a policy may be from those of the plain one.
#[derive(Debug, Clone, Copy)]
enum Off {
    /// Not at all: the same operations on the same numbers.
    Nothing,
    /// As far as sums of float32 in another order get in all steps.
    Order,
    /// So many times what sixteen bits of weights and activations change, with all else as it was.
    Rounding(f64),
}

/// Every policy, and some together.
const POLICIES: &[(&str, &[&str], Off)] = &[
    ("light", &[FLOAT32, "memory.activations=\"light\""], Off::Nothing),
    ("attention", &[FLOAT32, ATTENTION], Off::Nothing),
    ("layers", &[FLOAT32, LAYERS], Off::Nothing),
    ("attention-parked", &[FLOAT32, ATTENTION, OFFLOAD], Off::Nothing),
    ("layers-parked", &[FLOAT32, LAYERS, OFFLOAD], Off::Nothing),
    ("mlp-in-tiles", &[FLOAT32, TILES], Off::Order),
    ("loss-in-pieces", &[FLOAT32, PIECES], Off::Order),
    // Gradients used in the backward pass are the same gradients.
    ("in-backward", &[FLOAT32, IN_BACKWARD], Off::Nothing),
    ("on-host", &[FLOAT32, ON_HOST], Off::Nothing),
    ("float32-low", &[FLOAT32, LOW], Off::Rounding(3.0)),
    // A byte's steps are up to 1/64 of a block's largest moment.
    ("float32-bytes", &[FLOAT32, BYTES], Off::Rounding(3.0)),
    ("mixed-in-backward", &[BFLOAT16, IN_BACKWARD, ON_HOST], Off::Rounding(1.0)),
    ("mixed-layers", &[BFLOAT16, LAYERS, OFFLOAD, TILES, PIECES], Off::Rounding(3.0)),
    ("low", &[BFLOAT16, LOW], Off::Rounding(3.0)),
    ("low-attention", &[BFLOAT16, LOW, ATTENTION, OFFLOAD, IN_BACKWARD], Off::Rounding(3.0)),
    ("bytes", &[BFLOAT16, BYTES], Off::Rounding(3.0)),
    ("bytes-in-backward", &[BFLOAT16, BYTES, IN_BACKWARD], Off::Rounding(3.0)),
    ("bytes-on-host", &[BFLOAT16, BYTES, ON_HOST], Off::Rounding(3.0)),
    ("least", &[BFLOAT16, BYTES, IN_BACKWARD, ON_HOST, LAYERS, OFFLOAD, TILES, PIECES], Off::Rounding(3.0)),
];

#[test]
fn every_policy_learns_as_the_plain_one_within_its_rounding() {
    let bench = Bench::on_bundled(20);
    let free = "optimizer.clip_norm=1e9";
    let curve = |out: &str, settings: &[&str]| {
        let run = bench.run(out, Resume::Never, &[settings, &[free]].concat()).unwrap();
        let losses = losses(&run);
        std::fs::remove_dir_all(run.join("checkpoints")).unwrap();
        losses
    };
    let plain = curve("plain", &[FLOAT32]);
    let learnt = distance(&plain, &vec![plain[0]; plain.len()]);
    let rounding = distance(&plain, &curve("mixed", &[BFLOAT16]));
    println!("learnt {learnt:.2e}, rounding alone {rounding:.2e}");
    assert!(rounding < 0.02 * learnt, "{rounding} of {learnt}");
    for &(out, settings, allowed) in POLICIES {
        let off = distance(&plain, &curve(out, settings));
        println!("{out}: {off:.2e}, allowed {allowed:?}");
        let most = match allowed {
            Off::Nothing => 0.0,
            Off::Order => 1e-5 * learnt,
            Off::Rounding(times) => times * rounding,
        };
        assert!(off <= most, "{out}: {off}, allowed {most} of {learnt}");
    }
    assert!(learnt > 50.0 * 3.0 * rounding, "a run that learns nothing would be found out: {learnt}");
}

/// Takes a run of six steps up at each of `steps`: what follows must have the same bits.
fn goes_on(bench: &Bench, name: &str, settings: &[&str], steps: &[u64]) {
    let settings = [settings, &["checkpoint.every=1", "checkpoint.keep=9", "optimizer.clip_norm=0.5"]].concat();
    let straight = bench.run(&format!("{name}-straight"), Resume::Never, &settings).unwrap();
    let (whole, end) = (trace(&straight), content(&step(&straight, 6)));
    for &k in steps {
        let from = Resume::From(step(&straight, k));
        let resumed = bench.run(&format!("{name}-from-{k}"), from, &settings).unwrap();
        assert_eq!(trace(&resumed), whole[k as usize..], "{name} taken up at {k}");
        assert_eq!(content(&step(&resumed, 6)), end, "{name} taken up at {k}");
    }
    let state = read_state(&step(&straight, 4)).unwrap();
    let norm = whole[3].3;
    let kept = settings.contains(&IN_BACKWARD).then_some(norm);
    assert_eq!(state.norm_before.map(f64::to_bits), kept, "{name}: what the next gradients are clipped by");
}

#[test]
fn every_policy_goes_on_from_a_checkpoint_with_the_same_bits() {
    let bench = Bench::with_one_stage(6);
    for (number, (name, settings, _)) in POLICIES.iter().enumerate() {
        goes_on(&bench, name, settings, &[1 + number as u64 % 4]);
    }
    goes_on(&bench, "plain", &[FLOAT32], &[4]);
    goes_on(&bench, "mixed", &[BFLOAT16], &[1, 4]);
}

#[test]
fn the_bundled_model_goes_on_with_the_same_bits_under_everything_that_takes_least() {
    let bench = Bench::on_bundled(6);
    let (name, settings, _) = POLICIES.last().unwrap();
    goes_on(&bench, name, settings, &[4]);
}

#[test]
fn state_is_stored_in_its_own_types_and_that_of_another_policy_is_refused() {
    let bench = Bench::with_one_stage(2);
    let bytes = bench.run("bytes", Resume::Never, &[BFLOAT16, BYTES]).unwrap();
    let stored = Checkpoint::open(&step(&bytes, 2).join("optimizer")).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    let (codes, scales) = (format!("square.{name}"), format!("square_scale.{name}"));
    let (codes, scales) = (stored.stored(&codes).unwrap(), stored.stored(&scales).unwrap());
    assert_eq!((codes.dtype, codes.shape), (Dtype::U8, &[64, 32][..]));
    assert_eq!((scales.dtype, scales.shape), (Dtype::F32, &[64 * 32 / 256][..]));
    assert!(stored.tensor(&format!("square.{name}")).is_err(), "a byte is no weight");
    let plain = bench.run("plain", Resume::Never, &[BFLOAT16]).unwrap();
    // The layout of checkpoints made before there were policies: these go on.
    let stored = Checkpoint::open(&step(&plain, 2).join("optimizer")).unwrap();
    let layout: BTreeSet<&str> = stored.names().filter_map(|found| found.strip_suffix(name)).collect();
    assert_eq!(layout, BTreeSet::from(["master.", "mean.", "square."]));
    let mean = stored.tensor(&format!("mean.{name}")).unwrap();
    assert_eq!((mean.dtype, mean.shape), (Dtype::F32, &[64, 32][..]));
    let state = std::fs::read_to_string(step(&plain, 2).join("state.json")).unwrap();
    assert!(!state.contains("norm_before") && !state.contains("memory"), "{state}");
    let from = || Resume::From(step(&plain, 2));
    let refused = bench.run("changed", from(), &[BFLOAT16, BYTES]).unwrap_err();
    assert_eq!(refused.kind(), FailureKind::Config);
    assert!(refused.to_string().contains("memory.optimizer"), "{refused}");
    let allowed = bench.run_allowing("changed", from(), &[BFLOAT16, BYTES], &["memory"]).unwrap_err();
    assert_eq!(allowed.exit_code(), 3);
    assert!(allowed.to_string().contains("memory.optimizer"), "{allowed}");
    let host = bench.run_allowing(
        "host",
        from(),
        &[BFLOAT16, "memory.optimizer_on_host=true", "stage.0.steps=3", "optimizer.schedule=\"constant\""],
        &["memory", "optimizer", "stage"],
    );
    host.unwrap();
}

#[test]
fn several_passes_a_step_are_refused_where_gradients_are_used_at_once() {
    let bench = Bench::new();
    let settings = [IN_BACKWARD.to_owned()];
    let refused = bowline::config::Recipe::layered(bench.recipe(), &settings).unwrap_err();
    assert_eq!(refused.exit_code(), 2);
    let said = refused.to_string();
    assert!(said.contains("stage 2.micro_batch") && said.contains("memory.gradients"), "{said}");
}
