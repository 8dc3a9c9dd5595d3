//! Adapters and the variants of training: what is trained and what is not, going on, merging, PEFT's format in both
//! directions, NF4 bases, shifted sparse attention, skipped positions, LongCE. The model has random weights.

use std::path::{Path, PathBuf};

use bowline::config::Recipe;
use bowline::error::Failure;
use bowline::model::ModelFolder;
use bowline::model::weights::Checkpoint;
use bowline::runtime::signals::StopFlag;
use bowline::train::{Resume, RunOptions, read_metrics, train};
use serde_json::Value;
use tch::Kind;
use tempfile::TempDir;

use super::support::golden::{self, case, edit_json, nll};
use super::support::program::bowline;
use super::support::{copy_folder, files, json, numbers, tiny};

/// What a token's NLL may differ by where float32 sums are formed in another order.
const TOLERANCE: f64 = 2e-4;

/// LoRA on some projections, with the norms, some of the input dropped.
const LORA: &str = "[adapter]\nrank = 4\nalpha = 8\ndropout = 0.1\ntargets = ['q_proj', 'v_proj', 'down_proj']\n\
                    also = ['norms']\n";
/// QLoRA on every projection, with the embedding.
const QLORA: &str = "[adapter]\nrank = 2\nalpha = 4\ntargets = ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', \
                     'up_proj', 'down_proj']\nalso = ['embedding']\nbase = 'nf4'\n";

/// A folder with text, for runs of one recipe that starts from the tiny model.
struct Bench {
    home: TempDir,
    recipe: String,
}

impl Bench {
    /// Four steps in two passes each; `tables` and `stage` are lines of the recipe.
    fn new(tables: &str, stage: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let text = tiny::write_text(home.path());
        let recipe = format!(
            "name = 'variant'\nseed = 5\n[model]\nfrom = {:?}\nbackend = 'libtorch'\n[optimizer]\nlearning_rate = 2e-2\n\
             schedule = 'constant'\nclip_norm = 1.0\nweight_decay = 0.1\n{tables}\n[[source]]\nname = 'text'\n\
             paths = [{text:?}]\n[[stage]]\nlength = 32\nbatch = 4\nmicro_batch = 2\nsteps = 4\n{stage}\n[checkpoint]\n\
             every = 1\nkeep = 9\n",
            tiny::model()
        );
        Self { home, recipe }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn run(&self, out: &str, resume: Resume, settings: &[&str]) -> Result<PathBuf, Failure> {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let recipe = Recipe::layered(&self.recipe, &settings)?;
        let device = Some("cpu".to_owned());
        let options = RunOptions { out: self.path(out), resume, allow_changes: Vec::new(), device, dry_run: false };
        train(recipe, &options, &StopFlag::default())
    }
}

fn step(run: &Path, number: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{number}"))
}

fn losses(run: &Path) -> Vec<u64> {
    read_metrics(run).unwrap().iter().map(|metrics| metrics.loss.to_bits()).collect()
}

fn load(folder: &Path) -> ModelFolder {
    golden::load(folder, "libtorch", Kind::Float)
}

/// Some ids that the tiny model knows.
fn tokens() -> Vec<u32> {
    (0..60).map(|n| 3 + n * n * 7 % 500).collect()
}

fn furthest(one: &[f64], other: &[f64]) -> f64 {
    assert_eq!(one.len(), other.len());
    one.iter()
        .zip(other)
        .fold(0.0, |most, (a, b)| f64::max(most, if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() }))
}

/// That a recipe trains, and gives the same bits when it goes on from its second step.
fn goes_on_bitwise(bench: &Bench, weights: &str) -> PathBuf {
    let straight = bench.run("straight", Resume::Never, &[]).unwrap();
    assert_eq!(losses(&straight).len(), 4);
    let resumed = bench.run("resumed", Resume::From(step(&straight, 2)), &[]).unwrap();
    assert_eq!(losses(&resumed), losses(&straight)[2..]);
    for file in [weights, "optimizer/model.safetensors"] {
        let read = |run: &Path| std::fs::read(step(run, 4).join(file)).unwrap();
        assert!(read(&straight) == read(&resumed), "{file}");
    }
    straight
}

