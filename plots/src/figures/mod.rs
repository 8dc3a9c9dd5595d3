//! Which figures and tables a study gets, and what stands in place of one that has no data.

mod cost;
mod perplexity;
mod position_loss;
mod retrieval;
mod scaling;
mod spectrum;
pub(crate) mod speed;
mod tables;
mod tradeoff;
mod training;

use std::collections::BTreeSet;

use crate::chart::heat::{ORIGINAL, TRAINED};
use crate::chart::{Axis, Figure, Intervals, Rule, Series};
use crate::study::Study;
use crate::ticks;

pub(crate) use perplexity::{KEY_TOKENS, RATIO, headline};
pub(crate) use retrieval::{named, of_ruler};
pub(crate) use tables::{Table, TableCell, beyond, cell, shared_count, small_print};

/// A part of the page.
pub(crate) enum Part {
    /// A sentence or more.
    Text(String),
    /// A figure.
    Figure(Box<Figure>),
    /// A table.
    Table(Table),
    /// Parts shown on demand, under a name.
    Folded(String, Vec<Part>),
}

/// A headed part of the page.
pub(crate) struct Section {
    /// Anchor.
    pub(crate) id: &'static str,
    /// Heading.
    pub(crate) title: &'static str,
    /// Content.
    pub(crate) parts: Vec<Part>,
}

/// Every section, in the order of the page.
pub(crate) fn sections(study: &Study<'_>) -> Vec<Section> {
    let section = |id, title, parts: Vec<Part>, without: &str| {
        let parts = if parts.is_empty() { vec![Part::Text(without.to_owned())] } else { parts };
        Section { id, title, parts }
    };
    let mut all = vec![
        section("perplexity", "Perplexity", perplexity::parts(study), "No perplexity was measured in this run."),
        section("retrieval", "Retrieval", retrieval::parts(study), "No retrieval task was run."),
        section(
            "tradeoff",
            "Perplexity against retrieval",
            tradeoff::parts(study),
            "Perplexity and retrieval were not both measured at one length, so they cannot be set against each other.",
        ),
        section("position", "Loss by position", position_loss::parts(study), "No loss by position was recorded."),
        section(
            "scaling",
            "Loss against context, as a law",
            scaling::parts(study),
            "No perplexity was measured in this run, so there is nothing to fit a law to.",
        ),
        section("spectrum", "Rotation frequencies", spectrum::parts(study), "No rotation frequencies were recorded."),
        section("training", "Training", training::parts(study), "No variant was trained in this run."),
        section("cost", "What measuring took", cost::parts(study), "What the measurements took was not recorded."),
    ];
    let mut taken = BTreeSet::new();
    all.iter_mut().for_each(|s| set_apart(&mut s.parts, &mut taken));
    all
}

/// Gives every figure an id of its own: names that differ in signs alone have one file name.
fn set_apart(parts: &mut [Part], taken: &mut BTreeSet<String>) {
    for part in parts {
        match part {
            Part::Figure(figure) => {
                let plain = figure.id.clone();
                let mut count = 1;
                while !taken.insert(figure.id.clone()) {
                    count += 1;
                    figure.id = format!("{plain}-{count}");
                }
            }
            Part::Folded(_, inner) => set_apart(inner, taken),
            Part::Text(_) | Part::Table(_) => {}
        }
    }
}

/// All figures of some parts, folded ones too.
pub(crate) fn figures(parts: &[Part]) -> Vec<&Figure> {
    let mut found = Vec::new();
    for part in parts {
        match part {
            Part::Figure(figure) => found.push(figure.as_ref()),
            Part::Folded(_, inner) => found.extend(figures(inner)),
            Part::Text(_) | Part::Table(_) => {}
        }
    }
    found
}

/// Vertical lines at the original and trained contexts that an axis of lengths reaches.
fn context_rules(study: &Study<'_>, axis: &Axis) -> Vec<Rule> {
    let rule = |n: usize, word: &str, dash| Rule { at: n as f64, label: format!("{word} {}", ticks::tokens(n)), dash };
    let mut rules: Vec<Rule> = study.original_contexts().into_iter().map(|n| rule(n, "original", ORIGINAL)).collect();
    rules.extend(study.trained_contexts().into_iter().map(|n| rule(n, "trained", TRAINED)));
    rules.retain(|rule| (0.0..=1.0).contains(&axis.share(rule.at)));
    rules.sort_by(|a, b| a.at.total_cmp(&b.at));
    rules
}

/// What dashes and hollow marks mean, where both kinds are present.
fn key(series: &[Series]) -> &'static str {
    let trained = series.iter().filter(|s| s.style.filled).count();
    if trained == 0 || trained == series.len() {
        ""
    } else {
        " Solid lines and filled marks: after continued pretraining; dashed and hollow: without."
    }
}

/// Most lines whose intervals are drawn; those of more hide each other.
const MOST_WITH_INTERVALS: usize = 12;

/// How intervals of so many lines are drawn when `usual` is the way, and `words` or what the subtitle says instead.
fn drawn(usual: Intervals, words: &str, lines: usize) -> (Intervals, String) {
    if lines <= MOST_WITH_INTERVALS {
        (usual, words.to_owned())
    } else {
        (Intervals::Hidden, format!("the 95 % intervals of {lines} lines stand in the table alone"))
    }
}

/// The largest value worth showing: well above the middle of what the models do inside the lengths that they were
/// trained at, so that a diverged model leaves the frame instead of flattening the others. All values when none is far
/// above.
fn ceiling(inside: impl Iterator<Item = f64>, all: impl Iterator<Item = f64> + Clone) -> f64 {
    let finite = all.filter(|v| v.is_finite());
    let least = finite.clone().fold(f64::INFINITY, f64::min);
    let most = finite.fold(f64::NEG_INFINITY, f64::max);
    let mut inside: Vec<f64> = inside.filter(|v| v.is_finite()).collect();
    inside.sort_by(f64::total_cmp);
    let middle = inside.get(inside.len() / 2).copied().unwrap_or(least);
    let limit = (middle * 2.5).max(least * 2.5);
    if most <= limit * 1.3 { most } else { limit }
}

/// A word with a capital letter.
pub(crate) fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |c| c.to_uppercase().chain(letters).collect())
}

/// `one`, `one and two`, `one, two and three`.
pub(crate) fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diverged_model_does_not_set_the_scale() {
        let inside = [60.0, 58.0];
        let limit = ceiling(inside.into_iter(), [60.0, 58.0, 70.0, 4000.0, f64::NAN].into_iter());
        assert!((140.0..160.0).contains(&limit), "{limit}");
        let near = ceiling(inside.into_iter(), [60.0, 58.0, 71.0].into_iter());
        assert!((near - 71.0).abs() < 1e-12);
    }

    #[test]
    fn lists_read_as_sentences() {
        let names = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(listed(&names), "a, b and c");
        assert_eq!(listed(&names[..1]), "a");
    }
}
