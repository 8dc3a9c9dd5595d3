//! One variant of a study: loaded, changed, perhaps trained, measured; its results kept.

use std::collections::BTreeMap;

use eval::report::{Report, Spectrum, TrainingCurve, Variant};
use rope_scaling::Precision;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use super::measure::{Bench, Job, Measured};
use crate::config::{Method, Study, TaskSpec, VariantSpec};
use crate::describe::{spectrum, training_curve, variant_of};
use crate::error::{Failure, io_failure};
use crate::evaluate::{Documents, Labels, weights_hash};
use crate::model::{LoadOptions, ModelFolder, backend_on, is_auto_backend};
use crate::runtime::run_dir::RunDir;
use crate::runtime::say;
use crate::runtime::signals::StopFlag;
use crate::train::{Resume, RunOptions, read_metrics, train_model};

/// Version of the rules that decide a result; a kept result of another version is not used.
const RESULT_VERSION: u32 = 2;

/// What a variant is, and what each task found of it.
#[derive(Debug)]
pub struct VariantResult {
    head: Head,
    measured: Vec<Measured>,
}

/// What a variant is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    key: String,
    variant: Variant,
    spectra: Vec<Spectrum>,
    training: Vec<TrainingCurve>,
    /// Hashes of inputs, for the provenance.
    hashes: BTreeMap<String, String>,
}

impl VariantResult {
    /// Hashes of everything that was read.
    pub fn hashes(&self) -> BTreeMap<String, String> {
        let read = self.measured.iter().flat_map(|measured| measured.hashes.clone());
        self.head.hashes.clone().into_iter().chain(read).collect()
    }

    /// Adds it to a report.
    pub fn add_to(self, report: &mut Report) {
        report.variants.push(self.head.variant);
        report.spectra.extend(self.head.spectra);
        report.training.extend(self.head.training);
        for measured in self.measured {
            report.rows.extend(measured.rows);
            report.position_loss.extend(measured.position_loss);
            report.document_loss.extend(measured.document_loss);
            report.costs.push(measured.cost);
        }
    }
}

/// A model that variants start from, and what is known of it before it is loaded for each of them.
#[derive(Debug)]
pub struct Origin {
    /// As the study names it.
    pub id: String,
    /// Hash of its weights.
    pub hash: String,
    /// The study's documents in its tokens.
    pub documents: Documents,
    /// Which attention backend answers, and why.
    pub account: String,
    /// The same as the provenance keeps it.
    pub backend: String,
}

/// Where a study runs.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The study.
    pub study: &'a Study,
    /// Its run folder.
    pub run: &'a RunDir,
    /// Device of every model.
    pub device: Device,
    /// Whether variants are measured one at a time.
    pub alone: bool,
    /// Whether a signal asks to stop.
    pub stop: &'a StopFlag,
}

/// A model of a study by its name.
///
/// # Errors
///
/// As [`ModelFolder::load`].
pub fn load(study: &Study, id: &str, device: Device) -> Result<ModelFolder, Failure> {
    let backend = backend_on(device, &study.backend)?;
    let precision = Precision::HubCompatible;
    ModelFolder::load(id, LoadOptions { device, kind: Some(Kind::Float), backend, precision })
}

impl Origin {
    /// What is known of a loaded model.
    ///
    /// # Errors
    ///
    /// As [`Documents::load`]; when its weights cannot be read.
    pub fn new(study: &Study, model: &ModelFolder, id: &str) -> Result<Self, Failure> {
        let e = &study.evaluation;
        let documents = Documents::load(model, &e.documents, "text", e.piece_tokens, e.max_documents)?;
        let account = model.llama.attention_account(study.longest());
        let backend = model.llama.backend_record(study.longest());
        Ok(Self { id: id.to_owned(), hash: weights_hash(&model.dir)?, documents, account, backend })
    }
}