/// That the merged model which is exported reads as the adapted one, and not as its base.
fn merges(bench: &Bench, run: &Path) {
    let end = step(run, 4);
    let exported = bowline(bench.home.path(), ["export", run.to_str().unwrap(), "merged"]).expect(0);
    assert!(exported.out.contains("merged"));
    assert!(!bench.path("merged/adapter_config.json").exists() && bench.path("merged/model.safetensors").is_file());
    let (adapted, merged) = (nll(&load(&end), &tokens()), nll(&load(&bench.path("merged")), &tokens()));
    assert!(furthest(&adapted, &merged) < TOLERANCE, "{}", furthest(&adapted, &merged));
    assert!(furthest(&adapted, &nll(&load(tiny::model()), &tokens())) > 20.0 * TOLERANCE);
}

#[test]
fn an_adapter_trains_goes_on_bitwise_and_merges() {
    let bench = Bench::new(LORA, "");
    let run = goes_on_bitwise(&bench, "adapter_model.safetensors");
    let folder = step(&run, 4);
    assert!(!folder.join("model.safetensors").exists(), "the base is not stored: {:?}", files(&folder));
    let stored = Checkpoint::open_file(&folder, "adapter_model.safetensors").unwrap();
    let whole = stored.names().filter(|name| !name.contains(".lora_")).collect::<Vec<_>>();
    let norms = ["layers.0.input_layernorm", "layers.0.post_attention_layernorm", "norm"];
    assert_eq!(whole, norms.map(|norm| format!("base_model.model.model.{norm}.weight")));
    assert_eq!(stored.names().count(), 3 + 2 * 3);
    let state = Checkpoint::open(&folder.join("optimizer")).unwrap();
    assert_eq!(state.names().count(), 2 * stored.names().count(), "state for what is trained, and nothing else");
    merges(&bench, &run);
    // Another draw of what is dropped is another run.
    let other = bench.run("other", Resume::Never, &["adapter.dropout=0.3"]).unwrap();
    assert_ne!(losses(&other)[1..], losses(&run)[1..]);
    // Scored by the program as any model.
    tiny::write(bench.home.path(), "score.txt", &tiny::text(78, 40));
    bowline(bench.home.path(), ["score", folder.to_str().unwrap(), "--device", "cpu", "--text", "score.txt"]).expect(0);
}

#[test]
fn a_base_in_four_bits_trains_goes_on_bitwise_and_merges() {
    let bench = Bench::new(QLORA, "");
    let run = goes_on_bitwise(&bench, "adapter_model.safetensors");
    merges(&bench, &run);
    let folder = load(&step(&run, 4));
    let quantised =
        folder.llama.blocks.iter().flat_map(|block| block.linears()).all(|(_, linear)| linear.weight.full().is_none());
    assert!(quantised && folder.llama.head.is_none());
    // The same adapter on the full base is another model.
    let full = bench.path("full");
    copy_folder(&step(&run, 4), &full);
    edit_json(&full.join("adapter_base.json"), |beside| beside["base"] = "full".into());
    assert!(furthest(&nll(&load(&full), &tokens()), &nll(&folder, &tokens())) > TOLERANCE);
}

