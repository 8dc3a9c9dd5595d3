//! `bowline eval import`: results of other programs as a run folder, to be drawn beside our own.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use eval::report::import::{YarnTable, lm_eval, ruler_summary, yarn_csv};
use eval::report::{Report, SCHEMA_VERSION, csv, markdown};
use serde_json::json;
use tch::{Device, Kind};

use super::Format;
use crate::cli::output::{print, print_json};
use crate::error::{Failure, io_failure};
use crate::runtime::provenance::Recorder;
use crate::runtime::run_dir::RunDir;

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Files to read
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// What they are
    #[arg(long)]
    from: Source,
    /// Run folder that `bowline report` draws
    #[arg(long)]
    out: PathBuf,
    /// Protocol of a table of perplexities, such as P2 for the Proof-pile tables and P1 for GovReport
    #[arg(long, default_value = "P2")]
    protocol: String,
    /// Trials behind each share of a passkey table, where they are known
    #[arg(long)]
    trials: Option<u64>,
    /// Name of the model, where the file does not say it
    #[arg(long, default_value = "imported")]
    model: String,
    /// Context length in tokens, where the file does not say it
    #[arg(long)]
    length: Option<usize>,
    /// What goes to standard output
    #[arg(long, default_value = "md")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Source {
    /// A table of perplexities from the YaRN repository
    YarnPerplexity,
    /// A table of passkey shares from the YaRN repository
    YarnPasskey,
    /// A results file of lm-evaluation-harness
    LmEval,
    /// A summary.csv of RULER; needs --length
    Ruler,
}

impl ImportArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.from == Source::Ruler && self.length.is_none() {
            return Err(Failure::config("a RULER summary does not say its context length: give it with --length"));
        }
        let mut recorder = Recorder::new();
        let mut rows = Vec::new();
        for file in &self.files {
            let text = std::fs::read_to_string(file).map_err(|error| io_failure("read", file, &error))?;
            // A short-context task of the harness has no length; the usual window of its models stands for it.
            let length = self.length.unwrap_or(2048);
            let read = match self.from {
                Source::YarnPerplexity => yarn_csv(&text, YarnTable::Perplexity { protocol: &self.protocol }),
                Source::YarnPasskey => yarn_csv(&text, YarnTable::Passkey { trials: self.trials }),
                Source::LmEval => lm_eval(&text, &self.model, length),
                Source::Ruler => ruler_summary(&text, &self.model, length),
            };
            rows.extend(read.map_err(|error| Failure::data(format!("{}: {error}", file.display())))?);
            let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
            recorder.hashes.insert(file.display().to_string(), hash);
        }
        let config = json!({
            "task": "import", "files": self.files, "protocol": self.protocol, "trials": self.trials, "model": self.model,
            "length": self.length,
        });
        let report = Report {
            schema_version: SCHEMA_VERSION,
            provenance: recorder.provenance(Device::Cpu, Kind::Float, config),
            variants: Vec::new(),
            rows,
            position_loss: Vec::new(),
            document_loss: Vec::new(),
            spectra: Vec::new(),
            training: Vec::new(),
            costs: Vec::new(),
        };
        let run = RunDir::open(&self.out)?;
        let problem = |error: eval::report::ReportError| Failure::data(error.to_string());
        report.save(&run.join("report.json")).map_err(problem)?;
        match self.format {
            Format::Csv => print(&csv(&report.rows).map_err(problem)?),
            Format::Md => print(&markdown(&report.rows)),
            Format::Json | Format::LmEval => print_json(&report)?,
        }
        eprintln!("results in {}", run.path().display());
        Ok(())
    }
}
