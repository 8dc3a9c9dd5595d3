//! From a recipe to a finished run folder.

use std::path::{Path, PathBuf};

use rope_scaling::Precision;
use serde_json::{Value, json};
use tch::Device;

use eval::report::{Provenance, Report, SCHEMA_VERSION};

use super::checkpoint::{Store, read_state};
use super::forecast::Forecast;
use super::metrics::read_metrics;
use super::persist::Resumed;
use super::sources::{TextSources, overlap_page};
use super::trainer::{Resume, Trainer};
use crate::config::layers::{RECIPE_LIMIT, is_plain_name};
use crate::config::{Adapter, NewFamily, NewModel, Policy, Recipe};
use crate::describe::{spectrum, training_curve, variant_of};
use crate::error::Failure;
use crate::json::read_capped;
use crate::model::gguf::GgufCheckpoint;
use crate::model::peft::BaseModel;
use crate::model::{
    AdaptedCount, Llama, LoadOptions, ModelConfig, ModelFolder, Positions, backend_on, first_device, known_shape,
};
use crate::plan::{Card, chosen_memory};
use crate::runtime::device::{device, kind};
use crate::runtime::provenance::Recorder;
use crate::runtime::run_dir::RunDir;
use crate::runtime::say;
use crate::runtime::signals::StopFlag;
use crate::tokenizer::Tokenizer;

/// Standard deviation of new matrices where a recipe says nothing, as in GPT-2 and LLaMA code bases.
const DEVIATION: f64 = 0.02;

/// What precedes the name of a recipe whose result a model is.
pub const RESULT_OF: &str = "recipe:";

/// Largest vocabulary that a new model may get.
const LARGEST_VOCAB: usize = 1 << 20;

/// Where and how a recipe is run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Run folder.
    pub out: PathBuf,
    /// Where to go on.
    pub resume: Resume,
    /// Keys of the recipe, or heads of keys, that may differ from the checkpoint's; `data` for the text.
    pub allow_changes: Vec<String>,
    /// Device by name; none chooses.
    pub device: Option<String>,
    /// Whether to stop before the first step.
    pub dry_run: bool,
}

/// Runs a recipe; returns its run folder.
///
/// # Errors
///
/// As recipe, data, model and training say; exit code 5 when a signal stopped it.
pub fn train(recipe: Recipe, options: &RunOptions, stop: &StopFlag) -> Result<PathBuf, Failure> {
    let device = device(options.device.as_deref())?;
    let first = recipe.adapter.as_ref().map_or(device, |adapter| first_device(adapter, device));
    let load = LoadOptions {
        device: first,
        kind: Some(kind(recipe.model.dtype)),
        backend: backend_on(device, &recipe.model.backend)?,
        precision: Precision::HubCompatible,
    };
    let model = match (&recipe.model.from, &recipe.model.new) {
        (Some(from), _) => ModelFolder::load(&start_of(from)?, load)?,
        (None, Some(shape)) => new_model(&recipe, shape, load)?,
        (None, None) => return Err(Failure::config("model: give `from` or `new`")),
    };
    let model = adapted(&recipe, model, device)?;
    train_model(recipe, model, options, stop)?;
    Ok(options.out.clone())
}

/// What a recipe's model is loaded by: the last checkpoint of a finished run for `recipe:NAME`, anything else as it is.
///
/// # Errors
///
/// When that recipe has no run in `runs/NAME`, or one that is not at its end.
pub fn start_of(from: &str) -> Result<String, Failure> {
    let Some(name) = from.strip_prefix(RESULT_OF) else { return Ok(from.to_owned()) };
    if !is_plain_name(name) {
        return Err(Failure::config(format!("model.from: {from}: {name:?} is not the name of a recipe")));
    }
    let run = Path::new("runs").join(name);
    let wrong = |what: String| {
        Failure::config(format!(
            "model.from: {from}: {what}; run `bowline train {name}` to its end first, or name the model's folder by --set \
             model.from=FOLDER"
        ))
    };
    let newest = Store::new(run.join("checkpoints"), usize::MAX).newest();
    let newest = newest.ok_or_else(|| wrong(format!("{} holds no checkpoint", run.display())))?;
    let resolved = run.join("resolved.toml");
    let text = read_capped(&resolved, RECIPE_LIMIT)?;
    let text = String::from_utf8(text).map_err(|_| Failure::data(format!("{}: is not UTF-8", resolved.display())))?;
    let recipe = Recipe::parse(&text).map_err(|failure| failure.within_lines(&format!("{}: ", resolved.display())))?;
    let (step, steps) = (read_state(&newest)?.step, recipe.steps());
    if step < steps {
        return Err(wrong(format!("{} is at step {step} of {steps}", newest.display())));
    }
    Ok(newest.display().to_string())
}

