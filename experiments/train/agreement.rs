//! Whether a run may go on from a checkpoint: its recipe is compared with the one that the checkpoint was made by, key by
//! key, and every key that differs is named with both values.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Value;

use super::checkpoint::RunState;
use crate::config::Recipe;
use crate::error::Failure;

/// The keys of a recipe as `--set` writes them, such as `optimizer.learning_rate` or `stage.0.steps`, and their values.
pub type Keys = BTreeMap<String, String>;

/// Keys, and heads of keys, that decide nothing of what is computed.
const FREE: [&str; 6] = ["name", "description", "held_out", "checkpoint", "about", "expected"];
/// Keys, and heads of keys, that no one can allow: weights and state would not fit.
const FIXED: [&str; 6] = ["model.from", "model.new", "model.tokenizer", "model.dtype", "tokenizer", "adapter"];

/// Every key of a recipe.
///
/// # Errors
///
/// When the recipe cannot be written as TOML.
pub fn keys_of(recipe: &Recipe) -> Result<Keys, Failure> {
    let table = Value::try_from(recipe).map_err(|error| Failure::config(error.to_string()))?;
    let mut keys = Keys::new();
    flatten("", &table, &mut keys);
    Ok(keys)
}

fn flatten(place: &str, value: &Value, keys: &mut Keys) {
    let below = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    match value {
        Value::Table(table) => table.iter().for_each(|(key, value)| flatten(&below(key), value, keys)),
        Value::Array(items) if items.iter().any(Value::is_table) => {
            items.iter().enumerate().for_each(|(at, item)| flatten(&below(&at.to_string()), item, keys));
        }
        value => {
            keys.insert(place.to_owned(), value.to_string());
        }
    }
}

/// What a run is made of, to be held against a checkpoint.
#[derive(Debug)]
pub struct Agreement<'a> {
    /// The recipe's keys.
    pub recipe: &'a Keys,
    /// Hashes of text and tokenizer by name.
    pub inputs: &'a BTreeMap<String, String>,
    /// Keys, or heads of keys, that may differ because the user says so.
    pub allowed: &'a [String],
}

