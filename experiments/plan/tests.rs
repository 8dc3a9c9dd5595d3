//! The formulas against published tables, and plans of every recipe.
#![allow(clippy::unwrap_used)]

use std::time::Instant;

use super::*;
use crate::config::{Activations, Gradients, OptimizerState, Policy, Stage};
use crate::model::Footprint;
use crate::recipes;

fn sizes(name: &str) -> Sizes {
    Sizes::new(&known_shape(name).unwrap().unwrap(), tch::Kind::BFloat16, None)
}

fn stage(length: usize, batch: usize, micro_batch: usize) -> Stage {
    Stage { micro_batch, ..Stage::plain(length, batch, 10) }
}

fn is_near(value: f64, expected: f64, share: f64) -> bool {
    (value / expected - 1.0).abs() <= share
}

#[test]
fn what_stands_on_the_device_is_what_the_policies_promise() {
    let policy = |optimizer, gradients, on_host| Memory {
        optimizer,
        gradients,
        optimizer_on_host: on_host,
        ..Memory::default()
    };
    use Gradients::{InBackward, Kept};
    use OptimizerState::{Bfloat16, Int8, Mixed};
    // Bytes a parameter of 7 and 13 billion in bfloat16, in 10^9 bytes; the scales of 8-bit moments and the gradients of a
    // block come on top.
    let cases = [
        (policy(Mixed, Kept, false), 107.8, 208.3),
        (policy(Bfloat16, Kept, false), 53.9, 104.1),
        (policy(Int8, Kept, false), 40.4, 78.1),
        (policy(Int8, InBackward, false), 27.0, 52.1),
        (policy(Mixed, Kept, true), 27.0, 52.1),
    ];
    for (memory, seven, thirteen) in cases {
        for (name, expected) in [("llama-2-7b", seven), ("llama-2-13b", thirteen)] {
            let sizes = sizes(name);
            let card = Card::named("h200-141g").unwrap();
            let step = StepMemory::new(&sizes, &memory, &stage(4096, 1, 0), &card);
            let Categories { weights, optimizer, gradients, .. } = step.moments[3].categories;
            let standing = (weights + optimizer + gradients) as f64 / 1e9;
            assert!(is_near(standing, expected, 0.04), "{name} {memory:?}: {standing}, not {expected}");
            let host = if memory.optimizer_on_host { 12 * sizes.parameters } else { 0 };
            assert_eq!(step.host.total(), host);
        }
    }
}

#[test]
fn a_backend_that_libtorch_differentiates_keeps_queries_keys_and_values_too() {
    let recipe = |backend: &str| recipes::training("llama-2-7b-32k", &[format!("model.backend={backend}")]).unwrap();
    let memory = Memory { activations: Activations::Attention, ..Memory::default() };
    let kept = |backend: &str, card: &str| {
        let recipe = recipe(backend);
        Sizes::of(&recipe, &config_of(&recipe).unwrap(), &Card::named(card).unwrap()).kept(&memory)
    };
    // 4d + 4h and 10d + 4h bytes of a token and layer.
    assert_eq!((kept("cuda", "h100-80g"), kept("libtorch", "h100-80g")), (16_512, 41_088));
    assert_eq!((kept("auto", "cpu"), kept("libtorch", "cpu")), (16_512, 41_088));
}

/// Bytes that a policy keeps of a token in a block.
fn kept(sizes: &Sizes, activations: Activations) -> u64 {
    sizes.footprint.kept(&Memory { activations, ..Memory::default() })
}

#[test]
fn what_each_policy_keeps_of_a_token_is_the_published_count() {
    let (seven, thirteen) = (sizes("llama-2-7b"), sizes("llama-2-13b"));
    let expected = [
        (Activations::All, 131_712, 6.60e6),
        (Activations::Light, 93_312, 4.68e6),
        (Activations::Attention, 16_512, 0.826e6),
        (Activations::Layers, 8192, 0.410e6),
    ];
    for (policy, bytes, of_token) in expected {
        assert_eq!(kept(&seven, policy), bytes, "{policy:?}");
        assert!(is_near((kept(&thirteen, policy) * 40) as f64, of_token, 0.005), "{policy:?}");
    }
    // 17.3 and 8.6 GB at 32K, in all blocks.
    let at_32k = |policy| (kept(&seven, policy) * 32 * 32_768) as f64 / 1e9;
    assert!(is_near(at_32k(Activations::Attention), 17.3, 0.005) && is_near(at_32k(Activations::Layers), 8.6, 0.005));
}