/// The model with the adapters that a recipe asks for, on `device`.
fn adapted(recipe: &Recipe, model: ModelFolder, device: Device) -> Result<ModelFolder, Failure> {
    let Some(adapter) = &recipe.adapter else { return Ok(model) };
    let base = BaseModel::of(&model.id, &model.dir)?;
    model.adapted(adapter, recipe.seed, (base, device))
}

/// Trains a loaded model by a recipe; gives it back trained, with the adapters that the recipe asks for.
///
/// # Errors
///
/// As [`train`].
pub fn train_model(
    recipe: Recipe,
    mut model: ModelFolder,
    options: &RunOptions,
    stop: &StopFlag,
) -> Result<ModelFolder, Failure> {
    if model.llama.adapter.is_none() {
        let device = model.device();
        model = adapted(&recipe, model, device)?;
    }
    let model = model.with_positions(recipe.positions.as_ref())?;
    check_lengths(&recipe, &model.llama.config.positions)?;
    let recipe = settled(recipe, &model)?;
    let run = RunDir::open(&options.out)?;
    let mut recorder = Recorder::new();
    recorder.seeds.insert("run".into(), recipe.seed);
    recorder.backend = Some(model.llama.backend_record(recipe.longest()));
    let sources = TextSources::open(&recipe, &model, &run)?;
    recorder.hashes.insert("data".into(), sources.fingerprint());
    recorder.hashes.insert("tokenizer".into(), model.tokenizer()?.hash().to_owned());
    let account = summary(&recipe, &model, &sources) + &overlap_page(&recipe)?;
    say!("{}", account.trim_end());
    let provenance = recorder.provenance(model.device(), model.kind(), json!(recipe));
    let (label, resolved) = (recipe.name.clone(), recipe.clone());
    let forecast = Forecast::new(&recipe, &model);
    let mut trainer = Trainer::new(recipe, model, sources, run.path())?;
    trainer.check_stages()?;
    if options.dry_run {
        return Ok(trainer.into_model());
    }
    let resumed = trainer.resume(&options.resume, &options.allow_changes)?;
    trainer.check_room()?;
    // Only now: a run that is refused leaves the folder's own account of itself.
    run.write_toml("resolved.toml", &resolved)?;
    run.write_json("provenance.json", &provenance)?;
    run.log(account.trim_end());
    if let Some(Resumed { from, other_machine }) = resumed {
        let place = format!("{label}: goes on from {} (step {})", from.display(), trainer.step());
        for line in [Some(place), other_machine].into_iter().flatten() {
            say!("{line}");
            run.log(&line);
        }
    }
    trainer.run(&run, stop, &label)?;
    if let Some(line) = forecast.account(&run)? {
        say!("{label}: {line}");
        run.log(&line);
    }
    let tokens = trainer.tokens();
    let model = trainer.into_model();
    let provenance = recorder.provenance(model.device(), model.kind(), json!(resolved));
    run.write_json("provenance.json", &provenance)?;
    report(&run, &model, &label, provenance, tokens)?;
    Ok(model)
}

/// The recipe with its policies of memory chosen, if it leaves them to the planner.
fn settled(mut recipe: Recipe, model: &ModelFolder) -> Result<Recipe, Failure> {
    if recipe.memory.policy == Policy::Recipe {
        return Ok(recipe);
    }
    let card = Card::at(model.device());
    let Some(memory) = chosen_memory(&recipe, &model.llama.config, &card) else {
        return Err(Failure::config(format!(
            "memory.policy: no policy makes the run fit the {:.1} GB of {}; `bowline plan` says what is missing",
            card.bytes as f64 / 1e9,
            card.name
        )));
    };
    recipe.memory = memory;
    let chosen = toml::to_string(&memory).map_err(|error| Failure::config(error.to_string()))?;
    say!("memory: the planner chose {}", chosen.trim_end().replace('\n', ", "));
    Ok(recipe)
}

