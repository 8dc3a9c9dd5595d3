//! [`Llama`] as the evaluator's [`LanguageModel`].

use std::cell::RefCell;
use std::ops::Range;

use attention::tiled::rows;
use eval::{LanguageModel, ModelError, Prefix, Question, Reply, TokenScore, reply_alone};
use rope_scaling::{PositionEncoding, Precision};
use tch::{Kind, Tensor, no_grad};

use super::extrapolation::Extrapolation;
use super::host::singles;
use super::kv_cache::KvCache;
use super::llama::Llama;
use super::positions::PlanTensors;
use crate::error::Failure;

/// Scored positions that go through the output head at once: bounds the logits at this many rows.
const HEAD_ROWS: usize = 1024;

/// Bytes of activations that rows read together may take on the CPU: beyond its caches more rows are slower, not faster.
const ROWS_BYTES: usize = 12 << 20;
/// The same on CUDA, where only large passes fill the device.
const ROWS_BYTES_CUDA: usize = 1 << 30;

/// Bytes of caches that questions answered together may take on the CPU, and on CUDA.
pub const QUESTION_BYTES: usize = 256 << 20;
const QUESTION_BYTES_CUDA: usize = 8 << 30;

/// Most questions answered together: a batch is what an interruption loses.
pub const MOST_QUESTIONS: usize = 16;

/// A model with the position encoding under which it is read.
#[derive(Debug)]
pub struct Reader<'a> {
    model: &'a Llama,
    encoding: PositionEncoding,
    precision: Precision,
    extrapolation: Option<Extrapolation>,
    /// Tokens that are read at once; none: [`Llama::piece`].
    chunk: Option<usize>,
    plan: RefCell<Option<PlanTensors>>,
}

impl<'a> Reader<'a> {
    /// Reads `model` under `encoding`.
    pub fn new(model: &'a Llama, encoding: PositionEncoding, precision: Precision) -> Self {
        Self { model, encoding, precision, extrapolation: None, chunk: None, plan: RefCell::new(None) }
    }

    /// Reading in pieces of so many tokens, at least 1; none: as the length suggests.
    #[must_use]
    pub fn with_chunk(self, chunk: Option<usize>) -> Self {
        Self { chunk, ..self }
    }

    /// With a method that decides positions inside attention.
    #[must_use]
    pub fn with_extrapolation(self, extrapolation: Option<Extrapolation>) -> Self {
        Self { extrapolation, ..self }
    }

    /// Tensors of the plan for `length`, made once per length, or once for the longest when lengths do not matter.
    fn with_plan<T>(&self, length: usize, run: impl FnOnce(&PlanTensors) -> Result<T, Failure>) -> Result<T, Failure> {
        let fits = |plan: &PlanTensors| match self.encoding.depends_on_length() {
            true => plan.length() == length,
            false => plan.length() >= length,
        };
        if !self.plan.borrow().as_ref().is_some_and(fits) {
            let plan = self.encoding.plan(length, self.precision)?;
            *self.plan.borrow_mut() = Some(self.model.positions(&plan).with_extrapolation(self.extrapolation));
        }
        match self.plan.borrow().as_ref() {
            Some(plan) => run(plan),
            None => Err(Failure::config("no position plan was made")),
        }
    }

    fn piece(&self, length: usize, offset: usize) -> i64 {
        self.chunk.unwrap_or_else(|| self.model.piece(length, offset)).max(1) as i64
    }

    fn check_ids(&self, tokens: &[u32]) -> Result<(), Failure> {
        match tokens.iter().find(|&&id| id as usize >= self.model.config.vocab) {
            Some(id) => {
                Err(Failure::data(format!("token id {id} is outside the vocabulary of {}", self.model.config.vocab)))
            }
            None => Ok(()),
        }
    }

    fn tensor(&self, tokens: &[u32]) -> Tensor {
        let ids: Vec<i64> = tokens.iter().map(|&id| i64::from(id)).collect();
        Tensor::from_slice(&ids).unsqueeze(0).to_device(self.model.embedding.device())
    }

