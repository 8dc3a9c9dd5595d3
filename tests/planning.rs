//! Plans beside what runs really hold, and every built-in recipe on a small model.

use std::path::Path;

use bowline::config::{ModelSource, Policy, Recipe, Stage};
use bowline::recipes;
use serde_json::Value;

use super::support::program::bowline;
use super::support::{json, tiny};

/// A model large enough that what a step holds is not lost among small things, and steps that take a second.
const SHAPE: [&str; 6] = [
    "model.new.hidden_size=128",
    "model.new.intermediate_size=352",
    "model.new.num_hidden_layers=4",
    "model.new.num_attention_heads=4",
    "model.new.num_key_value_heads=2",
    "model.new.max_position_embeddings=1024",
];

/// Planned and measured bytes of tensors of a short run under `settings`.
fn planned_and_measured(settings: &[&str]) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let recipe = tiny::one_stage(&tiny::write_text(dir.path()), 3);
    tiny::write(dir.path(), "recipe.toml", &recipe);
    let shape = SHAPE.iter().chain(settings).flat_map(|setting| ["--set", *setting]);
    let arguments = ["train", "recipe.toml", "--out", "run", "--device", "cpu"].into_iter().chain(shape);
    let ran = bowline(dir.path(), arguments).expect(0);
    assert!(ran.err.contains("memory: ") && ran.err.contains("planned"), "{ran}");
    let account = json(&dir.path().join("run/memory.json"));
    let bytes = |key: &str| account[key].as_f64().unwrap();
    (bytes("planned_bytes"), bytes("measured_bytes"))
}

#[test]
fn what_was_planned_is_what_a_run_holds() {
    let cases: [&[&str]; 9] = [
        // Mostly activations.
        &["stage.0.length=512", "stage.0.batch=4"],
        // Mostly logits.
        &["stage.0.length=1024", "stage.0.batch=2", "model.new.num_hidden_layers=1"],
        // Mostly state.
        &["stage.0.length=32", "stage.0.batch=1", "model.new.hidden_size=256", "model.new.intermediate_size=1024"],
        // Several passes of bfloat16.
        &["stage.0.length=512", "stage.0.batch=2", "stage.0.micro_batch=1", "model.dtype=bfloat16"],
        // Mostly activations of bfloat16, and of a policy that computes most of them again.
        &["stage.0.length=512", "stage.0.batch=4", "model.dtype=bfloat16"],
        &["stage.0.length=512", "stage.0.batch=4", "model.dtype=bfloat16", "memory.activations=attention"],
        // Attention in groups, by a backend that goes back from its answers and by one that has libtorch's graph.
        &["stage.0.length=512", "stage.0.batch=4", "stage.0.shifted_sparse=0.25", "memory.activations=attention"],
        &["stage.0.length=1024", "stage.0.batch=1", "stage.0.shifted_sparse=0.25", "model.backend=libtorch"],
        &["stage.0.length=512", "stage.0.batch=4", "stage.0.shifted_sparse=0.25", "model.backend=libtorch"],
    ];
    for settings in cases {
        let (planned, measured) = planned_and_measured(settings);
        println!("{settings:?}: planned {planned:.3e}, measured {measured:.3e}, ratio {:.3}", planned / measured);
        assert!((planned / measured - 1.0).abs() < 0.10, "{settings:?}: planned {planned}, measured {measured}");
    }
}

