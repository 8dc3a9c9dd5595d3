//! Typed access to the keys of a JSON object that collects findings instead of stopping.

use serde_json::{Map, Value};

use super::finding::Finding;

/// Longest context accepted in a config, in tokens; far above any model and exactly representable in f64.
const LONGEST_CONTEXT: f64 = (1_u64 << 40) as f64;

/// One object of a config and what was found wrong in it.
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    pointer: String,
    pub(super) findings: Vec<Finding>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(object: &'a Map<String, Value>, pointer: &str) -> Self {
        Self { object, pointer: pointer.to_owned(), findings: Vec::new() }
    }

    /// JSON pointer of a key of this object.
    pub(super) fn at(&self, key: &str) -> String {
        format!("{}/{}", self.pointer, key.replace('~', "~0").replace('/', "~1"))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.object.keys().map(String::as_str)
    }

    /// The value of a key; null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Records that the value of `key` (or its absence) cannot stand.
    pub(super) fn object_to(&mut self, key: &str, problem: impl Into<String>) {
        let finding = Finding { pointer: self.at(key), value: self.get(key).cloned(), problem: problem.into() };
        self.findings.push(finding);
    }

    pub(super) fn text(&mut self, key: &str) -> Option<&'a str> {
        let text = self.get(key)?.as_str();
        self.or_object(key, text, "must be a string")
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        let flag = self.get(key)?.as_bool();
        self.or_object(key, flag, "must be true or false")
    }

    pub(super) fn number(&mut self, key: &str) -> Option<f64> {
        let number = self.get(key)?.as_f64().filter(|number| number.is_finite());
        self.or_object(key, number, "must be a finite number")
    }

    /// A count of tokens, channels or heads.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be whole and in range")]
    pub(super) fn count(&mut self, key: &str) -> Option<usize> {
        let whole = |number: &f64| number.fract() == 0.0 && (1.0..=LONGEST_CONTEXT).contains(number);
        let count = self.get(key)?.as_f64().filter(whole).map(|number| number as usize);
        self.or_object(key, count, "must be a whole number of at least 1")
    }

    pub(super) fn numbers(&mut self, key: &str) -> Option<Vec<f64>> {
        let list = self.get(key)?.as_array();
        let numbers = list.and_then(|list| list.iter().map(Value::as_f64).collect());
        self.or_object(key, numbers, "must be a list of numbers")
    }

    fn or_object<T>(&mut self, key: &str, value: Option<T>, problem: &str) -> Option<T> {
        if value.is_none() {
            self.object_to(key, problem);
        }
        value
    }
}