    /// Hidden states `[length - from, hidden]` of `tokens` from the `from`th on, read after what `cache` holds.
    fn read(&self, tokens: &[u32], from: usize, total: usize, cache: &mut KvCache) -> Result<Tensor, Failure> {
        self.check_ids(tokens)?;
        let piece = self.piece(tokens.len(), cache.len());
        let hidden = self
            .with_plan(total, |plan| self.model.hidden_behind(&self.tensor(tokens), plan, cache, from as i64, piece))?;
        Ok(hidden.squeeze_dim(0))
    }

    /// Scores of the tokens `scored` of every one of `inputs`, all as long as `scored.end`, from one pass over all of them.
    fn scored_rows(&self, inputs: &[&[u32]], scored: &Range<usize>) -> Result<Vec<Vec<TokenScore>>, Failure> {
        inputs.iter().try_for_each(|tokens| self.check_ids(tokens))?;
        let read = scored.end - 1;
        let rows: Vec<Tensor> = inputs.iter().map(|tokens| self.tensor(&tokens[..read])).collect();
        let hidden = self.with_plan(scored.end, |plan| {
            let (from, piece) = (scored.start as i64 - 1, self.piece(read, 0));
            self.model.hidden_in_pieces(&Tensor::cat(&rows, 0), plan, from, piece)
        })?; // [rows, scored, hidden]
        let targets: Vec<u32> = inputs.iter().flat_map(|tokens| &tokens[scored.clone()]).copied().collect();
        let scores = self.scores(&hidden.flatten(0, 1), &targets);
        Ok(scores.chunks(scored.len()).map(<[TokenScore]>::to_vec).collect())
    }

    /// How `targets` look from `hidden` `[targets, hidden]`.
    fn scores(&self, hidden: &Tensor, targets: &[u32]) -> Vec<TokenScore> {
        let mut scores = Vec::with_capacity(targets.len());
        for (number, targets) in targets.chunks(HEAD_ROWS).enumerate() {
            let logits = self.model.logits(&hidden.narrow(0, (number * HEAD_ROWS) as i64, targets.len() as i64));
            scores.extend(match singles(&logits) {
                Some(numbers) => by_rows(numbers, targets),
                None => by_libtorch(&logits, &self.tensor(targets).squeeze_dim(0)),
            });
        }
        scores
    }

    /// The most likely token after the last of `hidden` `[length, hidden]`.
    fn top(&self, last: &Tensor) -> u32 {
        self.model.logits(last).to_kind(Kind::Float).argmax(-1, false).int64_value(&[]) as u32
    }

    /// Logits `[vocab]` in float32 after the last row of `hidden`.
    pub fn last_logits(&self, hidden: &Tensor) -> Vec<f32> {
        let logits = self.model.logits(&hidden.select(0, -1)).to_kind(Kind::Float);
        Vec::<f32>::try_from(&logits).unwrap_or_default()
    }