#[test]
fn the_bench_of_training_measures_what_it_predicts_with_and_without_adapters() {
    let dir = tempfile::tempdir().unwrap();
    let cases: [(&[&str], usize); 4] = [
        (&["--policy", "light"], 0),
        (&["--adapter", "lora", "--rank", "4", "--policy", "attention"], 4),
        (&["--adapter", "qlora", "--policy", "attention", "--dtype", "bfloat16"], 64),
        (&["--adapter", "qlora,also=", "--random-weights"], 64),
    ];
    for (options, rank) in cases {
        let bench = ["bench", "train", "bundled", "--context", "512", "--steps", "1", "--device", "cpu", "--json"];
        let ran = bowline(dir.path(), bench.into_iter().chain(options.iter().copied())).expect(0);
        let row = &serde_json::from_str::<Value>(&ran.out).unwrap()[0];
        let bytes = |key: &str| row[key].as_f64().unwrap();
        let ratio = bytes("predicted_peak_bytes") / bytes("peak_bytes");
        println!("{options:?}: {ratio:.3} of {:.3e} bytes", bytes("peak_bytes"));
        assert!((ratio - 1.0).abs() < 0.10, "{options:?}: {ratio}");
        assert_eq!(row["adapter"]["rank"].as_u64().unwrap_or(0), rank as u64, "{row}");
        assert_eq!(row["trained_parameters"].as_u64().unwrap() == 1_568_160, rank == 0, "{row}");
    }
    let bar =
        ["bench", "train", "bundled", "--context", "64", "--steps", "1", "--device", "cpu", "--bar", "1000000000"];
    let ran = bowline(dir.path(), bar).expect(1);
    assert!(ran.err.contains("below the bar of 1000000000"), "{ran}");
}

/// The length of a stage of a recipe that was made small.
fn small_length(recipe: &Recipe, stage: &Stage) -> usize {
    (128 * stage.length / recipe.longest()).max(16)
}

/// The settings that make a recipe small: its policies, method and adapter stay, its model, lengths and text do not.
fn shrunken(recipe: &Recipe, model: &Path, text: &Path) -> Vec<String> {
    let mut settings = vec!["checkpoint.every=0".to_owned()];
    match &recipe.model {
        // What another recipe left, which the runs are made in the order of the list for.
        ModelSource { from: Some(from), .. } if from.starts_with("recipe:") => {}
        ModelSource { new: None, .. } => settings.push(format!("model.from={}", model.display())),
        ModelSource { new: Some(_), .. } => {
            settings.push("model.tokenizer=bundled".to_owned());
            let sizes = [("hidden_size", 32), ("intermediate_size", 48), ("num_hidden_layers", 2)];
            let heads = [("num_attention_heads", 2), ("num_key_value_heads", 2), ("max_position_embeddings", 128)];
            settings.extend(sizes.iter().chain(&heads).map(|(key, value)| format!("model.new.{key}={value}")));
        }
    }
    for (index, source) in recipe.sources.iter().enumerate().filter(|(_, source)| !source.paths.is_empty()) {
        assert!(!source.name.is_empty());
        settings.push(format!("source.{index}.paths=[{:?}]", text.display().to_string()));
        settings.push(format!("source.{index}.min_tokens=0"));
    }
    // Documents that are held out are the user's.
    settings.push("held_out=[]".to_owned());
    for (index, stage) in recipe.stages.iter().enumerate() {
        // One pass stays one pass, several stay several.
        let passes = if stage.micro() == stage.batch { 1 } else { 2 };
        let length = small_length(recipe, stage);
        let small = [("length", length), ("batch", passes), ("micro_batch", 1), ("steps", 2)];
        settings.extend(small.map(|(key, value)| format!("stage.{index}.{key}={value}")));
        let skipping = stage.skip_positions.map(|_| format!("stage.{index}.skip_positions.target={}", 2 * length));
        settings.extend(skipping);
    }
    for key in ["mlp_tokens", "loss_tokens"] {
        let now = if key == "mlp_tokens" { recipe.memory.mlp_tokens } else { recipe.memory.loss_tokens };
        settings.extend((now > 0).then(|| format!("memory.{key}=24")));
    }
    settings
}

