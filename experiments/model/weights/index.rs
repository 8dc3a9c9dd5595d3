//! `model.safetensors.index.json`: which shard holds which tensor, and the proof that it speaks the truth.
//!
//! A weight map is a list of file names written by a stranger. Joined to a folder unchecked, `../../x` and `/etc/x`
//! open files outside it; so a name must be one plain path component that ends in `.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path};

use serde_json::Value;

use super::error::WeightsError;
use super::held::Access;
use super::shard::Shard;
use crate::fault::brief;
use crate::json;

/// File name of the index.
pub const INDEX_NAME: &str = "model.safetensors.index.json";

/// Size cap of an index; the largest published ones have a few megabytes.
pub const MAX_INDEX_BYTES: u64 = 64 << 20;

/// A checked index: every shard name is a plain file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardIndex {
    /// Tensor name to shard name.
    pub weight_map: BTreeMap<String, String>,
    /// `metadata.total_size`, bytes of all tensors, where given.
    pub total_size: Option<u64>,
}

impl ShardIndex {
    /// The shard names, each once, sorted.
    pub fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// Checks the content of an index file.
///
/// # Errors
///
/// Every finding, as a sentence part that names the entry.
pub fn parse_index(value: &Value) -> Result<ShardIndex, Vec<String>> {
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
        return Err(vec!["it has no object /weight_map".into()]);
    };
    let mut problems = Vec::new();
    let mut weight_map = BTreeMap::new();
    for (tensor, shard) in map {
        match shard.as_str() {
            None => problems.push(format!("/weight_map/{tensor} is {shard}, not a file name")),
            Some(name) if !is_plain_shard_name(name) => problems.push(format!(
                "/weight_map/{tensor} is {name:?}; a shard must be a plain file name ending in .safetensors"
            )),
            Some(name) => {
                weight_map.insert(tensor.clone(), name.to_owned());
            }
        }
    }
    if map.is_empty() {
        problems.push("/weight_map is empty".into());
    }
    let total_size = total_size(value).unwrap_or_else(|problem| {
        problems.push(problem);
        None
    });
    match problems.is_empty() {
        true => Ok(ShardIndex { weight_map, total_size }),
        false => Err(problems.iter().map(|problem| brief(problem)).collect()),
    }
}

/// Some writers store it as `1.3e10`.
fn total_size(value: &Value) -> Result<Option<u64>, String> {
    let Some(size) = value.pointer("/metadata/total_size") else { return Ok(None) };
    // Exact up to 2^53 bytes, beyond any checkpoint.
    let whole = |f: &f64| *f >= 0.0 && f.fract() == 0.0 && *f < 9.0e15;
    let integer = size.as_u64().or_else(|| size.as_f64().filter(whole).map(|f| f as u64));
    integer.map(Some).ok_or_else(|| format!("/metadata/total_size is {size}, not a number of bytes"))
}

/// One normal path component ending in `.safetensors`, on any platform.
fn is_plain_shard_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    let odd = |c: char| c == '/' || c == '\\' || c == ':' || c.is_control();
    single && !name.contains(odd) && name.ends_with(".safetensors") && name.len() <= 255
}

/// Opens every shard that the index names and compares the two.
pub(super) fn open_all(dir: &Path, access: Access) -> Result<(Vec<Shard>, BTreeMap<String, usize>), WeightsError> {
    let path = dir.join(INDEX_NAME);
    let value = json::read_json(&path, MAX_INDEX_BYTES)?;
    let failed = |problems| WeightsError::Index { path: path.clone(), problems };
    let index = parse_index(&value).map_err(failed)?;
    let names: Vec<&str> = index.shards().into_iter().collect();

    let mut problems = missing_or_extra(dir, &names);
    if !problems.is_empty() {
        return Err(failed(problems));
    }
    let shards = names.iter().map(|name| Shard::open(dir, name, access)).collect::<Result<Vec<_>, _>>()?;
    let mut places = BTreeMap::new();
    for (at, shard) in shards.iter().enumerate() {
        for tensor in shard.names() {
            match places.get(&tensor).map(|&first: &usize| names[first]) {
                Some(first) => problems.push(format!("tensor {tensor} is in two shards, {first} and {}", names[at])),
                None => drop(places.insert(tensor, at)),
            }
        }
    }
    problems.extend(disagreements(&index, &names, &places));
    // A total over shards that disagree with the index would only repeat the findings.
    if problems.is_empty() {
        problems.extend(wrong_total(&index, &shards));
    }
    if problems.is_empty() { Ok((shards, places)) } else { Err(failed(problems)) }
}

/// Shards that the index names and the folder lacks, and numbered shards that it does not name.
fn missing_or_extra(dir: &Path, names: &[&str]) -> Vec<String> {
    let absent = |name: &&&str| dir.join(name).symlink_metadata().is_err();
    let mut problems: Vec<String> = names
        .iter()
        .filter(absent)
        .map(|name| format!("shard {name} is missing: the download is incomplete; fetch it again"))
        .collect();
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut extra: Vec<String> = entries
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| is_numbered(name) && !names.contains(&name.as_str()))
        .collect();
    extra.sort();
    problems.extend(extra.iter().map(|name| format!("shard {name} is in the folder but not in the index")));
    problems
}

/// `model-DDDDD-of-DDDDD.safetensors`; other safetensors files may lie beside a checkpoint.
pub(super) fn is_numbered(name: &str) -> bool {
    let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    name.strip_prefix("model-")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .and_then(|middle| middle.split_once("-of-"))
        .is_some_and(|(at, of)| digits(at) && digits(of))
}

fn disagreements(index: &ShardIndex, names: &[&str], places: &BTreeMap<String, usize>) -> Vec<String> {
    let mut problems = Vec::new();
    for (tensor, shard) in &index.weight_map {
        match places.get(tensor).map(|&at| names[at]) {
            None => problems.push(format!("the index places {tensor} in {shard}, which does not hold it")),
            Some(found) if found != shard => {
                problems.push(format!("the index places {tensor} in {shard}, but it is in {found}"));
            }
            Some(_) => {}
        }
    }
    for (tensor, &at) in places {
        if !index.weight_map.contains_key(tensor) {
            problems.push(format!("shard {} holds {tensor}, which the index does not list", names[at]));
        }
    }
    problems
}

fn wrong_total(index: &ShardIndex, shards: &[Shard]) -> Option<String> {
    let total: u64 = shards.iter().map(Shard::data_bytes).sum();
    let stated = index.total_size.filter(|&stated| stated != total)?;
    Some(format!("/metadata/total_size is {stated}, the shards hold {total} bytes of tensors"))
}
