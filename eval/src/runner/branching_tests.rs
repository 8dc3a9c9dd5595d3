#![allow(clippy::unwrap_used)]

use super::*;
use crate::fakes::{ByteCodec, Fake, Formula, Induction};
use crate::haystack::Haystack;
use crate::model::{ModelError, Prefix};
use crate::passkey::{Generator, Variant};
use crate::tasks::key_value::KeyValue;
use crate::tasks::multipasskey::MultiPasskey;
use crate::tasks::needle::{Needle, NeedleOptions};

const BOS: Option<u32> = Some(ByteCodec::BOS);

fn model(window: usize) -> Fake<Induction> {
    Induction::model(window, 257, BOS)
}

/// Prompt tokens read with branching and without over `depths`, which must be answered alike.
fn read(task: &dyn Task, model: &dyn LanguageModel, length: usize, depths: &[f64]) -> (u64, u64) {
    let (branching, mut plain) = (Branching::new(model, length), 0);
    for trial in 0..2 {
        for &depth in depths.iter().rev() {
            let sample = task.sample(length, Some(depth), task.trial_seed(5, length, trial)).unwrap();
            plain += sample.tokens.len() as u64;
            let graded = task.score(&branching, &sample).unwrap();
            assert_eq!(graded, task.score(model, &sample).unwrap(), "{} depth {depth}", task.id());
        }
    }
    (branching.tokens_read(), plain)
}

#[test]
fn every_grid_is_answered_as_without_branching_and_reads_about_what_arithmetic_says() {
    let haystack = Haystack::generated(1, 400);
    let depths: Vec<f64> = (0..11).map(|index| f64::from(index) / 10.0).collect();
    let distracted = NeedleOptions { distractors: 3, ..NeedleOptions::default() };
    // The deepest needle costs a whole prompt, every other one what lies behind it: 1 + 5.5 of 11.
    let tasks: [(Box<dyn Task>, f64); 5] = [
        (Box::new(Generator::new(&ByteCodec, Variant::Bowline, BOS).unwrap()), 0.62),
        (Box::new(Needle::new(&ByteCodec, &haystack, NeedleOptions::default(), BOS).unwrap()), 0.70),
        (Box::new(Needle::new(&ByteCodec, &haystack, distracted, BOS).unwrap()), 0.70),
        (Box::new(MultiPasskey::new(&ByteCodec, &haystack, 3, BOS).unwrap()), 0.70),
        // Nothing but the question differs.
        (Box::new(KeyValue::new(&ByteCodec, BOS)), 0.15),
    ];
    for (task, most) in tasks {
        let (branched, plain) = read(&*task, &model(1000), 3000, &depths);
        let share = branched as f64 / plain as f64;
        assert!(share < most, "{}: {share} of the tokens", task.id());
    }
}

#[test]
fn a_model_whose_positions_depend_on_the_length_is_told_the_length_of_each_prompt() {
    let named =
        Formula::model(|token, context, total| f64::from(token % 7) + (context * 1000 + total) as f64, true, 9, None);
    let branching = Branching::new(&named, 40);
    let prompt: Vec<u32> = (0..20).map(|index| index % 9).collect();
    for total in [24, 24, 25, 23] {
        let expected = named.prefix(&prompt, total).unwrap().score(&[3, 1]).unwrap();
        assert_eq!(branching.prefix(&prompt, total).unwrap().score(&[3, 1]).unwrap(), expected, "total {total}");
    }
    // Three totals are three readings; the second of the same total reads its last token alone.
    assert_eq!(branching.tokens_read(), 20 + 1 + 20 + 20);
    let plain = Formula::model(|_, context, _| context as f64, false, 9, None);
    let branching = Branching::new(&plain, 40);
    assert_eq!([24, 24, 25, 23].map(|total| branching.prefix(&prompt, total).unwrap().len()), [20; 4]);
    assert_eq!(branching.tokens_read(), 20 + 1 + 1 + 1);
}

#[test]
fn a_second_prompt_in_use_is_read_on_its_own_and_a_failed_one_is_forgotten() {
    let model = model(50);
    let branching = Branching::new(&model, 50);
    let text = |text: &str| text.bytes().map(u32::from).collect::<Vec<u32>>();
    let first = branching.prefix(&text("ab ab a"), 20).unwrap();
    let second = branching.prefix(&text("xy xy x"), 20).unwrap();
    assert_eq!((first.greedy(1, &[]).unwrap(), second.greedy(1, &[]).unwrap()), (text("b"), text("y")));
    drop((first, second));
    assert!(branching.prefix(&[900], 20).is_err());
    assert_eq!(branching.prefix(&text("ab ab a"), 20).unwrap().greedy(1, &[]).unwrap(), text("b"));
}

/// Keeps one token too many: the tempting fault of cutting back to the needle's end instead of its beginning.
struct Late<'m>(&'m Fake<Induction>);

struct LatePrefix<'p>(Box<dyn Prefix + 'p>);

impl LanguageModel for Late<'_> {
    fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }

    fn bos(&self) -> Option<u32> {
        self.0.bos
    }

    fn depends_on_length(&self) -> bool {
        false
    }

    fn score(&self, tokens: &[u32], scored: std::ops::Range<usize>) -> Result<Vec<crate::TokenScore>, ModelError> {
        self.0.score(tokens, scored)
    }

    fn prefix(&self, tokens: &[u32], total: usize) -> Result<Box<dyn Prefix + '_>, ModelError> {
        Ok(Box::new(LatePrefix(self.0.prefix(tokens, total + 9)?)))
    }
}

impl Prefix for LatePrefix<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn extended(&self, tokens: &[u32]) -> Result<Box<dyn Prefix + '_>, ModelError> {
        self.0.extended(tokens)
    }

    fn rewind(&mut self, kept: usize, tokens: &[u32]) -> Result<(), ModelError> {
        let late = (kept + usize::from(kept > 0) * 33).min(self.0.len());
        self.0.rewind(late, &tokens[(late - kept).min(tokens.len() - 1)..])
    }

    fn score(&self, continuation: &[u32]) -> Result<Vec<crate::TokenScore>, ModelError> {
        self.0.score(continuation)
    }

    fn greedy(&self, count: usize, stop: &[u32]) -> Result<Vec<u32>, ModelError> {
        self.0.greedy(count, stop)
    }
}

#[test]
fn a_prompt_cut_back_at_the_wrong_token_is_noticed() {
    let task = Generator::new(&ByteCodec, Variant::Bowline, BOS).unwrap();
    let options = RetrievalOptions { lengths: vec![600], depths: Depths::even(5), trials: 2, seed: 3 };
    let right = model(600);
    let found = |model: &dyn LanguageModel| retrieve(&task, model, &options, &mut Monitor::silent()).unwrap();
    assert!(found(&right).cells.iter().all(|cell| cell.sums == [2.0, 2.0]));
    assert!(found(&Late(&right)).cells.iter().any(|cell| cell.sums != [2.0, 2.0]));
}