#[test]
fn every_recipe_trains_a_small_model() {
    let home = tempfile::tempdir().unwrap();
    let (model, text) = (home.path().join("model"), tiny::write_text(home.path()));
    tiny::write_model(&model);
    let all = recipes::trainings().unwrap();
    assert!(all.len() >= 15, "{}", all.len());
    for recipe in &all {
        let settings = shrunken(recipe, &model, &text);
        let settings = settings.iter().flat_map(|setting| ["--set", setting.as_str()]);
        let arguments = ["train", &recipe.name, "--device", "cpu"].into_iter().chain(settings);
        let ran = bowline(home.path(), arguments).expect(0);
        assert!(ran.err.contains("memory: "), "{ran}");
        let metrics =
            std::fs::read_to_string(home.path().join("runs").join(&recipe.name).join("metrics.jsonl")).unwrap();
        let steps: Vec<Value> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let lengths: Vec<usize> = steps.iter().map(|step| step["length"].as_u64().unwrap() as usize).collect();
        let expected: Vec<usize> = recipe.stages.iter().flat_map(|stage| [small_length(recipe, stage); 2]).collect();
        assert_eq!(lengths, expected, "{}: stages in their order, each at its length", recipe.name);
        let losses: Vec<f64> = steps.iter().map(|step| step["loss"].as_f64().unwrap()).collect();
        assert!(losses.iter().all(|loss| loss.is_finite() && *loss > 1.0), "{}: {losses:?}", recipe.name);
    }
    // The 128K model goes on from the 64K one: its positions are the original ones by 32.
    let config = json(&home.path().join("runs/yarn-llama-2-7b-128k/checkpoints/step-2/config.json"));
    let (scaling, context) = (&config["rope_scaling"], &config["max_position_embeddings"]);
    assert_eq!(
        (&scaling["factor"], &scaling["original_max_position_embeddings"], context),
        (&32.0.into(), &128.into(), &4096.into())
    );
    let resolved = std::fs::read_to_string(home.path().join("runs/yarn-llama-2-7b-128k/provenance.json")).unwrap();
    assert!(resolved.contains("recipe:yarn-llama-2-7b-64k"), "{resolved}");
}

#[test]
fn a_recipe_out_of_anothers_result_waits_for_that_to_be_finished() {
    let home = tempfile::tempdir().unwrap();
    let (model, text) = (home.path().join("model"), tiny::write_text(home.path()));
    tiny::write_model(&model);
    let train = |name: &str, settings: &[String], code| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting.as_str()]);
        bowline(home.path(), ["train", name, "--device", "cpu"].into_iter().chain(settings)).expect(code).err
    };
    let small = |name: &str| shrunken(&recipes::training(name, &[]).unwrap(), &model, &text);
    let (first, then) = (small("yarn-llama-2-7b-64k"), small("yarn-llama-2-7b-128k"));
    let refused = train("yarn-llama-2-7b-128k", &then, 2);
    for words in
        ["model.from: recipe:yarn-llama-2-7b-64k", "runs/yarn-llama-2-7b-64k holds no", "train yarn-llama-2-7b-64k"]
    {
        assert!(refused.contains(words), "{refused}");
    }
    let model_check = |wanted: &str| {
        let planned = bowline(home.path(), ["plan", "yarn-llama-2-7b-128k"]).expect(1).out;
        assert!(planned.lines().any(|line| line.starts_with("check ") && line.contains(wanted)), "{planned}");
    };
    model_check("FAILED: model: ");
    train("yarn-llama-2-7b-64k", &first, 0);
    model_check("ok: model: runs/yarn-llama-2-7b-64k/checkpoints/step-2");
    let resolved = home.path().join("runs/yarn-llama-2-7b-64k/resolved.toml");
    let longer = std::fs::read_to_string(&resolved).unwrap().replace("steps = 2\n", "steps = 3\n");
    std::fs::write(&resolved, longer).unwrap();
    let refused = train("yarn-llama-2-7b-128k", &then, 2);
    assert!(refused.contains("step-2 is at step 2 of 3"), "{refused}");

    // A model that has nothing to be extended further, and a recipe that comes out of its own result.
    let unscaled = [&then[..], &[format!("model.from={}", model.display())]].concat();
    let refused = train("yarn-llama-2-7b-128k", &unscaled, 2);
    assert!(refused.contains("positions: further: the model is not extended"), "{refused}");
    let own = tiny::one_stage(&text, 1).replace("tokenizer = \"bundled\"", "from = \"recipe:own.toml\"");
    let (before, shape) = own.split_once("[model.new]").unwrap();
    let (_, after) = shape.split_once("[optimizer]").unwrap();
    tiny::write(home.path(), "own.toml", &format!("{before}[optimizer]{after}"));
    let refused = bowline(home.path(), ["plan", "own.toml"]).expect(2).err;
    assert!(refused.contains("recipe:own.toml") && refused.contains("without end"), "{refused}");
}

