//! Tables of a recipe in words of the command line: `attention,offload=true`, `lora,targets=q_proj+v_proj`.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::config::{Adapter, Memory};
use crate::error::Failure;
use crate::recipes;

/// Adapters that have a name, and the built-in recipe that they are taken from.
const ADAPTERS: [(&str, &str); 2] = [("lora", "longlora-7b-32k"), ("qlora", "qlora-7b-16k")];

/// A policy: keys of `[memory]`, `activations` by its value alone.
pub(super) fn memory(text: &str) -> Result<Memory, Failure> {
    let table = parts(text).map(|part| match part.split_once('=') {
        Some((key, words)) => (key.to_owned(), value(words)),
        None => ("activations".to_owned(), value(part)),
    });
    let memory: Memory = read(("policy", text), table.collect())?;
    match memory.findings().first() {
        Some((field, what)) => Err(Failure::config(format!("--policy {text}: {field}: {what}"))),
        None => Ok(memory),
    }
}

/// An adapter: that of a name, and keys of `[adapter]` that are others; lists are joined by `+`.
pub(super) fn adapter(text: &str, rank: Option<usize>) -> Result<Adapter, Failure> {
    let wrong = |what: String| Failure::config(format!("--adapter {text}: {what}"));
    let (name, changes) = text.split_once(',').unwrap_or((text, ""));
    let Some((_, recipe)) = ADAPTERS.iter().find(|(known, _)| *known == name) else {
        return Err(wrong(format!("{name:?} is none of {}", ADAPTERS.map(|(known, _)| known).join(", "))));
    };
    let mut table =
        Table::try_from(recipes::training(recipe, &[])?.adapter).map_err(|error| wrong(error.to_string()))?;
    for part in parts(changes) {
        let Some((key, words)) = part.split_once('=') else { return Err(wrong(format!("{part:?} is no KEY=VALUE"))) };
        let list = || words.split('+').filter(|word| !word.is_empty()).map(value).collect();
        let words = if table.get(key).is_some_and(Value::is_array) { Value::Array(list()) } else { value(words) };
        table.insert(key.to_owned(), words);
    }
    table.extend(rank.map(|rank| ("rank".to_owned(), Value::Integer(rank as i64))));
    let adapter: Adapter = read(("adapter", text), table)?;
    match adapter.findings().first() {
        Some((field, what)) => Err(wrong(format!("{field}: {what}"))),
        None => Ok(adapter),
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|part| !part.is_empty())
}

/// A truth value, a number, or the words as they are.
fn value(words: &str) -> Value {
    let truth = words.parse().map(Value::Boolean).ok();
    let integer = || words.parse().map(Value::Integer).ok();
    let float = || words.parse().map(Value::Float).ok();
    truth.or_else(integer).or_else(float).unwrap_or_else(|| Value::String(words.to_owned()))
}

fn read<T: DeserializeOwned>((option, text): (&str, &str), table: Table) -> Result<T, Failure> {
    table.try_into().map_err(|error| {
        let message = error.message().lines().next().unwrap_or("it cannot be read");
        Failure::config(format!("--{option} {text}: {message}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Activations, Base, OptimizerState, TARGETS, Whole};

    #[test]
    fn a_policy_in_words_is_that_of_a_recipe() {
        let words = memory("attention,offload=true,mlp_tokens=4096,optimizer=int8").unwrap();
        let expected = Memory {
            activations: Activations::Attention,
            offload: true,
            mlp_tokens: 4096,
            optimizer: OptimizerState::Int8,
            ..Memory::default()
        };
        assert_eq!((words, memory("all").unwrap()), (expected, Memory::default()));
        for (wrong, word) in [
            ("everything", "everything"),
            ("attention,ofload=true", "ofload"),
            ("offload=7", "offload=7"),
            ("all,offload=true", "offload: needs"),
        ] {
            let error = memory(wrong).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn an_adapter_in_words_is_that_of_a_recipe_with_what_is_said_otherwise() {
        let (lora, qlora) = (adapter("lora", None).unwrap(), adapter("qlora", None).unwrap());
        assert_eq!((lora.rank, lora.base, lora.targets.len()), (8, Base::Full, 4));
        assert_eq!((qlora.rank, qlora.base, qlora.targets.len()), (64, Base::Nf4, TARGETS.len()));
        let changed = adapter("lora,targets=q_proj+v_proj,also=norms,alpha=32", Some(16)).unwrap();
        let expected = Adapter {
            rank: 16,
            alpha: 32.0,
            targets: vec!["q_proj".to_owned(), "v_proj".to_owned()],
            also: vec![Whole::Norms],
            ..lora
        };
        assert_eq!(changed, expected);
        assert!(adapter("qlora,also=", None).unwrap().also.is_empty());
        for (wrong, rank, words) in [
            ("dora", None, "\"dora\" is none of lora, qlora"),
            ("lora,ranks=8", None, "ranks"),
            ("lora,rank", None, "\"rank\" is no KEY=VALUE"),
            ("lora,targets=q", None, "targets: \"q\" is none of q_proj"),
            ("lora", Some(0), "rank: must be from 1"),
        ] {
            let error = adapter(wrong, rank).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(words), "{error}");
            assert!(error.to_string().starts_with(&format!("--adapter {wrong}: ")), "{error}");
        }
    }
}
