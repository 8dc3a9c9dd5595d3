//! Tokens per second of scoring.

use clap::Args;
use eval::LanguageModel;
use rope_scaling::Precision;
use serde::Serialize;

use super::super::options::ModelOptions;
use super::super::output::{print, print_json};
use super::{drawn, timed};
use crate::config::Base;
use crate::data::rng::CounterRng;
use crate::error::Failure;
use crate::model::Reader;

/// Scoring.
#[derive(Debug, Args)]
pub(super) struct ScoreBench {
    /// Folder, GGUF file, Hub id in the cache, or `bundled`; with --random-weights also the name of a known shape, such as `llama-2-7b`
    model: String,
    /// Take the model's shape alone, and weights drawn on the device
    #[arg(long)]
    random_weights: bool,
    /// Lengths in tokens
    #[arg(long, value_delimiter = ',', default_value = "256,1024,2048")]
    lengths: Vec<usize>,
    /// Timed repeats, after one that is not
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: ModelOptions,
}

/// One measurement.
#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    length: usize,
    batch: usize,
    tokens_per_second: f64,
    seconds_median: f64,
    seconds_least: f64,
    repeats: usize,
    threads: i32,
}

impl ScoreBench {
    /// Measures and prints.
    ///
    /// # Errors
    ///
    /// When the model cannot be loaded or fails.
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.random_weights {
            if let Some(method) = &self.options.method {
                return Err(Failure::config(format!(
                    "--method {method}: a shape with random weights is read as it is"
                )));
            }
            let llama = drawn(&self.model, &self.options, Base::Full)?;
            let reader = Reader::new(&llama, llama.config.encoding(), Precision::HubCompatible);
            return self.measured(&reader.with_chunk(self.options.chunk));
        }
        self.measured(&self.options.load(&self.model)?.reader())
    }

    fn measured(&self, reader: &Reader<'_>) -> Result<(), Failure> {
        let mut rows = Vec::new();
        for &length in &self.lengths {
            let ids = random_ids(length, reader.vocab_size());
            let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
            let timed = timed(1, self.repeats, || Ok(reader.score(&ids, 1..length).map(|_| ())?))?;
            rows.push(row("score", length, 1, &timed));
        }
        shown(&rows, self.json)
    }
}

fn row(case: &'static str, length: usize, batch: usize, seconds: &[f64]) -> Row {
    let median = seconds[seconds.len() / 2];
    Row {
        case,
        length,
        batch,
        tokens_per_second: (batch * length) as f64 / median,
        seconds_median: median,
        seconds_least: seconds[0],
        repeats: seconds.len(),
        threads: tch::get_num_threads(),
    }
}

fn shown(rows: &[Row], json: bool) -> Result<(), Failure> {
    if json {
        return print_json(&rows);
    }
    for row in rows {
        let Row { case, length, batch, tokens_per_second, seconds_median, threads, .. } = row;
        print(&format!(
            "{case}: {batch} x {length} tokens, {tokens_per_second:.0} tokens/s ({:.1} ms, {threads} threads)\n",
            seconds_median * 1e3
        ));
    }
    Ok(())
}

fn random_ids(count: usize, vocab: usize) -> Vec<i64> {
    let rng = CounterRng::new(1).stream("bench");
    (0..count as u64).map(|i| rng.below(i, vocab as u64) as i64).collect()
}
