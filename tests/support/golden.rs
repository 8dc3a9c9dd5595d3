//! The checkpoints of `tests/golden/llama_tiny`, made by transformers: see `tests/golden/make/llama_tiny.py`.

use std::path::{Path, PathBuf};

use attention::Backend;
use bowline::model::{LoadOptions, ModelFolder};
use eval::LanguageModel;
use rope_scaling::Precision;
use serde_json::Value;
use tch::{Device, Kind};

use super::{copy_folder, ids, json, numbers};

/// The folder of all cases.
pub(crate) fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama_tiny")
}

/// `cases.json`.
pub(crate) fn table() -> Value {
    json(&home().join("cases.json"))
}

/// One checkpoint and what transformers says of a sequence under it.
pub(crate) struct Case {
    /// Name of its folder.
    pub(crate) name: String,
    /// The sequence.
    pub(crate) tokens: Vec<u32>,
    /// Nats of every token but the first.
    pub(crate) nll: Vec<f64>,
    /// Its row of `cases.json`.
    pub(crate) row: Value,
    /// Its `nll.json`.
    pub(crate) record: Value,
}

/// Every case.
pub(crate) fn cases() -> Vec<Case> {
    let table = table();
    let rows = table["cases"].as_array().unwrap();
    assert!(rows.len() >= 12, "the table lost cases");
    rows.iter().map(Case::of_row).collect()
}

/// The case of a name.
pub(crate) fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap_or_else(|| panic!("no golden case {name}"))
}

impl Case {
    fn of_row(row: &Value) -> Self {
        let name = row["name"].as_str().unwrap().to_owned();
        let record = json(&home().join(&name).join("nll.json"));
        let (tokens, nll) = (ids(&record["tokens"]), numbers(&record["nll"]));
        assert_eq!(tokens.len(), nll.len() + 1, "{name}");
        Self { name, tokens, nll, row: row.clone(), record }
    }

    /// The model's folder with files in place of the links that the cases share: the loader follows no link out of a
    /// checkpoint.
    pub(crate) fn folder(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&home().join(&self.name), folder.path());
        folder
    }

    /// The same with another `config.json`.
    pub(crate) fn folder_with(&self, edit: impl FnOnce(&mut Value)) -> tempfile::TempDir {
        let folder = self.folder();
        edit_json(&folder.path().join("config.json"), edit);
        folder
    }

    /// The model on a backend, in float32.
    pub(crate) fn load(&self, backend: &str) -> ModelFolder {
        load(self.folder().path(), backend, Kind::Float)
    }
}

/// Changes a JSON file.
pub(crate) fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = json(path);
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// The model of a folder, on the CPU.
pub(crate) fn load(folder: &Path, backend: &str, kind: Kind) -> ModelFolder {
    let backend = Backend::from_name(backend).unwrap();
    let options = LoadOptions { device: Device::Cpu, kind: Some(kind), backend, precision: Precision::HubCompatible };
    ModelFolder::load(folder.to_str().unwrap(), options).unwrap()
}

/// Nats of every token but the first, in one pass.
pub(crate) fn nll(model: &ModelFolder, tokens: &[u32]) -> Vec<f64> {
    let scores = model.reader().score(tokens, 1..tokens.len()).unwrap();
    scores.iter().map(|score| -f64::from(score.log_prob)).collect()
}