    /// Replies to questions of any lengths: each prompt is read on its own, and what follows is written in step.
    fn replied(&self, questions: &[Question<'_>]) -> Result<Vec<Reply>, Failure> {
        let longest = questions.iter().map(Question::total).max().unwrap_or(0);
        // The caches of all are filled under one plan.
        self.with_plan(longest, |_| Ok(()))?;
        let (mut forced, mut rows) = (Vec::new(), Vec::new());
        for question in questions {
            let kept = self.kept(question.prompt, question.total())?;
            let (scores, mut written) = kept.scored_and_known(question.answer, question.count)?;
            if written.is_empty() && question.count > 0 {
                written.push(self.top(&kept.last));
            }
            forced.push(scores);
            rows.push(Writing { cache: kept.cache.into_inner(), written, count: question.count });
        }
        self.with_plan(longest, |plan| self.write_on(&mut rows, plan))?;
        Ok(forced.into_iter().zip(rows).map(|(forced, row)| Reply { forced, written: row.written }).collect())
    }

    /// Every row up to its count, one token of each at a time.
    fn write_on(&self, rows: &mut [Writing], plan: &PlanTensors) -> Result<(), Failure> {
        loop {
            let mut open: Vec<&mut Writing> = rows.iter_mut().filter(|row| row.written.len() < row.count).collect();
            if open.is_empty() {
                return Ok(());
            }
            let last: Vec<u32> = open.iter().filter_map(|row| row.written.last().copied()).collect();
            let mut caches: Vec<&mut KvCache> = open.iter_mut().map(|row| &mut row.cache).collect();
            let hidden = self.model.next_hidden(&self.tensor(&last).squeeze_dim(0), plan, &mut caches)?;
            let tops = self.model.logits(&hidden).to_kind(Kind::Float).argmax(-1, false);
            let tops = Vec::<i64>::try_from(&tops).map_err(|error| Failure::config(error.to_string()))?;
            open.iter_mut().zip(tops).for_each(|(row, top)| row.written.push(top as u32));
        }
    }

    /// Reads `tokens` into a cache for `total` tokens.
    ///
    /// # Errors
    ///
    /// When `tokens` is empty or longer than `total`, or the model fails.
    pub fn kept(&self, tokens: &[u32], total: usize) -> Result<Kept<'_>, Failure> {
        if tokens.is_empty() || tokens.len() > total {
            return Err(Failure::config(format!(
                "a prefix of {} tokens does not fit a total of {total}",
                tokens.len()
            )));
        }
        no_grad(|| {
            let fingerprint = self.with_plan(total, |plan| Ok(plan.fingerprint()))?;
            let (kind, device) = (self.model.embedding.kind(), self.model.embedding.device());
            let cache = RefCell::new(KvCache::new(&self.model.config, total, fingerprint, kind, device)?);
            // A place for the last hidden state, which the reading fills.
            let last = Tensor::empty([0], (kind, device));
            let mut kept = Kept { reader: self, length: 0, last, cache };
            kept.read_on(tokens)?;
            Ok(kept)
        })
    }
}

impl LanguageModel for Reader<'_> {
    fn vocab_size(&self) -> usize {
        self.model.config.vocab
    }

    fn bos(&self) -> Option<u32> {
        self.model.config.bos
    }

    fn depends_on_length(&self) -> bool {
        self.encoding.depends_on_length()
    }

    fn score(&self, tokens: &[u32], scored: Range<usize>) -> Result<Vec<TokenScore>, ModelError> {
        if scored.start == 0 || scored.is_empty() || scored.end > tokens.len() {
            return Err(ModelError(format!("cannot score {scored:?} of {} tokens", tokens.len())));
        }
        let rows = no_grad(|| self.scored_rows(&[&tokens[..scored.end]], &scored)).map_err(model_error)?;
        Ok(rows.into_iter().flatten().collect())
    }

    fn rows_at_once(&self, length: usize) -> usize {
        let budget = if self.model.embedding.device().is_cuda() { ROWS_BYTES_CUDA } else { ROWS_BYTES };
        (budget / (self.model.activation_bytes() * length.max(1))).max(1)
    }

    fn score_rows(&self, inputs: &[&[u32]], scored: Range<usize>) -> Result<Vec<Vec<TokenScore>>, ModelError> {
        let differ = inputs.iter().any(|tokens| tokens.len() < scored.end);
        if scored.start == 0 || scored.is_empty() || differ || inputs.is_empty() {
            return Err(ModelError(format!("cannot score {scored:?} of {} inputs, all so long", inputs.len())));
        }
        let rows: Vec<&[u32]> = inputs.iter().map(|tokens| &tokens[..scored.end]).collect();
        no_grad(|| self.scored_rows(&rows, &scored)).map_err(model_error)
    }

    fn questions_at_once(&self, total: usize) -> usize {
        // Each total has frequencies of its own.
        if self.encoding.depends_on_length() {
            return 1;
        }
        let budget = if self.model.embedding.device().is_cuda() { QUESTION_BYTES_CUDA } else { QUESTION_BYTES };
        let bytes = KvCache::bytes(&self.model.config, total, self.model.embedding.kind());
        (budget / bytes.max(1)).clamp(1, MOST_QUESTIONS)
    }

    fn replies(&self, questions: &[Question<'_>]) -> Result<Vec<Reply>, ModelError> {
        if questions.len() < 2 || self.encoding.depends_on_length() {
            return questions.iter().map(|question| reply_alone(self, question)).collect();
        }
        no_grad(|| self.replied(questions)).map_err(model_error)
    }

    fn prefix(&self, tokens: &[u32], total: usize) -> Result<Box<dyn Prefix + '_>, ModelError> {
        Ok(Box::new(self.kept(tokens, total).map_err(model_error)?))
    }
}

