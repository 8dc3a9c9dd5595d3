//! `bowline eval`: a model against context length.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use eval::report::{Report, Row, SCHEMA_VERSION, Variant as ReportVariant, csv, markdown};
use eval::tasks::passkey::Variant;
use eval::{PerplexityOptions, Protocol, RetrievalOptions};
use serde_json::json;

use super::options::ModelOptions;
use super::output::{print, print_json};
use crate::describe::{spectrum, variant_of};
use crate::error::{Failure, io_failure};
use crate::evaluate::{Documents, Labels, passkey_depths, passkey_rows, perplexity_rows, weights_hash};
use crate::model::ModelFolder;
use crate::runtime::provenance::Recorder;
use crate::runtime::run_dir::RunDir;
use crate::runtime::signals::StopFlag;

/// Measures a model against context length.
#[derive(Debug, Args)]
pub struct Eval {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Perplexity by a named protocol
    Perplexity(PerplexityArgs),
    /// Passkey retrieval over lengths and depths
    Passkey(PasskeyArgs),
}

/// What both tasks share.
#[derive(Debug, Args)]
struct Common {
    /// Folder, Hub id in the cache, or `bundled`
    model: String,
    /// Context lengths in tokens, such as 256,512,1024
    #[arg(long, value_delimiter = ',', required = true)]
    lengths: Vec<usize>,
    /// Seed of samples and bootstrap
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run folder [default: runs/eval-TASK-MODEL]
    #[arg(long)]
    out: Option<PathBuf>,
    /// What goes to standard output
    #[arg(long, default_value = "md")]
    format: Format,
    #[command(flatten)]
    options: ModelOptions,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// The whole report
    Json,
    /// Rows, comma-separated
    Csv,
    /// Rows as a Markdown table
    Md,
}

#[derive(Debug, Args)]
struct PerplexityArgs {
    #[command(flatten)]
    common: Common,
    /// Documents: files or folders (.txt, .jsonl, .jsonl.zst, .parquet), or bundled:heldout
    #[arg(long, required = true, num_args = 1..)]
    data: Vec<String>,
    /// P1 sliding, last S scored; P2 truncate; P3 stream, all tokens; P4 stride
    #[arg(long, default_value = "P2")]
    protocol: String,
    /// Tokens between window starts [default: 256 for P1 and P3, the window for P4]
    #[arg(long)]
    stride: Option<usize>,
    /// Column or field that holds the text
    #[arg(long, default_value = "text")]
    text_field: String,
    /// Cut documents into pieces of this many tokens
    #[arg(long, value_name = "N")]
    piece_tokens: Option<usize>,
    /// Most documents used, evenly spread
    #[arg(long, value_name = "N")]
    max_documents: Option<usize>,
    /// Leave out documents shorter than this many tokens
    #[arg(long, value_name = "N")]
    min_tokens: Option<usize>,
}

#[derive(Debug, Args)]
struct PasskeyArgs {
    #[command(flatten)]
    common: Common,
    /// Whose passkey: bowline (exact depth by length grid), pi, yarn, longlora
    #[arg(long, default_value = "bowline")]
    variant: String,
    /// Depths of the grid, evenly spaced
    #[arg(long, default_value_t = 11)]
    depths: usize,
    /// Trials in each cell of the grid
    #[arg(long, default_value_t = 10)]
    trials: usize,
}

impl Eval {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// As model, data or task say; exit code 5 when a signal stopped it.
    pub fn run(self) -> Result<(), Failure> {
        match self.task {
            Task::Perplexity(arguments) => arguments.run(),
            Task::Passkey(arguments) => arguments.run(),
        }
    }
}

