//! One variant of a study: loaded, changed, perhaps trained, evaluated; its result kept.

use std::collections::BTreeMap;

use eval::report::{DocumentLoss, PositionLoss, Report, Row, Spectrum, TrainingCurve, Variant};
use eval::tasks::passkey;
use eval::{PerplexityOptions, RetrievalOptions};
use rope_scaling::Precision;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::config::{Study, VariantSpec};
use crate::describe::{spectrum, training_curve, variant_of};
use crate::error::{Failure, io_failure};
use crate::evaluate::{Documents, Labels, passkey_depths, passkey_rows, perplexity_rows, weights_hash};
use crate::model::{LoadOptions, ModelFolder, backend_on, is_auto_backend};
use crate::runtime::run_dir::RunDir;
use crate::runtime::signals::StopFlag;
use crate::train::{Resume, RunOptions, changed_positions, read_metrics, train_model};

/// Version of the rules that decide a result; a kept result of another version is not used.
const RESULT_VERSION: u32 = 1;

/// Everything one variant adds to the report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VariantResult {
    key: String,
    variant: Variant,
    rows: Vec<Row>,
    position_loss: Vec<PositionLoss>,
    /// Absent from what earlier versions kept.
    #[serde(default)]
    document_loss: Vec<DocumentLoss>,
    spectra: Vec<Spectrum>,
    training: Vec<TrainingCurve>,
    /// Hashes of inputs, for the provenance.
    pub hashes: BTreeMap<String, String>,
}

impl VariantResult {
    /// Adds it to a report.
    pub fn add_to(self, report: &mut Report) {
        report.variants.push(self.variant);
        report.rows.extend(self.rows);
        report.position_loss.extend(self.position_loss);
        report.document_loss.extend(self.document_loss);
        report.spectra.extend(self.spectra);
        report.training.extend(self.training);
    }
}

/// The model that every variant starts from.
///
/// # Errors
///
/// As [`ModelFolder::load`].
pub fn base(study: &Study, device: Device) -> Result<ModelFolder, Failure> {
    let backend = backend_on(device, &study.backend)?;
    let precision = Precision::HubCompatible;
    ModelFolder::load(&study.base, LoadOptions { device, kind: Some(Kind::Float), backend, precision })
}

/// The held-out documents of a study.
///
/// # Errors
///
/// As [`Documents::load`].
pub fn documents(study: &Study, base: &ModelFolder) -> Result<Documents, Failure> {
    let e = &study.evaluation;
    Documents::load(base, &e.documents, "text", e.piece_tokens, e.max_documents)
}

/// How a study measures perplexity.
///
/// # Errors
///
/// When its protocol is unknown.
pub fn perplexity_options(study: &Study) -> Result<PerplexityOptions, Failure> {
    let e = &study.evaluation;
    let protocol = e.protocol.parse().map_err(crate::evaluate::failure)?;
    Ok(PerplexityOptions { seed: study.seed, ..PerplexityOptions::new(protocol, e.lengths.clone()) })
}

/// How a study measures passkey retrieval.
pub fn retrieval_options(study: &Study) -> RetrievalOptions {
    let e = &study.evaluation;
    let depths = passkey_depths(passkey::Variant::Bowline, e.depths);
    RetrievalOptions { lengths: e.passkey_lengths.clone(), depths, trials: e.trials, seed: study.seed }
}

/// The result of a variant: the kept one when what decides it is unchanged, else computed.
///
/// # Errors
///
/// As training and evaluation say.
pub fn result(
    study: &Study,
    spec: &VariantSpec,
    run: &RunDir,
    device: Device,
    documents: &Documents,
    stop: &StopFlag,
) -> Result<VariantResult, Failure> {
    let base = base(study, device)?;
    let base_hash = weights_hash(&base.dir)?;
    let key = key(study, spec, &base_hash, &documents.hash)?;
    let kept = run.join(format!("variants/{}.json", spec.name));
    if let Some(result) = read_kept(&kept, &key) {
        eprintln!("{}: kept from an earlier run", spec.name);
        return Ok(result);
    }
    let (model, curve) = prepared(study, spec, base, &base_hash, run, stop)?;
    let mut result = evaluated(study, spec, &model, documents, stop)?;
    result.key = key;
    result.training.extend(curve);
    if let (Some(curve), false) = (result.training.first(), result.training.is_empty()) {
        result.variant.trained_tokens = curve.tokens.last().copied().unwrap_or(0);
    }
    result.hashes.insert("base".into(), base_hash);
    result.hashes.insert("documents".into(), documents.hash.clone());
    result.hashes.insert("tokenizer".into(), model.tokenizer()?.hash().to_owned());
    let folder = run.join("variants");
    std::fs::create_dir_all(&folder).map_err(|error| io_failure("make", &folder, &error))?;
    run.write_json(&format!("variants/{}.json", spec.name), &result)?;
    Ok(result)
}