#[test]
fn cutting_and_parking_only_ever_take_less() {
    let (sizes, card, stage) = (sizes("llama-2-7b"), Card::named("h100-80g").unwrap(), stage(32_768, 1, 0));
    let peak = |memory: &Memory| StepMemory::new(&sizes, memory, &stage, &card).peak().categories.tensors();
    for activations in [Activations::All, Activations::Light, Activations::Attention, Activations::Layers] {
        // Kept gradients would be more at the end than what is parked at the beginning.
        let whole = Memory { activations, gradients: Gradients::InBackward, ..Memory::default() };
        let cut = Memory { mlp_tokens: 4096, ..whole };
        let parked = Memory { offload: true, ..cut };
        assert!(peak(&cut) < peak(&whole) && peak(&parked) < peak(&cut), "{activations:?}");
    }
}

#[test]
fn offloaded_inputs_leave_the_device_and_are_found_on_the_host() {
    let (sizes, card, stage) = (sizes("llama-2-7b"), Card::named("h100-80g").unwrap(), stage(32_768, 1, 0));
    let kept = Memory { activations: Activations::Attention, ..Memory::default() };
    let offloaded = Memory { offload: true, ..kept };
    let [kept, offloaded] = [kept, offloaded].map(|memory| StepMemory::new(&sizes, &memory, &stage, &card));
    let activations = |step: &StepMemory| step.moments[0].categories.activations;
    assert_eq!(activations(&kept) - activations(&offloaded), offloaded.host.activations);
    assert!(is_near(offloaded.host.activations as f64, 8.59e9, 0.001));
}

#[test]
fn an_adapter_trains_little_and_nf4_holds_a_weight_in_half_a_byte() {
    let recipe = recipes::training("qlora-7b-16k", &[]).unwrap();
    let config = config_of(&recipe).unwrap();
    let quantised = Sizes::new(&config, tch::Kind::BFloat16, recipe.adapter.as_ref());
    // 3.9 GB of base; adapters of rank 64 on every projection are 160 million numbers.
    assert_eq!(quantised.adapters, 159_907_840);
    let base = weight_bytes(&quantised) - 2 * quantised.adapters;
    assert!(is_near(base as f64, 3.87e9, 0.005), "{base}");
    let whole = 2 * 32_000 * 4096 + (2 * 32 + 1) * 4096;
    assert_eq!(quantised.trained_parameters(), quantised.adapters + whole);
}

/// Tokens per second of 7 and 13 billion parameters at the rates of the published roofline: products 680, attention 650
/// and 560 TFLOP/s, and nothing else. It computes the MLP's last product again, too, as we never do.
fn roofline(name: &str, activations: Activations, length: usize) -> f64 {
    let card = Card {
        attention_forward: vec![(0.0, 650e12)],
        attention_backward: vec![(0.0, 560e12)],
        copy_bytes: f64::INFINITY,
        ..Card::named("h100-80g").unwrap()
    };
    let (memory, stage, sizes) = (Memory { activations, ..Memory::default() }, stage(length, 1, 0), sizes(name));
    let seconds: f64 = phases(&sizes, &memory, &stage, &card).iter().map(|phase| phase.seconds).sum();
    let Footprint { layers, hidden, inner, .. } = sizes.footprint;
    let last = match activations {
        Activations::Attention | Activations::Layers => (2 * layers * hidden * inner) as f64 / 680e12,
        _ => 0.0,
    };
    length as f64 / (seconds + length as f64 * last)
}

