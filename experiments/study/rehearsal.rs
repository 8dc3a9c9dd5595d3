//! What can be told before anything is trained, which may take hours: a change of position that cannot be, a recipe that
//! is wrong, an evaluation that has nothing to measure.

use eval::fakes::Uniform;
use eval::{Monitor, PerplexityOptions, RetrievalOptions, perplexity, retrieve};

use super::variant::Origin;
use crate::config::{Method, Study, TaskSpec, VariantSpec};
use crate::error::Failure;
use crate::evaluate::failure;
use crate::evaluate::tasks::{Materials, grid};
use crate::model::{ModelFolder, positions_under};
use crate::train::check_lengths;

/// Goes through what the study does with one of its models, in place of which stands one that finds every token equally
/// likely.
///
/// # Errors
///
/// What the study itself would run into, with the name of the variant or the kind of the task.
pub fn rehearse(study: &Study, base: &ModelFolder, origin: &Origin) -> Result<(), Failure> {
    for spec in study.variants.iter().filter(|spec| study.model_of(spec) == origin.id) {
        variant(study, spec, base).map_err(|failure| failure.within(format!("variant {:?}", spec.name)))?;
    }
    study.tasks().iter().try_for_each(|spec| {
        task(study, spec, base, origin).map_err(|failure| failure.within(format!("task {}", spec.kind())))
    })
}

/// Its materials are there, and every length can be.
fn task(study: &Study, spec: &TaskSpec, base: &ModelFolder, origin: &Origin) -> Result<(), Failure> {
    let model = Uniform::model(base.llama.config.vocab, base.llama.config.bos);
    let materials = Materials::load(spec, "text", study.seed)?;
    if let Some(options) = grid(spec, study.seed)? {
        let options = RetrievalOptions { trials: 1, ..options };
        for task in materials.tasks(spec, base)? {
            retrieve(task.as_ref(), &model, &options, &mut Monitor::silent()).map_err(failure)?;
        }
        return Ok(());
    }
    let needed = match spec {
        TaskSpec::Perplexity { protocol, lengths, stride } => {
            let protocol = protocol.parse().map_err(failure)?;
            let options = PerplexityOptions {
                seed: study.seed,
                stride: *stride,
                resamples: 1,
                ..PerplexityOptions::new(protocol, lengths.clone())
            };
            perplexity(&model, &origin.documents.tokens, &options, &mut Monitor::silent()).map_err(failure)?;
            0
        }
        TaskSpec::Longppl { lengths, context, .. } => match lengths.iter().find(|length| *length <= context) {
            Some(length) => return Err(Failure::config(format!("lengths: {length} is not above context {context}"))),
            None => spec.longest(),
        },
        _ => spec.longest(),
    };
    let longest = origin.documents.tokens.iter().map(Vec::len).max().unwrap_or(0);
    match needed > longest + 1 {
        true => Err(Failure::data(format!("lengths: no document has {needed} tokens, the longest has {longest}"))),
        false => Ok(()),
    }
}

/// Its position encoding can be made, and its recipe fits into it.
fn variant(study: &Study, spec: &VariantSpec, base: &ModelFolder) -> Result<(), Failure> {
    let positions = &base.llama.config.positions;
    let changed = match &spec.positions {
        Some(change) => Some(
            positions_under(positions, &Method::try_from(change)?).map_err(|failure| failure.within("positions"))?,
        ),
        None => None,
    };
    if let Some(method) = spec.method()? {
        positions_under(changed.as_ref().unwrap_or(positions), &method).map_err(|failure| failure.within("method"))?;
    }
    match spec.train {
        true => check_lengths(&study.recipe(spec)?, changed.as_ref().unwrap_or(positions)),
        false => Ok(()),
    }
}
