//! Recipes and studies that are built in, by name.

use std::path::Path;

use crate::config::layers::{RECIPE_LIMIT, distance};
use crate::config::{Recipe, Study};
use crate::error::Failure;
use crate::json::read_capped;

/// Name and text of every built-in file.
const BUILT_IN: [(&str, &str); 8] = [
    ("base", include_str!("recipes/base.toml")),
    ("extend-4x", include_str!("recipes/extend-4x.toml")),
    ("demo", include_str!("recipes/demo.toml")),
    ("demo-8x", include_str!("recipes/demo-8x.toml")),
    ("methods", include_str!("recipes/methods.toml")),
    ("smollm2-zero-shot", include_str!("recipes/smollm2-zero-shot.toml")),
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