#[test]
fn tokens_per_second_are_those_of_the_published_roofline() {
    use Activations::{All, Attention, Layers};
    let cases = [
        ("llama-2-7b", 4096, [15.4e3, 11.9e3, 11.7e3]),
        ("llama-2-7b", 16_384, [11.9e3, 9.7e3, 9.1e3]),
        ("llama-2-7b", 32_768, [9.1e3, 7.7e3, 7.0e3]),
        ("llama-2-7b", 131_072, [3.8e3, 3.5e3, 3.0e3]),
        ("llama-2-13b", 32_768, [5.2e3, 4.3e3, 4.0e3]),
    ];
    for (name, length, expected) in cases {
        for (policy, expected) in [All, Attention, Layers].into_iter().zip(expected) {
            let found = roofline(name, policy, length);
            assert!(is_near(found, expected, 0.02), "{name} at {length}, {policy:?}: {found}, not {expected}");
        }
    }
    // 65.4 and 117.4 GFLOP a token at 32K, counted causally.
    assert!(is_near(counted_flops(&sizes("llama-2-7b"), 32_768), 65.4e9, 0.002));
    assert!(is_near(counted_flops(&sizes("llama-2-13b"), 32_768), 117.4e9, 0.002));
}

#[test]
fn every_recipe_is_planned_on_every_device_in_no_time() {
    let started = Instant::now();
    let all = recipes::trainings().unwrap();
    for recipe in &all {
        let config = config_of(recipe).unwrap();
        for name in Card::NAMES {
            let plan = Plan::new(recipe, &config, Card::named(name).unwrap(), Path::new("."));
            assert_eq!(plan.peak_bytes, plan.categories.total());
            assert_eq!(plan.fits, plan.peak_bytes <= plan.device.bytes);
            assert!(plan.moments.iter().all(|moment| moment.categories.total() <= plan.peak_bytes));
            assert!(plan.hours > 0.0 && plan.tokens_per_second < plan.roofline_tokens_per_second);
            assert!(plan.mfu_causal > 0.0 && plan.mfu_causal < 1.0, "{}: {}", plan.recipe, plan.mfu_causal);
            let page = plan.page();
            assert!(page.contains(&plan.recipe) && page.contains("tokens/s"), "{page}");
        }
    }
    // Under a second each, though this machine is busy and the build checked.
    let plans = (all.len() * Card::NAMES.len()) as u32;
    assert!(started.elapsed() / plans < std::time::Duration::from_millis(500), "{:?}", started.elapsed() / plans);
}

#[test]
fn every_recipe_fits_the_device_that_it_is_made_for() {
    for recipe in recipes::trainings().unwrap() {
        let plan =
            Plan::new(&recipe, &config_of(&recipe).unwrap(), Card::named(planned_on(&recipe)).unwrap(), Path::new("."));
        assert!(plan.fits, "{}", plan.page());
    }
}

fn mixed_7b() -> Recipe {
    recipes::training("llama-2-7b-32k", &["memory={}".to_owned()]).unwrap()
}

#[test]
fn advice_for_what_does_not_fit_begins_with_what_does() {
    let recipe = mixed_7b();
    let config = config_of(&recipe).unwrap();
    let plan = Plan::new(&recipe, &config, Card::named("h100-80g").unwrap(), Path::new("."));
    assert!(!plan.fits && plan.advice.len() > 3, "{:?}", plan.advice);
    let first = &plan.advice[0];
    assert!(first.fits && first.peak_bytes <= plan.device.bytes, "{first:?}");
    let followed =
        recipes::training("llama-2-7b-32k", &[&["memory={}".to_owned()], first.settings.as_slice()].concat());
    let followed = Plan::new(&followed.unwrap(), &config, Card::named("h100-80g").unwrap(), Path::new("."));
    assert_eq!((followed.fits, followed.peak_bytes), (true, first.peak_bytes));
    assert!(is_near(followed.hours / plan.hours, first.time, 1e-9));
    for single in &plan.advice[1..] {
        assert!(single.settings.len() == 1 && single.peak_bytes < plan.peak_bytes, "{single:?}");
    }
}

