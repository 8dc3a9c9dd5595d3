//! `bowline eval`: a model against context length.

mod cost;
mod import;
mod retrieval;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use eval::report::{Report, Row, SCHEMA_VERSION, Variant as ReportVariant, csv, lm_eval_results, markdown};
use eval::{PerplexityOptions, Protocol};
use serde_json::json;

use super::options::ModelOptions;
use super::output::{print, print_json};
use crate::describe::{spectrum, variant_of};
use crate::error::{Failure, io_failure};
use crate::evaluate::{Documents, Labels, perplexity_rows, weights_hash};
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
    Passkey(retrieval::PasskeyArgs),
    /// Needles in the user's text or a made one, over lengths and depths
    Needle(retrieval::NeedleArgs),
    /// Several passkeys, one of which is asked for
    Multipasskey(retrieval::MultiPasskeyArgs),
    /// The value of a key in a JSON object (Liu et al. 2023)
    Kv(retrieval::KeyValueArgs),
    /// A question over documents with the answer at a chosen place (Liu et al. 2023)
    Documents(retrieval::DocumentsArgs),
    /// RULER's thirteen tasks and the effective length; published at 4096,8192,16384,32768,65536,131072
    Ruler(retrieval::RulerArgs),
    /// Perplexity on the tokens that need a long context (LongPPL)
    Longppl(cost::LongPplArgs),
    /// Loss at short context against the model before its extension
    ShortText(cost::ShortTextArgs),
    /// Results of other programs as a run folder
    Import(import::ImportArgs),
}

/// What all tasks share.
#[derive(Debug, Args)]
struct Common {
    /// Folder, GGUF file, Hub id in the cache, or `bundled`
    model: String,
    /// Context lengths in tokens, such as 256,512,1024
    #[arg(long, value_delimiter = ',', required = true, value_name = "N,N,..")]
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

/// Documents to read.
#[derive(Debug, Args)]
struct DocumentArgs {
    /// Documents: files or folders (.txt, .jsonl, .jsonl.zst, .parquet), or bundled:heldout
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    data: Vec<String>,
    /// Field or column that holds the text; a Parquet column of integer lists holds token ids
    #[arg(long, default_value = "text", value_name = "NAME")]
    text_field: String,
    /// Cut documents into pieces of this many tokens, each then a document
    #[arg(long, value_name = "N")]
    piece_tokens: Option<usize>,
    /// Most documents used, evenly spread
    #[arg(long, value_name = "N")]
    max_documents: Option<usize>,
}

impl DocumentArgs {
    fn load(&self, model: &ModelFolder) -> Result<Documents, Failure> {
        Documents::load(model, &self.data, &self.text_field, self.piece_tokens, self.max_documents)
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// The whole report
    Json,
    /// Rows, comma-separated
    Csv,
    /// Rows as a Markdown table
    Md,
    /// The schema of lm-evaluation-harness
    LmEval,
}

#[derive(Debug, Args)]
struct PerplexityArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    documents: DocumentArgs,
    /// P1: windows slide by S, the last S tokens of each scored; P2: documents cut to the length; P3: windows slide by S
    /// over one stream, all tokens scored; P4: windows move by S, new tokens scored
    #[arg(long, default_value = "P2")]
    protocol: String,
    /// S, the tokens between window starts [default: 256 for P1 and P3, the window for P4]
    #[arg(long)]
    stride: Option<usize>,
    /// Leave out documents shorter than this many tokens
    #[arg(long, value_name = "N")]
    min_tokens: Option<usize>,
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
            Task::Needle(arguments) => arguments.run(),
            Task::Multipasskey(arguments) => arguments.run(),
            Task::Kv(arguments) => arguments.run(),
            Task::Documents(arguments) => arguments.run(),
            Task::Ruler(arguments) => arguments.run(),
            Task::Longppl(arguments) => arguments.run(),
            Task::ShortText(arguments) => arguments.run(),
            Task::Import(arguments) => arguments.run(),
        }
    }
}

impl PerplexityArgs {
    fn run(self) -> Result<(), Failure> {
        let protocol: Protocol = self.protocol.parse().map_err(crate::evaluate::failure)?;
        let session = Session::open(&self.common, "perplexity")?;
        let model = &session.model;
        let documents = self.documents.load(model)?;
        let options = PerplexityOptions {
            stride: self.stride,
            min_document_tokens: self.min_tokens,
            seed: self.common.seed,
            ..PerplexityOptions::new(protocol, self.common.lengths.clone())
        };
        let found =
            perplexity_rows(&model.reader(), &documents, &options, session.labels(&self.common), &session.stop)?;
        let config = json!({
            "task": "perplexity", "model": self.common.model, "method": self.common.options.method,
            "protocol": self.protocol, "data": self.documents.data, "lengths": self.common.lengths, "stride": self.stride,
            "piece_tokens": self.documents.piece_tokens, "max_documents": self.documents.max_documents,
            "min_tokens": self.min_tokens, "text_field": self.documents.text_field,
        });
        let mut report = session.report(&self.common, found.rows, config, Some(documents.hash))?;
        report.position_loss.extend(found.position_loss);
        report.document_loss.extend(found.document_loss);
        session.finish(&self.common, &report)
    }
}

/// A loaded model, its run folder and what is recorded about the run.
struct Session {
    model: ModelFolder,
    run: RunDir,
    stop: StopFlag,
    recorder: Recorder,
    /// Hashes of weights, tokenizer and whatever else was read.
    hashes: BTreeMap<String, String>,
}

impl Session {
    fn open(common: &Common, task: &str) -> Result<Self, Failure> {
        let mut recorder = Recorder::new();
        recorder.seeds.insert("samples".into(), common.seed);
        let model = common.options.load(&common.model)?;
        recorder.backend = Some(model.llama.backend_record(common.lengths.iter().copied().max().unwrap_or(1)));
        let out = common.out.clone().unwrap_or_else(|| {
            let name = Path::new(&common.model).file_name().map_or_else(|| "model".into(), |n| n.to_string_lossy());
            PathBuf::from("runs").join(format!("eval-{task}-{name}"))
        });
        let mut hashes = recorder.hashes.clone();
        hashes.insert("weights".into(), weights_hash(&model.dir)?);
        hashes.insert("tokenizer".into(), model.tokenizer()?.hash().to_owned());
        Ok(Self { model, run: RunDir::open(&out)?, stop: StopFlag::on_signals()?, recorder, hashes })
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
        let mut hashes = self.hashes.clone();
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
            document_loss: Vec::new(),
            spectra: spectrum(&self.model, "model", longest).into_iter().collect(),
            training: Vec::new(),
            costs: Vec::new(),
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
            Format::LmEval => print_json(&lm_eval_results(report, self.labels(common).variant))?,
        }
        eprintln!("results in {}", self.run.path().display());
        Ok(())
    }
}