/// That every stage fits into the context of a model.
///
/// # Errors
///
/// With both lengths.
pub fn check_lengths(recipe: &Recipe, positions: &Positions) -> Result<(), Failure> {
    let (longest, context) = (recipe.longest(), positions.context());
    if let Some(skip) = recipe.stages.iter().filter_map(|stage| stage.skip_positions).find(|s| s.target > context) {
        return Err(Failure::config(format!(
            "stage.skip_positions.target: {} is longer than the model's context of {context} \
             (max_position_embeddings); change its [positions] first",
            skip.target
        )));
    }
    let skips = recipe.stages.iter().any(|stage| stage.skip_positions.is_some());
    if skips && matches!(positions, Positions::Alibi(_)) {
        return Err(Failure::config("stage.skip_positions: needs rotary positions, and the model has none"));
    }
    match longest > context {
        false => Ok(()),
        true => Err(Failure::config(format!(
            "stage.length: {longest} is longer than the model's context of {context} (max_position_embeddings); change \
             its [positions] first"
        ))),
    }
}

/// Writes the run's `report.json`: the model as it is now, and its training curve.
fn report(run: &RunDir, model: &ModelFolder, name: &str, provenance: Provenance, tokens: u64) -> Result<(), Failure> {
    let mut variant = variant_of(model, name, "as trained by this run", &model.id);
    variant.trained_tokens = tokens;
    let report = Report {
        schema_version: SCHEMA_VERSION,
        provenance,
        spectra: spectrum(model, name, variant.trained_context).into_iter().collect(),
        variants: vec![variant],
        rows: Vec::new(),
        position_loss: Vec::new(),
        document_loss: Vec::new(),
        training: vec![training_curve(name, &read_metrics(run.path())?)],
        costs: Vec::new(),
    };
    report.save(&run.join("report.json")).map_err(|error| Failure::data(error.to_string()))
}

/// A model with random weights and the recipe's tokenizer.
fn new_model(recipe: &Recipe, shape: &NewModel, load: LoadOptions) -> Result<ModelFolder, Failure> {
    let (dir, tokenizer) = new_tokenizer(recipe)?;
    let config = ModelConfig::from_hf(&config_of(shape, Vocabulary::of(&tokenizer)))?;
    let kind = load.kind.unwrap_or(tch::Kind::Float);
    let llama = Llama::new_random(config, load.backend, recipe.seed, kind, load.device)?;
    let (id, tokenizer, precision) = (recipe.name.clone(), Some(tokenizer), load.precision);
    Ok(ModelFolder { id, dir, llama, tokenizer, precision, extrapolation: None, chunk: None })
}

/// The tokenizer of a folder, or of a GGUF file.
fn tokenizer_at(place: &Path) -> Result<Tokenizer, Failure> {
    if place.is_file() {
        let missing = || Failure::data(format!("{}: there is no vocabulary in it", place.display()));
        return GgufCheckpoint::open(place)?.tokenizer(LARGEST_VOCAB)?.ok_or_else(missing);
    }
    Ok(Tokenizer::from_file(&place.join("tokenizer.json"), LARGEST_VOCAB)?)
}

/// The configuration of the new model that a recipe describes.
///
/// # Errors
///
/// When it describes none, or its tokenizer cannot be read.
pub fn new_config(recipe: &Recipe) -> Result<ModelConfig, Failure> {
    let shape = recipe.model.new.as_ref().ok_or_else(|| Failure::config("model: give `from` or `new`"))?;
    let words = new_tokenizer(recipe).map(|(_, tokenizer)| Vocabulary::of(&tokenizer));
    let known = |failure| known_vocabulary(recipe.model.tokenizer.as_deref()).ok_or(failure);
    ModelConfig::from_hf(&config_of(shape, words.or_else(known)?))
}