#[test]
fn peft_adapters_are_read_as_peft_reads_them() {
    for name in ["attention", "plus"] {
        let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lora").join(name);
        let record = json(&made.join("nll.json"));
        let (base, folder) = (case(record["base"].as_str().unwrap()).folder(), tempfile::tempdir().unwrap());
        copy_folder(&made, folder.path());
        let settings = folder.path().join("adapter_config.json");
        edit_json(&settings, |config| config["base_model_name_or_path"] = base.path().to_str().into());
        let (ids, expected) = (super::support::ids(&record["tokens"]), numbers(&record["nll"]));
        let mut model = load(folder.path());
        let far = furthest(&nll(&model, &ids), &expected);
        assert!(far < TOLERANCE, "{name}: {far}");
        model.llama.merge();
        assert!(furthest(&nll(&model, &ids), &expected) < TOLERANCE, "{name}, merged");
        assert!(furthest(&nll(&load(base.path()), &ids), &expected) > 20.0 * TOLERANCE, "{name}: shows nothing");
        // A wrong scale is seen.
        edit_json(&settings, |config| config["lora_alpha"] = 8.into());
        assert!(furthest(&nll(&load(folder.path()), &ids), &expected) > TOLERANCE, "{name}");
    }
}

#[test]
fn what_we_write_has_the_keys_and_names_of_peft() {
    let bench = Bench::new(QLORA, "");
    let run = bench.run("run", Resume::Never, &["stage.0.steps=1"]).unwrap();
    let config = json(&step(&run, 1).join("adapter_config.json"));
    let written = config.as_object().unwrap();
    let golden = json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/lora/plus/adapter_config.json"));
    assert!(written.keys().all(|key| golden.get(key).is_some()), "{written:?}");
    assert_eq!((&config["r"], &config["lora_alpha"]), (&Value::from(2), &Value::from(4)));
    assert_eq!(config["modules_to_save"], serde_json::json!(["embed_tokens"]));
    assert_eq!(config["ensure_weight_tying"], Value::from(true));
    let stored = Checkpoint::open_file(&step(&run, 1), "adapter_model.safetensors").unwrap();
    // A tied head lies beside the embedding that it is, as PEFT has it.
    for name in
        ["lm_head", "model.embed_tokens", "model.layers.0.mlp.up_proj.lora_A", "model.layers.0.self_attn.q_proj.lora_B"]
    {
        assert!(stored.shape(&format!("base_model.model.{name}.weight")).is_some(), "{name}");
    }
}

#[test]
fn a_mistaken_adapter_is_a_sentence() {
    let bench = Bench::new(LORA, "");
    let run = bench.run("run", Resume::Never, &["stage.0.steps=1"]).unwrap();
    let refused = |edit: &dyn Fn(&Path), words: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&step(&run, 1), folder.path());
        edit(folder.path());
        let ran = bowline(folder.path(), ["inspect", "."]);
        let ran = if ran.code == Some(0) { bowline(folder.path(), ["export", ".", "out"]) } else { ran };
        assert!(matches!(ran.code, Some(2 | 3)), "{words:?}: {ran}");
        assert!(words.iter().all(|word| ran.err.contains(word)) && !ran.err.contains("panicked"), "{words:?}: {ran}");
    };
    let settings = |field: &'static str, value: Value| {
        move |folder: &Path| edit_json(&folder.join("adapter_config.json"), |config| config[field] = value.clone())
    };
    refused(&settings("r", 0.into()), &["adapter_config.json", "rank", "is 0"]);
    refused(&settings("r", 5.into()), &["lora_A", "[4, 32]"]);
    refused(&settings("use_dora", true.into()), &["use_dora", "not supported"]);
    refused(&settings("peft_type", "IA3".into()), &["peft_type", "IA3"]);
    refused(&settings("modules_to_save", serde_json::json!(["input_layernorm"])), &["modules_to_save", "norms"]);
    refused(&settings("target_modules", "q_proj|v_proj".into()), &["target_modules", "q_proj|v_proj"]);
    refused(&settings("base_model_name_or_path", "no/such".into()), &["base_model_name_or_path", "no/such"]);
    refused(&settings("base_model_name_or_path", ".".into()), &["without end"]);
    let other = tiny::kept("other-base");
    tiny::write_model(&other);
    let weights = other.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let elsewhere = other.to_str().unwrap().to_owned();
    refused(&settings("base_model_name_or_path", elsewhere.into()), &["not those that the adapter was trained on"]);
    refused(
        &|folder: &Path| std::fs::remove_file(folder.join("adapter_model.safetensors")).unwrap(),
        &["adapter_model"],
    );
    let changed = bench.run("run", Resume::Auto, &["adapter.rank=5", "stage.0.steps=2"]).unwrap_err().to_string();
    assert!(changed.contains("adapter.rank: 5 in the recipe, 4 in the checkpoint"), "{changed}");
}