impl Agreement<'_> {
    /// That a run may go on from the checkpoint at `path`.
    ///
    /// # Errors
    ///
    /// A line for each difference that matters; exit code 2.
    pub fn check(&self, path: &Path, state: &RunState) -> Result<(), Failure> {
        let mut lines: Vec<String> = Vec::new();
        let differing = self.recipe.keys().chain(state.recipe.keys().filter(|key| !self.recipe.contains_key(*key)));
        for key in differing.filter(|key| self.recipe.get(*key) != state.recipe.get(*key)) {
            if is_under_any(key, &FREE) || self.allows(key) || extends(key, self.recipe, &state.recipe) {
                continue;
            }
            let shown = |keys: &Keys| keys.get(key).cloned().unwrap_or_else(|| "nothing".to_owned());
            let hint = if adds_steps(key, self.recipe, &state.recipe) { STEPS_HINT } else { "" };
            lines.push(format!(
                "  {key}: {} in the recipe, {} in the checkpoint{hint}",
                shown(self.recipe),
                shown(&state.recipe)
            ));
        }
        for (what, hash) in self.inputs.iter().filter(|(what, hash)| state.inputs.get(*what) != Some(hash)) {
            if !self.allows(what) {
                let then = state.inputs.get(what).map_or("unknown", |hash| short(hash));
                lines.push(format!("  {what}: content {} now, {then} in the checkpoint", short(hash)));
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        Err(Failure::config(format!(
            "{} was written by another recipe:\n{}\nGo on with the old values, allow a change with --allow-change KEY, or \
             start anew with --resume never",
            path.display(),
            lines.join("\n")
        )))
    }

    fn allows(&self, key: &str) -> bool {
        is_under_any(key, self.allowed) && !is_under_any(key, &FIXED)
    }
}

/// That every key which a user allows to change can be allowed.
///
/// # Errors
///
/// For one that cannot.
pub fn check_allowed(allowed: &[String]) -> Result<(), Failure> {
    match allowed.iter().find(|key| key.is_empty() || *key == "model" || is_under_any(key, &FIXED)) {
        Some(key) => Err(Failure::config(format!(
            "--allow-change {key}: a checkpoint fits only the model and tokenizer that it was made with"
        ))),
        None => Ok(()),
    }
}

/// Said of more steps where they would have changed the steps before.
const STEPS_HINT: &str = " (steps can be added where the learning rate does not come down to the last of them: with \
                          optimizer.schedule = \"constant\" or optimizer.schedule_steps)";

/// Whether a difference is only that the run goes on for longer: more steps of its last stage, or stages after it, and
/// the learning rate of the steps before is what it was.
fn extends(key: &str, now: &Keys, then: &Keys) -> bool {
    let is = |keys: &Keys, name: &str| keys.get(name).is_some_and(|value| value == "\"constant\"");
    let constant = is(now, "optimizer.schedule") && is(then, "optimizer.schedule");
    let stretched = now.contains_key("optimizer.schedule_steps") && then.contains_key("optimizer.schedule_steps");
    adds_steps(key, now, then) && (constant || stretched)
}

fn adds_steps(key: &str, now: &Keys, then: &Keys) -> bool {
    let stage = |key: &str| key.strip_prefix("stage.")?.split('.').next()?.parse::<usize>().ok();
    let (Some(here), Some(last)) = (stage(key), then.keys().filter_map(|key| stage(key)).max()) else { return false };
    let number = |keys: &Keys| keys.get(key)?.parse::<u64>().ok();
    here > last || (key == format!("stage.{last}.steps") && number(now) > number(then))
}

fn is_under_any(key: &str, heads: &[impl AsRef<str>]) -> bool {
    heads.iter().any(|head| {
        let rest = key.strip_prefix(head.as_ref());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "name = 'r'\n[model]\nfrom = 'bundled'\n[optimizer]\nlearning_rate = 1e-3\nschedule = 'linear'\n\
                         [[source]]\nname = 'web'\npaths = ['web', 'more']\n[[stage]]\nlength = 8\nbatch = 1\nsteps = 5\n\
                         [[stage]]\nlength = 16\nbatch = 1\nsteps = 5\n";

    fn keys(settings: &[&str]) -> Keys {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        keys_of(&Recipe::layered(PLAIN, &settings).unwrap()).unwrap()
    }

    fn inputs(data: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("data".to_owned(), data.to_owned()), ("tokenizer".to_owned(), "t".to_owned())])
    }

    /// What is said of going on with `now` from a checkpoint of `then`.
    fn compared(now: &[&str], then: &[&str], allowed: &[&str]) -> Result<(), String> {
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        let (recipe, inputs) = (keys(now), inputs("d"));
        let state = RunState {
            step: 7,
            updates: 7,
            tokens: 1,
            norm_before: None,
            recipe: keys(then),
            inputs: inputs.clone(),
            machine: "cpu".into(),
        };
        let agreement = Agreement { recipe: &recipe, inputs: &inputs, allowed: &allowed };
        agreement.check(Path::new("run/step-7"), &state).map_err(|failure| {
            assert_eq!(failure.exit_code(), 2);
            failure.to_string()
        })
    }

    #[test]
    fn keys_are_named_as_settings_are() {
        let keys = keys(&[]);
        assert_eq!(keys["optimizer.learning_rate"], "0.001");
        assert_eq!(keys["stage.1.steps"], "5");
        assert_eq!(keys["source.0.paths"], "[\"web\", \"more\"]");
    }

    #[test]
    fn every_difference_is_listed_with_both_values() {
        let said =
            compared(&["optimizer.learning_rate=2e-3", "seed=9"], &["optimizer.clip_norm=1.0"], &[]).unwrap_err();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 5, "{said}");
        assert!(lines[0].contains("run/step-7"));
        assert_eq!(lines[1], "  optimizer.learning_rate: 0.002 in the recipe, 0.001 in the checkpoint");
        assert_eq!(lines[2], "  seed: 9 in the recipe, 1 in the checkpoint");
        assert_eq!(lines[3], "  optimizer.clip_norm: nothing in the recipe, 1.0 in the checkpoint");
    }

    #[test]
    fn what_decides_nothing_may_change() {
        let free = ["name=other", "description=words", "checkpoint.every=3", "checkpoint.keep=9", "held_out=['x']"];
        compared(&free, &[], &[]).unwrap();
        // A key that only begins like a free one is not free.
        assert!(!is_under_any("names", &FREE) && is_under_any("checkpoint.every", &FREE));
    }

    #[test]
    fn steps_are_added_only_where_the_rates_before_stay_as_they_were() {
        let longer = "stage.1.steps=9";
        let said = compared(&[longer], &[], &[]).unwrap_err();
        assert!(said.contains("stage.1.steps: 9 in the recipe, 5 in the checkpoint (steps can be added"), "{said}");
        let constant = "optimizer.schedule=constant";
        compared(&[longer, constant], &[constant], &[]).unwrap();
        let stretched = "optimizer.schedule_steps=40";
        compared(&[longer, stretched], &[stretched], &[]).unwrap();
        assert!(compared(&[longer, constant], &[], &[]).is_err());
        for shorter in ["stage.1.steps=4", "stage.0.steps=9"] {
            assert!(compared(&[shorter, constant], &[constant], &[]).is_err(), "{shorter}");
        }
    }

    #[test]
    fn a_stage_may_be_added_behind_the_last_and_not_taken_away() {
        let constant = PLAIN.replace("'linear'", "'constant'");
        let longer = format!("{constant}[[stage]]\nlength = 32\nbatch = 1\nsteps = 5\n");
        let [constant, longer] = [constant, longer].map(|text| keys_of(&Recipe::parse(&text).unwrap()).unwrap());
        let check = |now: &Keys, then: &Keys| {
            now.keys().filter(|key| !then.contains_key(*key)).all(|key| extends(key, now, then))
        };
        assert!(check(&longer, &constant));
        assert!(!extends("stage.2.steps", &constant, &longer));
    }

    #[test]
    fn a_user_can_allow_a_key_or_all_below_it_but_not_another_model() {
        compared(&["optimizer.learning_rate=2e-3"], &[], &["optimizer.learning_rate"]).unwrap();
        compared(&["optimizer.learning_rate=2e-3"], &[], &["optimizer"]).unwrap();
        assert!(compared(&["optimizer.learning_rate=2e-3"], &[], &["optimizer.learning"]).is_err());
        assert!(compared(&["model.dtype=bfloat16"], &[], &["model"]).is_err());
        assert_eq!(check_allowed(&["model.dtype".to_owned()]).unwrap_err().exit_code(), 2);
        assert!(check_allowed(&["model".to_owned()]).is_err());
        check_allowed(&["optimizer".to_owned(), "data".to_owned(), "model.backend".to_owned()]).unwrap();
    }
}
