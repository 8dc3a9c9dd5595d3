//! `bowline search`: position parameters found by measuring.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rope_scaling::hf::Extension;
use serde::Serialize;
use serde_json::{Value, json};

use super::options::ModelOptions;
use super::output::{print, print_json, write_json};
use crate::error::Failure;
use crate::evaluate::{Documents, weights_hash};
use crate::model::ModelFolder;
use crate::runtime::progress::Progress;
use crate::runtime::say;
use crate::runtime::signals::StopFlag;
use crate::search::{Evolution, Found, Goal, History, Individual, START_TOKENS, Settings, Space};

/// Finds position parameters by measuring.
#[derive(Debug, Args)]
pub struct Search {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// LongRoPE's divisors, by evolution over the loss of a few long documents
    Longrope(Box<LongRope>),
}

/// Searches a divisor for each rotated pair (LongRoPE) and writes a file that `--method longrope:factors=FILE`, a recipe's
/// `[positions]` and `export --method` take.
#[derive(Debug, Args)]
struct LongRope {
    /// Folder, Hub id in the cache, or `bundled`; not extended yet
    #[arg(long)]
    model: String,
    /// Tokens of the longer context
    #[arg(long, value_name = "N")]
    target: usize,
    /// Documents that decide: files or folders (.txt, .jsonl, .jsonl.zst, .parquet), cut into pieces of the target length
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    data: Vec<String>,
    /// Field or column that holds the text
    #[arg(long, default_value = "text", value_name = "NAME")]
    text_field: String,
    /// Most pieces used, evenly spread
    #[arg(long, default_value_t = 5, value_name = "N")]
    max_documents: usize,
    /// Documents that the search does not see; the result is measured on them beside PI, NTK and YaRN
    #[arg(long, num_args = 1.., value_name = "PATH")]
    held_out: Vec<String>,
    /// Most pieces of the held-out documents used, evenly spread
    #[arg(long, default_value_t = 16, value_name = "N")]
    max_held_out: usize,
    /// File of factors to write; what was measured goes beside it, to FILE with .history.jsonl behind it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Individuals of the first generation: PI, NTK, YaRN and mutations of them
    #[arg(long, default_value_t = 64, value_name = "N")]
    population: usize,
    /// Generations after the first
    #[arg(long, default_value_t = 40, value_name = "N")]
    iterations: usize,
    /// Mutations of each later generation
    #[arg(long, default_value_t = 16, value_name = "N")]
    mutations: usize,
    /// Crossovers of each later generation
    #[arg(long, default_value_t = 16, value_name = "N")]
    crossovers: usize,
    /// Best individuals so far, which become parents
    #[arg(long, default_value_t = 32, value_name = "N")]
    parents: usize,
    /// Chance of a number to be drawn anew in a mutation
    #[arg(long, default_value_t = 0.3, value_name = "P")]
    probability: f64,
    /// Search the number of first tokens that keep unscaled positions, too; transformers does not know of them
    #[arg(long)]
    start_tokens: bool,
    /// Factor on cosine and sine [default: sqrt(1 + ln(target / context) / ln(context))]
    #[arg(long, value_name = "F")]
    attention_factor: Option<f64>,
    /// Seed of all draws
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Go on with what an interrupted search has measured
    #[arg(long)]
    resume: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: ModelOptions,
}

/// What was found, beside what was known.
#[derive(Debug, Serialize)]
struct Outcome {
    out: PathBuf,
    target: usize,
    /// Individuals measured, in this run and before it.
    evaluations: usize,
    generation: usize,
    start_tokens: usize,
    rows: Vec<Compared>,
}

#[derive(Debug, Serialize)]
struct Compared {
    method: &'static str,
    /// On the documents that decided.
    perplexity: f64,
    /// On the others.
    perplexity_held_out: Option<f64>,
}

impl Search {
    /// Runs the command.
    ///
    /// # Errors
    ///
    /// As model, data or settings say; exit code 5 when a signal stopped it.
    pub fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Longrope(search) => search.run(),
        }
    }
}

impl LongRope {
    fn run(self) -> Result<(), Failure> {
        self.check()?;
        let model = self.options.load(&self.model)?;
        let stop = StopFlag::on_signals()?;
        let positions = model.llama.config.positions.rope("search longrope")?;
        let (target, attention_factor) = (self.target, self.attention_factor);
        let goal = Goal { model: &model, positions, target, attention_factor, stop: &stop };
        let known = goal.known()?;
        let documents = self.documents(&model, &self.data, self.max_documents)?;
        let held_out = match self.held_out.as_slice() {
            [] => None,
            paths => Some(self.documents(&model, paths, self.max_held_out)?),
        };
        let run = self.identity(&model, &documents)?;
        let (found, evaluations) = self.searched(&goal, &known, &documents, &run)?;
        let outcome = self.compared(&goal, &found, evaluations, &documents, held_out.as_ref())?;
        self.write(&goal, &found, evaluations, run)?;
        if self.json { print_json(&outcome) } else { told(&outcome) }
    }

    fn check(&self) -> Result<(), Failure> {
        if !(self.probability > 0.0 && self.probability <= 1.0) {
            let message = format!("--probability {}: must be above 0 and at most 1", self.probability);
            return Err(Failure::config(message));
        }
        if let Some(method) = &self.options.method {
            return Err(Failure::config(format!("--method {method}: the search changes the positions itself")));
        }
        if self.max_documents == 0 || self.max_held_out == 0 {
            return Err(Failure::config("--max-documents and --max-held-out must be at least 1"));
        }
        match self.out.file_name() {
            Some(_) if !self.out.is_dir() => Ok(()),
            _ => Err(Failure::config(format!("--out {}: is not a file", self.out.display()))),
        }
    }