impl Place<'_> {
    /// The result of a variant: what was kept where what decides it is unchanged, else computed.
    ///
    /// # Errors
    ///
    /// As training and evaluation say.
    pub fn result(&self, spec: &VariantSpec, origin: &Origin) -> Result<VariantResult, Failure> {
        let key = key(self.study, spec, &origin.hash)?;
        let folder = self.run.join("variants").join(&spec.name);
        std::fs::create_dir_all(&folder).map_err(|error| io_failure("make", &folder, &error))?;
        let tasks = self.study.tasks().into_iter();
        let jobs = tasks.map(|task| Job::new(task, &key, &origin.documents.hash, self.study.seed, &folder));
        let jobs = jobs.collect::<Result<Vec<_>, _>>()?;
        let kept: Vec<Option<Measured>> = jobs.iter().map(Job::kept).collect();
        let name = &spec.name;
        let head_path = format!("variants/{name}/variant.json");
        // A spectrum is that of the longest context, which decides no task.
        let head_key = format!("{key}-{}", self.study.longest());
        let head = read_head(&self.run.join(&head_path), &head_key);
        if let (Some(head), true) = (&head, kept.iter().all(Option::is_some)) {
            say!("{name}: kept from an earlier run");
            return Ok(VariantResult { head: head.clone(), measured: kept.into_iter().flatten().collect() });
        }
        let (model, curve) = self.prepared(spec, origin)?;
        let head = self.head(spec, &model, curve, origin, head_key)?;
        self.run.write_json(&head_path, &head)?;
        // Only what is measured beside the model before its change needs both.
        let beside = jobs.iter().zip(&kept).any(|(job, kept)| kept.is_none() && is_beside(&job.task));
        let before = beside.then(|| load(self.study, &origin.id, self.device)).transpose()?;
        let bench = Bench {
            labels: Labels { model: &origin.id, variant: name },
            model: &model,
            base: before.as_ref().unwrap_or(&model),
            documents: &origin.documents,
            seed: self.study.seed,
            alone: self.alone,
            stop: self.stop,
        };
        let mut measured = Vec::new();
        for (job, kept) in jobs.iter().zip(kept) {
            match kept {
                Some(kept) => {
                    say!("{name} {}: kept from an earlier run", job.task.kind());
                    measured.push(kept);
                }
                None => measured.push(job.measure(&bench)?),
            }
        }
        Ok(VariantResult { head, measured })
    }

    /// The model of a variant, and its training curve if it was trained.
    fn prepared(&self, spec: &VariantSpec, origin: &Origin) -> Result<(ModelFolder, Option<TrainingCurve>), Failure> {
        let base = load(self.study, &origin.id, self.device)?;
        if !spec.train {
            let base = base.with_positions(spec.positions.as_ref())?;
            let model = match spec.method()? {
                Some(method) => base.with_method(&method)?,
                None => base,
            };
            return Ok((model, None));
        }
        let recipe = self.study.recipe(spec)?;
        let out = self.run.join("train").join(&spec.name);
        // Checkpoints of another recipe or base are not gone on from; the trainer sets them aside and says so.
        let decided_by = serde_json::json!({ "recipe": recipe, "base": origin.hash }).to_string();
        let training_key = blake3::hash(decided_by.as_bytes()).to_hex().to_string();
        let key_path = out.join("training-key");
        let resume = match std::fs::read_to_string(&key_path) {
            Ok(kept) if kept != training_key => Resume::Never,
            _ => Resume::Auto,
        };
        std::fs::create_dir_all(&out).map_err(|error| io_failure("make", &out, &error))?;
        crate::atomic::write_bytes(&key_path, training_key.as_bytes())
            .map_err(|error| io_failure("write", &key_path, &error))?;
        let options = RunOptions { out: out.clone(), resume, allow_changes: Vec::new(), device: None, dry_run: false };
        let model = train_model(recipe, base, &options, self.stop)?;
        let curve = training_curve(&spec.name, &read_metrics(&out)?);
        Ok((model, Some(curve)))
    }

    fn head(
        &self,
        spec: &VariantSpec,
        model: &ModelFolder,
        curve: Option<TrainingCurve>,
        origin: &Origin,
        key: String,
    ) -> Result<Head, Failure> {
        let mut variant = variant_of(model, &spec.name, &spec.description, &origin.id);
        if !spec.train {
            variant.trained_context = variant.original_context;
        }
        if let Some(curve) = &curve {
            variant.trained_tokens = curve.tokens.last().copied().unwrap_or(0);
        }
        if let Some(inside) = model.extrapolation {
            let text = inside.to_string();
            let (scheme, parameters) = text.split_once(':').unwrap_or((&text, ""));
            variant.scheme = joined(&variant.scheme, scheme);
            variant.parameters = joined(&variant.parameters, &parameters.replace('=', " = ").replace(',', ", "));
        }
        let hashes = BTreeMap::from([
            ("base".to_owned(), origin.hash.clone()),
            ("documents".to_owned(), origin.documents.hash.clone()),
            ("tokenizer".to_owned(), model.tokenizer()?.hash().to_owned()),
        ]);
        let longest = self.study.longest();
        let spectra = spectrum(model, &spec.name, longest).into_iter().collect();
        Ok(Head { key, variant, spectra, training: curve.into_iter().collect(), hashes })
    }
}

/// Whether a task compares with the model before its change.
fn is_beside(task: &TaskSpec) -> bool {
    matches!(task, TaskSpec::ShortText { .. })
}

/// What positions are changed by, and what reads them.
fn joined(positions: &str, inside: &str) -> String {
    let changed = !matches!(positions, "" | "none" | "default");
    if changed { format!("{positions}, {inside}") } else { inside.to_owned() }
}

/// A hash of everything that decides what a variant is.
fn key(study: &Study, spec: &VariantSpec, base: &str) -> Result<String, Failure> {
    let recipe = if spec.train { Some(study.recipe(spec)?) } else { None };
    let mut decided_by = serde_json::json!({
        "version": RESULT_VERSION, "program": env!("CARGO_PKG_VERSION"),
        "variant": spec, "recipe": recipe, "base": base,
    });
    if !is_auto_backend(&study.backend) {
        decided_by["backend"] = study.backend.clone().into();
    }
    // A file of factors may change under its name.
    let positions = spec.positions.as_ref().map(Method::try_from).transpose()?;
    for (key, method) in [("positions_file", positions), ("method_file", spec.method()?)] {
        if let Some(content) = method.and_then(|method| method.file_content()) {
            decided_by[key] = content.into();
        }
    }
    Ok(blake3::hash(decided_by.to_string().as_bytes()).to_hex().to_string())
}

fn read_head(path: &std::path::Path, key: &str) -> Option<Head> {
    let text = std::fs::read(path).ok()?;
    serde_json::from_slice::<Head>(&text).ok().filter(|head| head.key == key)
}
