//! A study: one base model, several ways to a longer context, one evaluation for all of them.

use serde::{Deserialize, Serialize};

use super::layers;
use super::matrix::Matrix;
use super::method::Method;
use super::recipe::{PositionChange, Recipe};
use super::task::TaskSpec;
use crate::error::Failure;

/// Variants of a model and how they are compared.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Name; also of its folder under `runs/`.
    pub name: String,
    /// What it shows, in a sentence or two.
    #[serde(default)]
    pub description: String,
    /// The model that every variant starts from: a folder, a GGUF file, a Hub id in the cache, or `bundled`.
    pub base: String,
    /// Attention backend; `auto` takes the fastest that is right for device and problem, a name takes that or fails.
    #[serde(default = "crate::model::auto_backend", skip_serializing_if = "crate::model::is_auto_backend")]
    pub backend: String,
    /// Seed of samples and bootstrap.
    #[serde(default = "one")]
    pub seed: u64,
    /// What is measured.
    pub evaluation: Evaluation,
    /// What else is measured, on every variant.
    #[serde(rename = "task", default, skip_serializing_if = "Vec::is_empty", deserialize_with = "TaskSpec::list")]
    pub more_tasks: Vec<TaskSpec>,
    /// How trained variants are trained: a built-in recipe's name or a file; model and positions are the variant's.
    #[serde(default)]
    pub training: Option<Training>,
    /// The variants, in the order of the report; those of the matrix come after them.
    #[serde(rename = "variant", default)]
    pub variants: Vec<VariantSpec>,
    /// Methods by factors; a study that was read has them among its variants, and none here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix: Option<Matrix>,
    /// What must hold at the end; a study whose expectations fail exits with code 1.
    #[serde(rename = "expect", default)]
    pub expectations: Vec<Expectation>,
}

/// What is measured on every variant.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Held-out documents: files, folders or `bundled:heldout`.
    pub documents: Vec<String>,
    /// Cut each document into pieces of this many tokens, each then a document; absent: whole documents.
    #[serde(default)]
    pub piece_tokens: Option<usize>,
    /// Most documents (or pieces) used, spread evenly over all there are.
    #[serde(default)]
    pub max_documents: Option<usize>,
    /// Perplexity protocol.
    #[serde(default = "p2")]
    pub protocol: String,
    /// Context lengths of the perplexity curve, bos included.
    pub lengths: Vec<usize>,
    /// Context lengths of passkey; none: it is not measured.
    #[serde(default)]
    pub passkey_lengths: Vec<usize>,
    /// Depths of the passkey grid, evenly spaced.
    #[serde(default = "five")]
    pub depths: usize,
    /// Trials in each cell of the grid.
    #[serde(default = "five")]
    pub trials: usize,
}

/// How trained variants are trained.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Built-in name or file of a recipe.
    pub recipe: String,
    /// Settings laid over it for every variant, as with `--set`.
    #[serde(default)]
    pub settings: Vec<String>,
}

/// One variant.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantSpec {
    /// Short name.
    pub name: String,
    /// One sentence for a reader.
    #[serde(default)]
    pub description: String,
    /// The model that it starts from instead of the study's base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Change of the position encoding; absent: none.
    #[serde(default)]
    pub positions: Option<PositionChange>,
    /// Method without training that it is read by, as `--method` spells it: `self-extend:group=8,window=128`; instead of
    /// `train`, and over `positions` where that can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Whether it is trained.
    #[serde(default)]
    pub train: bool,
    /// Settings laid over the study's recipe for this variant.
    #[serde(default)]
    pub settings: Vec<String>,
}

/// Something that must hold.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Name of a variant, or `best trained`: the trained variant for which it holds best.
    pub variant: String,
    /// `perplexity` or `accuracy`.
    pub metric: String,
    /// Context length.
    pub length: usize,
    /// The value is divided by the same variant's at this length.
    #[serde(default)]
    pub relative_to: Option<usize>,
    /// Least value.
    #[serde(default)]
    pub at_least: Option<f64>,
    /// Largest value.
    #[serde(default)]
    pub at_most: Option<f64>,
}

impl VariantSpec {
    /// The method without training, if it names one.
    ///
    /// # Errors
    ///
    /// When its spelling is wrong.
    pub fn method(&self) -> Result<Option<Method>, Failure> {
        self.method.as_deref().map(|text| text.parse().map_err(|e: Failure| e.within("method"))).transpose()
    }
}

impl Study {
    /// Reads a study with `--set a.b=c` applied.
    ///
    /// # Errors
    ///
    /// The place and what is wrong there.
    pub fn layered(text: &str, settings: &[String]) -> Result<Self, Failure> {
        let mut study: Self = layers::read(text, settings)?;
        if let Some(matrix) = study.matrix.take() {
            study.variants.extend(matrix.variants()?);
        }
        study.check()?;
        Ok(study)
    }

