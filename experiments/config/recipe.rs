//! A training recipe: everything that decides what a run does, in one TOML file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{About, Adapter, ExpectedPerplexity, Gradients, Loss, LossKind, Memory, layers};
use crate::data::{Format, OnBadLine, SourceSpec};
use crate::error::Failure;
use crate::model::{Mup, ShiftedSparse};
use crate::train::{AdamConfig, Decay, Decayed};

/// One training run.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run; also of its folder under `runs/`.
    pub name: String,
    /// What the recipe shows, in a sentence or two.
    #[serde(default)]
    pub description: String,
    /// Seed of initial weights, data order and synthetic text.
    #[serde(default = "one")]
    pub seed: u64,
    /// The model to start from.
    pub model: ModelSource,
    /// How its position encoding is changed; absent: not at all.
    #[serde(default)]
    pub positions: Option<PositionChange>,
    /// Where text comes from.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
    /// Optimizer and learning rate.
    pub optimizer: Optimizer,
    /// How memory is spent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory: Memory,
    /// Low-rank adapters; absent: every parameter is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
    /// What is minimised.
    #[serde(default, skip_serializing_if = "is_default")]
    pub loss: Loss,
    /// Stages, run one after another; each has its own length (as in BTLM's variable sequence length).
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
    /// When to save.
    #[serde(default)]
    pub checkpoint: CheckpointPolicy,
    /// Documents that training text must not overlap with, by path.
    #[serde(default)]
    pub held_out: Vec<String>,
    /// Whose system it reproduces, and on what.
    #[serde(default, skip_serializing_if = "is_default")]
    pub about: About,
    /// Perplexities published for models made by it, or by its like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected: Vec<ExpectedPerplexity>,
}

/// Where the weights come from: exactly one of `from` and `new`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSource {
    /// A folder, a GGUF file, a Hub id in the cache, or `bundled`; or `recipe:NAME` for the last checkpoint of that recipe's
    /// finished run in `runs/NAME`.
    #[serde(default)]
    pub from: Option<String>,
    /// The shape of a new model with random weights.
    #[serde(default)]
    pub new: Option<NewModel>,
    /// Tokenizer of a new model: a folder or file, or `bundled`.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// Element type of weights and activations.
    #[serde(default)]
    pub dtype: Dtype,
    /// Attention backend; `auto` takes the fastest that is right for device and problem, a name takes that or fails.
    #[serde(default = "crate::model::auto_backend", skip_serializing_if = "crate::model::is_auto_backend")]
    pub backend: String,
}

/// Shape of a new model, in the words of `config.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewModel {
    /// `llama`, or `btlm`: LayerNorm, biases, ALiBi and muP.
    #[serde(default, skip_serializing_if = "is_default")]
    pub family: NewFamily,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key heads.
    pub num_key_value_heads: usize,
    /// Context it is meant for, in tokens.
    pub max_position_embeddings: usize,
    /// RoPE base, where there is one.
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
    /// Standard deviation of new embeddings; of the other matrices, too, outside muP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initializer_range: Option<f64>,
    /// Multipliers of muP, for `btlm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mup: Option<Mup>,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
}

impl NewModel {
    /// What is wrong beside the sizes, which the model's own config checks.
    fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        let btlm = self.family == NewFamily::Btlm;
        if let Some(mup) = &self.mup {
            findings.extend(mup.findings().into_iter().map(|finding| format!("mup.{finding}")));
            if !btlm {
                findings.push("mup: is of the family btlm alone".to_owned());
            }
        }
        if btlm && self.num_key_value_heads != self.num_attention_heads {
            let (keys, queries) = (self.num_key_value_heads, self.num_attention_heads);
            findings.push(format!("num_key_value_heads: must be num_attention_heads {queries} in btlm, is {keys}"));
        }
        if let Some(range) = self.initializer_range.filter(|range| !(range.is_finite() && *range > 0.0)) {
            findings.push(format!("initializer_range: must be a positive number, is {range}"));
        }
        findings
    }
}

/// Families of new models.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NewFamily {
    /// LLaMA: RMSNorm, RoPE, no biases.
    #[default]
    Llama,
    /// BTLM (Dey et al. 2023): LayerNorm, biases, ALiBi, muP.
    Btlm,
}