#[test]
fn an_adapter_can_be_trained_on_an_adapter() {
    let bench = Bench::new(LORA, "");
    let first = bench.run("first", Resume::Never, &["stage.0.steps=2"]).unwrap();
    let from = format!("model.from={:?}", step(&first, 2).display().to_string());
    let second =
        bench.run("second", Resume::Never, &[&from, "stage.0.steps=1", "optimizer.learning_rate=1e-9"]).unwrap();
    let (one, two) = (nll(&load(&step(&first, 2)), &tokens()), nll(&load(&step(&second, 1)), &tokens()));
    assert!(furthest(&one, &two) < TOLERANCE, "{}", furthest(&one, &two));
}

#[test]
fn variants_of_training_go_on_bitwise_and_differ_from_plain_training() {
    let bench = Bench::new("", "");
    let plain = bench.run("plain", Resume::Never, &[]).unwrap();
    let long_ce = "[loss]\nkind = 'long-ce'\nshort_context = 8\nstride = 4\nclip = 3.0\n";
    let stages = [
        ("", "shifted_sparse = 0.25"),
        ("", "shifted_sparse = 0.25\ndocument_mask = true"),
        ("", "skip_positions = { target = 128 }"),
        ("", "skip_positions = { target = 100, chunks = 5 }\nshifted_sparse = 0.5"),
        (long_ce, ""),
        (long_ce, "document_mask = true"),
    ];
    for (tables, stage) in stages {
        let bench = Bench::new(tables, stage);
        let run = goes_on_bitwise(&bench, "model.safetensors");
        let metrics = read_metrics(&run).unwrap();
        assert!(metrics.iter().all(|m| m.loss.is_finite() && m.gradient_norm > 0.0), "{tables}{stage}");
        assert_ne!(losses(&run), losses(&plain), "{tables}{stage}");
    }
}

#[test]
fn neutral_variants_are_plain_training() {
    let losses_of = |tables: &str, stage: &str| {
        let bench = Bench::new(tables, stage);
        losses(&bench.run("run", Resume::Never, &[]).unwrap())
    };
    let plain = losses_of("", "");
    assert_eq!(losses_of("", "skip_positions = { target = 32, chunks = 4 }"), plain, "no room to skip");
    let adapted = losses_of("[adapter]\nrank = 2\nalpha = 1\ntargets = ['q_proj']\n", "");
    assert_eq!(adapted[0], plain[0], "a new adapter changes nothing");
    assert_ne!(adapted[3], plain[3]);
}

