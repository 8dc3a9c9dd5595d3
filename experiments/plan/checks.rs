//! What a run needs beside the device: a model to start from, text, room on the disk, host memory. Judged on this machine, from names and sizes of
//! files alone.

use std::path::Path;

use serde::Serialize;

use crate::config::{Recipe, Source, SourceKind};
use crate::data::source_files;
use crate::runtime::memory::available_bytes;
use crate::train::{RESULT_OF, spec_of, start_of};

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// As it should be.
    Ok,
    /// Worth a look.
    Warning,
    /// The run would stop for it.
    Failed,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it went.
    pub standing: Standing,
    /// What was found.
    pub detail: String,
}

impl Check {
    fn new(name: impl Into<String>, standing: Standing, detail: impl Into<String>) -> Self {
        Self { name: name.into(), standing, detail: detail.into() }
    }
}

/// Bytes of English text in a token of a vocabulary of 32,000 to 50,000.
const BYTES_OF_TOKEN: f64 = 4.0;

/// Times that text may be seen in continued training at little loss (Muennighoff et al. 2023: up to four epochs).
const EPOCHS: f64 = 4.0;

/// A check for each source of text.
pub fn sources(recipe: &Recipe) -> Vec<Check> {
    recipe.sources.iter().filter(|source| !source.paths.is_empty()).map(|source| text(recipe, source)).collect()
}

/// A check of the run whose result a recipe starts from, if it does.
pub fn start(recipe: &Recipe) -> Option<Check> {
    let from = recipe.model.from.as_deref().filter(|from| from.starts_with(RESULT_OF))?;
    Some(match start_of(from) {
        Ok(folder) => Check::new("model", Standing::Ok, folder),
        Err(failure) => Check::new("model", Standing::Failed, failure.to_string()),
    })
}

fn text(recipe: &Recipe, source: &Source) -> Check {
    let name = format!("source.{}", source.name);
    let files = match source_files(&spec_of(source)) {
        Ok(files) => files,
        Err(error) => {
            let place = format!("set it by --set 'source.{}.paths=[\"FOLDER\"]'", source.name);
            return Check::new(name, Standing::Failed, format!("{error}; {place}"));
        }
    };
    let held: f64 = files.iter().map(|file| file.bytes as f64 * unpacked(&file.path)).sum::<f64>() / BYTES_OF_TOKEN;
    if source.kind != SourceKind::Text {
        return Check::new(name, Standing::Ok, format!("{} files of text to hide things in", files.len()));
    }
    let wanted: f64 = recipe
        .stages
        .iter()
        .map(|stage| {
            let shares: f64 = stage.mix.values().sum();
            let share = stage.mix.get(&source.name).copied().unwrap_or(0.0) / shares;
            share * stage.steps as f64 * stage.step_tokens() as f64
        })
        .sum();
    let epochs = wanted / held.max(1.0);
    let detail = format!(
        "{} files, about {} tokens; {} are asked for, {epochs:.2} times over",
        files.len(),
        count(held),
        count(wanted)
    );
    Check::new(name, if epochs > EPOCHS { Standing::Warning } else { Standing::Ok }, detail)
}

/// How much longer a file is than on the disk, about.
fn unpacked(path: &Path) -> f64 {
    match path.extension().and_then(|it| it.to_str()) {
        Some("zst" | "zstd" | "gz" | "parquet") => 3.0,
        _ => 1.0,
    }
}

/// That the disk has room for the checkpoints that a run holds at once, of `bytes` each.
pub fn disk(recipe: &Recipe, out: &Path, bytes: u64) -> Check {
    let needed = bytes.saturating_mul(recipe.checkpoint.keep.max(2) as u64 + 1);
    let place = out.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("."));
    let asked = format!("{} for a checkpoint, {} for those held at once", gigabytes(bytes), gigabytes(needed));
    match rustix::fs::statvfs(place) {
        Ok(about) => {
            let free = about.f_bavail.saturating_mul(about.f_frsize);
            let standing = if free < needed { Standing::Failed } else { Standing::Ok };
            Check::new("disk", standing, format!("{asked}; {} free here", gigabytes(free)))
        }
        Err(error) => Check::new("disk", Standing::Warning, format!("{asked}; what is free is not known: {error}")),
    }
}

/// That this machine has `bytes` of memory for what waits beside the device.
pub fn host(bytes: u64) -> Check {
    let free = available_bytes();
    let standing = if free.is_some_and(|free| free < bytes) { Standing::Failed } else { Standing::Ok };
    let here = free.map_or("not known here".to_owned(), |free| format!("{} available here", gigabytes(free)));
    Check::new("host memory", standing, format!("{} pinned; {here}", gigabytes(bytes)))
}

/// Bytes for a reader, in units of 10^9 or 10^6.
pub(super) fn gigabytes(bytes: u64) -> String {
    match bytes {
        0 => "0 GB".to_owned(),
        1..100_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// A count for a reader.
pub(super) fn count(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.2} G", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e3 => format!("{:.1} k", n / 1e3),
        n => format!("{n:.0}"),
    }
}