/// Element type of weights and activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision.
    #[default]
    Float32,
    /// Brain floating point; the optimizer keeps float32 weights, of which these are the rounded ones, and moments.
    Bfloat16,
}

/// A change of the position encoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PositionChange {
    /// `linear`, `ntk`, `dynamic-ntk`, `yarn`, `dynamic-yarn`, `ntk-by-parts`, `llama3`, `abf` or `longrope`;
    /// `alibi-dynamic` for a model with ALiBi.
    pub method: String,
    /// How many times longer the context becomes.
    #[serde(default)]
    pub factor: Option<f64>,
    /// The new base, for `abf`.
    #[serde(default)]
    pub base: Option<f64>,
    /// File of LongRoPE's factors (or `bundled:longrope-1024.json`), for `longrope`; it may name the factor, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factors: Option<String>,
    /// Whether the model is one that was extended already: the change is then made to its original positions, in place of the
    /// one that it has, and the factor counts from the original context.
    #[serde(default, skip_serializing_if = "is_default")]
    pub further: bool,
}

/// A source of training sequences.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Name used in a stage's `mix`.
    pub name: String,
    /// What it holds.
    #[serde(default)]
    pub kind: SourceKind,
    /// Files and folders of documents, or `bundled:train`; for `passkey`, the haystack (none: the repeated sentences).
    #[serde(default)]
    pub paths: Vec<String>,
    /// Column or field that holds the text; a Parquet column of integer lists holds token ids, taken as they are.
    #[serde(default = "text_field")]
    pub text_field: String,
    /// Documents shorter than this many tokens are left out.
    #[serde(default)]
    pub min_tokens: usize,
    /// Share in the stages that give no `mix`; finite and above 0.
    #[serde(default = "weight", skip_serializing_if = "is_default_weight")]
    pub weight: f64,
    /// What the files hold: `txt`, `jsonl` or `parquet`; `auto` goes by their names.
    #[serde(default, skip_serializing_if = "is_default")]
    pub format: Format,
    /// What to do about a record that cannot be read: `error` stops with its place, `skip` counts it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_bad_line: OnBadLine,
    /// Longest line, text file or Parquet value that is read, in bytes after decompression.
    #[serde(default = "crate::data::largest_document", skip_serializing_if = "is_largest_document")]
    pub max_document_bytes: u64,
    /// Log2 of the largest zstd window that is accepted, 10 to 31; memory in bytes is two to this power.
    #[serde(default = "crate::data::widest_window", skip_serializing_if = "is_widest_window")]
    pub zstd_window_log: u32,
}

impl Source {
    /// What the data pipeline reads, with paths as the recipe writes them.
    pub fn spec(&self) -> SourceSpec {
        SourceSpec {
            format: self.format,
            weight: self.weight,
            min_tokens: self.min_tokens as u64,
            on_bad_line: self.on_bad_line,
            max_document_bytes: self.max_document_bytes,
            zstd_window_log: self.zstd_window_log,
            ..SourceSpec::new(&self.name, &self.paths, &self.text_field)
        }
    }
}

/// Kinds of sources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// Documents.
    #[default]
    Text,
    /// A random block of tokens, repeated to the length: teaches copying.
    Repeat,
    /// Passkey text of our own task, at random depth.
    Passkey,
    /// Passkey texts of drawn lengths, one behind another: keeps retrieval at every length up to the sequence's.
    Passkeys,
    /// Several keys stated, then asked for.
    Keys,
}

/// Optimizer and learning rate.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup_steps: u64,
    /// Shape after warm-up.
    #[serde(default = "constant")]
    pub schedule: Decay,
    /// Learning rate at the end as a fraction of the peak.
    #[serde(default)]
    pub final_fraction: f64,
    /// Steps that the schedule is stretched over; absent: those of all stages. More of them end the run before the
    /// learning rate has come down all the way.
    #[serde(default)]
    pub schedule_steps: Option<u64>,
    /// Decay of the first moment.
    #[serde(default = "beta1")]
    pub beta1: f64,
    /// Decay of the second moment.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// Added to the root of the second moment.
    #[serde(default = "epsilon")]
    pub epsilon: f64,
    /// Decoupled decay of matrices.
    #[serde(default)]
    pub weight_decay: f64,
    /// Largest norm of the gradient; absent: not clipped.
    #[serde(default)]
    pub clip_norm: Option<f64>,
    /// Steps in a row whose loss or gradient may be not finite: they are passed over without an update. At 0 the first
    /// one stops the run.
    #[serde(default, skip_serializing_if = "is_default")]
    pub non_finite_steps: u64,
}

