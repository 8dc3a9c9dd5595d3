use attention::Backend;
use tch::{Device, Kind};

use super::*;
use crate::config::LossKind;
use crate::model::{LoadOptions, ModelFolder, PlanTensors};

fn settings(short_context: usize, stride: usize) -> Loss {
    Loss { kind: LossKind::LongCe, short_context, stride, clip: 5.0 }
}

#[test]
fn weights_are_the_ratios_of_probabilities_up_to_the_clip() {
    let logs = |probabilities: &[f32]| -Tensor::from_slice(probabilities).log();
    // Likelier by the long context, as likely, less likely, and so much likelier that it is cut.
    let (long, short) = (logs(&[0.6, 0.3, 0.1, 0.9]), logs(&[0.2, 0.3, 0.4, 0.01]));
    let found: Vec<f32> = Vec::try_from(weight(&long, &short, 5.0)).unwrap();
    for (found, expected) in found.iter().zip([3.0, 1.0, 0.25, 5.0]) {
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
}

#[test]
fn every_target_has_the_last_window_that_starts_far_enough_before_it() {
    // Eleven inputs, contexts of at least 4 tokens, a new one every 2: targets by the number of the token before them.
    let windows = windows(11, &settings(4, 2));
    let scored = |w: &Window| (w.start + w.first..w.start + w.count).collect::<Vec<_>>();
    let lists: Vec<Vec<usize>> = windows.iter().map(scored).collect();
    assert_eq!(windows.iter().map(|w| w.start).collect::<Vec<_>>(), [2, 4, 6]);
    assert_eq!(lists, [vec![5, 6], vec![7, 8], vec![9, 10]]);
    for (window, list) in windows.iter().zip(&lists) {
        let context = |place: &usize| place + 1 - window.start;
        assert!(list.iter().all(|place| (4..=5).contains(&context(place))));
    }
    assert!(super::windows(5, &settings(4, 2)).is_empty(), "no context is short");
}

/// The definition, target by target, each short context read alone.
fn twin(model: &ModelFolder, tokens: &[i64], loss: &Loss) -> Vec<f64> {
    let plan = plan(model);
    let log_probability = |from: usize, place: usize| {
        let inputs = Tensor::from_slice(&tokens[from..=place]).unsqueeze(0);
        let pass = Pass { plan: &plan, offset: 0, mask: Mask::Causal { offset: 0 } };
        let hidden = model.llama.hidden(&inputs, &pass, None).unwrap();
        let last = hidden.narrow(1, (place - from) as i64, 1);
        let logits = model.llama.logits(&last).to_kind(Kind::Double).log_softmax(-1, Kind::Double);
        logits.double_value(&[0, 0, tokens[place + 1]])
    };
    let of_target = |place: usize| {
        let before = place + 1; // tokens before the target
        if before < loss.short_context + loss.stride {
            return 1.0;
        }
        let from = (before - loss.short_context) / loss.stride * loss.stride;
        (log_probability(0, place) - log_probability(from, place)).exp().min(loss.clip)
    };
    (0..tokens.len() - 1).map(of_target).collect()
}

fn plan(model: &ModelFolder) -> PlanTensors {
    PlanTensors::new(&model.encoding().plan(64, model.precision).unwrap(), model.device())
}

#[test]
fn a_batch_is_weighed_as_token_by_token() {
    let backend = Backend::from_name("libtorch").unwrap();
    let precision = rope_scaling::Precision::HubCompatible;
    let options = LoadOptions { device: Device::Cpu, kind: Some(Kind::Float), backend, precision };
    let model = ModelFolder::load(crate::hub::BUNDLED, options).unwrap();
    let vocab = model.llama.config.vocab as i64;
    // A block repeated after more than a short context: the long one knows what the short one does not.
    let block: Vec<i64> = (0..19).map(|n| 3 + (n * n * 31 + 7) % (vocab - 3)).collect();
    let rows: [Vec<i64>; 2] = [block.iter().cycle().take(40).copied().collect(), (5..45).collect()];
    let loss = settings(6, 4);
    let table = |part: fn(&[i64]) -> &[i64]| {
        let flat: Vec<i64> = rows.iter().flat_map(|row| part(row).to_vec()).collect();
        Tensor::from_slice(&flat).view([2, 39])
    };
    let (inputs, targets) = (table(|row| &row[..39]), table(|row| &row[1..]));
    let plan = plan(&model);
    let pass = Pass { plan: &plan, offset: 0, mask: Mask::Causal { offset: 0 } };
    let hidden = model.llama.hidden(&inputs, &pass, None).unwrap();
    let found = weights(&model.llama, &loss, &pass, (&inputs, &targets), &hidden).unwrap();
    let expected: Vec<f64> = rows.iter().flat_map(|row| twin(&model, row, &loss)).collect();
    let found: Vec<f32> = Vec::try_from(found.view([-1])).unwrap();
    for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!((f64::from(*found) - expected).abs() < 1e-3 * expected, "{place}: {found} {expected}");
    }
    assert!(expected.iter().any(|weight| *weight > 1.5) && expected.iter().any(|weight| *weight < 0.9));
}
