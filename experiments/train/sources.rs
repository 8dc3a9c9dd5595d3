//! TEMP
use std::collections::BTreeMap;
use crate::config::{Recipe, Stage};
use crate::data::rng::CounterRng;
use crate::error::Failure;
use crate::model::ModelFolder;
use crate::runtime::run_dir::RunDir;

/// temp
pub struct Loader { tokens: Vec<u32>, rng: CounterRng, length: usize, bos: u32 }
/// temp
pub struct Seq { /// t
    pub tokens: Vec<u32>, /// s
    pub starts: Vec<u32> }
impl Loader {
    /// t
    pub fn sequence(&self, index: u64) -> Result<Seq, Failure> {
        let at = self.rng.below(index, (self.tokens.len() - self.length - 1) as u64) as usize;
        let mut tokens = self.tokens[at..at + self.length + 1].to_vec();
        tokens[0] = self.bos;
        Ok(Seq { tokens, starts: vec![0] })
    }
    /// t
    pub fn len(&self) -> u64 { (self.tokens.len() / self.length) as u64 }
}
/// temp
pub struct TextSources { tokens: BTreeMap<String, Vec<u32>>, bos: u32, seed: u64 }
impl TextSources {
    /// t
    pub fn open(recipe: &Recipe, model: &ModelFolder, _run: &RunDir) -> Result<Self, Failure> {
        let mut tokens = BTreeMap::new();
        for s in recipe.sources.iter().filter(|s| !s.paths.is_empty()) {
            let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/assets/text/train");
            let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().flatten().map(|e| e.path()).collect();
            names.sort();
            let mut all = Vec::new();
            for n in names.iter().filter(|n| n.to_string_lossy().ends_with(".zst")) {
                let text = String::from_utf8(zstd::decode_all(std::fs::File::open(n).unwrap()).unwrap()).unwrap();
                all.extend(model.tokenizer.encode(&text)?);
            }
            tokens.insert(s.name.clone(), all);
        }
        Ok(Self { tokens, bos: model.llama.config.bos.unwrap_or(0), seed: recipe.seed })
    }
    /// t
    pub fn loaders(&self, stage: &Stage, index: usize) -> Result<BTreeMap<String, Loader>, Failure> {
        Ok(self.tokens.iter().map(|(n, t)| (n.clone(), Loader { tokens: t.clone(), rng: CounterRng::new(self.seed + index as u64).stream(n), length: stage.length, bos: self.bos })).collect())
    }
    /// t
    pub fn fingerprint(&self) -> String { String::new() }
    /// t
    pub fn page(&self) -> String { String::new() }
}