impl Optimizer {
    /// The part that AdamW reads.
    pub fn adam(&self) -> AdamConfig {
        AdamConfig {
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            decayed: Decayed::Matrices,
        }
    }
}

/// A stretch of training at one length.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Tokens of a sequence.
    pub length: usize,
    /// Sequences of an optimizer step.
    pub batch: usize,
    /// Sequences of a forward pass; 0 means all of `batch`. Must divide it.
    #[serde(default)]
    pub micro_batch: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Share of each source by name; absent: every source by its `weight`.
    #[serde(default)]
    pub mix: BTreeMap<String, f64>,
    /// Whether tokens see only their own document in a packed sequence.
    #[serde(default)]
    pub document_mask: bool,
    /// Shifted sparse attention (LongLoRA): tokens attend inside groups of this share of `length`, which must be an even
    /// number of tokens that divides it; absent: full attention. Evaluation is by full attention always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shifted_sparse: Option<f64>,
    /// Skip-position training (PoSE): sequences stand at positions drawn from a longer range; absent: at 0, 1, 2, ..
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_positions: Option<SkipPositions>,
}

/// Skip-position training (Zhu et al. 2024, PoSE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkipPositions {
    /// Length that positions are drawn from, in tokens.
    pub target: usize,
    /// Chunks that a sequence is cut into.
    #[serde(default = "two")]
    pub chunks: usize,
}

impl Stage {
    /// Full attention over sequences of one text each, a step in one pass.
    pub fn plain(length: usize, batch: usize, steps: u64) -> Self {
        Self {
            length,
            batch,
            micro_batch: 0,
            steps,
            mix: BTreeMap::new(),
            document_mask: false,
            shifted_sparse: None,
            skip_positions: None,
        }
    }

    /// Sequences of a forward pass.
    pub fn micro(&self) -> usize {
        if self.micro_batch == 0 { self.batch } else { self.micro_batch }
    }

    /// Positions that its tokens stand at: a plan must reach so far.
    pub fn reach(&self) -> usize {
        self.skip_positions.map_or(self.length, |skip| skip.target)
    }

    /// Tokens that attend among themselves: a sequence, or a group of it.
    pub fn attended(&self) -> usize {
        let groups = self.shifted_sparse.and_then(|share| ShiftedSparse::new(self.length, share).ok());
        groups.map_or(self.length, ShiftedSparse::group)
    }

    /// Tokens of an optimizer step.
    pub fn step_tokens(&self) -> u64 {
        self.length as u64 * self.batch as u64
    }
}

/// When checkpoints are written and how many are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointPolicy {
    /// Steps between checkpoints; 0: only at the end and when interrupted.
    pub every: u64,
    /// Complete checkpoints kept; at least 2 always are, so that there is one before a newest that was damaged.
    pub keep: usize,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self { every: 0, keep: 2 }
    }
}

