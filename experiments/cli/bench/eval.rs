//! What evaluation costs, beside the plain way to the same numbers.

use std::ops::Range;
use std::time::Instant;

use clap::{Args, ValueEnum};
use eval::passkey::{Generator, Variant};
use eval::{
    Branching, Depths, LanguageModel, ModelError, Monitor, Perplexity, PerplexityOptions, Prefix, Protocol, Question,
    Reply, RetrievalOptions, Sample, Task, TokenScore, perplexity, retrieve,
};
use serde::Serialize;
use tch::{Tensor, no_grad};

use super::super::options::ModelOptions;
use super::super::output::{print, print_json};
use crate::error::Failure;
use crate::evaluate::retrieval::made;
use crate::evaluate::{Documents, failure};
use crate::model::{ModelFolder, Pass, Reader};
use crate::runtime::memory::{peak_bytes, reset_peak};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
enum Case {
    /// P2 at many lengths in one pass, against a run for each length
    Curve,
    /// A passkey grid with what its prompts begin with read once, against every prompt read whole
    PasskeyGrid,
    /// P1 against nothing but the model's forward pass over the same windows
    Sliding,
    /// P4 at a short window, whose windows go through the model together, against one window after another
    ShortWindows,
    /// One long text read in pieces, block by block, against one pass over all of it
    Pieces,
    /// Questions as RULER asks them, answered together, against one after another
    Questions,
}

/// Evaluation.
#[derive(Debug, Args)]
pub(super) struct EvalBench {
    /// Folder, GGUF file, Hub id in the cache, or `bundled`
    #[arg(long, default_value = "bundled")]
    model: String,
    /// Cases
    #[arg(long, value_delimiter = ',', default_value = "curve,passkey_grid,sliding,short_windows,pieces,questions")]
    cases: Vec<Case>,
    /// Documents of all cases but the passkey grid: files or folders
    #[arg(long, num_args = 1.., default_value = "bundled:heldout", value_name = "PATH")]
    data: Vec<String>,
    /// Tokens of the longest text of the curve
    #[arg(long, default_value_t = 2048, value_name = "N")]
    curve_length: usize,
    /// Points of the curve, at equal distances
    #[arg(long, default_value_t = 64)]
    points: usize,
    /// Tokens of a passkey prompt and its answer
    #[arg(long, default_value_t = 2048, value_name = "N")]
    passkey_length: usize,
    /// Depths of the passkey grid, evenly spaced
    #[arg(long, default_value_t = 11)]
    depths: usize,
    /// Trials at each depth
    #[arg(long, default_value_t = 2)]
    trials: usize,
    /// Tokens of a sliding window
    #[arg(long, default_value_t = 1024)]
    window: usize,
    /// Tokens from one window to the next
    #[arg(long, default_value_t = 256)]
    stride: usize,
    /// Sliding windows read
    #[arg(long, default_value_t = 16)]
    windows: usize,
    /// Tokens of a short window
    #[arg(long, default_value_t = 128, value_name = "N")]
    short_window: usize,
    /// Short windows read
    #[arg(long, default_value_t = 64, value_name = "N")]
    short_windows: usize,
    /// Tokens of the text that is read in pieces
    #[arg(long, default_value_t = 8192, value_name = "N")]
    pieces_length: usize,
    /// Tokens of a piece
    #[arg(long, default_value_t = 1024, value_name = "N")]
    piece: usize,
    /// Questions answered
    #[arg(long, default_value_t = 16, value_name = "N")]
    questions: usize,
    /// Tokens of a question's prompt
    #[arg(long, default_value_t = 512, value_name = "N")]
    question_length: usize,
    /// Tokens written behind each
    #[arg(long, default_value_t = 128, value_name = "N")]
    written: usize,
    /// Timed repeats of both ways in turns, after one that is not
    #[arg(long, default_value_t = 3)]
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
    case: Case,
    /// Least time of the plain way divided by the least time of ours. For `sliding` the plain way is the forward pass
    /// alone, without the output head.
    ratio: f64,
    /// The same quotient of tokens that the model reads.
    ratio_of_tokens: f64,
    /// Largest difference of a mean (for `passkey_grid`, of an answer token's; for `questions`, of what was written)
    /// negative log-likelihood, in nats.
    max_nll_difference: f64,
    /// Tokens that our way reads in a second; for `passkey_grid` tokens of the prompts that it answers.
    tokens_per_second: f64,
    /// Most memory of the process, model included, while our way ran.
    peak_bytes: Option<u64>,
    /// The same while the plain way ran.
    peak_bytes_plain: Option<u64>,
    seconds: f64,
    seconds_plain: f64,
    length: usize,
    repeats: usize,
    threads: i32,
}

