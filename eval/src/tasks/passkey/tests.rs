#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::LanguageModel;
use crate::fakes::{ByteCodec, Induction, Uniform, WordCodec};
use crate::model::TextCodec;

fn words() -> WordCodec {
    WordCodec::default()
}

#[test]
fn our_frame_is_short_when_digits_stand_alone() {
    let codec = words();
    let least = Generator::new(&codec, Variant::Bowline, Some(WordCodec::BOS)).unwrap().least_length().unwrap();
    assert!(least <= 40, "{least}");
}

#[test]
fn our_answer_is_the_digits_and_the_blank_belongs_to_the_question() {
    for codec in [words(), WordCodec::with_space_first()] {
        let generator = Generator::new(&codec, Variant::Bowline, Some(WordCodec::BOS)).unwrap();
        let sample = generator.sample(64, 0.5, 1).unwrap();
        assert_eq!(sample.answer.len(), 5);
        assert_eq!(codec.decode(&sample.answer).unwrap(), sample.key);
        let text = codec.decode(&sample.tokens).unwrap();
        assert!(text.ends_with(" What is the pass key? The pass key is "), "{text}");
        assert_eq!(sample.tokens[0], WordCodec::BOS);
        assert_eq!(sample.tokens.iter().filter(|&&t| t == WordCodec::BOS).count(), 1);
        assert!(!text.contains("  "), "{text}");
    }
}

#[test]
fn needle_range_holds_the_key_line() {
    let codec = ByteCodec;
    for variant in Variant::ALL {
        let generator = Generator::new(&codec, variant, Some(ByteCodec::BOS)).unwrap();
        let sample = generator.sample(1500, 0.3, 5).unwrap();
        let needle = codec.decode(&sample.tokens[sample.needle.clone()]).unwrap();
        assert!(needle.trim().starts_with(&format!("The pass key is {}. Remember it.", sample.key)), "{needle}");
        assert_eq!(sample.answer_range(), sample.tokens.len()..sample.length);
        assert_eq!(sample.with_answer().len(), sample.length);
    }
}

#[test]
fn other_text_can_be_the_haystack() {
    let codec = words();
    let generator = Generator::new(&codec, Variant::Bowline, None).unwrap();
    let text = codec.encode("Call me Ishmael some years ago never mind how long").unwrap();
    let sample = generator.sample_in(&text, 100, 0.0, 3).unwrap();
    assert_eq!((sample.length, sample.needle.start), (100, 0));
    assert!(codec.decode(&sample.tokens).unwrap().contains("Ishmael"));
    assert_eq!(sample, generator.sample_in(&text, 100, 0.0, 3).unwrap());
    assert_eq!(
        generator.sample_in(&[], 100, 0.0, 3).unwrap_err(),
        TaskError::EmptyFiller { needed: 100 - generator.least_length().unwrap() }
    );
    let pi = Generator::new(&codec, Variant::Pi, None).unwrap();
    assert_eq!(pi.sample_in(&text, 100, 0.0, 3), Err(TaskError::OwnFiller("pi-1".into())));
}

#[test]
fn a_length_below_the_frame_names_the_least_length() {
    let codec = words();
    for variant in Variant::ALL {
        let generator = Generator::new(&codec, variant, Some(0)).unwrap();
        let least = generator.least_length().unwrap();
        let task = variant.protocol();
        assert_eq!(
            generator.sample(least - 1, 0.5, 0).unwrap_err(),
            TaskError::TooShort { task, length: least - 1, least }
        );
        assert!(generator.sample(least, 0.5, 0).is_ok(), "{variant}");
    }
}

#[test]
fn depths_outside_the_haystack_are_refused() {
    let codec = words();
    for variant in Variant::ALL {
        let generator = Generator::new(&codec, variant, None).unwrap();
        for depth in [-0.01, 1.01, f64::NAN, f64::INFINITY] {
            assert!(matches!(generator.sample(600, depth, 0), Err(TaskError::Depth(_))), "{variant} {depth}");
        }
    }
}

#[test]
fn published_prompts_have_five_lines_and_the_published_key_ranges() {
    let codec = ByteCodec;
    for variant in [Variant::Pi, Variant::Yarn, Variant::LongLora] {
        let generator = Generator::new(&codec, variant, None).unwrap();
        for seed in 0..200 {
            let sample = generator.sample_drawn(2000, seed).unwrap();
            let text = codec.decode(&sample.tokens).unwrap();
            assert_eq!(text.lines().count(), 5);
            assert!(text.ends_with("\nWhat is the pass key? The pass key is"));
            let key: u32 = sample.key.parse().unwrap();
            match variant {
                Variant::Pi => assert!((10_000..=99_999).contains(&key)),
                Variant::Yarn => assert!((1..=50_000).contains(&key)),
                _ => assert!((1..50_000).contains(&key)),
            }
        }
    }
}

