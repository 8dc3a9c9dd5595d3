//! What is known to make the tokenizers crate panic, misread or allocate without bound, looked for before it is called.
//!
//! Cases: a merge whose parts or product the vocabulary lacks (a longer one overruns a buffer sized by the longest
//! token in it); a merge whose second part is shorter than the continuing-subword prefix; a template
//! that names a token it does not define, or the second sequence where there is only one; ids far beyond the
//! vocabulary, which size a table.

use std::collections::HashSet;

use serde_json::Value;

use crate::fault::brief;

/// How many findings of one kind are spelt out.
pub(super) const SHOWN: usize = 4;

/// An id may be this many times the larger of vocabulary and embedding.
const ID_SLACK: u64 = 4;

/// Checks a parsed `tokenizer.json` for a model with `vocab_rows` embedding rows.
///
/// # Errors
///
/// Every finding, with a JSON pointer or the token in it.
pub fn precheck(value: &Value, vocab_rows: usize) -> Result<(), Vec<String>> {
    let Some(model) = value.get("model").filter(|m| m.is_object()) else {
        return Err(vec!["it has no object /model; is this a tokenizer.json of the tokenizers library?".into()]);
    };
    let vocab = vocabulary(model).map_err(|problem| vec![problem])?;
    let cap = ID_SLACK * (vocab.len().max(vocab_rows) as u64).max(64);
    let mut problems = Vec::new();
    problems.extend(wrong_ids(&vocab, vocab_rows));
    problems.extend(wrong_added(value, cap));
    problems.extend(wrong_merges(model, &vocab));
    if let Some(processor) = value.get("post_processor") {
        wrong_processors(processor, "/post_processor", cap, &mut problems);
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems.iter().map(|problem| brief(problem)).collect()),
    }
}

/// Tokens with their ids as the file writes them; an id that is no number is `None`.
type Vocabulary<'a> = Vec<(&'a str, Option<u64>)>;

fn vocabulary(model: &Value) -> Result<Vocabulary<'_>, String> {
    let vocab: Vocabulary = match model.get("vocab") {
        Some(Value::Object(map)) => map.iter().map(|(token, id)| (token.as_str(), id.as_u64())).collect(),
        // Unigram: a list of [token, score], whose place is the id.
        Some(Value::Array(list)) => {
            let token = |entry: &Value| entry.get(0).is_some_and(Value::is_string);
            if let Some(at) = list.iter().position(|entry| !token(entry)) {
                return Err(format!("/model/vocab/{at} is not a [token, score] pair"));
            }
            list.iter().zip(0..).map(|(e, at)| (e[0].as_str().unwrap_or_default(), Some(at))).collect()
        }
        _ => return Err("/model/vocab is neither an object nor a list".into()),
    };
    if vocab.is_empty() { Err("/model/vocab is empty".into()) } else { Ok(vocab) }
}

fn wrong_ids(vocab: &Vocabulary, rows: usize) -> Vec<String> {
    let limit = rows as u64;
    let wrong = |id: &Option<u64>| id.is_none_or(|id| id >= limit);
    let mut problems: Vec<String> = vocab
        .iter()
        .filter(|(_, id)| wrong(id))
        .take(SHOWN)
        .map(|(token, id)| match id {
            Some(id) => format!("/model/vocab: token {token:?} has id {id}, but the model has {rows} embedding rows"),
            None => format!("/model/vocab: the id of token {token:?} is not a whole number from 0"),
        })
        .collect();
    let mut seen = HashSet::with_capacity(vocab.len());
    let twice = vocab.iter().filter_map(|(token, id)| id.map(|id| (token, id))).filter(|(_, id)| !seen.insert(*id));
    let twice: Vec<String> = twice
        .take(SHOWN)
        .map(|(token, id)| format!("/model/vocab: id {id} is given twice, once to {token:?}"))
        .collect();
    problems.extend(twice);
    problems
}

/// Content and id of every added token; malformed entries are left to [`wrong_added`].
pub(super) fn added_tokens(value: &Value) -> Vec<(String, u64)> {
    let entries = value.get("added_tokens").and_then(Value::as_array);
    let pair = |e: &Value| Some((e.get("content")?.as_str()?.to_owned(), e.get("id")?.as_u64()?));
    entries.into_iter().flatten().filter_map(pair).collect()
}