/// What a case has to say beside its times.
struct Found {
    case: Case,
    length: usize,
    tokens: usize,
    ratio_of_tokens: f64,
    max_nll_difference: f64,
}

impl EvalBench {
    /// Measures and prints.
    ///
    /// # Errors
    ///
    /// When an option is 0 or a text too short, or the model cannot be loaded or fails.
    pub(super) fn run(self) -> Result<(), Failure> {
        let counts = [
            self.points,
            self.depths,
            self.trials,
            self.stride,
            self.windows,
            self.repeats,
            self.short_windows,
            self.piece,
            self.questions,
            self.question_length,
            self.written,
        ];
        if counts.contains(&0) || self.window <= self.stride || self.curve_length < 2 * self.points {
            return Err(Failure::config(
                "--points, --depths, --trials, --stride, --windows, --short-windows, --piece and --repeats must be at least 1, \
                 --window larger than --stride, and --curve-length at least twice --points",
            ));
        }
        let model = self.options.load(&self.model)?;
        let mut rows = Vec::new();
        for case in &self.cases {
            rows.push(match case {
                Case::Curve => self.curve(&model),
                Case::PasskeyGrid => self.passkey_grid(&model),
                Case::Sliding => self.sliding(&model),
                Case::ShortWindows => self.short_windows(&model),
                Case::Pieces => self.pieces(&model),
                Case::Questions => self.questions(&model),
            }?);
            if !self.json {
                rows.last().map(told).iter().for_each(|line| print(line));
            }
        }
        if self.json { print_json(&rows) } else { Ok(()) }
    }

    fn curve(&self, model: &ModelFolder) -> Result<Row, Failure> {
        let length = self.curve_length;
        let reader = model.reader();
        let documents = self.document(model, length)?;
        let lengths: Vec<usize> = (1..=self.points).map(|point| point * length / self.points).collect();
        let at = |lengths: &[usize]| measured(&reader, &documents, &options(Protocol::P2, lengths, None));
        let at_once = at(&lengths)?;
        let mut furthest: f64 = 0.0;
        for (point, &length) in at_once.points.iter().zip(&lengths) {
            let alone = at(&[length])?.points[0].token_weighted.value;
            furthest = furthest.max((point.token_weighted.value.ln() - alone.ln()).abs());
        }
        let found = Found {
            case: Case::Curve,
            length,
            tokens: length,
            ratio_of_tokens: lengths.iter().sum::<usize>() as f64 / length as f64,
            max_nll_difference: furthest,
        };
        self.row(found, &|| at(&lengths).map(|_| ()), &|| lengths.iter().try_for_each(|&it| at(&[it]).map(|_| ())))
    }

