//! Variants that are a product: models by methods by factors.

use serde::{Deserialize, Serialize};

use super::layers;
use super::study::VariantSpec;
use crate::error::Failure;

/// Methods without training, each at every factor, on every model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// Models: folders, files or Hub ids in the cache; none given: the study's base.
    #[serde(default)]
    pub models: Vec<String>,
    /// A method's name alone (`yarn`) is read at every factor; one with options (`rerope:window=128`) as it stands; `none`
    /// is the model as it is.
    pub methods: Vec<String>,
    /// How many times longer the context becomes.
    #[serde(default)]
    pub factors: Vec<f64>,
}

impl Matrix {
    /// The variants: models first, then methods, then factors. `yarn` at 4 is named `yarn-4x`, `rerope:window=128` is
    /// `rerope-window-128`; of several models each name begins with the last part of its model's.
    ///
    /// # Errors
    ///
    /// When there are no methods, or no factors for one that needs them.
    pub fn variants(&self) -> Result<Vec<VariantSpec>, Failure> {
        if self.methods.is_empty() {
            return Err(Failure::config("matrix.methods: at least one is needed"));
        }
        if let Some(method) = self.methods.iter().find(|method| self.needs_factors(method) && self.factors.is_empty()) {
            let message = format!("matrix.factors: {method:?} in matrix.methods has no options, so factors are needed");
            return Err(Failure::config(message));
        }
        let of_model = |model: Option<&String>| {
            let prefix = model.filter(|_| self.models.len() > 1).map(|model| format!("{}-", short(model)));
            let made = self.methods.iter().flat_map(|method| self.of_method(method));
            made.map(move |spec| VariantSpec {
                name: format!("{}{}", prefix.as_deref().unwrap_or_default(), spec.name),
                model: model.cloned(),
                ..spec
            })
            .collect::<Vec<_>>()
        };
        Ok(match self.models.as_slice() {
            [] => of_model(None),
            models => models.iter().flat_map(|model| of_model(Some(model))).collect(),
        })
    }

    fn needs_factors(&self, method: &str) -> bool {
        method != NONE && !method.contains(':')
    }

    fn of_method(&self, method: &str) -> Vec<VariantSpec> {
        let made = |name: String, description: String, method: Option<String>| VariantSpec {
            name,
            description,
            method,
            ..VariantSpec::default()
        };
        if method == NONE {
            return vec![made("base".to_owned(), "the model as it is".to_owned(), None)];
        }
        if !self.needs_factors(method) {
            let name = method.replace([':', ',', '=', '/'], "-");
            return vec![made(name, format!("{method}, without training"), Some(method.to_owned()))];
        }
        let at = |factor: &f64| {
            let description = format!("{method} by {factor}, without training");
            made(format!("{method}-{factor}x"), description, Some(format!("{method}:factor={factor}")))
        };
        self.factors.iter().map(at).collect()
    }
}

/// The method that changes nothing.
const NONE: &str = "none";

/// The last part of a model's path or id, without what a file name ends in, as far as a variant's name can hold it.
fn short(model: &str) -> String {
    let last = model.trim_end_matches('/').rsplit('/').next().unwrap_or(model);
    let stem = last.strip_suffix(".gguf").unwrap_or(last);
    let name: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    if layers::is_plain_name(&name) { name } else { format!("m{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_of_models_methods_and_factors_has_names_of_its_own() {
        let matrix = Matrix {
            models: vec!["org/One".to_owned(), "dir/two.Q4_1.gguf".to_owned()],
            methods: vec!["none".to_owned(), "yarn".to_owned(), "rerope:window=8".to_owned()],
            factors: vec![2.0, 4.5],
        };
        let made = matrix.variants().unwrap();
        let names: Vec<&str> = made.iter().map(|spec| spec.name.as_str()).collect();
        let of_one = ["One-base", "One-yarn-2x", "One-yarn-4.5x", "One-rerope-window-8"];
        assert_eq!(names[..4], of_one);
        assert_eq!(names[4], "two.Q4_1-base");
        assert_eq!(made[5].model.as_deref(), Some("dir/two.Q4_1.gguf"));
        assert_eq!(made[6].method.as_deref(), Some("yarn:factor=4.5"));
        assert_eq!(short("~odd name~/"), "-odd-name-");
        assert_eq!(short(".hidden"), "m.hidden");
    }
}