impl PerplexityArgs {
    fn run(self) -> Result<(), Failure> {
        let protocol: Protocol = self.protocol.parse().map_err(crate::evaluate::failure)?;
        let session = Session::open(&self.common, "perplexity")?;
        let model = &session.model;
        let documents = Documents::load(model, &self.data, &self.text_field, self.piece_tokens, self.max_documents)?;
        let options = PerplexityOptions {
            stride: self.stride,
            min_document_tokens: self.min_tokens,
            seed: self.common.seed,
            ..PerplexityOptions::new(protocol, self.common.lengths.clone())
        };
        let (rows, position_loss) =
            perplexity_rows(&model.reader(), &documents, &options, session.labels(&self.common), &session.stop)?;
        let config = json!({
            "task": "perplexity", "model": self.common.model, "protocol": self.protocol, "data": self.data,
            "lengths": self.common.lengths, "stride": self.stride, "piece_tokens": self.piece_tokens,
            "max_documents": self.max_documents, "min_tokens": self.min_tokens, "text_field": self.text_field,
        });
        let mut report = session.report(&self.common, rows, config, Some(documents.hash))?;
        report.position_loss.extend(position_loss);
        session.finish(&self.common, &report)
    }
}

impl PasskeyArgs {
    fn run(self) -> Result<(), Failure> {
        let variant: Variant = self.variant.parse().map_err(|e: eval::TaskError| Failure::config(e.to_string()))?;
        let session = Session::open(&self.common, "passkey")?;
        let options = RetrievalOptions {
            lengths: self.common.lengths.clone(),
            depths: passkey_depths(variant, self.depths),
            trials: self.trials,
            seed: self.common.seed,
        };
        let reader = session.model.reader();
        let labels = session.labels(&self.common);
        let rows = passkey_rows(&session.model, &reader, variant, &options, labels, &session.stop)?;
        let config = json!({
            "task": "passkey", "model": self.common.model, "variant": self.variant, "lengths": self.common.lengths,
            "depths": self.depths, "trials": self.trials,
        });
        let report = session.report(&self.common, rows, config, None)?;
        session.finish(&self.common, &report)
    }
}

/// A loaded model, its run folder and what is recorded about the run.
struct Session {
    model: ModelFolder,
    run: RunDir,
    stop: StopFlag,
    recorder: Recorder,
}

impl Session {
    fn open(common: &Common, task: &str) -> Result<Self, Failure> {
        let mut recorder = Recorder::new();
        recorder.seeds.insert("samples".into(), common.seed);
        let model = common.options.load(&common.model)?;
        let out = common.out.clone().unwrap_or_else(|| {
            let name = Path::new(&common.model).file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy());
            PathBuf::from("runs").join(format!("eval-{task}-{name}"))
        });
        Ok(Self { model, run: RunDir::open(&out)?, stop: StopFlag::on_signals()?, recorder })
    }

    fn labels<'a>(&self, common: &'a Common) -> Labels<'a> {
        Labels { model: &common.model, variant: "model" }
    }

    fn report(
        &self,
        common: &Common,
        rows: Vec<Row>,
        config: serde_json::Value,
        data: Option<String>,
    ) -> Result<Report, Failure> {
        let mut hashes = self.recorder.hashes.clone();
        hashes.insert("weights".into(), weights_hash(&self.model.dir)?);
        hashes.insert("tokenizer".into(), self.model.tokenizer()?.hash().to_owned());
        hashes.extend(data.map(|hash| ("documents".to_owned(), hash)));
        let mut provenance = self.recorder.provenance(self.model.device(), self.model.kind(), config);
        provenance.hashes = hashes;
        let variant: ReportVariant = variant_of(&self.model, "model", "the model as it is", &common.model);
        let longest = common.lengths.iter().copied().max().unwrap_or(1);
        Ok(Report {
            schema_version: SCHEMA_VERSION,
            provenance,
            variants: vec![variant],
            rows,
            position_loss: Vec::new(),
            spectra: spectrum(&self.model, "model", longest).into_iter().collect(),
            training: Vec::new(),
        })
    }

    fn finish(&self, common: &Common, report: &Report) -> Result<(), Failure> {
        let problem = |error: eval::report::ReportError| Failure::data(error.to_string());
        self.run.write_json("resolved.json", &report.provenance.config)?;
        report.save(&self.run.join("report.json")).map_err(problem)?;
        let table = csv(&report.rows).map_err(problem)?;
        let path = self.run.join("report.csv");
        crate::atomic::write_bytes(&path, table.as_bytes()).map_err(|error| io_failure("write", &path, &error))?;
        match common.format {
            Format::Json => print_json(report)?,
            Format::Csv => print(&table),
            Format::Md => print(&markdown(&report.rows)),
        }
        eprintln!("results in {}", self.run.path().display());
        Ok(())
    }
}
