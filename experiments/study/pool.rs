//! Variants side by side: those that are trained one after another, the others on as many threads as memory allows.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use tch::Device;

use super::variant::{Origin, Place, VariantResult};
use crate::error::Failure;
use crate::model::{MOST_QUESTIONS, ModelConfig, QUESTION_BYTES};
use crate::runtime::memory;
use crate::runtime::say;

/// Tokens whose logits exist at once when a text is scored.
const LOGIT_TOKENS: u64 = 8192;

/// Share of what is free that the variants together may take.
const SHARE: f64 = 0.7;

/// Bytes that measuring a float32 model at a context of `longest` tokens takes: weights, two caches (a kept prefix and its
/// branch, or those of questions answered together), a block's activations (nine of the residual stream's width, three of the MLP's) and logits twice.
pub fn bytes_of(config: &ModelConfig, longest: usize) -> u64 {
    let of = |n: usize| n as u64;
    let longest = of(longest);
    let cache = 2 * of(config.layers) * of(config.key_heads * config.head_dim) * longest;
    let block = longest * (9 * of(config.hidden) + 3 * of(config.inner));
    let logits = longest.min(LOGIT_TOKENS) * of(config.vocab);
    // Questions answered together have a cache each, within their own limit.
    let caches = (of(MOST_QUESTIONS) * cache).min(of(QUESTION_BYTES / 4)).max(2 * cache);
    4 * (config.parameter_count() + caches + block + 2 * logits)
}

/// How many of `count` variants of `bytes` each are measured at a time when nothing else was asked for.
pub fn side_by_side(device: Device, count: usize, bytes: u64) -> usize {
    if device != Device::Cpu {
        return 1;
    }
    let fit = memory::available_bytes().map_or(1, |free| (free as f64 * SHARE / bytes.max(1) as f64) as usize);
    let cores = tch::get_num_threads().max(1) as usize;
    cores.min(fit).min(count).max(1)
}

/// The results of all variants, in the order of the study.
///
/// # Errors
///
/// The first that any variant runs into; those under way come to their end, and their results are kept.
pub fn results(place: &Place<'_>, origins: &[Origin], side_by_side: usize) -> Result<Vec<VariantResult>, Failure> {
    let variants = &place.study.variants;
    let slots: Vec<Mutex<Option<Result<VariantResult, Failure>>>> = variants.iter().map(|_| Mutex::new(None)).collect();
    let begun = AtomicUsize::new(0);
    let run = |index: usize| {
        let spec = &variants[index];
        let number = begun.fetch_add(1, Ordering::Relaxed) + 1;
        say!("variant {number} of {}: {}", variants.len(), spec.name);
        let result = origin_of(place, origins, index).and_then(|origin| place.result(spec, origin));
        let failed = result.is_err();
        if !failed {
            place.run.log(&format!("{}: done", spec.name));
        }
        *slots[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        failed
    };
    let (trained, others): (Vec<usize>, Vec<usize>) = (0..variants.len()).partition(|&index| variants[index].train);
    if side_by_side <= 1 {
        // In the order of the study, which is that of its report.
        (0..variants.len()).any(run);
    } else if !trained.into_iter().any(&run) {
        spread(&others, side_by_side, &run);
    }
    slots.into_iter().filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

/// Runs every item on one of `threads` threads, which share libtorch's threads evenly; ends early when one fails.
fn spread(items: &[usize], threads: usize, run: &(impl Fn(usize) -> bool + Sync)) {
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let all = tch::get_num_threads().max(1);
    let each = (all / threads as i32).max(1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                tch::set_num_threads(each);
                while failed.load(Ordering::Relaxed) == 0 {
                    let Some(&item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                    if run(item) {
                        failed.store(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    tch::set_num_threads(all);
}

fn origin_of<'o>(place: &Place<'_>, origins: &'o [Origin], index: usize) -> Result<&'o Origin, Failure> {
    let id = place.study.model_of(&place.study.variants[index]);
    let found = origins.iter().find(|origin| origin.id == id);
    found.ok_or_else(|| Failure::config(format!("{id}: was not loaded before the study began")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_once_and_a_failure_ends_the_rest() {
        let ran: Vec<AtomicUsize> = (0..20).map(|_| AtomicUsize::new(0)).collect();
        let items: Vec<usize> = (0..20).collect();
        spread(&items, 3, &|item| {
            ran[item].fetch_add(1, Ordering::Relaxed);
            false
        });
        assert!(ran.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        let count = AtomicUsize::new(0);
        spread(&items, 2, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
            true
        });
        assert!((1..=2).contains(&count.load(Ordering::Relaxed)), "one a thread at most");
    }

    #[test]
    fn a_gpu_has_one_at_a_time_and_memory_bounds_the_others() {
        assert_eq!(side_by_side(Device::Cuda(0), 9, 1), 1);
        assert_eq!(side_by_side(Device::Cpu, 9, u64::MAX), 1);
        assert_eq!(side_by_side(Device::Cpu, 1, 1), 1);
    }
}
