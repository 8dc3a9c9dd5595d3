//! The two QA tasks: the right documents among others, and a question.

use std::collections::HashSet;

use crate::rng::SplitMix64;
use crate::tasks::fit::Draft;
use crate::tasks::qa::{QaFormat, QaSet, Question};
use crate::words;

/// The question of a seed, whose low half is the number of the trial.
pub(super) fn question(set: &QaSet, seed: u64) -> &Question {
    &set.questions[(seed & 0xffff_ffff) as usize % set.questions.len()]
}

/// A sample with `units` documents: those of the question, then those of its article, then any others.
pub(super) fn draft(set: &QaSet, units: usize, seed: u64) -> Draft {
    let mut rng = SplitMix64::new(seed);
    let question = question(set, seed);
    let own: HashSet<usize> = question.context.iter().chain(&question.near).copied().collect();
    let wanted = units.saturating_sub(question.context.len());
    let mut near = question.near.clone();
    words::shuffle(&mut near, &mut rng);
    let mut around: Vec<usize> = near.into_iter().take(wanted).collect();
    if around.len() < wanted {
        let others: Vec<usize> = (0..set.documents.len()).filter(|index| !own.contains(index)).collect();
        let drawn = words::sampled(others.len(), wanted - around.len(), &mut rng);
        around.extend(drawn.into_iter().map(|index| others[index]));
    }
    // A small file gives its documents again, never the right ones.
    let once = around.len();
    if once > 0 {
        around.extend((once..wanted).map(|index| around[index % once]).collect::<Vec<_>>());
    }
    let mut order = [question.context.clone(), around].concat();
    words::shuffle(&mut order, &mut rng);
    let place = order.iter().position(|index| question.gold.contains(index)).unwrap_or(0);
    let documents: Vec<String> = order
        .iter()
        .enumerate()
        .map(|(index, &document)| format!("Document {}:\n{}", index + 1, shown(set, document)))
        .collect();
    let instruction =
        "Answer the question based on the given documents. Only give me the answer and do not output any other words.";
    let text = format!(
        "{instruction}\n\nThe following are given documents.\n\n{}\n\n{instruction}\n\nQuestion: {} Answer:",
        documents.join("\n\n"),
        question.text
    );
    let depth = Some(place as f64 / (order.len().max(2) - 1) as f64);
    Draft { text, answer: String::new(), references: question.answers.clone(), depth }
}

/// SQuAD's documents are shown without their title.
fn shown(set: &QaSet, index: usize) -> String {
    let document = &set.documents[index];
    match set.format {
        QaFormat::Squad => document.text.clone(),
        _ => format!("{}\n{}", document.title, document.text),
    }
}
