//! What can be told before anything is trained, which may take hours: a change of position that cannot be, a recipe that
//! is wrong, an evaluation that has nothing to measure.

use eval::fakes::Uniform;
use eval::tasks::passkey::{Generator, Variant};
use eval::{Monitor, PerplexityOptions, RetrievalOptions, perplexity, retrieve};

use super::variant::{perplexity_options, retrieval_options};
use crate::config::{Study, VariantSpec};
use crate::error::Failure;
use crate::evaluate::{Documents, failure};
use crate::model::{ModelFolder, positions_under};
use crate::train::{changed_positions, check_lengths};

/// Goes through the study with a model that finds every token equally likely.
///
/// # Errors
///
/// What the study itself would run into, with the variant's name.
pub fn rehearse(study: &Study, base: &ModelFolder, documents: &Documents) -> Result<(), Failure> {
    for spec in &study.variants {
        variant(study, spec, base).map_err(|failure| failure.within(format!("variant {:?}", spec.name)))?;
    }
    let bos = base.llama.config.bos;
    let model = Uniform::model(base.llama.config.vocab, bos);
    let options = PerplexityOptions { resamples: 1, ..perplexity_options(study)? };
    perplexity(&model, &documents.tokens, &options, &mut Monitor::silent()).map_err(failure)?;
    let codec = base.tokenizer()?;
    let task = Generator::new(codec, Variant::Bowline, bos).map_err(|error| Failure::config(error.to_string()))?;
    let options = RetrievalOptions { trials: 1, ..retrieval_options(study) };
    retrieve(&task, &model, &options, &mut Monitor::silent()).map_err(failure)?;
    Ok(())
}

/// Its position encoding can be made, and its recipe fits into it.
fn variant(study: &Study, spec: &VariantSpec, base: &ModelFolder) -> Result<(), Failure> {
    let positions = &base.llama.config.positions;
    let changed = spec.positions.as_ref().map(|change| changed_positions(positions, change)).transpose()?;
    if let Some(method) = spec.method()? {
        positions_under(changed.as_ref().unwrap_or(positions), method).map_err(|failure| failure.within("method"))?;
    }
    match spec.train {
        true => check_lengths(&study.recipe(spec)?, changed.as_ref().unwrap_or(positions)),
        false => Ok(()),
    }
}
