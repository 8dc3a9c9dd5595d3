//! Studies: train and evaluate variants of a model, and publish one report.
//!
//! Every variant's result is kept under a key of what decides it, so that a study that was interrupted goes on where it
//! stopped, and one whose recipe changed computes anew only what changed.

mod expectations;
mod rehearsal;
mod variant;

use std::path::PathBuf;

use eval::report::{Report, SCHEMA_VERSION};
use serde_json::json;
use tch::Kind;

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
}

/// Runs a study and returns a summary for the terminal.
///
/// # Errors
///
/// As training, evaluation and plotting say; exit code 5 when a signal stopped it, 1 when an expectation fails: the
/// report is then written all the same.
pub fn run_study(study: &Study, options: &StudyOptions, stop: &StopFlag) -> Result<String, Failure> {
    let device = device(options.device.as_deref())?;
    let base = variant::base(study, device)?;
    let documents = variant::documents(study, &base)?;
    rehearsal::rehearse(study, &base, &documents)?;
    let longest = study.evaluation.lengths.iter().chain(&study.evaluation.passkey_lengths).copied().max();
    let account = base.llama.attention_account(longest.unwrap_or(1));
    drop(base);
    let run = RunDir::open(&options.out)?;
    eprint!("{account}");
    run.log(account.trim_end());
    let mut recorder = Recorder::new();
    recorder.seeds.insert("study".into(), study.seed);
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
    };
    for (number, spec) in study.variants.iter().enumerate() {
        eprintln!("variant {} of {}: {}", number + 1, study.variants.len(), spec.name);
        let result = variant::result(study, spec, &run, device, &documents, stop)?;
        recorder.hashes.extend(result.hashes.clone());
        result.add_to(&mut report);
        run.log(&format!("{}: done", spec.name));
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