    fn passkey_grid(&self, model: &ModelFolder) -> Result<Row, Failure> {
        let length = self.passkey_length;
        let reader = model.reader();
        let task = made(Generator::new(model.tokenizer()?, Variant::Bowline, reader.bos()))?;
        let depths = Depths::even(self.depths);
        let options = RetrievalOptions { lengths: vec![length], depths, trials: self.trials, seed: 1 };
        let samples = self.samples(&task, &options)?;
        let branching = Branching::new(&reader, length);
        let (mut furthest, mut tokens): (f64, usize) = (0.0, 0);
        for sample in &samples {
            tokens += sample.tokens.len();
            let scores = |model: &dyn LanguageModel| model.prefix(&sample.tokens, length)?.score(&sample.answer);
            for (ours, plain) in scores(&branching)?.iter().zip(scores(&reader)?) {
                furthest = furthest.max(f64::from(ours.log_prob - plain.log_prob).abs());
            }
        }
        let found = Found {
            case: Case::PasskeyGrid,
            length,
            tokens,
            ratio_of_tokens: tokens as f64 / branching.tokens_read() as f64,
            max_nll_difference: furthest,
        };
        let ours = || retrieve(&task, &reader, &options, &mut Monitor::silent()).map(|_| ()).map_err(failure);
        let plain = || {
            let samples = self.samples(&task, &options)?;
            samples.iter().try_for_each(|sample| Ok(task.score(&reader, sample).map(|_| ())?))
        };
        self.row(found, &ours, &plain)
    }

    /// The samples of a grid in the order in which it is run: the deepest needle of each trial first.
    fn samples(&self, task: &dyn Task, options: &RetrievalOptions) -> Result<Vec<Sample>, Failure> {
        let Depths::Grid(depths) = &options.depths else { return Ok(Vec::new()) };
        let mut samples = Vec::new();
        for trial in 0..options.trials {
            for &depth in depths.iter().rev() {
                let seed = task.trial_seed(options.seed, self.passkey_length, trial);
                samples.push(made(task.sample(self.passkey_length, Some(depth), seed))?);
            }
        }
        Ok(samples)
    }

    fn sliding(&self, model: &ModelFolder) -> Result<Row, Failure> {
        let reader = model.reader();
        let bos = reader.bos();
        let text = self.window - usize::from(bos.is_some());
        let documents = self.document(model, text + (self.windows - 1) * self.stride)?;
        let plan = model.llama.positions(&model.encoding().plan(self.window, model.precision)?);
        let windows: Vec<Vec<u32>> = (0..self.windows)
            .map(|index| &documents[0][index * self.stride..][..text])
            .map(|text| bos.into_iter().chain(text.iter().copied()).collect())
            .collect();
        let forward = || -> Result<(), Failure> {
            for window in &windows {
                let ids: Vec<i64> = window.iter().map(|&id| i64::from(id)).collect();
                let ids = Tensor::from_slice(&ids).unsqueeze(0).to_device(model.device());
                let pass = Pass { plan: &plan, offset: 0, mask: attention::Mask::Causal { offset: 0 } };
                // Reading one number waits for a device that works on its own.
                let hidden = no_grad(|| model.llama.hidden(&ids, &pass, None))?;
                hidden.double_value(&[0, -1, 0]);
            }
            Ok(())
        };
        let options = options(Protocol::P1, &[self.window], Some(self.stride));
        let ours = || measured(&reader, &documents, &options);
        let found = Found {
            case: Case::Sliding,
            length: self.window,
            tokens: self.windows * self.window,
            ratio_of_tokens: 1.0,
            max_nll_difference: (ours()?.points[0].token_weighted.value.ln() - self.all_scored(&reader, &windows)?)
                .abs(),
        };
        self.row(found, &|| ours().map(|_| ()), &forward)
    }

    fn short_windows(&self, model: &ModelFolder) -> Result<Row, Failure> {
        let reader = model.reader();
        let text = self.short_window - usize::from(reader.bos().is_some());
        let documents = self.document(model, text * self.short_windows)?;
        let alone = OneByOne(&reader);
        let options = options(Protocol::P4, &[self.short_window], None);
        let ours = || measured(&reader, &documents, &options);
        let plain = || measured(&alone, &documents, &options);
        let loss = |found: &Perplexity| found.points[0].token_weighted.value.ln();
        let found = Found {
            case: Case::ShortWindows,
            length: self.short_window,
            tokens: self.short_windows * self.short_window,
            ratio_of_tokens: 1.0,
            max_nll_difference: (loss(&ours()?) - loss(&plain()?)).abs(),
        };
        self.row(found, &|| ours().map(|_| ()), &|| plain().map(|_| ()))
    }

