//! What is left on the disk when a checkpoint was saved, or could not be.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;

use super::*;
use crate::disk::{Faults, Injection, Operation, inject};

fn state(step: u64) -> RunState {
    RunState {
        step,
        updates: step,
        tokens: step * 10,
        norm_before: step.is_multiple_of(2).then_some(1.0 / 3.0 + step as f64),
        recipe: BTreeMap::from([("seed".to_owned(), "1".to_owned())]),
        inputs: BTreeMap::new(),
        machine: "cpu".into(),
    }
}

/// Files as a model has them, in the folder and in one inside; what is in them tells the step.
fn fill(step: u64) -> impl FnOnce(&Path) -> Result<(), Failure> {
    move |folder| {
        let inner = folder.join("optimizer");
        disk::make_folder(&inner).map_err(|error| io_failure("make", &inner, &error))?;
        for path in [folder.join("model.safetensors"), inner.join("model.safetensors")] {
            let content = format!("numbers of step {step:04}");
            atomic::write_bytes(&path, content.as_bytes()).map_err(|error| io_failure("write", &path, &error))?;
        }
        Ok(())
    }
}

fn save(store: &Store, step: u64) -> Result<PathBuf, Failure> {
    store.save(&state(step), 10, fill(step))
}

/// A store that holds checkpoints of `steps`.
fn store_with(folder: &Path, steps: &[u64]) -> Store {
    let store = Store::new(folder.to_owned(), 2);
    steps.iter().for_each(|&step| drop(save(&store, step).unwrap()));
    store
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The step that a run would go on from; its files must be those of that step.
fn found(store: &Store) -> Option<u64> {
    let (path, state) = store.newest_sound().unwrap()?;
    for file in ["model.safetensors", "optimizer/model.safetensors"] {
        let content = std::fs::read_to_string(path.join(file)).unwrap();
        assert_eq!(content, format!("numbers of step {:04}", state.step), "{}", path.display());
    }
    Some(state.step)
}

#[test]
fn the_newest_complete_checkpoint_is_found_and_old_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(folder.path(), &[5, 10, 100]);
    assert_eq!(store.newest().unwrap(), folder.path().join("step-100"));
    assert_eq!(names(folder.path()), ["latest", "step-10", "step-100"]);
    assert_eq!(read_state(&folder.path().join("step-10")).unwrap(), state(10));
}

#[test]
fn two_checkpoints_stay_even_where_one_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned(), 1);
    [1, 2, 3].iter().for_each(|&step| drop(save(&store, step).unwrap()));
    assert_eq!(names(folder.path()), ["latest", "step-2", "step-3"]);
}

#[test]
fn a_checkpoint_without_manifest_or_with_a_short_file_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path().to_owned(), 3);
    [1, 2, 3].iter().for_each(|&step| drop(save(&store, step).unwrap()));
    std::fs::remove_file(folder.path().join("step-3/manifest.json")).unwrap();
    std::fs::write(folder.path().join("step-2/model.safetensors"), "numb").unwrap();
    assert_eq!(store.newest().unwrap(), folder.path().join("step-1"));
    assert_eq!(found(&store), Some(1));
}

#[test]
fn changed_bytes_of_the_same_length_are_found_by_the_hash_and_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(folder.path(), &[1, 2]);
    let path = folder.path().join("step-2");
    std::fs::write(path.join("model.safetensors"), "NUMBERS of step 0002").unwrap();
    assert_eq!(store.newest().unwrap(), path, "sizes alone do not tell");
    assert!(read_state(&path).unwrap_err().to_string().contains("hash"));
    assert_eq!(found(&store), Some(1));
    assert_eq!(save(&store, 2).unwrap(), path);
    assert_eq!(found(&store), Some(2));
}

#[test]
fn a_manifest_that_points_out_of_the_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = save(&store_with(folder.path(), &[1]), 2).unwrap();
    let manifest = path.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("optimizer/model", "../step-1/model")).unwrap();
    let refused = verify(&path, true).unwrap_err();
    assert!(refused.to_string().contains("outside"), "{refused}");
}

#[test]
fn checkpoints_of_other_versions_are_told_apart_from_damaged_ones() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(folder.path(), &[1, 2]);
    let manifest = folder.path().join("step-2/manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("\"schema\": 2", "\"schema\": 1")).unwrap();
    verify(&folder.path().join("step-2"), true).unwrap();
    assert_eq!(found(&store), Some(1), "an older one cannot be gone on from");
    std::fs::write(&manifest, text.replace("\"schema\": 2", "\"schema\": 3")).unwrap();
    let refused = store.newest_sound().unwrap_err();
    assert!(refused.exit_code() == 2 && refused.to_string().contains("newer bowline"), "{refused}");
}

#[test]
fn later_checkpoints_are_set_aside_and_never_lost() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("checkpoints");
    let store = Store::new(folder.clone(), 4);
    [1, 2, 3].iter().for_each(|&step| drop(save(&store, step).unwrap()));
    store.set_aside(Some(3)).unwrap();
    assert_eq!(names(home.path()), ["checkpoints"]);
    store.set_aside(Some(1)).unwrap();
    assert_eq!(names(&folder), ["latest", "step-1"]);
    assert_eq!(std::fs::read_to_string(folder.join("latest")).unwrap(), "step-1\n");
    assert_eq!(names(&home.path().join("checkpoints-before-1")), ["step-2", "step-3"]);
    store.set_aside(None).unwrap();
    assert!(names(&folder).is_empty());
    assert_eq!(names(&home.path().join("checkpoints-before-2")), ["step-1"]);
}

