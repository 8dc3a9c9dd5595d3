//! The documents of a recipe, tokenized once, and a loader of them for each stage.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::assets;
use crate::config::{Recipe, Source, Stage};
use crate::data::{
    Encoder, LengthHistogram, Loader, LoaderSource, Mode, Packing, SequenceStart, SourceSpec, StoreOptions, TokenStore,
    WORDS, text_overlap, token_store,
};
use crate::error::Failure;
use crate::model::ModelFolder;
use crate::runtime::progress::Progress;
use crate::runtime::run_dir::RunDir;

/// Name of the folder, beside the run's, that keeps tokenized text.
const STORE_FOLDER: &str = ".tokens";

/// Tokenized text by source name.
pub struct TextSources {
    stores: Vec<(Source, Arc<TokenStore>)>,
    bos: Option<u32>,
    seed: u64,
}

impl TextSources {
    /// Reads and tokenizes the sources of a recipe that have paths, or finds what an earlier run kept.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or a source has no documents.
    pub fn open(recipe: &Recipe, model: &ModelFolder, run: &RunDir) -> Result<Self, Failure> {
        let cache = run.path().parent().unwrap_or(Path::new(".")).join(STORE_FOLDER);
        let mut stores: Vec<(Source, Arc<TokenStore>)> = Vec::new();
        for source in recipe.sources.iter().filter(|source| !source.paths.is_empty()) {
            let spec = spec_of(source);
            let same = stores.iter().find(|(other, _)| spec_of(other).reads_as(&spec));
            let store = match same {
                Some((_, store)) => Arc::clone(store),
                None => Arc::new(tokenized(&spec, model, &cache)?),
            };
            stores.push((source.clone(), store));
        }
        Ok(Self { stores, bos: model.llama.config.bos, seed: recipe.seed })
    }

    /// Loaders by source name for a stage, number `index` of the run.
    ///
    /// # Errors
    ///
    /// When a source is smaller than one sequence, or its documents are all too short.
    pub fn loaders(&self, stage: &Stage, index: usize) -> Result<BTreeMap<String, Loader>, Failure> {
        let start = if self.bos.is_some() { SequenceStart::Bos } else { SequenceStart::AsCut };
        let packing = Packing { length: stage.length, mode: Mode::Stream, bos: self.bos, eos: None, start };
        self.stores
            .iter()
            .filter(|(source, _)| stage.mix.contains_key(&source.name))
            .map(|(source, store)| {
                let only = LoaderSource {
                    name: source.name.clone(),
                    corpus: Arc::clone(store) as Arc<dyn crate::data::Corpus>,
                    weight: 1.0,
                    min_tokens: source.min_tokens as u64,
                };
                let loader = Loader::new(vec![only], packing, self.seed.wrapping_add(index as u64))?;
                Ok((source.name.clone(), loader))
            })
            .collect()
    }

    /// A hash of all tokens.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (source, store) in &self.stores {
            hasher.update(source.name.as_bytes()).update(store.hash().as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// For each source, how long its documents are; sources over the same text are told once.
    pub fn page(&self) -> String {
        let mut page = String::new();
        for (at, (source, store)) in self.stores.iter().enumerate() {
            if self.stores[..at].iter().any(|(_, other)| Arc::ptr_eq(other, store)) {
                continue;
            }
            let manifest = store.manifest();
            page += &format!(
                "source {}: {} documents, {} tokens, {} empty, {} records skipped\n",
                source.name,
                store.documents(),
                store.tokens(),
                manifest.tally.empty,
                manifest.tally.bad
            );
            page += &LengthHistogram::new(store.lengths()).to_string();
        }
        page
    }
}

/// How much of each held-out document of a recipe occurs in its training text, by runs of 13 words: one line each.
///
/// # Errors
///
/// When a file cannot be read.
pub fn overlap_page(recipe: &Recipe) -> Result<String, Failure> {
    let training: Vec<SourceSpec> =
        recipe.sources.iter().filter(|source| !source.paths.is_empty()).map(spec_of).collect();
    if recipe.held_out.is_empty() || training.is_empty() {
        return Ok(String::new());
    }
    let held_out = spec_at("held_out", &recipe.held_out, "text");
    let found = text_overlap(&training, &held_out, WORDS)?;
    let mut page: String = found.overlaps.iter().map(|overlap| format!("held out: {overlap}\n")).collect();
    if found.uncompared > 0 {
        page += &format!("held out: {} training documents hold token ids and were not compared\n", found.uncompared);
    }
    Ok(page)
}

/// What a recipe's source is to the data pipeline.
pub fn spec_of(source: &Source) -> SourceSpec {
    let spec = source.spec();
    SourceSpec { paths: source.paths.iter().map(|path| assets::text(path)).collect(), ..spec }
}

/// Documents at `paths`, read with every option at its default.
pub fn spec_at(name: &str, paths: &[String], text_field: &str) -> SourceSpec {
    let paths: Vec<_> = paths.iter().map(|path| assets::text(path)).collect();
    SourceSpec::new(name, &paths, text_field)
}

/// What makes documents into ids for a model; `encode` is its tokenizer.
///
/// # Errors
///
/// When the model has no tokenizer.
pub fn encoder_of<'a>(
    model: &'a ModelFolder,
    encode: &'a (dyn Fn(&str) -> Result<Vec<u32>, String> + Sync),
) -> Result<Encoder<'a>, Failure> {
    let config = &model.llama.config;
    Ok(Encoder { encode, tokenizer_hash: model.tokenizer()?.hash(), vocab_size: config.vocab, bos: config.bos })
}

fn tokenized(spec: &SourceSpec, model: &ModelFolder, cache: &Path) -> Result<TokenStore, Failure> {
    let tokenizer = model.tokenizer()?;
    let encode = |text: &str| tokenizer.encode(text).map_err(|error| error.to_string());
    let encoder = encoder_of(model, &encode)?;
    let mut progress: Option<Progress> = None;
    let store = token_store(spec, &encoder, &StoreOptions::new(cache), &mut |done| {
        let label = format!("{}: tokenizing", spec.name);
        let bar = progress.get_or_insert_with(|| Progress::new(&label, done.files));
        bar.update(done.tally.files, &format!("{} tokens", done.tokens));
    })?;
    if let Some(progress) = progress {
        progress.finish();
    }
    Ok(store)
}