    fn pieces(&self, model: &ModelFolder) -> Result<Row, Failure> {
        let length = self.pieces_length;
        let document = self.document(model, length)?.swap_remove(0);
        let whole = model.reader().with_chunk(Some(length));
        let parts = model.reader().with_chunk(Some(self.piece));
        let scores = |reader: &Reader<'_>| reader.score(&document, 1..length);
        let mut furthest: f64 = 0.0;
        for (ours, plain) in scores(&parts)?.iter().zip(scores(&whole)?) {
            furthest = furthest.max(f64::from(ours.log_prob - plain.log_prob).abs());
        }
        let found =
            Found { case: Case::Pieces, length, tokens: length, ratio_of_tokens: 1.0, max_nll_difference: furthest };
        self.row(found, &|| Ok(scores(&parts).map(|_| ())?), &|| Ok(scores(&whole).map(|_| ())?))
    }

    fn questions(&self, model: &ModelFolder) -> Result<Row, Failure> {
        let (reader, length) = (model.reader(), self.question_length);
        let text = self.document(model, length * self.questions)?.swap_remove(0);
        let ask = |prompt| Question { prompt, answer: &[], count: self.written };
        let questions: Vec<Question<'_>> = text.chunks(length).map(ask).collect();
        let alone = OneByOne(&reader);
        let ours = || -> Result<Vec<Reply>, Failure> {
            let groups = questions.chunks(reader.questions_at_once(length + self.written));
            let replies: Vec<Vec<Reply>> = groups.map(|group| reader.replies(group)).collect::<Result<_, _>>()?;
            Ok(replies.into_iter().flatten().collect())
        };
        let plain = || -> Result<Vec<Reply>, Failure> { Ok(alone.replies(&questions)?) };
        // What both wrote, under one judge.
        let mut furthest: f64 = 0.0;
        for ((question, ours), plain) in questions.iter().zip(ours()?).zip(plain()?) {
            let loss = |reply: &Reply| -> Result<f64, Failure> {
                let scores = reader.prefix(question.prompt, question.total())?.score(&reply.written)?;
                Ok(scores.iter().map(|score| -f64::from(score.log_prob)).sum::<f64>() / scores.len() as f64)
            };
            furthest = furthest.max((loss(&ours)? - loss(&plain)?).abs());
        }
        let found = Found {
            case: Case::Questions,
            length,
            tokens: self.questions * (length + self.written),
            ratio_of_tokens: 1.0,
            max_nll_difference: furthest,
        };
        self.row(found, &|| ours().map(|_| ()), &|| plain().map(|_| ()))
    }

    /// Mean loss of the tokens that P1 counts, with every token of every window scored.
    fn all_scored(&self, reader: &Reader<'_>, windows: &[Vec<u32>]) -> Result<f64, Failure> {
        let (mut sum, mut count) = (0.0, 0);
        for (index, window) in windows.iter().enumerate() {
            let scores = reader.score(window, 1..window.len())?;
            let new = if index == 0 { scores.len() } else { self.stride };
            sum -= scores[scores.len() - new..].iter().map(|score| f64::from(score.log_prob)).sum::<f64>();
            count += new;
        }
        Ok(sum / count as f64)
    }

    /// One text of exactly so many tokens.
    fn document(&self, model: &ModelFolder, tokens: usize) -> Result<Vec<Vec<u32>>, Failure> {
        Ok(Documents::load(model, &self.data, "text", Some(tokens), Some(1))?.tokens)
    }