/// What a new model takes over from its tokenizer.
#[derive(Debug, Clone, Copy)]
struct Vocabulary {
    size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Vocabulary {
    fn of(tokenizer: &Tokenizer) -> Self {
        Self { size: tokenizer.vocab_size(), bos: tokenizer.bos(), eos: tokenizer.eos() }
    }
}

/// The vocabulary of a model that is known by name, for planning where its tokenizer is not at hand.
fn known_vocabulary(name: Option<&str>) -> Option<Vocabulary> {
    let config = known_shape(name?)?.ok()?;
    Some(Vocabulary { size: config.vocab, bos: config.bos, eos: config.eos.first().copied() })
}

/// The tokenizer of a new model and its folder.
fn new_tokenizer(recipe: &Recipe) -> Result<(PathBuf, Tokenizer), Failure> {
    let dir = tokenizer_folder(recipe.model.tokenizer.as_deref().unwrap_or_default())?;
    let tokenizer = tokenizer_at(&dir)?;
    Ok((dir, tokenizer))
}

/// The folder of a tokenizer: `bundled`, or a model as everywhere else.
fn tokenizer_folder(place: &str) -> Result<PathBuf, Failure> {
    match place {
        crate::hub::BUNDLED => Ok(crate::assets::tokenizer()),
        place => match PathBuf::from(place) {
            folder if folder.join("tokenizer.json").is_file() => Ok(folder),
            _ => Ok(crate::hub::resolve(place)?.dir),
        },
    }
}

/// The `config.json` of a new model.
fn config_of(shape: &NewModel, words: Vocabulary) -> Value {
    match shape.family {
        NewFamily::Llama => llama_config(shape, words),
        NewFamily::Btlm => btlm_config(shape, words),
    }
}

fn btlm_config(shape: &NewModel, words: Vocabulary) -> Value {
    let mup = shape.mup.unwrap_or_default();
    json!({
        "architectures": ["BTLMLMHeadModel"],
        "model_type": "btlm",
        "activation_function": "swiglu",
        "n_embd": shape.hidden_size,
        "n_inner": shape.intermediate_size,
        "n_layer": shape.num_hidden_layers,
        "n_head": shape.num_attention_heads,
        "n_positions": shape.max_position_embeddings,
        "layer_norm_epsilon": 1e-5,
        "initializer_range": shape.initializer_range.unwrap_or(DEVIATION),
        "position_embedding_type": "alibi",
        "alibi_scaling": null,
        "mup_width_scale": mup.width_scale,
        "mup_embeddings_scale": mup.embeddings_scale,
        "mup_output_alpha": mup.output_alpha,
        "mup_scale_qk_dot_by_d": mup.scale_by_d,
        "tie_word_embeddings": shape.tie_word_embeddings,
        "vocab_size": words.size,
        "bos_token_id": words.bos,
        "eos_token_id": words.eos,
        "use_cache": true,
    })
}

fn llama_config(shape: &NewModel, words: Vocabulary) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "max_position_embeddings": shape.max_position_embeddings,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": 1e-5,
        "initializer_range": shape.initializer_range.unwrap_or(DEVIATION),
        "tie_word_embeddings": shape.tie_word_embeddings,
        "attention_bias": false,
        "mlp_bias": false,
        "vocab_size": words.size,
        "bos_token_id": words.bos,
        "eos_token_id": words.eos,
        "use_cache": true,
    })
}

fn summary(recipe: &Recipe, model: &ModelFolder, sources: &TextSources) -> String {
    let config = &model.llama.config;
    let mut page = format!(
        "{}: {:.2} M parameters, {} steps, {} tokens, context {}\n",
        recipe.name,
        config.parameter_count() as f64 / 1e6,
        recipe.steps(),
        recipe.tokens(),
        config.positions.context()
    );
    if let Some(adapter) = &recipe.adapter {
        page += &adapter_account(adapter, config);
    }
    page += &model.llama.attention_account(recipe.longest());
    page += &sources.page();
    page
}

/// One line on what of a model is trained under an adapter, and what it is trained on.
pub fn adapter_account(adapter: &Adapter, config: &ModelConfig) -> String {
    let count = AdaptedCount::of(config, adapter);
    let millions = |n: u64| n as f64 / 1e6;
    let mut line = format!(
        "adapter: rank {} on {}, {:.3} M parameters",
        adapter.rank,
        adapter.targets.join(", "),
        millions(count.low_rank)
    );
    if count.whole > 0 {
        line += &format!("; {:.3} M of the base are trained whole", millions(count.whole));
    }
    if count.nf4_bytes > 0 {
        line += &format!("; the base's matrices take {:.1} MB in NF4", millions(count.nf4_bytes));
    }
    line + "\n"
}
