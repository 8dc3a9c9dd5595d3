//! Recipes and studies that are built in, by name.

use std::path::Path;

use crate::config::layers::{RECIPE_LIMIT, distance};
use crate::config::{Recipe, Study};
use crate::error::Failure;
use crate::json::read_capped;

/// Name and text of every built-in file.
const BUILT_IN: [(&str, &str); 22] = [
    ("base", include_str!("recipes/base.toml")),
    ("extend-4x", include_str!("recipes/extend-4x.toml")),
    ("llongma-2-7b-16k", include_str!("recipes/llongma-2-7b-16k.toml")),
    ("llongma-2-13b-16k", include_str!("recipes/llongma-2-13b-16k.toml")),
    ("llama-2-7b-32k", include_str!("recipes/llama-2-7b-32k.toml")),
    ("llama-2-13b-32k", include_str!("recipes/llama-2-13b-32k.toml")),
    ("orca-8k-13b", include_str!("recipes/orca-8k-13b.toml")),
    ("yarn-llama-2-7b-64k", include_str!("recipes/yarn-llama-2-7b-64k.toml")),
    ("yarn-llama-2-7b-128k", include_str!("recipes/yarn-llama-2-7b-128k.toml")),
    ("pi-llama-7b-32k", include_str!("recipes/pi-llama-7b-32k.toml")),
    ("abf-llama-2-7b-32k", include_str!("recipes/abf-llama-2-7b-32k.toml")),
    ("longlora-7b-32k", include_str!("recipes/longlora-7b-32k.toml")),
    ("qlora-7b-16k", include_str!("recipes/qlora-7b-16k.toml")),
    ("btlm-3b-8k", include_str!("recipes/btlm-3b-8k.toml")),
    ("demo", include_str!("recipes/demo.toml")),
    ("demo-8x", include_str!("recipes/demo-8x.toml")),
    ("methods", include_str!("recipes/methods.toml")),
    ("smollm2-zero-shot", include_str!("recipes/smollm2-zero-shot.toml")),
    ("smollm2-16k-pose", include_str!("recipes/smollm2-16k-pose.toml")),
    ("smollm2-135m-16k", include_str!("recipes/smollm2-135m-16k.toml")),
    ("smollm2-32k", include_str!("recipes/smollm2-32k.toml")),
    ("smollm2-135m-32k", include_str!("recipes/smollm2-135m-32k.toml")),
];

/// The training recipe in a file, or built in under a name, with settings laid over it.
///
/// # Errors
///
/// When there is no such recipe, or it is wrong.
pub fn training(name: &str, settings: &[String]) -> Result<Recipe, Failure> {
    let text = text(name)?;
    Recipe::layered(&text, settings).map_err(|failure| failure.within_lines(&format!("{name}: ")))
}

/// The study in a file, or built in under a name; `short` makes it a rehearsal.
///
/// # Errors
///
/// When there is no such study, or it is wrong.
pub fn study(name: &str, settings: &[String], short: bool) -> Result<Study, Failure> {
    let text = text(name)?;
    let study = Study::layered(&text, settings).map_err(|failure| failure.within_lines(&format!("{name}: ")))?;
    Ok(if short { study.shortened() } else { study })
}

/// Every training recipe that is built in, in the order of the list.
///
/// # Errors
///
/// When one is wrong, which the tests rule out.
pub fn trainings() -> Result<Vec<Recipe>, Failure> {
    // Studies have a `base` where recipes have stages.
    let is_training = |text: &&str| text.contains("\n[[stage]]");
    BUILT_IN.iter().map(|(_, text)| *text).filter(is_training).map(Recipe::parse).collect()
}

fn text(name: &str) -> Result<String, Failure> {
    if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
        return Ok((*text).to_owned());
    }
    let path = Path::new(name);
    if !path.exists() {
        let near = BUILT_IN.iter().map(|(known, _)| (distance(name, known), *known)).min();
        let hint = near.filter(|(d, _)| *d <= 3).map(|(_, known)| format!("; did you mean {known}?"));
        let known: Vec<&str> = BUILT_IN.iter().map(|(known, _)| *known).collect();
        return Err(Failure::config(format!(
            "{name}: no such file, and not a built-in recipe ({}){}",
            known.join(", "),
            hint.unwrap_or_default()
        )));
    }
    let bytes = read_capped(path, RECIPE_LIMIT)?;
    String::from_utf8(bytes).map_err(|_| Failure::config(format!("{name}: is not UTF-8")))
}