#[test]
fn skipped_positions_are_those_of_the_same_tokens_far_apart() {
    use attention::Mask;
    use bowline::model::{Pass, PlanTensors};
    use tch::Tensor;

    let case = case("default-mha");
    let model = case.load("libtorch");
    let plan = model.encoding().plan(192, model.precision).unwrap();
    let plan = PlanTensors::new(&plan, model.device());
    // Two sequences of six tokens, the second with a skip; the twin reads each alone, keys and queries rotated one by one.
    let lists: [Vec<u32>; 2] = [(0..6).collect(), vec![0, 1, 100, 101, 102, 191]];
    let ids: Vec<i64> = case.tokens[..12].iter().map(|&id| i64::from(id)).collect();
    let hidden = |plan: &PlanTensors, ids: &[i64], rows: i64| {
        let pass = Pass { plan, offset: 0, mask: Mask::Causal { offset: 0 } };
        model.llama.hidden(&Tensor::from_slice(ids).view([rows, -1]), &pass, None).unwrap()
    };
    let moved = plan.at(&[&lists[0], &lists[1]]).unwrap();
    let found = hidden(&moved, &ids, 2);
    // Positions of its own that are the ordinary ones change nothing.
    assert!(found.narrow(0, 0, 1).allclose(&hidden(&plan, &ids[..6], 1), 1e-5, 1e-5, false));
    let alone = hidden(&plan.at(&[&lists[1]]).unwrap(), &ids[6..], 1);
    assert!(found.narrow(0, 1, 1).allclose(&alone, 1e-5, 1e-5, false));
    assert!(!alone.allclose(&hidden(&plan, &ids[6..], 1), 1e-3, 1e-3, false), "a skip that shows nothing");
    // Only distances count: the same list moved by ten is the same model.
    let later: Vec<u32> = vec![10, 11, 110, 111, 112, 201 - 10];
    let shifted: Vec<u32> = vec![0, 1, 100, 101, 102, 181];
    let (one, other) = (plan.at(&[&later]).unwrap(), plan.at(&[&shifted]).unwrap());
    assert!(hidden(&one, &ids[6..], 1).allclose(&hidden(&other, &ids[6..], 1), 1e-4, 1e-4, false));
    assert!(plan.at(&[&[0, 192]]).is_err());
    // A position far out is rotated as a table of that length rotates it.
    let x = Tensor::randn([1, 4, 6, 12], (Kind::Float, tch::Device::Cpu));
    let twin = plan.rotated_at(&x, &[0, 1, 100, 101, 102, 191]);
    assert!(plan.at(&[&lists[1]]).unwrap().rotated(&x, 0).equal(&twin));
}

/// Gradients of a sum of all parameters of a model, by a sum of hidden states under a plan.
fn gradients(model: &ModelFolder, plan: &bowline::model::PlanTensors, ids: &[i64], rows: i64) -> Vec<tch::Tensor> {
    let pass = bowline::model::Pass { plan, offset: 0, mask: attention::Mask::Causal { offset: 0 } };
    let parameters = model.llama.parameters();
    for (_, parameter) in &parameters {
        let mut parameter = parameter.set_requires_grad(true);
        parameter.zero_grad();
    }
    let hidden = model.llama.hidden(&tch::Tensor::from_slice(ids).view([rows, -1]), &pass, None).unwrap();
    let weights = tch::Tensor::arange(hidden.size()[2], (Kind::Float, tch::Device::Cpu)).sin();
    (hidden * weights).sum(Kind::Float).backward();
    let grads = parameters.iter().map(|(_, parameter)| parameter.grad());
    grads.filter(tch::Tensor::defined).map(|grad| grad.copy()).collect()
}

#[test]
fn gradients_of_skipped_positions_are_the_sums_of_sequences_read_alone() {
    let case = case("default-mha");
    for backend in ["libtorch", "tiled"] {
        let model = case.load(backend);
        let plan = model.encoding().plan(192, model.precision).unwrap();
        let plan = bowline::model::PlanTensors::new(&plan, model.device());
        let lists: [Vec<u32>; 2] = [vec![0, 7, 8, 90, 91, 92], vec![0, 1, 2, 3, 150, 151]];
        let ids: Vec<i64> = case.tokens[..12].iter().map(|&id| i64::from(id)).collect();
        let both = gradients(&model, &plan.at(&[&lists[0], &lists[1]]).unwrap(), &ids, 2);
        let first = gradients(&model, &plan.at(&[&lists[0]]).unwrap(), &ids[..6], 1);
        let second = gradients(&model, &plan.at(&[&lists[1]]).unwrap(), &ids[6..], 1);
        let plain = gradients(&model, &plan, &ids, 2);
        assert!(both.len() >= 20 && both.len() == first.len());
        let mut moved = false;
        for (at, both) in both.iter().enumerate() {
            assert!(both.allclose(&(&first[at] + &second[at]), 1e-3, 1e-4, false), "{backend}: parameter {at}");
            moved |= !both.allclose(&plain[at], 1e-2, 1e-2, false);
        }
        assert!(moved, "{backend}: skips that show nothing");
    }
}