    /// Everything that is measured on a variant: what `[evaluation]` says, then each `[[task]]`.
    pub fn tasks(&self) -> Vec<TaskSpec> {
        let e = &self.evaluation;
        let perplexity =
            TaskSpec::Perplexity { protocol: e.protocol.clone(), lengths: e.lengths.clone(), stride: None };
        let passkey = TaskSpec::Passkey {
            variant: "bowline".to_owned(),
            lengths: e.passkey_lengths.clone(),
            depths: e.depths,
            trials: e.trials,
        };
        let short = [perplexity, passkey].into_iter().filter(|task| !task.lengths().is_empty());
        short.chain(self.more_tasks.iter().cloned()).collect()
    }

    /// Longest context of any task; at least 1.
    pub fn longest(&self) -> usize {
        self.tasks().iter().map(TaskSpec::longest).max().unwrap_or(1).max(1)
    }

    /// The model that a variant starts from.
    pub fn model_of<'a>(&'a self, variant: &'a VariantSpec) -> &'a str {
        variant.model.as_deref().unwrap_or(&self.base)
    }

    /// The same study with a few trials and steps, to see that all of it works; its numbers mean nothing and it
    /// expects nothing.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        let e = &mut self.evaluation;
        e.lengths.truncate(3);
        e.passkey_lengths.truncate(2);
        (e.depths, e.trials) = (2, 1);
        self.more_tasks = self.more_tasks.into_iter().map(TaskSpec::shortened).collect();
        let read = self.more_tasks.iter().filter(|task| task.reads_documents()).map(TaskSpec::longest);
        let longest = e.lengths.iter().copied().chain(read).max().unwrap_or(0);
        e.piece_tokens = e.piece_tokens.map(|tokens| tokens.min(longest));
        e.max_documents = Some(4);
        for variant in self.variants.iter_mut().filter(|variant| variant.train) {
            variant.settings.extend(["stage.0.steps=2".to_owned(), "stage.0.batch=2".to_owned()]);
        }
        self.expectations.clear();
        self
    }

    /// The recipe of a trained variant.
    ///
    /// # Errors
    ///
    /// When the study has no training, or the recipe is wrong.
    pub fn recipe(&self, variant: &VariantSpec) -> Result<Recipe, Failure> {
        let Some(training) = &self.training else {
            let message = format!("variant {:?} is to be trained, but the study has no [training]", variant.name);
            return Err(Failure::config(message));
        };
        let settings: Vec<String> = training.settings.iter().chain(&variant.settings).cloned().collect();
        let mut recipe = crate::recipes::training(&training.recipe, &settings)?;
        recipe.name.clone_from(&variant.name);
        recipe.model.from = Some(self.model_of(variant).to_owned());
        recipe.model.new = None;
        recipe.model.backend.clone_from(&self.backend);
        recipe.positions.clone_from(&variant.positions);
        Ok(recipe)
    }

    fn check(&self) -> Result<(), Failure> {
        let mut findings = Vec::new();
        if !layers::is_plain_name(&self.name) {
            findings.push(format!("name: letters, digits, - _ . only, is {:?}", self.name));
        }
        for (index, variant) in self.variants.iter().enumerate() {
            if !layers::is_plain_name(&variant.name) {
                findings.push(format!("variant.name: letters, digits, - _ . only, is {:?}", variant.name));
            }
            if self.variants[..index].iter().any(|other| other.name == variant.name) {
                findings.push(format!("variant {:?}: two variants have this name", variant.name));
            }
            if let Err(failure) = variant.method() {
                findings.push(format!("variant {:?}: {failure}", variant.name));
            }
            if let (Some(method), true) = (&variant.method, variant.train) {
                let name = &variant.name;
                findings.push(format!(
                    "variant {name:?}: method: {method} is read without training, so train must be false"
                ));
            }
        }
        if self.variants.is_empty() {
            findings.push("variant: at least one [[variant]], or a [matrix], is needed".to_owned());
        }
        let e = &self.evaluation;
        for (field, value) in [("depths", e.depths), ("trials", e.trials), ("lengths", e.lengths.len())] {
            if value == 0 {
                findings.push(format!("evaluation.{field}: at least 1 is needed"));
            }
        }
        for (index, task) in self.more_tasks.iter().enumerate() {
            let place = |finding| format!("task {} ({}).{finding}", index + 1, task.kind());
            findings.extend(task.findings().into_iter().map(place));
        }
        for expectation in &self.expectations {
            let known = expectation.variant == "best trained"
                || self.variants.iter().any(|variant| variant.name == expectation.variant);
            if !known {
                findings.push(format!("expect: {:?} is not the name of a variant", expectation.variant));
            }
            if !["perplexity", "accuracy"].contains(&expectation.metric.as_str()) {
                findings.push(format!("expect.metric: perplexity or accuracy, is {:?}", expectation.metric));
            }
        }
        layers::settled(&findings)
    }
}

fn one() -> u64 {
    1
}
fn five() -> usize {
    5
}
fn p2() -> String {
    "P2".to_owned()
}