impl Recipe {
    /// Reads a recipe and checks it.
    ///
    /// # Errors
    ///
    /// The place and what is wrong there; for an unknown key, the nearest known one.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        Self::layered(text, &[])
    }

    /// Reads a recipe with `--set a.b=c` applied.
    ///
    /// # Errors
    ///
    /// As [`Recipe::parse`]; and for a setting that is not of the form `key=value`.
    pub fn layered(text: &str, settings: &[String]) -> Result<Self, Failure> {
        let mut recipe: Self = layers::read(text, settings)?;
        recipe.check()?;
        let weights: BTreeMap<String, f64> =
            recipe.sources.iter().map(|source| (source.name.clone(), source.weight)).collect();
        for stage in recipe.stages.iter_mut().filter(|stage| stage.mix.is_empty()) {
            stage.mix.clone_from(&weights);
        }
        Ok(recipe)
    }

    /// Optimizer steps of all stages.
    pub fn steps(&self) -> u64 {
        self.stages.iter().map(|stage| stage.steps).sum()
    }

    /// Tokens of all stages.
    pub fn tokens(&self) -> u64 {
        self.stages.iter().map(|stage| stage.steps * stage.step_tokens()).sum()
    }

    /// Length of the longest stage.
    pub fn longest(&self) -> usize {
        self.stages.iter().map(|stage| stage.length).max().unwrap_or(0)
    }

    fn check(&self) -> Result<(), Failure> {
        let mut findings = Vec::new();
        let mut expect = |holds: bool, finding: String| {
            if !holds {
                findings.push(finding);
            }
        };
        expect(layers::is_plain_name(&self.name), format!("name: letters, digits, - _ . only, is {:?}", self.name));
        let starts = usize::from(self.model.from.is_some()) + usize::from(self.model.new.is_some());
        expect(starts == 1, format!("model: give exactly one of `from` and `new`, {starts} given"));
        expect(
            self.model.new.is_none() || self.model.tokenizer.is_some(),
            "model.tokenizer: a new model needs one".into(),
        );
        for (field, what) in self.memory.findings() {
            expect(false, format!("memory.{field}: {what}"));
        }
        for (index, expected) in self.expected.iter().enumerate() {
            expect(
                expected.is_a_band(),
                format!("expected {}: low and high must be a band of perplexities", index + 1),
            );
        }
        if let Some(adapter) = &self.adapter {
            let rule = "adapter: needs `model.from`; there is nothing to adapt in a model with random weights";
            expect(self.model.from.is_some(), rule.into());
            for (field, what) in adapter.findings() {
                expect(false, format!("adapter.{field}: {what}"));
            }
        }
        for (field, what) in self.loss.findings() {
            expect(false, format!("loss.{field}: {what}"));
        }
        if let Some(new) = &self.model.new {
            new.findings().into_iter().for_each(|finding| expect(false, format!("model.new.{finding}")));
        }
        self.check_optimizer(&mut expect);
        self.check_sources(&mut expect);
        self.check_stages(&mut expect);
        expect(self.checkpoint.keep >= 1, "checkpoint.keep: must be at least 1, is 0".into());
        layers::settled(&findings)
    }

    fn check_optimizer(&self, expect: &mut impl FnMut(bool, String)) {
        let o = &self.optimizer;
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let fraction = |x: f64| (0.0..1.0).contains(&x);
        let at = |field: &str, rule: &str, value: f64| format!("optimizer.{field}: must be {rule}, is {value}");
        expect(positive(o.learning_rate), at("learning_rate", "a positive number", o.learning_rate));
        expect((0.0..=1.0).contains(&o.final_fraction), at("final_fraction", "from 0 to 1", o.final_fraction));
        expect(fraction(o.beta1), at("beta1", "from 0 to below 1", o.beta1));
        expect(fraction(o.beta2), at("beta2", "from 0 to below 1", o.beta2));
        expect(positive(o.epsilon), at("epsilon", "a positive number", o.epsilon));
        expect(o.weight_decay.is_finite() && o.weight_decay >= 0.0, at("weight_decay", "at least 0", o.weight_decay));
        if let Some(clip) = o.clip_norm {
            expect(positive(clip), at("clip_norm", "a positive number", clip));
        }
    }

    fn check_sources(&self, expect: &mut impl FnMut(bool, String)) {
        expect(!self.sources.is_empty(), "source: at least one [[source]] is needed".into());
        for (index, source) in self.sources.iter().enumerate() {
            let repeated = self.sources[..index].iter().any(|other| other.name == source.name);
            expect(!repeated, format!("source.{}: two sources have this name", source.name));
            for (field, what) in source.spec().findings() {
                // Made text needs no documents.
                let of_no_concern = field == "paths" && source.kind != SourceKind::Text;
                expect(of_no_concern, format!("source.{}.{field}: {what}", source.name));
            }
        }
    }

    fn check_stages(&self, expect: &mut impl FnMut(bool, String)) {
        let of_stage = |stage: &Stage| (stage.length as f64) * (stage.batch as f64) * (stage.steps as f64);
        let all: f64 = self.stages.iter().map(of_stage).sum();
        let rule = "stage.steps, batch and length: the stages must be at most 1e18 tokens in all";
        expect(all <= 1e18, format!("{rule}, are {all:e}"));
        expect(!self.stages.is_empty(), "stage: at least one [[stage]] is needed".into());
        for (index, stage) in self.stages.iter().enumerate() {
            let at = |field: &str, what: &str| format!("stage {}.{field}: {what}", index + 1);
            let one_pass = stage.micro() >= stage.batch;
            expect(
                one_pass || self.memory.gradients == Gradients::Kept,
                at(
                    "micro_batch",
                    &format!(
                        "is {} of batch {}, and memory.gradients = \"in-backward\" takes one pass a step; leave it out, or \
                         keep the gradients",
                        stage.micro(),
                        stage.batch
                    ),
                ),
            );
            expect(stage.length >= 2, at("length", &format!("must be at least 2 tokens, is {}", stage.length)));
            expect(stage.batch >= 1, at("batch", "must be at least 1, is 0"));
            expect(stage.steps >= 1, at("steps", "must be at least 1, is 0"));
            let micro = stage.micro().max(1);
            expect(
                stage.batch % micro == 0,
                at("micro_batch", &format!("{micro} does not divide batch {}", stage.batch)),
            );
            self.check_variants(stage, &at, expect);
            for (name, &weight) in &stage.mix {
                let known = self.sources.iter().any(|source| source.name == *name);
                expect(known, at("mix", &format!("{name:?} is not the name of a [[source]]")));
                expect(weight.is_finite() && weight > 0.0, at("mix", &format!("{name} must be positive, is {weight}")));
            }
        }
    }

    /// What a stage does otherwise than plain training, and what of that does not go together.
    fn check_variants(&self, stage: &Stage, at: &impl Fn(&str, &str) -> String, expect: &mut impl FnMut(bool, String)) {
        let long_ce = self.loss.kind == LossKind::LongCe;
        if let Some(share) = stage.shifted_sparse {
            let groups = ShiftedSparse::new(stage.length, share);
            expect(groups.is_ok(), at("shifted_sparse", &groups.err().unwrap_or_default()));
            let rule = "loss.kind \"long-ce\" weighs tokens by full attention; leave one of them out";
            expect(!long_ce, at("shifted_sparse", rule));
        }
        if let Some(SkipPositions { target, chunks }) = stage.skip_positions {
            let length = stage.length;
            let rule = format!("must be from 1 to the length of {length}, is {chunks}");
            expect((1..=length).contains(&chunks), at("skip_positions.chunks", &rule));
            let rule = format!("must be at least the length of {length}, is {target}");
            expect(target >= length, at("skip_positions.target", &rule));
            let rule = "loss.kind \"long-ce\" compares contexts without skips; leave one of them out";
            expect(!long_ce, at("skip_positions", rule));
        }
        if long_ce {
            let Loss { short_context, stride, .. } = self.loss;
            let rule = format!(
                "{} is not longer than loss.short_context {short_context} and loss.stride {stride} together, so that \
                 loss.kind \"long-ce\" would weigh every token the same",
                stage.length
            );
            expect(stage.length > short_context.saturating_add(stride), at("length", &rule));
        }
    }
}

fn rope_theta() -> f64 {
    10_000.0
}
fn one() -> u64 {
    1
}
fn two() -> usize {
    2
}
fn text_field() -> String {
    "text".to_owned()
}
fn weight() -> f64 {
    1.0
}
fn is_default_weight(&value: &f64) -> bool {
    value == weight()
}
fn is_largest_document(&value: &u64) -> bool {
    value == crate::data::largest_document()
}
fn is_widest_window(&value: &u32) -> bool {
    value == crate::data::widest_window()
}
/// What stands at its default stays unwritten, so that options added later leave a recipe's hash, and with it the
/// checkpoints of a run, as they were.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
fn constant() -> Decay {
    Decay::Constant
}
fn beta1() -> f64 {
    0.9
}
fn beta2() -> f64 {
    0.95
}
fn epsilon() -> f64 {
    1e-8
}

#[cfg(test)]
#[path = "recipe_tests.rs"]
mod tests;