#[test]
fn yarn_stays_below_the_length_and_pi_fills_it() {
    let codec = words();
    let yarn = Generator::new(&codec, Variant::Yarn, Some(0)).unwrap();
    let pi = Generator::new(&codec, Variant::Pi, Some(0)).unwrap();
    for length in [200, 512, 1000] {
        let sample = yarn.sample(length, 0.5, 0).unwrap();
        assert!(sample.tokens.len() < length && sample.tokens.len() + 15 > length, "{}", sample.tokens.len());
        let sample = pi.sample(length, 0.5, 0).unwrap();
        assert!(sample.length <= length && sample.length + 15 > length, "{}", sample.length);
    }
}

#[test]
fn longlora_draws_its_published_keys_and_depths() {
    let codec = ByteCodec;
    let generator = Generator::new(&codec, Variant::LongLora, None).unwrap();
    let trials = |length: usize| -> Vec<(String, f64)> {
        let seeds = (0..10).map(|trial| generator.trial_seed(99, length, trial));
        seeds.map(|seed| generator.sample_drawn(length, seed).unwrap()).map(|s| (s.key, s.depth.unwrap())).collect()
    };
    // The script's two draws at seeds 0 to 9, computed apart from this code with CPython's Mersenne Twister set to
    // NumPy's initial states.
    let trials = trials(8000);
    let keys: Vec<&str> = trials.iter().map(|t| t.0.as_str()).collect();
    assert_eq!(keys, ["43568", "12173", "35344", "1689", "8367", "18639", "41188", "49690", "25941", "20829"]);
    let depths: Vec<f64> = trials.iter().map(|t| (t.1 * 100.0).round() / 100.0).collect();
    assert_eq!(depths, [0.09, 0.01, 0.80, 0.20, 0.59, 0.10, 0.64, 0.97, 0.15, 0.84]);
}

#[test]
fn induction_solves_every_variant_inside_its_window_and_fails_beyond() {
    let codec = ByteCodec;
    for variant in Variant::ALL {
        let generator = Generator::new(&codec, variant, Some(ByteCodec::BOS)).unwrap();
        let sample = generator.sample(2048, 0.25, 11).unwrap();
        let outcome = |model: &dyn LanguageModel| {
            let reply = crate::reply_alone(model, &sample.question()).unwrap();
            generator.outcome(&sample, &reply).unwrap()
        };
        let far = outcome(&Induction::model(sample.length, 257, None));
        assert!(far.generated && far.forced, "{variant}: {far:?}");
        let near = outcome(&Induction::model(256, 257, None));
        assert!(!near.generated && !near.forced, "{variant}: {near:?}");
        let blind = outcome(&Uniform::model(257, None));
        assert!(!blind.generated && !blind.forced);
    }
}

#[test]
fn yarn_takes_the_first_integer_where_ours_wants_the_digits_first() {
    let codec = ByteCodec;
    let sample = |variant| {
        let mut sample = Generator::new(&codec, variant, None).unwrap().sample(1000, 0.5, 0).unwrap();
        sample.key = "123".into();
        sample
    };
    let right = |variant, text: &str| {
        let generator = Generator::new(&codec, variant, None).unwrap();
        generator.is_right_for_test(&sample(variant), text)
    };
    assert!(right(Variant::Yarn, " is: 123, yes") && !right(Variant::Bowline, " is: 123, yes"));
    assert!(right(Variant::Yarn, "00123") && !right(Variant::Bowline, "00123"));
    assert!(right(Variant::Bowline, " 123.") && !right(Variant::Bowline, " 1234"));
    assert!(!right(Variant::Yarn, "none") && !right(Variant::Yarn, "1 123"));
}

#[test]
fn variants_are_known_by_name() {
    for variant in Variant::ALL {
        assert_eq!(variant.name().parse(), Ok(variant));
    }
    assert_eq!("pl".parse::<Variant>(), Err(TaskError::UnknownVariant("pl".into())));
}

proptest! {
    #[test]
    fn ours_has_exact_length_and_exact_needle(
        length in 64_usize..600, depth in 0.0_f64..=1.0, seed: u64, bos: bool, space_first: bool,
    ) {
        let codec = if space_first { WordCodec::with_space_first() } else { words() };
        let bos = bos.then_some(WordCodec::BOS);
        let generator = Generator::new(&codec, Variant::Bowline, bos).unwrap();
        let sample = generator.sample(length, depth, seed).unwrap();
        prop_assert_eq!(sample.tokens.len() + sample.answer.len(), length);
        let filler = length - generator.least_length().unwrap();
        let before = (filler as f64 * depth).round() as usize + usize::from(bos.is_some());
        prop_assert_eq!(sample.needle.start, before);
        let line = codec.decode(&sample.tokens[sample.needle.clone()]).unwrap();
        prop_assert_eq!(line.trim(), format!("The pass key is {}. Remember it.", sample.key));
        prop_assert_eq!(sample.key.len(), 5);
        prop_assert_eq!(&sample, &generator.sample(length, depth, seed).unwrap());
    }
}