    /// Times `ours` and `plain` in turns.
    fn row(
        &self,
        found: Found,
        ours: &dyn Fn() -> Result<(), Failure>,
        plain: &dyn Fn() -> Result<(), Failure>,
    ) -> Result<Row, Failure> {
        let peak_of = |run: &dyn Fn() -> Result<(), Failure>| -> Result<Option<u64>, Failure> {
            let told = reset_peak();
            run()?;
            Ok(peak_bytes().filter(|_| told))
        };
        let (peak_bytes, peak_bytes_plain) = (peak_of(ours)?, peak_of(plain)?);
        let (mut seconds, mut seconds_plain) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..self.repeats {
            seconds = seconds.min(timed(ours)?);
            seconds_plain = seconds_plain.min(timed(plain)?);
        }
        let Found { case, length, tokens, ratio_of_tokens, max_nll_difference } = found;
        Ok(Row {
            case,
            ratio: seconds_plain / seconds,
            ratio_of_tokens,
            max_nll_difference,
            tokens_per_second: tokens as f64 / seconds,
            peak_bytes,
            peak_bytes_plain,
            seconds,
            seconds_plain,
            length,
            repeats: self.repeats,
            threads: tch::get_num_threads(),
        })
    }
}

/// A run whose bootstrap costs nothing, since only the model is measured.
fn options(protocol: Protocol, lengths: &[usize], stride: Option<usize>) -> PerplexityOptions {
    PerplexityOptions { stride, resamples: 1, ..PerplexityOptions::new(protocol, lengths.to_vec()) }
}

/// A model that takes one input at a time.
struct OneByOne<'a>(&'a Reader<'a>);

impl LanguageModel for OneByOne<'_> {
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn bos(&self) -> Option<u32> {
        self.0.bos()
    }

    fn depends_on_length(&self) -> bool {
        self.0.depends_on_length()
    }

    fn score(&self, tokens: &[u32], scored: Range<usize>) -> Result<Vec<TokenScore>, ModelError> {
        self.0.score(tokens, scored)
    }

    fn prefix(&self, tokens: &[u32], total: usize) -> Result<Box<dyn Prefix + '_>, ModelError> {
        self.0.prefix(tokens, total)
    }
}

fn measured(
    reader: &dyn LanguageModel,
    documents: &[Vec<u32>],
    options: &PerplexityOptions,
) -> Result<Perplexity, Failure> {
    perplexity(reader, documents, options, &mut Monitor::silent()).map_err(failure)
}

fn timed(run: &dyn Fn() -> Result<(), Failure>) -> Result<f64, Failure> {
    let started = Instant::now();
    run()?;
    Ok(started.elapsed().as_secs_f64())
}

fn told(row: &Row) -> String {
    let Row { length, ratio, ratio_of_tokens, max_nll_difference, tokens_per_second, threads, .. } = row;
    let what = match row.case {
        Case::Curve => format!("curve to {length} tokens: {ratio:.1} times as fast as a run for each length"),
        Case::PasskeyGrid => {
            format!("passkey grid at {length} tokens: {ratio:.2} times as fast as every prompt read whole")
        }
        Case::Sliding => {
            format!("sliding windows of {length} tokens: {ratio:.3} of the speed of the forward pass alone")
        }
        Case::ShortWindows => {
            format!("windows of {length} tokens together: {ratio:.2} times as fast as one after another")
        }
        Case::Questions => {
            format!("questions behind {length} tokens together: {ratio:.2} times as fast as one after another")
        }
        Case::Pieces => format!("{length} tokens in pieces: {ratio:.2} of the speed of one pass over all of them"),
    };
    let peak = match (row.peak_bytes, row.peak_bytes_plain) {
        (Some(ours), Some(plain)) => format!(", peak {} MB against {} MB", ours / 1_000_000, plain / 1_000_000),
        _ => String::new(),
    };
    format!(
        "{what} ({ratio_of_tokens:.2} by tokens read), likelihoods within {max_nll_difference:.1e} nats, \
         {tokens_per_second:.0} tokens/s on {threads} threads{peak}\n"
    )
}