/// A reply that is being written.
struct Writing {
    /// All that is known of the text but the last token of `written`.
    cache: KvCache,
    written: Vec<u32>,
    count: usize,
}

/// Tokens already read. Continuations write behind them in the same buffers and are forgotten after each call.
#[derive(Debug)]
pub struct Kept<'a> {
    reader: &'a Reader<'a>,
    length: usize,
    last: Tensor, // [hidden], after the last token read
    cache: RefCell<KvCache>,
}

impl Kept<'_> {
    /// Logits `[vocab]` for the token after the prefix.
    pub fn next_logits(&self) -> Vec<f32> {
        no_grad(|| self.reader.last_logits(&self.last.unsqueeze(0)))
    }

    /// Reads one more token for good.
    ///
    /// # Errors
    ///
    /// When the total is passed.
    pub fn push(&mut self, token: u32) -> Result<(), Failure> {
        no_grad(|| self.read_on(&[token]))
    }

    /// Hidden states `[length - from, hidden]` of tokens, from the `from`th on, read after the cache's end.
    fn continued(&self, tokens: &[u32], from: usize) -> Result<Tensor, Failure> {
        let mut cache = self.cache.borrow_mut();
        let (held, capacity) = (cache.len(), cache.capacity());
        if held + tokens.len() > capacity {
            let message =
                format!("{held} + {} tokens pass the total of {capacity} given for this prefix", tokens.len());
            return Err(Failure::config(message));
        }
        self.reader.read(tokens, from, capacity, &mut cache)
    }

    /// Reads `tokens` for good; of the hidden states only the last one is kept.
    fn read_on(&mut self, tokens: &[u32]) -> Result<(), Failure> {
        let Some(last) = tokens.len().checked_sub(1) else { return Ok(()) };
        self.last = self.continued(tokens, last)?.select(0, -1).copy();
        self.length += tokens.len();
        Ok(())
    }

    fn forget(&self) {
        self.cache.borrow_mut().truncate(self.length);
    }

    fn scored(&self, continuation: &[u32]) -> Result<Vec<TokenScore>, Failure> {
        let Some((_, read)) = continuation.split_last() else { return Ok(Vec::new()) };
        self.reader.check_ids(continuation)?;
        let first = self.last.unsqueeze(0);
        let hidden = match read {
            [] => first,
            read => Tensor::cat(&[first, self.continued(read, 0)?], 0),
        };
        Ok(self.reader.scores(&hidden, continuation))
    }

    fn grown(&self, count: usize, stop: &[u32]) -> Result<Vec<u32>, Failure> {
        if count == 0 {
            return Ok(Vec::new());
        }
        self.grown_from(vec![self.reader.top(&self.last)], count, stop)
    }

    /// `out` (at least one token, of which all but the last one are read) grown to `count` tokens.
    fn grown_from(&self, mut out: Vec<u32>, count: usize, stop: &[u32]) -> Result<Vec<u32>, Failure> {
        while let Some(&top) = out.last().filter(|top| out.len() < count && !stop.contains(top)) {
            out.push(self.reader.top(&self.continued(&[top], 0)?.select(0, -1)));
        }
        Ok(out)
    }

    /// Scores of `answer`, and those greedy tokens that were ranked while it was scored, `count` at most: as long as they are the
    /// answer's own. All of them but the last one stay in the cache.
    fn scored_and_known(&self, answer: &[u32], count: usize) -> Result<(Vec<TokenScore>, Vec<u32>), Failure> {
        let scores = self.scored(answer)?;
        let agreed = scores.iter().zip(answer).take_while(|(score, token)| score.top == **token).count();
        let mut known: Vec<u32> = scores.iter().take(agreed + 1).map(|score| score.top).collect();
        known.truncate(count);
        self.cache.borrow_mut().truncate(self.length + known.len().saturating_sub(1));
        Ok((scores, known))
    }

    /// Scores of `answer`, and greedy tokens.
    fn scored_and_grown(&self, answer: &[u32], count: usize) -> Result<(Vec<TokenScore>, Vec<u32>), Failure> {
        let (scores, known) = self.scored_and_known(answer, count)?;
        let grown = if known.is_empty() { self.grown(count, &[])? } else { self.grown_from(known, count, &[])? };
        Ok((scores, grown))
    }
}