#[test]
fn a_checkpoint_larger_than_the_disk_is_refused_before_writing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(folder.path(), &[1]);
    let error = store.save(&state(2), u64::MAX / 4, fill(2)).unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("MB free"), "{error}");
    assert_eq!(names(folder.path()), ["latest", "step-1"]);
    let free = store.free().unwrap();
    let fresh = Store::new(folder.path().join("not/there/yet"), 2);
    assert!(store.check_start(free / 2).is_ok() && fresh.check_start(free / 2).is_err(), "two must fit at the start");
    assert!(!folder.path().join("not").exists());
}

fn faults(under: &Path, at: u64, reason: Errno, dead: bool) -> Injection {
    inject(Faults { under: under.to_owned(), at, reason, dead })
}

/// Lets `save` fail at its first, second, third, .. operation until none fails; each time a run must find a whole
/// checkpoint, the new one if saving succeeded, and be able to save. Returns what was made to fail.
fn survives(dead: bool, save_3: impl Fn(&Store) -> Result<(), Failure>) -> Result<BTreeSet<Operation>, String> {
    let mut failed = BTreeSet::new();
    for at in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let store = store_with(folder.path(), &[1, 2]);
        let injection = faults(folder.path(), at, Errno::IO, dead);
        let saved = save_3(&store);
        let (struck, operations) = (injection.struck(), injection.operations());
        drop(injection);
        let step = found(&store);
        let expected: &[u64] = if saved.is_ok() { &[3] } else { &[2, 3] };
        if !step.is_some_and(|step| expected.contains(&step)) {
            return Err(format!("after a failure at operation {at}, {:?}: {step:?}", operations.get(at as usize - 1)));
        }
        if !struck {
            saved.unwrap();
            return Ok(failed);
        }
        failed.insert(operations[at as usize - 1].0);
        save(&store, 4).unwrap();
        assert_eq!(found(&store), Some(4), "after a failure at operation {at}");
        let left = names(folder.path());
        assert!(left.len() <= 4 && !left.iter().any(|name| name.starts_with(".tmp-")), "{at}: {left:?}");
    }
    Ok(failed)
}

#[test]
fn whatever_operation_fails_the_old_or_the_new_checkpoint_is_whole() {
    use Operation::*;
    for dead in [false, true] {
        let failed = survives(dead, |store| save(store, 3).map(drop)).unwrap();
        assert_eq!(failed, BTreeSet::from([Make, Write, Sync, Rename, Remove]), "dead: {dead}");
    }
}

#[test]
fn a_store_that_makes_room_too_early_is_found_out() {
    let hasty = |store: &Store| {
        for (_, path) in store.all() {
            disk::remove_folder(&path).map_err(|error| io_failure("remove", &path, &error))?;
        }
        save(store, 3).map(drop)
    };
    assert!(survives(false, hasty).is_err());
}

#[test]
fn a_store_that_writes_over_the_last_checkpoint_is_found_out() {
    let in_place = |store: &Store| {
        std::fs::remove_dir_all(store.folder.join("step-1")).unwrap();
        let target = store.folder.join("step-2");
        disk::remove_file(&target.join("manifest.json")).map_err(|error| io_failure("remove", &target, &error))?;
        let _ = std::fs::remove_dir_all(target.join("optimizer"));
        fill(3)(&target)?;
        seal(&target, &state(3))?;
        disk::rename(&target, &store.folder.join("step-3")).map_err(|error| io_failure("rename", &target, &error))
    };
    assert!(survives(true, in_place).is_err());
}

#[test]
fn every_file_is_flushed_before_the_name_that_makes_it_count() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(folder.path(), &[1]);
    let injection = faults(folder.path(), 0, Errno::IO, false);
    let target = save(&store, 2).unwrap();
    let operations = injection.operations();
    let at = |wanted: (Operation, &Path)| operations.iter().rposition(|(o, path)| (*o, path.as_path()) == wanted);
    let named = at((Operation::Rename, &target)).unwrap();
    let temporary = operations.iter().find(|(o, _)| *o == Operation::Make).map(|(_, path)| path.clone()).unwrap();
    for file in ["model.safetensors", "optimizer/model.safetensors", "state.json", "manifest.json", "optimizer", ""] {
        let path = temporary.join(file);
        let flushed = at((Operation::Sync, &path)).unwrap_or_else(|| panic!("{file:?} was never flushed"));
        assert!(flushed < named, "{file:?}");
        let changed = operations[flushed..named].iter().any(|(o, changed)| *o != Operation::Sync && *changed == path);
        assert!(!changed, "{file:?} was changed after it was flushed");
    }
    assert!(at((Operation::Sync, folder.path())).unwrap() > named, "the name itself");
}

#[test]
fn a_full_disk_is_one_sentence_and_leaves_the_checkpoint_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_with(folder.path(), &[1]);
    for at in 1.. {
        let injection = faults(folder.path(), at, Errno::NOSPC, false);
        let saved = save(&store, 2);
        let struck = injection.struck();
        drop(injection);
        let Err(failure) = saved else {
            assert!(!struck, "operation {at} failed and nothing was said");
            break;
        };
        let said = failure.to_string();
        assert_eq!(failure.exit_code(), 2, "{said}");
        assert!(said.starts_with("the disk is full: checkpoint step-2") && said.lines().count() == 1, "{said}");
        assert!(said.contains("step-1 is whole") || said.contains("step-2 is whole"), "{said}");
        assert!(matches!(found(&store), Some(1 | 2)));
        let _ = std::fs::remove_dir_all(folder.path().join("step-2"));
    }
}