/// The model of a variant, and its training curve if it was trained.
fn prepared(
    study: &Study,
    spec: &VariantSpec,
    mut base: ModelFolder,
    base_hash: &str,
    run: &RunDir,
    stop: &StopFlag,
) -> Result<(ModelFolder, Option<TrainingCurve>), Failure> {
    if !spec.train {
        if let Some(change) = &spec.positions {
            base.llama.config.positions = changed_positions(&base.llama.config.positions, change)?;
        }
        let model = match spec.method()? {
            Some(method) => base.with_method(method)?,
            None => base,
        };
        return Ok((model, None));
    }
    let recipe = study.recipe(spec)?;
    let out = run.join("train").join(&spec.name);
    // Checkpoints of another recipe or base are not gone on from; the trainer sets them aside and says so.
    let decided_by = serde_json::json!({ "recipe": recipe, "base": base_hash }).to_string();
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
    let model = train_model(recipe, base, &options, stop)?;
    let curve = training_curve(&spec.name, &read_metrics(&out)?);
    Ok((model, Some(curve)))
}

fn evaluated(
    study: &Study,
    spec: &VariantSpec,
    model: &ModelFolder,
    documents: &Documents,
    stop: &StopFlag,
) -> Result<VariantResult, Failure> {
    let e = &study.evaluation;
    let labels = Labels { model: &study.base, variant: &spec.name };
    let reader = model.reader();
    let found = perplexity_rows(&reader, documents, &perplexity_options(study)?, labels, stop)?;
    let mut rows = found.rows;
    let kind = passkey::Variant::Bowline;
    rows.extend(passkey_rows(model, &reader, kind, &retrieval_options(study), labels, stop)?);
    let longest = e.lengths.iter().copied().max().unwrap_or(1);
    let mut variant = variant_of(model, &spec.name, &spec.description, &study.base);
    if !spec.train {
        variant.trained_context = variant.original_context;
    }
    if let Some(inside) = model.extrapolation {
        let text = inside.to_string();
        let (scheme, parameters) = text.split_once(':').unwrap_or((&text, ""));
        variant.scheme = joined(&variant.scheme, scheme);
        variant.parameters = joined(&variant.parameters, &parameters.replace('=', " = ").replace(',', ", "));
    }
    Ok(VariantResult {
        key: String::new(),
        variant,
        rows,
        position_loss: found.position_loss.into_iter().collect(),
        document_loss: found.document_loss.into_iter().collect(),
        spectra: spectrum(model, &spec.name, longest).into_iter().collect(),
        training: Vec::new(),
        hashes: BTreeMap::new(),
    })
}

/// What positions are changed by, and what reads them.
fn joined(positions: &str, inside: &str) -> String {
    let changed = !matches!(positions, "" | "none" | "default");
    if changed { format!("{positions}, {inside}") } else { inside.to_owned() }
}

/// A hash of everything that decides a variant's result.
fn key(study: &Study, spec: &VariantSpec, base: &str, documents: &str) -> Result<String, Failure> {
    let recipe = if spec.train { Some(study.recipe(spec)?) } else { None };
    let mut decided_by = serde_json::json!({
        "version": RESULT_VERSION, "program": env!("CARGO_PKG_VERSION"), "seed": study.seed,
        "evaluation": study.evaluation, "variant": spec, "recipe": recipe, "base": base, "documents": documents,
    });
    if !is_auto_backend(&study.backend) {
        decided_by["backend"] = study.backend.clone().into();
    }
    Ok(blake3::hash(decided_by.to_string().as_bytes()).to_hex().to_string())
}

fn read_kept(path: &std::path::Path, key: &str) -> Option<VariantResult> {
    let text = std::fs::read(path).ok()?;
    serde_json::from_slice::<VariantResult>(&text).ok().filter(|result| result.key == key)
}