#[test]
fn policies_left_to_the_planner_are_settled_and_written_down() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write(dir.path(), "recipe.toml", &tiny::one_stage(&tiny::write_text(dir.path()), 2));
    let auto = ["train", "recipe.toml", "--out", "run", "--device", "cpu", "--set", "memory.policy=auto"];
    let ran = bowline(dir.path(), auto).expect(0);
    assert!(ran.err.contains("memory: the planner chose"), "{ran}");
    let resolved = std::fs::read_to_string(dir.path().join("run/resolved.toml")).unwrap();
    assert_eq!(Recipe::parse(&resolved).unwrap().memory.policy, Policy::Recipe, "{resolved}");
    let mixed = ["--set", "memory.activations=layers"];
    let ran = bowline(dir.path(), auto.iter().chain(&mixed)).expect(2);
    assert!(ran.err.contains("memory.policy"), "{ran}");
}

#[test]
fn a_plan_is_printed_and_its_exit_code_says_whether_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let plan = |arguments: &[&str], code| bowline(dir.path(), ["plan"].iter().chain(arguments)).expect(code);
    let missing = plan(&["llama-2-7b-32k", "--json"], 1);
    let found = missing.json();
    for field in ["peak_bytes", "categories", "fits", "tokens_per_second", "hours", "advice", "checks", "mfu_causal"] {
        assert!(!found[field].is_null(), "{field}: {found}");
    }
    assert!(found["fits"] == true && missing.err.contains("source.books"), "{missing}");
    assert_eq!(missing.err.lines().count(), 1, "{missing}");
    let too_much = plan(&["llama-2-7b-32k", "--gpu", "rtx4090-24g"], 1);
    assert!(too_much.out.contains("does not fit") && too_much.out.contains("advice"), "{too_much}");
    assert!(plan(&["extend-4x"], 0).out.contains("check      ok: source.books"));
    plan(&["extend-4x", "--gpu", "tpu"], 2);
    plan(&["no-such-recipe"], 2);
    let chosen = plan(&["llama-2-7b-32k", "--gpu", "h200-141g", "--choose"], 0).out;
    let text = recipes_with(&chosen);
    assert!(Recipe::parse(&text).is_ok(), "{chosen}");
}

/// A recipe with the table in it.
fn recipes_with(memory: &str) -> String {
    format!("{}\n{memory}", tiny::recipe(Path::new("text")))
}

#[test]
fn the_list_of_recipes_says_what_each_takes() {
    let dir = tempfile::tempdir().unwrap();
    let listed = bowline(dir.path(), ["recipes", "--json"]).expect(0).json();
    let rows = listed.as_array().unwrap();
    let yarn = rows.iter().find(|row| row["name"] == "yarn-llama-2-7b-64k").unwrap();
    assert_eq!((yarn["method"].as_str(), yarn["context"].as_u64()), (Some("yarn:factor=16"), Some(65_536)));
    assert!(yarn["hours"].as_f64().unwrap() > 1.0 && yarn["fits"] == true, "{yarn}");
    assert!(yarn["expected"].as_array().unwrap().len() >= 3, "{yarn}");
    let page = bowline(dir.path(), ["recipes", "--gpu", "h100-80g"]).expect(0).out;
    assert_eq!(page.lines().take_while(|line| !line.is_empty()).count(), rows.len() + 1, "{page}");
    assert!(page.contains("qlora-7b-16k") && page.contains("Proof-pile, P2 at 65536"), "{page}");
}
