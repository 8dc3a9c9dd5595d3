//! Studies: train and evaluate variants of a model, and publish one report.
//!
//! A study is a list of jobs, each one task on one variant. Every job's result is kept under a key of what decides it, so that
//! a study that was interrupted goes on where it stopped, and one that changed computes anew only what changed.

mod expectations;
mod measure;
mod pool;
mod rehearsal;
mod variant;

use std::path::PathBuf;

use eval::report::{Report, SCHEMA_VERSION};
use serde_json::json;
use tch::{Device, Kind};

use self::variant::{Origin, Place};
use crate::config::Study;
use crate::error::{Failure, FailureKind, io_failure};
use crate::runtime::device::device;
use crate::runtime::provenance::Recorder;
use crate::runtime::run_dir::RunDir;
use crate::runtime::signals::StopFlag;

/// Where and on what a study runs.
#[derive(Debug, Clone)]
pub struct StudyOptions {
    /// Run folder.
    pub out: PathBuf,
    /// Device by name; none chooses.
    pub device: Option<String>,
    /// Variants measured at a time; none: as many as cores and memory allow on a CPU, one on a GPU.
    pub jobs: Option<usize>,
}

/// Runs a study and returns a summary for the terminal.
///
/// # Errors
///
/// As training, evaluation and plotting say; exit code 5 when a signal stopped it, 1 when an expectation fails: the
/// report is then written all the same.
pub fn run_study(study: &Study, options: &StudyOptions, stop: &StopFlag) -> Result<String, Failure> {
    let device = device(options.device.as_deref())?;
    let (origins, bytes) = origins(study, device)?;
    let run = RunDir::open(&options.out)?;
    let account: String = origins.iter().map(|origin| origin.account.as_str()).collect();
    eprint!("{account}");
    run.log(account.trim_end());
    let mut recorder = Recorder::new();
    recorder.seeds.insert("study".into(), study.seed);
    let mut backends: Vec<&str> = origins.iter().map(|origin| origin.backend.as_str()).collect();
    backends.dedup();
    recorder.backend = Some(backends.join(", "));
    run.write_toml("resolved.toml", study)?;
    let mut report = Report {
        schema_version: SCHEMA_VERSION,
        provenance: recorder.provenance(device, Kind::Float, json!(null)),
        variants: Vec::new(),
        rows: Vec::new(),
        position_loss: Vec::new(),
        document_loss: Vec::new(),
        spectra: Vec::new(),
        training: Vec::new(),
        costs: Vec::new(),
    };
    let untrained = study.variants.iter().filter(|spec| !spec.train).count();
    let side_by_side = match options.jobs {
        Some(jobs) => jobs.min(untrained.max(1)),
        None => pool::side_by_side(device, untrained, bytes),
    };
    let place = Place { study, run: &run, device, alone: side_by_side == 1, stop };
    for result in pool::results(&place, &origins, side_by_side)? {
        recorder.hashes.extend(result.hashes());
        result.add_to(&mut report);
    }
    report.provenance = recorder.provenance(device, Kind::Float, json!(study));
    run.write_json("provenance.json", &report.provenance)?;
    let problem = |error: eval::report::ReportError| Failure::data(error.to_string());
    report.save(&run.join("report.json")).map_err(problem)?;
    let csv_path = run.join("report.csv");
    let table = eval::report::csv(&report.rows).map_err(problem)?;
    crate::atomic::write_bytes(&csv_path, table.as_bytes()).map_err(|error| io_failure("write", &csv_path, &error))?;
    let name = study.name.clone();
    let rendered =
        plots::render(&[(name, report.clone())], run.path()).map_err(|error| Failure::data(error.to_string()))?;
    let outcomes = expectations::outcomes(&study.expectations, &report);
    let failed = outcomes.iter().filter(|outcome| !outcome.holds).count();
    let mut summary = expectations::table(&report);
    for outcome in &outcomes {
        summary += &format!("{} {}\n", if outcome.holds { "ok  " } else { "FAIL" }, outcome.sentence);
    }
    summary += &format!("{}\n", rendered.html.display());
    if failed > 0 {
        crate::cli::print(&summary);
        return Err(Failure::new(
            FailureKind::Threshold,
            format!("{failed} of {} expectations do not hold", outcomes.len()),
        ));
    }
    Ok(summary)
}

/// The models that variants start from, each once, and the most bytes that measuring one takes; the study has been gone
/// through with each.
fn origins(study: &Study, device: Device) -> Result<(Vec<Origin>, u64), Failure> {
    let (mut origins, mut bytes): (Vec<Origin>, u64) = (Vec::new(), 0);
    for spec in &study.variants {
        let id = study.model_of(spec);
        if origins.iter().any(|origin| origin.id == id) {
            continue;
        }
        let model = variant::load(study, id, device)?;
        let origin = Origin::new(study, &model, id)?;
        rehearsal::rehearse(study, &model, &origin)?;
        bytes = bytes.max(pool::bytes_of(&model.llama.config, study.longest()));
        origins.push(origin);
    }
    Ok((origins, bytes))
}