fn wrong_added(value: &Value, cap: u64) -> Vec<String> {
    let Some(list) = value.get("added_tokens").filter(|v| !v.is_null()) else { return Vec::new() };
    let Some(entries) = list.as_array() else { return vec!["/added_tokens is not a list".into()] };
    let finding = |(at, entry): (usize, &Value)| {
        let content = entry.get("content").and_then(Value::as_str);
        let id = entry.get("id").and_then(Value::as_u64);
        match (content, id) {
            (None | Some(""), _) => Some(format!("/added_tokens/{at}/content is not a text")),
            (_, None) => Some(format!("/added_tokens/{at}/id is not a whole number from 0")),
            (Some(_), Some(id)) => {
                (id > cap).then(|| format!("/added_tokens/{at}/id is {id}, far beyond the vocabulary"))
            }
        }
    };
    entries.iter().enumerate().filter_map(|(at, entry)| finding((at, entry))).take(SHOWN).collect()
}

fn wrong_merges(model: &Value, vocab: &Vocabulary) -> Vec<String> {
    let Some(merges) = model.get("merges").and_then(Value::as_array) else { return Vec::new() };
    let known: HashSet<&str> = vocab.iter().map(|(token, _)| *token).collect();
    let prefix = model.get("continuing_subword_prefix").and_then(Value::as_str).unwrap_or_default();
    let mut problems = Vec::new();
    let mut product = String::new();
    for (at, merge) in merges.iter().enumerate() {
        if problems.len() == SHOWN {
            break;
        }
        let Some((left, right)) = merge_parts(merge) else {
            problems.push(format!("/model/merges/{at} is not a pair of tokens"));
            continue;
        };
        // The crate cuts the prefix off by length alone.
        let Some(rest) = right.get(prefix.len()..) else {
            problems.push(format!("/model/merges/{at}: {right:?} is shorter than the prefix {prefix:?}"));
            continue;
        };
        product.clear();
        product.push_str(left);
        product.push_str(rest);
        if let Some(absent) = [left, right, product.as_str()].into_iter().find(|token| !known.contains(token)) {
            problems.push(format!("/model/merges/{at}: token {:?} is not in the vocabulary", shortened(absent)));
        }
    }
    problems
}

/// `"a b"` or `["a", "b"]`.
fn merge_parts(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(text) => text.split_once(' ').filter(|(_, right)| !right.contains(' ')),
        Value::Array(pair) if pair.len() == 2 => Some((pair[0].as_str()?, pair[1].as_str()?)),
        _ => None,
    }
}

fn shortened(token: &str) -> String {
    match token.chars().count() {
        0..=40 => token.to_owned(),
        _ => token.chars().take(40).chain("..".chars()).collect(),
    }
}

fn wrong_processors(processor: &Value, pointer: &str, cap: u64, problems: &mut Vec<String>) {
    match processor.get("type").and_then(Value::as_str) {
        Some("Sequence") => {
            let inner = processor.get("processors").and_then(Value::as_array);
            for (at, processor) in inner.into_iter().flatten().enumerate() {
                wrong_processors(processor, &format!("{pointer}/processors/{at}"), cap, problems);
            }
        }
        Some("TemplateProcessing") => wrong_template(processor, pointer, cap, problems),
        Some("BertProcessing" | "RobertaProcessing") => {
            for end in ["sep", "cls"] {
                let id = processor.get(end).and_then(|pair| pair.get(1)).and_then(Value::as_u64);
                if id.is_some_and(|id| id > cap) {
                    problems.push(format!("{pointer}/{end}: the id is far beyond the vocabulary"));
                }
            }
        }
        _ => {}
    }
}

fn wrong_template(template: &Value, pointer: &str, cap: u64, problems: &mut Vec<String>) {
    let defined = template.get("special_tokens").and_then(Value::as_object);
    for side in ["single", "pair"] {
        let pieces = template.get(side).and_then(Value::as_array);
        for (at, piece) in pieces.into_iter().flatten().enumerate() {
            let token = piece.pointer("/SpecialToken/id").and_then(Value::as_str);
            if let Some(token) = token.filter(|t| !defined.is_some_and(|d| d.contains_key(*t))) {
                problems.push(format!("{pointer}/{side}/{at} names {token:?}, which special_tokens does not define"));
            }
            if side == "single" && piece.pointer("/Sequence/id").and_then(Value::as_str) == Some("B") {
                problems.push(format!("{pointer}/single/{at} names a second sequence"));
            }
        }
    }
    for (name, token) in defined.into_iter().flatten() {
        let list = |key: &str| token.get(key).and_then(Value::as_array);
        let (Some(ids), Some(tokens)) = (list("ids"), list("tokens")) else { continue };
        if ids.len() != tokens.len() {
            problems.push(format!("{pointer}/special_tokens/{name} has {} ids and {} tokens", ids.len(), tokens.len()));
        }
        if ids.iter().filter_map(Value::as_u64).any(|id| id > cap) {
            problems.push(format!("{pointer}/special_tokens/{name} has an id far beyond the vocabulary"));
        }
    }
}