#[test]
fn the_planner_chooses_what_changes_least_among_the_fast() {
    let recipe = mixed_7b();
    let config = config_of(&recipe).unwrap();
    let chosen = |name: &str| chosen_memory(&recipe, &config, &Card::named(name).unwrap());
    assert_eq!(chosen("rtx4090-24g"), None, "13.5 GB of weights and as much of gradients");
    let on_hopper = chosen("h200-141g").unwrap();
    assert_eq!(on_hopper.policy, Policy::Recipe, "what was chosen is written out");
    let plan = Plan::new(
        &Recipe { memory: on_hopper, ..recipe.clone() },
        &config,
        Card::named("h200-141g").unwrap(),
        Path::new("."),
    );
    assert!(plan.fits);
}

#[test]
fn gradients_are_counted_from_when_they_are_there() {
    let card = Card::named("h200-141g").unwrap();
    let gradients = |sizes: &Sizes, batch, memory: &Memory| {
        let moments = StepMemory::new(sizes, memory, &stage(4096, batch, 1), &card).moments;
        moments.map(|it| it.categories.gradients)
    };
    let seven = sizes("llama-2-7b");
    let (kept, few) = (Memory::default(), Memory { gradients: Gradients::InBackward, ..Memory::default() });
    let (all, head) = (2 * seven.parameters, 2 * 32_000 * 4096);
    assert_eq!(gradients(&seven, 1, &kept), [0, head, all, all]);
    // Sums of the passes before are float32, and all that the step begins with.
    assert_eq!(gradients(&seven, 4, &kept), [2 * all, 2 * all + head, 3 * all, 2 * all]);
    let of_few = gradient_bytes(&seven, &few, 1);
    assert_eq!(gradients(&seven, 1, &few), [of_few; 4]);
    let single = Sizes::new(&known_shape("llama-2-7b").unwrap().unwrap(), tch::Kind::Float, None);
    assert_eq!(gradients(&single, 4, &kept), [2 * all; 4], "added in place");
}

#[test]
fn gradients_leave_in_the_backward_pass_only_where_a_step_is_one_pass() {
    // So short that gradients are more than what is kept of the tokens.
    let one_pass = ["memory={}", "stage.0.batch=1", "stage.0.length=2048"].map(str::to_owned);
    let recipe = recipes::training("llama-2-7b-32k", &one_pass).unwrap();
    let config = config_of(&recipe).unwrap();
    let offers = |recipe: &Recipe| {
        let plan = Plan::new(recipe, &config, Card::named("h100-80g").unwrap(), Path::new("."));
        plan.advice.iter().any(|it| it.settings.iter().any(|setting| setting == "memory.gradients=in-backward"))
    };
    assert!(offers(&recipe) && !offers(&mixed_7b()));
}

#[test]
fn text_that_is_not_there_fails_a_check_and_not_the_plan() {
    let recipe = recipes::training("llama-2-7b-32k", &[]).unwrap();
    let plan = Plan::new(&recipe, &config_of(&recipe).unwrap(), Card::named("h100-80g").unwrap(), Path::new("."));
    let books = plan.checks.iter().find(|check| check.name == "source.books").unwrap();
    assert_eq!(books.standing, Standing::Failed);
    assert!(books.detail.contains("data/redpajama-books") && books.detail.contains("--set 'source.books.paths="));
    assert!(plan.verdict().unwrap().contains("source.books"));
    let there = "source.books.paths=['bundled:train']".to_owned();
    let recipe = recipes::training("llama-2-7b-32k", &[there]).unwrap();
    let plan = Plan::new(&recipe, &config_of(&recipe).unwrap(), Card::named("h100-80g").unwrap(), Path::new("."));
    let books = plan.checks.iter().find(|check| check.name == "source.books").unwrap();
    // Some megabytes of books for a hundred million tokens: far too little.
    assert_eq!(books.standing, Standing::Warning, "{}", books.detail);
}

#[test]
fn a_model_that_is_neither_here_nor_known_is_refused_with_the_shapes_that_are() {
    let recipe = recipes::training("llama-2-7b-32k", &["model.from=org/unknown".to_owned()]).unwrap();
    let error = config_of(&recipe).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("llama-2-13b"), "{error}");
}