    /// Pieces that fill the target with the bos in front.
    fn documents(&self, model: &ModelFolder, paths: &[String], most: usize) -> Result<Documents, Failure> {
        let text = self.target - usize::from(model.llama.config.bos.is_some());
        Documents::load(model, paths, &self.text_field, Some(text), Some(most))
    }

    fn settings(&self) -> Settings {
        Settings {
            population: self.population,
            mutations: self.mutations,
            crossovers: self.crossovers,
            parents: self.parents,
            iterations: self.iterations,
            seed: self.seed,
        }
    }

    /// What makes two searches the same, all but how long they go on.
    fn identity(&self, model: &ModelFolder, documents: &Documents) -> Result<Value, Failure> {
        let mut settings = json!(self.settings());
        if let Some(settings) = settings.as_object_mut() {
            settings.shift_remove("iterations");
        }
        Ok(json!({
            "program": env!("CARGO_PKG_VERSION"), "model": self.model, "weights": weights_hash(&model.dir)?,
            "tokenizer": model.tokenizer()?.hash(), "documents": documents.hash, "target": self.target,
            "settings": settings, "probability": self.probability, "start_tokens": self.start_tokens,
            "attention_factor": self.attention_factor, "backend": model.llama.backend_record(self.target),
            "threads": tch::get_num_threads(),
        }))
    }

    fn history(&self) -> PathBuf {
        let mut name = self.out.as_os_str().to_owned();
        name.push(".history.jsonl");
        PathBuf::from(name)
    }

    /// The best individual, and how many were measured.
    fn searched(
        &self,
        goal: &Goal<'_>,
        known: &[(&'static str, Individual)],
        documents: &Documents,
        run: &Value,
    ) -> Result<(Found, usize), Failure> {
        let starts = match self.start_tokens {
            true => START_TOKENS.into_iter().filter(|&tokens| tokens < self.target).collect(),
            false => vec![0],
        };
        let space = Space::new(goal.factor(), self.probability, starts);
        let settings = self.settings();
        let evolution = Evolution::new(settings, &space)?;
        let path = self.history();
        if let Some(folder) = self.out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| crate::error::io_failure("make", folder, &error))?;
        }
        let mut history = match self.resume {
            true => History::resume(&path, run)?,
            false => History::create(&path, run)?,
        };
        let kept = history.kept();
        if kept > 0 {
            say!("search: {kept} individuals are known from before");
        }
        let mut progress = Progress::new("search", settings.individuals().saturating_sub(kept) as u64);
        let (mut best, mut met) = (f64::INFINITY, 0);
        let found = evolution.run(known, &mut |place, individual| {
            let loss = history.loss(place, individual, || goal.loss(individual, documents))?;
            (best, met) = (loss.min(best), met + 1);
            let message = format!("generation {}, best perplexity {:.3}", place.iteration, best.exp());
            progress.update((met as u64).saturating_sub(kept as u64), &message);
            Ok(loss)
        })?;
        progress.finish();
        Ok((found, met))
    }

    fn compared(
        &self,
        goal: &Goal<'_>,
        found: &Found,
        evaluations: usize,
        documents: &Documents,
        held_out: Option<&Documents>,
    ) -> Result<Outcome, Failure> {
        let longrope = Extension::LongRope(goal.factors(&found.individual)?);
        let mut rows = Vec::new();
        for (method, extension) in [
            ("pi", Extension::Linear),
            ("ntk", Extension::Ntk),
            ("yarn", Extension::Yarn),
            ("dynamic-yarn", Extension::DynamicYarn),
            ("longrope", longrope),
        ] {
            let loss = |documents: &Documents| Ok::<_, Failure>(goal.loss_under(extension.clone(), documents)?.exp());
            let perplexity_held_out = held_out.map(loss).transpose()?;
            rows.push(Compared { method, perplexity: loss(documents)?, perplexity_held_out });
        }
        Ok(Outcome {
            out: self.out.clone(),
            target: self.target,
            evaluations,
            generation: found.place.iteration,
            start_tokens: found.individual.start_tokens,
            rows,
        })
    }

    fn write(&self, goal: &Goal<'_>, found: &Found, evaluations: usize, run: Value) -> Result<(), Failure> {
        let mut file = goal.factors(&found.individual)?.to_json();
        file.insert(
            "found_by".to_owned(),
            json!({
                "search": run, "iterations": self.iterations, "evaluations": evaluations,
                "generation": found.place.iteration, "loss": found.loss,
            }),
        );
        write_json(&self.out, &file)
    }
}

fn told(outcome: &Outcome) -> Result<(), Failure> {
    let Outcome { out, target, evaluations, generation, start_tokens, rows } = outcome;
    let held_out = rows.iter().any(|row| row.perplexity_held_out.is_some());
    let mut page =
        format!("| perplexity at {target} | search documents |{}\n", if held_out { " held out |" } else { "" });
    page += if held_out { "|---|---|---|\n" } else { "|---|---|\n" };
    for Compared { method, perplexity, perplexity_held_out } in rows {
        let other = perplexity_held_out.map_or(String::new(), |value| format!(" {value:.3} |"));
        page += &format!("| {method} | {perplexity:.3} |{other}\n");
    }
    page += &format!(
        "found in generation {generation} of {evaluations} individuals, {start_tokens} start tokens; factors in {}\n",
        name_of(out)
    );
    print(&page);
    Ok(())
}

fn name_of(path: &Path) -> String {
    path.display().to_string()
}
