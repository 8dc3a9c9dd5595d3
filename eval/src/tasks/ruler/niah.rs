//! The eight needle tasks.

use std::collections::BTreeSet;

use super::RulerTask;
use crate::haystack::{FILLER, Haystack};
use crate::rng::SplitMix64;
use crate::tasks::fit::Draft;
use crate::words;

/// Depths at which needles stand in text, in percent: 40 at equal distances, rounded.
const DEPTHS: usize = 40;

/// What surrounds the needles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hay {
    Filler,
    Text,
    Needles,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Words,
    Uuid,
}

/// How a task differs from the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    hay: Hay,
    key: Kind,
    value: Kind,
    keys: usize,
    values: usize,
    asked: usize,
}

impl Shape {
    pub(super) fn of(task: RulerTask) -> Option<Self> {
        let one = Self { hay: Hay::Text, key: Kind::Words, value: Kind::Number, keys: 1, values: 1, asked: 1 };
        Some(match task {
            RulerTask::NiahSingle1 => Self { hay: Hay::Filler, ..one },
            RulerTask::NiahSingle2 => one,
            RulerTask::NiahSingle3 => Self { value: Kind::Uuid, ..one },
            RulerTask::NiahMultikey1 => Self { keys: 4, ..one },
            RulerTask::NiahMultikey2 => Self { hay: Hay::Needles, ..one },
            RulerTask::NiahMultikey3 => Self { hay: Hay::Needles, key: Kind::Uuid, value: Kind::Uuid, ..one },
            RulerTask::NiahMultivalue => Self { values: 4, ..one },
            RulerTask::NiahMultiquery => Self { keys: 4, asked: 4, ..one },
            _ => return None,
        })
    }

    /// Lines stand between other lines, one each; text may have no word.
    pub(super) fn least_units(self) -> usize {
        if self.hay == Hay::Text { 1 } else { self.keys * self.values }
    }

    fn single(self) -> bool {
        self.asked * self.values == 1
    }
}

/// Words and numbers of which none is drawn twice.
struct Fresh<'r> {
    rng: &'r mut SplitMix64,
    used: BTreeSet<String>,
}

impl Fresh<'_> {
    fn draw(&mut self, kind: Kind) -> String {
        let mut drawn = self.any(kind);
        // There are thousands of pairs of words; a longer haystack than that has keys of three.
        for attempt in 0..1000 {
            if self.used.insert(drawn.clone()) {
                return drawn;
            }
            drawn = self.any(kind);
            if attempt > 20 && kind == Kind::Words {
                drawn = format!("{drawn}-{}", words::nouns(self.rng, 1)[0]);
            }
        }
        drawn
    }

    fn any(&mut self, kind: Kind) -> String {
        match kind {
            Kind::Number => (1_000_000 + self.rng.below(9_000_000)).to_string(),
            Kind::Words => words::hyphenated(self.rng),
            Kind::Uuid => words::uuid(self.rng),
        }
    }
}

/// A sample with `units` words of text, or lines of filler or needles.
pub(super) fn draft(task: RulerTask, text: &Haystack, units: usize, seed: u64) -> Draft {
    let Some(shape) = Shape::of(task) else { return Draft::default() };
    let mut rng = SplitMix64::new(seed);
    let mut fresh = Fresh { rng: &mut rng, used: BTreeSet::new() };
    let noun = if shape.value == Kind::Uuid { "uuid" } else { "number" };
    let line = |key: &str, value: &str| format!("One of the special magic {noun}s for {key} is: {value}.");
    let (mut pairs, mut needles) = (Vec::new(), Vec::new());
    for _ in 0..shape.keys {
        let key = fresh.draw(shape.key);
        let values: Vec<String> = (0..shape.values).map(|_| fresh.draw(shape.value)).collect();
        needles.extend(values.iter().map(|value| line(&key, value)));
        pairs.push((key, values));
    }
    let more = if shape.hay == Hay::Needles { units } else { 0 };
    let hay: Vec<String> = (0..more).map(|_| line(&fresh.draw(shape.key), &fresh.draw(shape.value))).collect();
    words::shuffle(&mut needles, &mut rng);
    let context = match shape.hay {
        Hay::Text => in_text(&text.first_words(units), &needles, &mut rng),
        Hay::Filler => between_lines(vec![FILLER.to_owned(); units], &needles, &mut rng),
        Hay::Needles => between_lines(hay, &needles, &mut rng),
    };
    let asked: Vec<usize> = words::sampled(shape.keys, shape.asked, &mut rng);
    let keys: Vec<&str> = asked.iter().map(|&i| pairs[i].0.as_str()).collect();
    let references: Vec<String> = asked.iter().flat_map(|&i| pairs[i].1.clone()).collect();
    let first = references.iter().filter_map(|value| context.find(value.as_str())).min();
    let depth = first.map(|at| at as f64 / context.len().max(1) as f64);
    Draft { text: prompt(shape, noun, &context, &keys), answer: String::new(), references, depth }
}

/// Needles at depths between the sentences of a text, spaces between all.
fn in_text(sentences: &[String], needles: &[String], rng: &mut SplitMix64) -> String {
    let mut places: Vec<usize> = words::sampled(DEPTHS, needles.len(), rng)
        .into_iter()
        .map(|step| {
            let percent = (step as f64 * 100.0 / (DEPTHS - 1) as f64).round();
            (sentences.len() as f64 * percent / 100.0) as usize
        })
        .collect();
    places.sort_unstable();
    let mut parts: Vec<&str> = Vec::with_capacity(sentences.len() + needles.len());
    let mut from = 0;
    for (place, needle) in places.into_iter().zip(needles) {
        parts.extend(sentences[from..place].iter().map(String::as_str));
        parts.push(needle);
        from = place;
    }
    parts.extend(sentences[from..].iter().map(String::as_str));
    parts.join(" ")
}

/// Needles before lines that are drawn, line breaks between all.
fn between_lines(mut lines: Vec<String>, needles: &[String], rng: &mut SplitMix64) -> String {
    let mut places = words::sampled(lines.len(), needles.len(), rng);
    places.sort_unstable_by(|a, b| b.cmp(a));
    for (place, needle) in places.into_iter().zip(needles) {
        lines.insert(place, needle.clone());
    }
    lines.join("\n")
}

fn prompt(shape: Shape, noun: &str, context: &str, keys: &[&str]) -> String {
    let query = match keys.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{}, and {last}", rest.join(", ")),
        _ => keys.concat(),
    };
    let (some, are, all, nouns) = if shape.single() {
        ("A", "is", "is", noun.to_owned())
    } else {
        ("Some", "are", "are all", format!("{noun}s"))
    };
    format!(
        "{some} special magic {nouns} {are} hidden within the following text. Make sure to memorize it. I will quiz you \
         about the {nouns} afterwards.\n{context}\nWhat {all} the special magic {nouns} for {query} mentioned in the \
         provided text? The special magic {nouns} for {query} mentioned in the provided text {are}"
    )
}
