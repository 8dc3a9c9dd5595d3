//! What a report says of a model and of its training.

use eval::report::{Spectrum, TrainingCurve, Variant};

use crate::model::{ModelFolder, Positions};
use crate::train::StepMetrics;

/// Points of a training curve in the report.
const CURVE_POINTS: usize = 200;

/// What a report says of a model.
pub fn variant_of(model: &ModelFolder, name: &str, description: &str, id: &str) -> Variant {
    let positions = &model.llama.config.positions;
    let summary = positions.describe(None);
    let mut parameters: Vec<String> =
        summary.parameters.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    let changed = |rope: &Positions| matches!(rope, Positions::Rope(rope) if rope.pretrained_base.is_some());
    if summary.effective_base != summary.base || changed(positions) {
        parameters.insert(0, format!("base = {}", summary.effective_base.round()));
    }
    Variant {
        name: name.to_owned(),
        description: description.to_owned(),
        model: id.to_owned(),
        scheme: summary.scheme.clone(),
        parameters: parameters.join(", "),
        original_context: model.encoding().original_context(),
        trained_context: positions.context(),
        trained_tokens: 0,
    }
}

/// The rotation frequencies of a model at a length; none when it does not rotate.
pub fn spectrum(model: &ModelFolder, name: &str, length: usize) -> Option<Spectrum> {
    let summary = model.llama.config.positions.describe(Some(length));
    (!summary.inv_freq.is_empty()).then(|| Spectrum {
        variant: name.to_owned(),
        length,
        inv_freq: summary.inv_freq,
        attention_factor: summary.attention_factor,
    })
}

/// A training curve of at most 200 points, each the mean of the steps since the last.
pub fn training_curve(name: &str, metrics: &[StepMetrics]) -> TrainingCurve {
    let stride = metrics.len().div_ceil(CURVE_POINTS).max(1);
    let chunks: Vec<&[StepMetrics]> = metrics.chunks(stride).collect();
    let last = |pick: fn(&StepMetrics) -> u64| chunks.iter().filter_map(|chunk| chunk.last().map(pick)).collect();
    let mean = |pick: fn(&StepMetrics) -> f64| {
        chunks.iter().map(|chunk| chunk.iter().map(pick).sum::<f64>() / chunk.len() as f64).collect()
    };
    TrainingCurve {
        variant: name.to_owned(),
        steps: last(|m| m.step),
        tokens: last(|m| m.tokens),
        loss: mean(|m| m.loss),
        learning_rate: mean(|m| m.learning_rate),
    }
}