impl Prefix for Kept<'_> {
    fn len(&self) -> usize {
        self.length
    }

    fn extended(&self, tokens: &[u32]) -> Result<Box<dyn Prefix + '_>, ModelError> {
        let cache = RefCell::new(self.cache.borrow().branched());
        let mut longer = Kept { reader: self.reader, length: self.length, last: self.last.shallow_clone(), cache };
        no_grad(|| longer.read_on(tokens)).map_err(model_error)?;
        Ok(Box::new(longer))
    }

    fn rewind(&mut self, kept: usize, tokens: &[u32]) -> Result<(), ModelError> {
        if kept > self.length || tokens.is_empty() {
            return Err(ModelError(format!(
                "a prefix of {} tokens cannot keep {kept} and read {} more",
                self.length,
                tokens.len()
            )));
        }
        self.length = kept;
        self.forget();
        no_grad(|| self.read_on(tokens)).map_err(model_error)
    }

    fn score(&self, continuation: &[u32]) -> Result<Vec<TokenScore>, ModelError> {
        let scores = no_grad(|| self.scored(continuation)).map_err(model_error);
        self.forget();
        scores
    }

    fn greedy(&self, count: usize, stop: &[u32]) -> Result<Vec<u32>, ModelError> {
        let tokens = no_grad(|| self.grown(count, stop)).map_err(model_error);
        self.forget();
        tokens
    }

    fn answered(&self, answer: &[u32], count: usize) -> Result<(Vec<TokenScore>, Vec<u32>), ModelError> {
        let answered = no_grad(|| self.scored_and_grown(answer, count)).map_err(model_error);
        self.forget();
        answered
    }
}

/// Scores of targets under logits `[targets, vocab]`, in one pass while they are in the cache.
fn by_rows(logits: &[f32], targets: &[u32]) -> Vec<TokenScore> {
    let targets: Vec<usize> = targets.iter().map(|&target| target as usize).collect();
    let score = |(log_prob, top)| TokenScore { log_prob, top: top as u32 };
    rows::scored(logits, &targets).into_iter().map(score).collect()
}

/// The same by libtorch's operations, in float32.
fn by_libtorch(logits: &Tensor, targets: &Tensor) -> Vec<TokenScore> {
    let logits = logits.to_kind(Kind::Float);
    let log_probs = logits.gather(1, &targets.unsqueeze(1), false).squeeze_dim(1) - logits.logsumexp([1], false);
    let log_probs = Vec::<f32>::try_from(&log_probs).unwrap_or_default();
    let tops = Vec::<i64>::try_from(&logits.argmax(1, false)).unwrap_or_default();
    log_probs.into_iter().zip(tops).map(|(log_prob, top)| TokenScore { log_prob, top: top as u32 }).collect()
}

fn model_error(failure: Failure) -> ModelError {
    ModelError(failure.to_string())
}
