//! Recipes, text and models that take milliseconds. The tokenizer is the bundled one.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use attention::Backend;
use bowline::model::{Llama, ModelConfig, ModelFolder};
use bowline::tokenizer::Tokenizer;
use rope_scaling::Precision;
use serde_json::json;
use tch::{Device, Kind};
use testkit::SplitMix64;

/// Words of the made text.
const WORDS: [&str; 24] = [
    "the", "ship", "came", "into", "harbour", "at", "dawn", "and", "rope", "was", "made", "fast", "with", "a", "knot",
    "that", "holds", "under", "load", "yet", "opens", "when", "it", "must",
];

/// Sentences of `words` words in all; another seed, other sentences.
pub(crate) fn text(seed: u64, words: usize) -> String {
    let mut random = SplitMix64::new(seed);
    let mut text = String::new();
    for place in 1..=words {
        let end = if place % 9 == 0 { ".\n" } else { " " };
        write!(text, "{}{end}", WORDS[random.below(WORDS.len())]).unwrap();
    }
    text
}

/// Puts three documents of made text into `dir/text`; returns that folder.
pub(crate) fn write_text(dir: &Path) -> PathBuf {
    let folder = dir.join("text");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..3 {
        std::fs::write(folder.join(format!("{number}.txt")), text(number, 400)).unwrap();
    }
    folder
}

/// A recipe of eight steps in two stages, text by path and made text, whose documents do not see one another in the
/// second stage. A checkpoint after every second step.
pub(crate) fn recipe(text: &Path) -> String {
    format!(
        r#"name = "tiny"
seed = 7

[model]
tokenizer = "bundled"

[model.new]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
max_position_embeddings = 128
rope_theta = 10000.0
tie_word_embeddings = true

[optimizer]
learning_rate = 1e-2
warmup_steps = 2
schedule = "cosine"
final_fraction = 0.1
weight_decay = 0.1
clip_norm = 1.0

[[source]]
name = "text"
paths = [{text:?}]

[[source]]
name = "copy"
kind = "repeat"

[[source]]
name = "keys"
kind = "keys"

[[stage]]
length = 32
batch = 4
steps = 5
mix = {{ text = 0.5, copy = 0.5 }}

[[stage]]
length = 64
batch = 4
micro_batch = 2
steps = 3
document_mask = true
mix = {{ text = 0.7, keys = 0.3 }}

[checkpoint]
every = 2
keep = 9
"#
    )
}

/// A recipe with one stage of `steps` steps that saves at its end alone; for changes by `--set`.
pub(crate) fn one_stage(text: &Path, steps: u64) -> String {
    let whole = recipe(text);
    let (head, _) = whole.split_once("[[stage]]").unwrap();
    format!("{head}[[stage]]\nlength = 32\nbatch = 4\nsteps = {steps}\nmix = {{ text = 0.5, copy = 0.5 }}\n")
}

/// Writes a file of a recipe; returns its path.
pub(crate) fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A model with random weights and the bundled tokenizer, as a folder; the same one for every caller.
pub(crate) fn model() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let folder = kept("tiny-model");
        write_model(&folder);
        folder
    })
}

/// An empty folder for what the whole test run shares; those of runs that are over go.
pub(crate) fn kept(name: &str) -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let over = |entry: &std::fs::DirEntry| {
        let file_name = entry.file_name();
        let process = file_name.to_str().and_then(|it| it.strip_prefix(name)).and_then(|it| it.strip_prefix('-'));
        process.is_some_and(|id| !Path::new("/proc").join(id).exists())
    };
    for entry in std::fs::read_dir(home).unwrap().flatten().filter(over) {
        let _ = std::fs::remove_dir_all(entry.path());
    }
    let folder = home.join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Writes a model with random weights and the bundled tokenizer into a folder.
pub(crate) fn write_model(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let tokenizer = bundled_tokenizer();
    let config = ModelConfig::from_hf(&json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": tokenizer.vocab_size(), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128, "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "bos_token_id": tokenizer.bos(),
        "eos_token_id": tokenizer.eos(),
    }));
    let backend = Backend::from_name("libtorch").unwrap();
    let llama = Llama::new_random(config.unwrap(), backend, 3, Kind::Float, Device::Cpu).unwrap();
    let (dir, precision) = (folder.to_owned(), Precision::HubCompatible);
    let model = ModelFolder {
        id: "tiny".to_owned(),
        dir,
        llama,
        tokenizer: Some(tokenizer),
        precision,
        extrapolation: None,
        chunk: None,
    };
    model.write(folder).unwrap();
}

/// The tokenizer that comes with Bowline.
pub(crate) fn bundled_tokenizer() -> Tokenizer {
    Tokenizer::from_file(&bowline::assets::tokenizer().join("tokenizer.json"), 1 << 16).unwrap()
}
